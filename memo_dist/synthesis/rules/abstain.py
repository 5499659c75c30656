"""Questions that the documents do not answer: the memory learns to say that it doesn't know.

Four sources: a fixed list of questions about the outside world; attributes that are told of no
one, asked about the unit's own entities; attributes that are told of one entity, asked about
another; and invented entities in real question patterns. Each candidate is checked against
the words of every sentence that could answer it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from memo_dist.answers.text import word_set
from memo_dist.io.hashing import short_hash
from memo_dist.synthesis.rules.collect import DocumentFacts
from memo_dist.synthesis.rules.entities import Entity
from memo_dist.synthesis.rules.facts import Fact
from memo_dist.synthesis.rules.lexicon import lexicon, package_text
from memo_dist.synthesis.rules.morphology import parts_of_speech
from memo_dist.synthesis.rules.naming import possessive_of

_WORD = re.compile(r"[^\W_]+")
_SYLLABLES = tuple(
    sorted(word_set("bra clo dru fri gra hal jor kel lun mor ner pla ros sta tre vin"))
)
_ENDINGS = tuple(sorted(word_set("dor lin mark nett rand sby ston thal vik wold mere nik ron tis")))
_MAX_NAME_WORDS = 5
_MIN_OTHER_WORDS = 4
_TOO_COMMON = word_set(
    "be do have say know call name include contain locate situate lie stand base live become get "
    "make go come take describe regard consider part member"
) | {""}
"""What nearly every text tells of its entities in some other words."""


@dataclass(frozen=True, slots=True)
class Unanswerable:
    """A question that no document of the unit answers.

    Attributes:
        question: the question.
        document: index of the document it speaks of; -1 for the outside world.
    """

    question: str
    document: int


def unanswerable(documents: Sequence[DocumentFacts], count: int, seed: int) -> list[Unanswerable]:
    """At most ``count`` distinct questions that the documents leave open, in a fixed order.

    A question's turn depends on the question and its document only, so that another document
    beside it changes few choices.
    """
    names = [facts.document.id for facts in documents]
    found = [
        _attributes(documents),
        _swapped(documents),
        (Unanswerable(text, -1) for text in outside_questions()),
        _invented(documents, seed),
    ]
    pools = [_mixed(items, names, seed) for items in found]
    # Half of what users ask in vain is about the corpus' own entities: attributes come twice.
    turns = [0, 1, 2, 0, 3]
    chosen: dict[str, Unanswerable] = {}
    at = 0
    while len(chosen) < count and any(pools):
        pool = pools[turns[at % len(turns)]]
        at += 1
        if pool:
            item = pool.pop()
            chosen.setdefault(item.question, item)
    return list(chosen.values())


@cache
def outside_questions() -> tuple[str, ...]:
    """The fixed list of questions about the outside world."""
    return tuple(line for line in package_text("outside_questions.txt").splitlines() if line)


@cache
def _templates() -> dict[str, list[tuple[str, frozenset[str]]]]:
    raw = json.loads(package_text("attributes.json"))
    return {
        kind: [(text, frozenset(guard.split())) for text, guard in rows]
        for kind, rows in raw.items()
    }


def _mixed(items: Iterable[Unanswerable], names: Sequence[str], seed: int) -> list[Unanswerable]:
    """In the order of hashes, the first one last; one about the outside goes with any document."""

    def turn(item: Unanswerable) -> tuple[str, str]:
        owners = names if item.document < 0 else [names[item.document]]
        hashes = (short_hash([seed, item.question, name]) for name in owners)
        return min(hashes, default=""), item.question

    return sorted(dict.fromkeys(items), key=turn, reverse=True)


def _attributes(documents: Sequence[DocumentFacts]) -> Iterator[Unanswerable]:
    """Attribute templates of the entity's kind whose guard words stand near it nowhere."""
    surroundings = _Surroundings(documents)
    for index, entity in _entities(documents):
        for text, guard in _templates().get(entity.kind or "", []):
            if not surroundings.hold(guard, entity):
                yield Unanswerable(_fill(text, entity.name), index)


def _swapped(documents: Sequence[DocumentFacts]) -> Iterator[Unanswerable]:
    """A fact's question with another entity of the same kind in the subject's place."""
    surroundings = _Surroundings(documents)
    owners: dict[str, Entity] = {}
    alike: dict[tuple[str | None, bool], list[tuple[int, Entity]]] = {}
    for index, entity in _entities(documents):
        owners[entity.name] = entity
        alike.setdefault((entity.kind, entity.plural), []).append((index, entity))
    for fact in (fact for facts in documents for fact in facts.facts):
        owner = owners.get(fact.about)
        if owner is None or fact.kind != "direct" or fact.attribute in _TOO_COMMON:
            continue
        question = _shortest(fact)
        if not question:
            continue
        template, related = question.replace(fact.about, "{X}"), _related(fact.attribute)
        for index, other in alike[owner.kind, owner.plural]:
            if other is owner or other.name in question:
                continue
            if not surroundings.hold(related, other):
                yield Unanswerable(_fill(template, other.name), index)


