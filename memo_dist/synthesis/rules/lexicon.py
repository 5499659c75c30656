"""Word lists of the rules generator: loaded once from package data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from memo_dist.answers.text import word_set

_MONTHS = "January February March April May June July August September October November December"
MONTHS: tuple[str, ...] = tuple(_MONTHS.split())


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Word lists, all lower case except names, markers and titles.

    Attributes:
        sets: named sets of words (``person_nouns``, ``place_markers``, ...).
        verb_synonyms: lemma to a verb (possibly with a particle) that fits the same objects.
        nominalizations: verb lemma to the noun of its event ("found" to "founding").
        noun_prepositions: (noun, preposition) pairs whose phrase belongs to the noun.
        compounds: fixed expressions ("because of") and the tag that each has as one word.
    """

    sets: dict[str, frozenset[str]]
    verb_synonyms: dict[str, str]
    nominalizations: dict[str, str]
    noun_prepositions: frozenset[tuple[str, str]]
    compounds: dict[str, str]

    def has(self, name: str, word: str) -> bool:
        """Whether ``word`` stands in the set ``name``."""
        return word in self.sets[name]


@cache
def lexicon() -> Lexicon:
    """The lexicon of this package (read from disk at the first call)."""
    raw = json.loads(package_text("lexicon.json"))
    sets = {key: word_set(value) for key, value in raw.items() if isinstance(value, str)}
    return Lexicon(
        sets=sets,
        verb_synonyms=raw["verb_synonyms"],
        nominalizations=raw["nominalizations"],
        noun_prepositions=_pairs(sets.pop("noun_prepositions")),
        compounds={text: tag for tag, texts in raw["compounds"].items() for text in texts},
    )


def package_text(name: str) -> str:
    """The text of one file of the package's ``data`` folder."""
    return (files(__package__) / "data" / name).read_text(encoding="utf-8")


def _pairs(found: frozenset[str]) -> frozenset[tuple[str, str]]:
    return frozenset((word.split(":")[0], word.split(":")[1]) for word in found)
