"""Cleaning: one shard's reflections must not repeat or contradict each other.

Rules, each on the reflections of one shard, in the order of precedence that :func:`clean`
sorts by (answerable ones before abstention, then earlier step, parents, request, id):

- ``empty``, ``overlong question``, ``overlong answer``: dropped;
- ``duplicate``: the same id again (question, answer and sources): dropped;
- ``same question``: the same normalised question and answer from elsewhere: dropped;
- ``ambiguous between documents``: different documents answer the same normalised question in ways
  that exclude each other: the question lacks its context, so none of the answers stays;
- ``contradicts``: the same normalised question with another answer: a memory trained on both
  would learn neither, so the first one stays;
- ``answerable``: an abstention example whose question another reflection answers: dropped;
- ``near duplicate``: the same fact asked for in nearly the same words elsewhere
  (:mod:`memo_dist.synthesis.similar`): dropped. Rewordings are never compared: they are alike;
- ``refers to the text``, ``pronoun without a name``: the question does not stand alone
  (:mod:`memo_dist.synthesis.quality`): dropped;
- ``answer not in the text``: the answer does not stand in the chunks that it cites: dropped;
- ``parent dropped``: a rewording of a reflection that was dropped by one of these rules.
  A rewording whose parent was dropped for a twin is kept as a rewording of that twin.

With ``corpus.trusted=false``, pairs that the cited documents do not state
(:func:`memo_dist.synthesis.quality.stated_fault`) go before all others.
Before these rules, answers that changed over time get their dates
(:mod:`memo_dist.synthesis.dated`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from typing import Any
from unicodedata import normalize

from memo_dist.config.schema import SynthesisConfig
from memo_dist.synthesis.dated import date_conflicts
from memo_dist.synthesis.quality import UNFOUNDED, founded, stated_fault, wording_fault
from memo_dist.synthesis.similar import near_duplicates
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.words import content, numbers

EDGES = ".,;:!?\"'()[]{}<>«»“”‘’„…-–—"
ARTICLES = frozenset({"a", "an", "the"})
NEAR_DUPLICATE = "near duplicate"
AMBIGUOUS = "ambiguous between documents"
"""Reason for a question that different documents answer differently: none of the answers stays."""
PARENT_DROPPED = "parent dropped"
"""Reason for a rewording whose fact goes."""
TWINS = ("duplicate", "same question", NEAR_DUPLICATE)
"""Reasons for which a reflection goes while its equal stays."""
_COMPARED = 50
"""Answers of one question that are compared with each other."""

Ground = Callable[[Reflection], str]
"""The text that a reflection rests on; empty: unknown, so nothing is checked against it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reflection with the index of the step that wrote it."""

    step: int
    reflection: Reflection


@dataclass(frozen=True, slots=True)
class Dropped:
    """A reflection that cleaning took out, why, and the id of the one that stands in its way."""

    reason: str
    reflection: Reflection
    kept: str | None

    def to_json(self) -> dict[str, Any]:
        """One line of ``synth/quarantine.jsonl``."""
        return {"reason": self.reason, "kept": self.kept, **self.reflection.to_json()}


@dataclass(slots=True)
class Cleaned:
    """What is kept (sorted by id), what is dropped, and counts of the kept by step index."""

    kept: list[Reflection] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    by_step: Counter[int] = field(default_factory=Counter)


def normalise(text: str) -> str:
    """Words in lower case (NFKC) without articles and without punctuation around them.

    Punctuation inside or as part of a word stays: ``C++``, ``1.5`` and ``-5`` differ from
    ``C``, ``15`` and ``5``. Where nothing else is left ("A" as a grade), the articles stay.
    """
    tokens = normalize("NFKC", text).casefold().split()
    words = [token.rstrip(EDGES).lstrip(EDGES.rstrip("-–—")) for token in tokens]
    told = [word for word in words if word]
    return " ".join([word for word in told if word not in ARTICLES] or told)


def no_ground(reflection: Reflection) -> str:
    """The ground where no corpus is at hand."""
    return ""


def clean(
    candidates: Iterable[Candidate],
    limits: SynthesisConfig,
    ground: Ground = no_ground,
    stated: Ground = no_ground,
) -> Cleaned:
    """Clean the reflections of one shard; the result does not depend on their order.

    Args:
        candidates: with the index of the step that wrote each.
        limits: lengths, and the similarity of near duplicates.
        ground: gives the text that a reflection's answer must stand in.
        stated: for documents that are not the user's own: gives the whole text of those that a
            reflection cites, in which its names, numbers and answer must stand.
    """
    cleaner = _Cleaner(limits, ground)
    ordered = cleaner.stated(sorted(candidates, key=_precedence), stated)
    rows = date_conflicts([candidate.reflection for candidate in ordered], cleaner.normalised)
    dated = [
        replace(candidate, reflection=row) for candidate, row in zip(ordered, rows, strict=True)
    ]
    return cleaner.run(sorted(dated, key=_precedence))


def _precedence(candidate: Candidate) -> tuple[Any, ...]:
    """Parents come before their rewordings, also where one step writes both."""
    row = candidate.reflection
    abstains, rewords = row.kind == "abstain", row.parent is not None
    return abstains, candidate.step, rewords, row.request, row.id, row.chunks


class _Cleaner:
    """One pass over the candidates in their order of precedence."""

    def __init__(self, limits: SynthesisConfig, ground: Ground) -> None:
        self._limits = limits
        self._ground = ground
        self._questions: dict[str, Reflection] = {}
        self._ids: dict[str, str] = {}
        """Kept id -> itself; the id of a dropped twin -> the fact that stands for it."""
        self._lost: set[str] = set()
        self._to_come: Counter[str] = Counter()
        """Copies of a fact that are not judged yet, by each name that rewordings give it."""
        self._waiting: list[Candidate] = []
        """Rewordings of a dropped fact of which another copy is to come."""
        self._near: dict[str, list[Reflection]] = {}
        self._ambiguous: frozenset[str] = frozenset()
        self._normalised: dict[str, str] = {}
        self._result = Cleaned()

    def normalised(self, text: str) -> str:
        """:func:`normalise`, computed once for each text: every rule asks for it."""
        found = self._normalised.get(text)
        if found is None:
            found = self._normalised[text] = normalise(text)
        return found

    def stated(self, candidates: Iterable[Candidate], ground: Ground) -> list[Candidate]:
        """The candidates without those that their documents do not state, which are dropped.

        They go first: what a document makes up must not make a question of others ambiguous.
        """
        left = []
        for candidate in candidates:
            row = candidate.reflection
            text = ground(row)
            fault = stated_fault(row.question, row.answer, row.kind, text) if text else ""
            if fault:
                self._drop(fault, row, None)
            else:
                left.append(candidate)
        return left

    def run(self, candidates: Sequence[Candidate]) -> Cleaned:
        heads = [item.reflection for item in candidates if _states_fact(item.reflection)]
        for index, others in near_duplicates(heads, self._limits.near_duplicate).items():
            self._near[heads[index].id] = [heads[other] for other in others]
        reflections = (item.reflection for item in candidates)
        self._ambiguous = ambiguous_questions(reflections, self.normalised)
        self._to_come.update(name for row in heads for name in _names(row))
        for candidate in candidates:
            self._take(candidate)
        for candidate in self._waiting:
            self._take(candidate)
        self._result.kept.sort(key=lambda reflection: reflection.id)
        return self._result

    def _take(self, candidate: Candidate) -> None:
        reflection = candidate.reflection
        if _states_fact(reflection):
            self._to_come.subtract(_names(reflection))
        reason, other = self._verdict(reflection)
        if reason is None:
            kept = self._with_living_parent(reflection)
            self._questions[self.normalised(kept.question)] = kept
            self._ids[kept.id] = kept.id
            for name in _names(kept):
                self._stands(name, kept)
            self._result.kept.append(kept)
            self._result.by_step[candidate.step] += 1
        elif reason == PARENT_DROPPED and self._to_come[reflection.fact] > 0:
            self._waiting.append(candidate)
        else:
            self._drop(reason, reflection, other)

    def _stands(self, name: str, fact: Reflection) -> None:
        """A fact is there for whoever rewords ``name``, also where a copy of that was dropped."""
        self._ids.setdefault(name, fact.fact)
        self._lost.discard(name)

    def _drop(self, reason: str, reflection: Reflection, other: Reflection | None) -> None:
        for name in _names(reflection):
            if reason in TWINS and other is not None:
                self._stands(name, other)
            elif name not in self._ids:
                self._lost.add(name)
        self._result.dropped.append(Dropped(reason, reflection, other.id if other else None))

    def _verdict(self, reflection: Reflection) -> tuple[str | None, Reflection | None]:
        """Why the reflection has to go (None: it stays), and because of which other one."""
        question = self.normalised(reflection.question)
        if not question or not self.normalised(reflection.answer):
            return "empty", None
        if len(reflection.question) > self._limits.max_question_chars:
            return "overlong question", None
        if len(reflection.answer) > self._limits.max_answer_chars:
            return "overlong answer", None
        if reflection.parent in self._lost and not _states_fact(reflection):
            return PARENT_DROPPED, None
        fault = self._fault(reflection)
        if fault:
            return fault, None
        if question in self._ambiguous:
            return ("answerable" if reflection.kind == "abstain" else AMBIGUOUS), None
        other = self._questions.get(question)
        if other is not None:
            return self._conflict(reflection, other), other
        for other in self._near.get(reflection.id, ()):
            if other.id != reflection.id and self._ids.get(other.id) == other.id:
                return NEAR_DUPLICATE, other
        return None, None

    def _fault(self, reflection: Reflection) -> str:
        """What rules on the pair, or on the pair and its text, have against it."""
        question, answer = reflection.question, reflection.answer
        ground = self._ground(reflection)
        fault = wording_fault(question, answer, ground)
        if ground and not fault and not founded(question, answer, reflection.kind, ground):
            return UNFOUNDED
        return fault

    def _conflict(self, reflection: Reflection, other: Reflection) -> str:
        """The reason to drop ``reflection``, whose question ``other`` asks already."""
        if reflection.id == other.id:
            return "duplicate"
        if self.normalised(reflection.answer) == self.normalised(other.answer):
            return "same question"
        return "answerable" if reflection.kind == "abstain" else "contradicts"

    def _with_living_parent(self, reflection: Reflection) -> Reflection:
        if reflection.parent is None:
            return reflection
        return replace(reflection, parent=self._ids.get(reflection.parent, reflection.parent))


def ambiguous_questions(
    rows: Iterable[Reflection], normalised: Callable[[str], str]
) -> frozenset[str]:
    """The (normalised) questions to which different documents give answers that cannot be one.

    Such a question lacks its context ("Which port does the exporter use?" of two exporters):
    trained with either answer, it would be answered wrongly for the other document.
    """
    asked: dict[str, dict[str, Reflection]] = {}
    for row in rows:
        if row.kind != "abstain":
            answers = asked.setdefault(normalised(row.question), {})
            answers.setdefault(normalised(row.answer), row)
    return frozenset(
        question
        for question, answers in asked.items()
        if any(_differ(a, b) for a, b in combinations(islice(answers.values(), _COMPARED), 2))
    )


def _differ(one: Reflection, other: Reflection) -> bool:
    """Whether two answers to one question, of different documents, exclude each other."""
    if set(one.sources) & set(other.sources):
        return False
    here, there = numbers(one.answer), numbers(other.answer)
    if here and there:
        return here != there
    return not content(one.answer) & content(other.answer)


def _names(reflection: Reflection) -> set[str]:
    """What rewordings may name as their parent: of a rewritten pair also the pair before it."""
    return {reflection.id, reflection.fact} if _states_fact(reflection) else {reflection.id}


def _states_fact(reflection: Reflection) -> bool:
    """Whether it is the first wording of a fact: neither a rewording nor an abstention."""
    return reflection.kind not in ("paraphrase", "abstain")