def _shortest(fact: Fact) -> str:
    """The shortest wording that names the subject once and asks for more than what it is."""
    found = [q for q in fact.questions if q.count(fact.about) == 1]
    found = [q for q in found if len(q.replace(fact.about, "").split()) >= _MIN_OTHER_WORDS]
    return min(found, key=lambda q: (len(q.split()), q), default="")


def _invented(documents: Sequence[DocumentFacts], seed: int) -> Iterator[Unanswerable]:
    """A fact's question about a name that stands in no document."""
    known = {word for facts in documents for word in _words(facts.document.text)}
    for index, facts in enumerate(documents):
        for fact in facts.facts:
            question = _shortest(fact) if fact.about else ""
            if not question:
                continue
            name = _invent(fact.about, random.Random(short_hash([seed, question])))
            new = set(_words(name)) - set(_words(fact.about))
            if not new or new & known:
                continue
            yield Unanswerable(_fill(question.replace(fact.about, "{X}"), name), index)


def _invent(name: str, rng: random.Random) -> str:
    """A made-up name of the same shape: markers ("River", "Ltd") and small words stay."""
    sets = lexicon().sets
    keep = sets["place_markers"] | sets["org_markers"] | sets["titles"]
    words = []
    for word in name.split(" "):
        small = not word[:1].isupper() or word in keep or not word.isalpha()
        words.append(word if small else _syllables(rng))
    return " ".join(words)


def _syllables(rng: random.Random) -> str:
    return (rng.choice(_SYLLABLES) + rng.choice(_ENDINGS)).capitalize()


def _fill(template: str, name: str) -> str:
    text = template.replace("{X}'s", possessive_of(name)).replace("{X}", name)
    return text[:1].upper() + text[1:]


def _entities(documents: Sequence[DocumentFacts]) -> Iterator[tuple[int, Entity]]:
    """Named entities of known kind, each once, with the document that names it first."""
    seen: set[str] = set()
    for index, facts in enumerate(documents):
        for entity in facts.entities:
            if not entity.named or entity.kind is None or entity.name in seen:
                continue
            if len(entity.name.split()) > _MAX_NAME_WORDS or not _clean(entity):
                continue
            seen.add(entity.name)
            yield index, entity


def _clean(entity: Entity) -> bool:
    """Whether the name is surely one: no lone common word that only opened a sentence."""
    words = entity.name.split(" ")
    return len(words) > 1 or not parts_of_speech(words[0]) or entity.subject > -9


class _Surroundings:
    """The words of the documents that name an entity (by any word of its name)."""

    def __init__(self, documents: Sequence[DocumentFacts]) -> None:
        texts = (f"{facts.document.title} {facts.document.text}" for facts in documents)
        self._words = [_document_words(text) for text in texts]
        self._near: dict[str, list[frozenset[str]]] = {}

    def hold(self, words: frozenset[str], entity: Entity) -> bool:
        """Whether one of the words stands in a document that names the entity."""
        near = self._near.get(entity.name)
        if near is None:
            near = self._near[entity.name] = self._naming(entity.name)
        return any(not words.isdisjoint(known) for known in near)

    def _naming(self, name: str) -> list[frozenset[str]]:
        parts = _words(name)
        names = {word for word in parts if len(word) > 2} or set(parts)
        return [words for words in self._words if not names.isdisjoint(words)]


@lru_cache(maxsize=256)
def _document_words(text: str) -> frozenset[str]:
    """Lower-cased words and simple stems of a text."""
    words = set(_words(text))
    stems = {word[: -len(end)] for word in words for end in ("s", "es", "d", "ed", "ing")
             if word.endswith(end) and len(word) > len(end) + 2}  # fmt: skip
    return frozenset(words | stems)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _related(attribute: str) -> frozenset[str]:
    """The attribute's word with its synonyms and event noun."""
    words = {attribute, *attribute.split(" ")}
    known = lexicon()
    for lemma in (attribute,):
        words |= set(known.verb_synonyms.get(lemma, lemma).split(" "))
        words.add(known.nominalizations.get(lemma, lemma))
    return frozenset(words)
