"""What a phrase denotes: a person, an organisation, a place, a time, an amount, a thing."""

from __future__ import annotations

import re
from typing import Literal

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.lexicon import MONTHS, lexicon
from memo_dist.synthesis.rules.phrases import Phrase
from memo_dist.synthesis.rules.tokens import Token

EntityKind = Literal["person", "group", "place", "work", "time", "duration", "amount", "thing"]

_MONEY = re.compile(r"^[$€£¥]|^(?:dollars?|euros?|pounds?|EUR|USD|GBP|CHF|cents?)$")
_DECADE = re.compile(r"^\d{3}0s$")
_CALENDAR = frozenset(month.lower() for month in MONTHS) | word_set(
    "monday tuesday wednesday thursday friday saturday sunday"
)
UNITS = word_set(
    "percent % mm cm m km metre metres meter meters kilometre kilometres kilometer kilometers "
    "mile miles foot feet inch inches gram grams kg kilogram kilograms tonne tonnes ton tons "
    "pound pounds litre litres liter liters watt watts kw kwh mw volt volts v a ampere amperes hz "
    "mhz ghz bar pascal degree degrees °c °f mb gb tb kb ms hectare hectares acre acres euro "
    "euros dollar dollars eur usd gbp chf"
)


def noun_kind(noun: str) -> EntityKind | None:
    """The kind that a common noun (lower case, singular or plural) speaks of, if any."""
    words = lexicon()
    forms = {noun, noun.removesuffix("s"), noun.removesuffix("es")}
    if noun.endswith("ies"):
        forms.add(noun[:-3] + "y")
    if noun in words.sets["person_plurals"] or forms & words.sets["person_nouns"]:
        return "person"
    if noun.endswith(("man", "woman", "ologist", "ographer", "-in-law")):
        return "person"
    for name, kind in (
        ("org_nouns", "group"),
        ("place_nouns", "place"),
        ("work_nouns", "work"),
        ("duration_nouns", "duration"),
        ("time_nouns", "time"),
    ):
        if forms & words.sets[name]:
            return kind  # type: ignore[return-value]
    return None


def name_kind(words: list[str]) -> EntityKind | None:
    """The kind that a name's own words show ("Ltd", "River", "Dr.", a known first name)."""
    sets = lexicon().sets
    if words[-1].rstrip(".") in sets["org_markers"] or words[-1] in sets["org_markers"]:
        return "group"
    if set(words[:2]) & (sets["titles"] | sets["titles_m"] | sets["titles_f"]) and len(words) > 1:
        return "person"
    if words[0] == "University" or words[0] == "Ministry":
        return "group"
    if words[-1] in sets["place_markers"] or words[0] in {"Mount", "Lake", "Cape", "Fort", "Port"}:
        return "place"
    if words[0] in sets["first_names_f"] | sets["first_names_m"]:
        return "person"
    return None


def name_gender(words: list[str]) -> str:
    """``m``, ``f`` or an empty string, from titles and first names."""
    sets = lexicon().sets
    if words[0] in sets["titles_f"] | sets["first_names_f"]:
        return "f"
    if words[0] in sets["titles_m"] | sets["first_names_m"]:
        return "m"
    rest = words[1:2] if words[0] in sets["titles"] else []
    return name_gender(rest) if rest else ""


def noun_gender(noun: str) -> str:
    """``m``, ``f`` or an empty string for a common noun."""
    sets = lexicon().sets
    return "f" if noun in sets["nouns_f"] else "m" if noun in sets["nouns_m"] else ""


def measure_kind(phrase: Phrase) -> EntityKind | None:
    """Whether a phrase is a time, a duration or an amount; None when it is none of them."""
    core = phrase.tokens[: phrase.core or len(phrase.tokens)]
    head = phrase.head
    if head.tag == "DATE" or head.lower in _CALENDAR:
        return "time"
    if _DECADE.match(head.text):
        return "time"
    numbered = any(token.tag == "CRD" for token in core)
    kind = None if head.tag == "NP0" else noun_kind(head.lower)
    if kind == "duration" and numbered and not _ordinal(core):
        return "duration"
    if kind in {"duration", "time"}:
        return "time"
    if head.tag == "CRD" and any(token.tag == "PRF" for token in phrase.tokens):
        return None  # "one of the most successful singles"
    if any(_MONEY.match(token.text) for token in core) or head.tag == "CRD":
        return "amount"
    if (numbered and (head.lower in UNITS or head.tag == "NN0")) or "%" in head.text:
        return "amount"
    return None


def _ordinal(core: list[Token]) -> bool:
    """As in "the 1990s", "the last 3 days of May": a point in time, not a length of time."""
    return core[0].lower == "the"
