"""Which documents stand behind an answer: a citation look-up.

It never decides an answer, but in the mode ``hybrid``, which asks by it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memo_dist.answers.text import answer_key
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value
from memo_dist.memory.manifest import BankManifest
from memo_dist.synthesis.types import Reflection

if TYPE_CHECKING:
    from memo_dist.answers.search import Bm25Index

logger = logging.getLogger(__name__)

_EQUAL, _CONTAINED, _OTHER = 2, 1, 0
_CLOSE = 0.5  # further documents are cited only with at least this fraction of the best score


@dataclass(frozen=True, slots=True)
class _Entry:
    question: str
    answer: str
    sources: tuple[str, ...]


class SourceIndex:
    """Finds the documents whose reflections say what an answer says.

    The reflections are indexed (BM25 over question and answer) at the first look-up, so that
    loading a bank stays fast and an abstaining memory never pays for it.
    """

    def __init__(self, reflections: Iterable[Reflection]) -> None:
        """Keep the reflections that name documents and state something."""
        self._entries = [
            _Entry(r.question, r.answer, r.sources)
            for r in reflections
            if r.sources and r.kind != "abstain"
        ]
        self._index: Bm25Index | None = None
        self._answers: list[str] = []

    def find(self, question: str, answer: str, limit: int = 3) -> tuple[str, ...]:
        """Ids of the documents behind ``answer`` to ``question``, best first.

        Reflections with the same answer (normalised) come before those where one answer
        contains the other, and those before the rest; BM25 orders each group. Only documents
        of the best group with at least half the best score are returned; none where no
        reflection shares a word.
        """
        if not self._entries:
            return ()
        scores = self._scores(f"{question} {answer}")
        tiers = self._tiers(_normal(answer))
        order = np.lexsort((np.arange(len(scores)), -scores, -tiers))
        best = order[0]
        if scores[best] <= 0.0 and tiers[best] == _OTHER:
            return ()
        found: dict[str, None] = {}
        for row in order:
            weak = scores[row] < _CLOSE * scores[best] and not math.isclose(scores[best], 0.0)
            if tiers[row] < tiers[best] or weak or len(found) >= limit:
                break
            found.update(dict.fromkeys(self._entries[row].sources))
        return tuple(found)[:limit]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look up."""
        return not self._entries

    def nearest(self, question: str) -> str:
        """The trained question with the best BM25 score (of equals the first).

        It is the question itself where none shares a word with it.
        """
        scores = self._scores(question) if self._entries else np.zeros(1, np.float32)
        best = int(scores.argmax())
        return self._entries[best].question if scores[best] > 0.0 else question

    def _scores(self, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        if self._index is None:
            self._build()
        assert self._index is not None
        return self._index.scores(text)

    def _tiers(self, answer: str) -> np.ndarray[Any, np.dtype[np.int8]]:
        return np.asarray([_tier(answer, known) for known in self._answers], dtype=np.int8)

    def _build(self) -> None:
        from memo_dist.answers.search import Bm25Index

        self._answers = [_normal(entry.answer) for entry in self._entries]
        texts = [f"{entry.question} {entry.answer}" for entry in self._entries]
        # Last: other threads look up as soon as it is there.
        self._index = Bm25Index(texts, short_words=True)


def load_sources(path: Path, trained: Mapping[int, str] | None = None) -> dict[int, SourceIndex]:
    """One index per bank shard, from a run's ``reflections.jsonl`` (read once).

    Args:
        path: the file.
        trained: hash of each shard's reflections as the bank lists it. A shard that was trained on
            others has no index: they would name documents that it has never seen.
    """
    shards = _by_shard(path)
    known = {shard: SourceIndex(reflections) for shard, reflections in sorted(shards.items())}
    if trained is None:
        return known
    others = [k for k in known if k in trained and reflections_hash(shards[k]) != trained[k]]
    if others:
        logger.warning(
            "the memory of shard %s was trained on other reflections than those in %s: its answers"
            " name no sources; `memo-dist train` and `memo-dist export` bring it up to date",
            ", ".join(map(str, others)),
            path,
        )
    return {shard: index for shard, index in known.items() if shard not in others}


def check_same_reflections(manifest: BankManifest, path: Path) -> None:
    """Refuse to learn for a bank from reflections that it was not trained on.

    Args:
        manifest: of the bank.
        path: the run's ``reflections.jsonl``.

    Raises:
        UsageError: a shard was trained on other ones.
    """
    shards = _by_shard(path)
    for entry in manifest.shards:
        now = reflections_hash(shards.get(entry.id, ()))
        if now != entry.reflections_hash:
            raise UsageError(
                f"shard {entry.id} of the memory was trained on reflections"
                f" {entry.reflections_hash[:16]}, '{path}' holds {now[:16]}: run `memo-dist train`"
                " and `memo-dist export` first, or bring those reflections back"
            )


def reflections_hash(reflections: Iterable[Reflection]) -> str:
    """Hash of a shard's reflections, in file order; an id is a hash of its content."""
    return hash_value([reflection.id for reflection in reflections])


def _by_shard(path: Path) -> dict[int, list[Reflection]]:
    shards: dict[int, list[Reflection]] = {}
    for row in atomic.read_jsonl(path):
        reflection = Reflection.from_json(row)
        shards.setdefault(reflection.shard, []).append(reflection)
    return shards


def _normal(text: str) -> str:
    return " ".join(answer_key(text))


def _tier(answer: str, known: str) -> int:
    if answer == known:
        return _EQUAL
    inside = bool(answer) and f" {answer} " in f" {known} "
    around = bool(known) and f" {known} " in f" {answer} "
    return _CONTAINED if inside or around else _OTHER
