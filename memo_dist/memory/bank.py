"""The bank: one or more shard memories that answer together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memo_dist.answers.answer import Answer
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io.marker import checked_while
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import RawAnswer, Reading
from memo_dist.memory.calibration import Calibration, Verdict
from memo_dist.memory.familiarity import FILE_NAME as FAMILIARITY_FILE
from memo_dist.memory.familiarity import Familiarity
from memo_dist.memory.loading import Memories, SharedBases, Voice, load_memories
from memo_dist.memory.manifest import (
    CONFIDENCE,
    QUESTION_LIKELIHOOD,
    BankManifest,
    load_manifest,
    require_bank,
)
from memo_dist.memory.provenance import SourceIndex, load_sources
from memo_dist.memory.tombstones import Withheld
from memo_dist.memory.wordings import answer_wordings, read_wordings

OpenMemories = Callable[[BankManifest, Path], Sequence[Memories]]
"""Gives what answers for the shards of the bank in a folder."""
_EVERY_SOURCE = 1_000_000


@dataclass(frozen=True)
class BankShard:
    """What turns a shard's raw answers into verdicts, and its sources.

    Attributes:
        id: of the shard.
        calibration: of its confidence.
        sources: finds the documents behind an answer.
        familiarity: of its trained questions; None: its calibration does not use it.
    """

    id: int
    calibration: Calibration
    sources: SourceIndex
    familiarity: Familiarity | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One shard's answer to a question, and what its calibration says of it.

    Attributes:
        shard, raw, verdict: who, what, and how sure. Of a bank by question likelihood tokens and
            seconds include the reading of the question before.
        heard: it may answer; False where the question's likelihood has chosen another shard,
            which as a rule is the only one that writes: this one has no text, and abstains.
        question_logprob: of a bank by question likelihood, see ``Reading``; else 0.
    """

    shard: BankShard
    raw: RawAnswer
    verdict: Verdict
    heard: bool = True
    question_logprob: float = 0.0


class Bank:
    """Shard memories of which one answers.

    Which one, is the bank's composition. ``confidence``: the most confident one that does not
    abstain. ``question_likelihood``: the one whose model finds the question likeliest, as query
    likelihood ranks documents (Ponte and Croft, SIGIR 1998); its shards are trained on the tokens
    of questions too. Another shard's confidence then says nothing: a memory that was never taught
    a fact may be sure of a wrong answer.

    Attributes:
        shards: the shards, sorted by id.
        streams: whether some shards are loaded anew for every call of :meth:`answer`; then
            many questions a call are much faster.
        withheld: documents that were forgotten since the bank was trained; None: not of a run.
        lock: held while the bank's models run; :meth:`answer` and :meth:`votes` take it. Whoever
            runs the models of :meth:`voices` takes it too: adapters share one model, and hooks
            and adapter names are state of that model, not of a call. Of memories that threads
            may share it is none.
    """

    def __init__(
        self,
        shards: Sequence[BankShard],
        memories: Sequence[Memories],
        composition: str = CONFIDENCE,
    ) -> None:
        """Join shards with what answers for them; each shard has exactly one place there."""
        self._likelihood = composition == QUESTION_LIKELIHOOD and len(shards) > 1
        self.shards = tuple(sorted(shards, key=lambda shard: shard.id))
        self._memories = tuple(memories)
        self.streams = any(memory.streams for memory in memories)
        self._wordings = max((s.calibration.wordings for s in shards), default=1)
        parallel = all(memory.parallel for memory in memories)
        self.lock: AbstractContextManager[Any] = nullcontext() if parallel else threading.RLock()
        self.withheld: Withheld | None = None

    @classmethod
    def load(  # noqa: PLR0913 - each is a choice of the verb that asks
        cls,
        folder: Path,
        reflections: Path | None = None,
        max_answer_tokens: int = 48,
        device: str = "auto",
        verify: bool = True,
        loaded_gb: float = 0.0,
        hashed_gb: float = 0.0,
        bases: SharedBases | None = None,
        open_memories: OpenMemories | None = None,
    ) -> Bank:
        """Load the bank in ``folder`` (``RUN/memory``).

        Args:
            folder: holds ``bank.json`` and the shard folders.
            reflections: the run's ``reflections.jsonl``; without it answers name no sources.
            max_answer_tokens: longest generated answer (``memory.max_answer_tokens``).
            device: a torch device, or ``auto``.
            verify: hash the files while they are loaded, and compare with what the bank names.
            loaded_gb: GiB of shard weights kept loaded (``memory.loaded_gb``); 0: what the
                device has room for.
            hashed_gb: larger files are not hashed (``memory.hashed_gb``); 0: all are.
            bases: to share the base of adapters with other banks; see :meth:`release`.
            open_memories: what answers, in place of models in this process.

        Raises:
            UsageError: the bank is incomplete or of a kind that cannot answer on its own.
            RunError: ``verify`` found damaged files, or the base of adapters is another one.
        """
        manifest = load_manifest(folder)
        _check_answerable(manifest)

        def check() -> None:
            if verify:
                require_bank(manifest, folder, hashed_gb)

        def loaded() -> Sequence[Memories]:
            if open_memories:
                return open_memories(manifest, folder)
            return load_memories(manifest, folder, max_answer_tokens, device, loaded_gb, bases)

        with ExitStack() as opened:
            with checked_while(check):
                memories = loaded()
                for memory in memories:
                    opened.callback(memory.release)
                bank = cls._of(manifest, folder, reflections, memories)
            opened.pop_all()
        return bank

    @classmethod
    def _of(
        cls,
        manifest: BankManifest,
        folder: Path,
        reflections: Path | None,
        memories: Sequence[Memories],
    ) -> Bank:
        trained = {entry.id: entry.reflections_hash for entry in manifest.shards}
        known = load_sources(reflections, trained) if reflections and reflections.exists() else {}
        shards = [
            _shard(manifest.shard_folder(folder, entry.id), entry.id, known.get(entry.id))
            for entry in manifest.shards
        ]
        bank = cls(shards, memories, manifest.composition)
        bank.withheld = Withheld.of_bank(folder, manifest)
        return bank

    @classmethod
    def of_run(
        cls,
        run: RunFolder,
        config: Config,
        sources: bool = True,
        bases: SharedBases | None = None,
        open_memories: OpenMemories | None = None,
    ) -> Bank:
        """Load the bank of a run with its configuration.

        Args:
            run: the run.
            config: ``memory.max_answer_tokens``, ``memory.loaded_gb`` and ``memory.hashed_gb``.
            sources: answers name the documents behind them.
            bases, open_memories: see :meth:`load`.

        Raises:
            UsageError, RunError: see :meth:`load`.
        """
        run = run.pin()
        return cls.load(
            run.memory,
            run.trained_reflections if sources else None,
            config.memory.max_answer_tokens,
            loaded_gb=config.memory.loaded_gb,
            hashed_gb=config.memory.hashed_gb,
            bases=bases,
            open_memories=open_memories,
        )

    def release(self) -> None:
        """End what does not end with the bank: the adapters on a base that it shares, processes
        that hold its weights. It cannot be asked afterwards."""
        for memory in self._memories:
            memory.release()

    def answer(
        self, questions: Sequence[str], batch_size: int = 16, nearest: bool = False
    ) -> list[Answer]:
        """Answer every question, in the given order; threads may share the bank.

        The most confident shard that does not abstain wins (the lower id on equal
        confidence); where all abstain, so does the bank, with the highest of their
        confidences. Of a bank by question likelihood the shard that finds the question likeliest
        answers, or abstains.

        Args:
            questions: what is asked.
            batch_size: rows of one batch.
            nearest: ask each shard, in place of the question, the trained one nearest to it. This
                is a search index with a memory behind it. Needs the shards' reflections.

        Raises:
            UsageError: a question is longer than a memory can read.
        """
        votes = self.votes(questions, batch_size, nearest=nearest)
        return [_decide(question, row) for question, row in zip(questions, votes, strict=True)]

    def votes(
        self,
        questions: Sequence[str],
        batch_size: int = 16,
        all_write: bool = False,
        nearest: bool = False,
    ) -> list[list[Vote]]:
        """What every shard says to each question: by question, then most believed first.

        Of a bank by question likelihood all shards read a question, and the one that finds it
        likeliest writes; the others count as abstaining, and follow by likelihood.

        Args:
            questions: what is asked.
            batch_size: rows of one batch.
            all_write: let shards that are not heard write as well, to measure what they know.
            nearest: see :meth:`answer`.

        Raises:
            UsageError: a question is longer than a memory can read.
        """
        if not questions:
            return []
        texts = {s.id: _asked(questions, s.sources if nearest else None) for s in self.shards}
        with self.lock:
            if self._likelihood:
                found = self._likeliest(questions, texts, batch_size, all_write)
            else:
                found = self._most_confident(questions, texts, batch_size)
        return self._without_forgotten(questions, found)

    def _without_forgotten(
        self, questions: Sequence[str], votes: list[list[Vote]]
    ) -> list[list[Vote]]:
        """Votes that only a forgotten document can have led to count as abstaining."""
        gone = self.withheld.documents() if self.withheld else {}
        if not gone:
            return votes
        rows = [
            [_judged_again(question, vote, gone.get(vote.shard.id)) for vote in row]
            for question, row in zip(questions, votes, strict=True)
        ]
        if self._likelihood:  # the first one decides, whatever it says
            return rows
        return [sorted(row, key=lambda vote: vote.verdict.abstained) for row in rows]

    def _most_confident(
        self, questions: Sequence[str], texts: Mapping[int, Sequence[str]], batch_size: int
    ) -> list[list[Vote]]:
        """Votes by confidence: every shard writes."""
        everything = dict.fromkeys((shard.id for shard in self.shards), range(len(questions)))
        raws = self._write(questions, texts, everything, batch_size)
        return [
            self._ranked([raws[shard.id, i] for shard in self.shards])
            for i in range(len(questions))
        ]

    def voices(self) -> dict[int, Voice]:
        """The loaded model of every shard, in the order of the shards, for fusion with a backbone.

        Raises:
            UsageError: not all shards fit into memory at once.
        """
        found: dict[int, Voice] = {}
        for memory in self._memories:
            found |= memory.voices()
        if len(found) < len(self.shards):
            raise UsageError(
                f"only {len(found)} of this bank's {len(self.shards)} shards fit into memory at"
                " once, and fusion needs all of them: raise memory.loaded_gb, use a larger"
                " machine, or export adapters (export.adapter=kept)"
            )
        return {shard.id: found[shard.id] for shard in self.shards}

    def _ranked(self, raws: Sequence[RawAnswer]) -> list[Vote]:
        """Votes by confidence; those that abstain come last."""
        pairs = zip(self.shards, raws, strict=True)
        votes = [Vote(shard, raw, shard.calibration.judge(raw)) for shard, raw in pairs]
        # sorted() is stable, so equals keep the order of the shard ids.
        return sorted(votes, key=lambda v: (v.verdict.abstained, -v.verdict.confidence))

    def _likeliest(
        self,
        questions: Sequence[str],
        texts: Mapping[int, Sequence[str]],
        batch_size: int,
        all_write: bool,
    ) -> list[list[Vote]]:
        """Votes by the question's likelihood, the lower shard id first among equals."""
        read: dict[int, list[Reading]] = {}
        for memory in self._memories:
            read |= read_wordings(memory, questions, batch_size, self._wordings)
        ranks = [
            sorted(self.shards, key=lambda shard: -read[shard.id][i].logprob)
            for i in range(len(questions))
        ]
        writers = {
            shard.id: [i for i, rank in enumerate(ranks) if all_write or rank[0] is shard]
            for shard in self.shards
        }
        raws = self._write(questions, texts, writers, batch_size)
        return [
            [
                _likely_vote(question, shard, raws.get((shard.id, i)), read[shard.id][i], rank[0])
                for shard in rank
            ]
            for i, (question, rank) in enumerate(zip(questions, ranks, strict=True))
        ]

    def _write(
        self,
        questions: Sequence[str],
        texts: Mapping[int, Sequence[str]],
        writers: Mapping[int, Sequence[int]],
        batch_size: int,
    ) -> dict[tuple[int, int], RawAnswer]:
        """Answers by shard and index of the question; each shard is asked its own ``texts``."""
        found: dict[tuple[int, int], RawAnswer] = {}
        known = {shard.id: shard.familiarity for shard in self.shards}
        for memory in self._memories:
            asked = {k: [texts[k][i] for i in writers[k]] for k in memory.shards if writers[k]}
            if not asked:  # a shard that is not in memory need not be brought there
                continue
            for shard, raws in answer_wordings(memory, asked, batch_size, self._wordings).items():
                for i, raw in zip(writers[shard], raws, strict=True):
                    familiarity = known[shard]
                    found[shard, i] = (
                        familiarity.complete(questions[i], raw) if familiarity else raw
                    )
        return found


def _asked(questions: Sequence[str], index: SourceIndex | None) -> list[str]:
    return [index.nearest(q) for q in questions] if index else list(questions)


def _shard(folder: Path, shard: int, sources: SourceIndex | None) -> BankShard:
    calibration = Calibration.load(folder)
    familiarity = Familiarity.load(folder) if calibration.needs_familiarity else None
    if calibration.needs_familiarity and familiarity is None:
        raise UsageError(
            f"'{folder / FAMILIARITY_FILE}' is missing, and the confidence of shard {shard} was"
            " calibrated with it: bring it back, or export again with export.familiarity=false"
        )
    return BankShard(shard, calibration, sources or SourceIndex(()), familiarity)


def _judged_again(question: str, vote: Vote, gone: frozenset[str] | None) -> Vote:
    """A vote of a shard that was trained on documents that are ``gone`` (None: on none)."""
    if gone is None:
        return vote
    sources = vote.shard.sources.find(question, vote.raw.text, _EVERY_SOURCE)
    if sources and gone.isdisjoint(sources):
        return vote
    silent = replace(vote.raw, text="")
    return replace(vote, raw=silent, verdict=Verdict(0.0, True), heard=False)


def _likely_vote(
    question: str, shard: BankShard, raw: RawAnswer | None, read: Reading, first: BankShard
) -> Vote:
    """The vote of a shard that read a question and, if it was to, answered it (``raw``)."""
    if raw is None:
        raw = RawAnswer("", (), read.tokens, read.seconds, question)
        return Vote(shard, raw, Verdict(0.0, True), False, read.logprob)
    verdict = shard.calibration.judge(raw)
    tokens, seconds = raw.tokens + read.tokens, raw.seconds + read.seconds
    raw = replace(raw, tokens=tokens, seconds=seconds)
    if shard is not first:  # it has no say in fusion either
        verdict = replace(verdict, abstained=True)
    return Vote(shard, raw, verdict, shard is first, read.logprob)


def _decide(question: str, ranked: Sequence[Vote]) -> Answer:
    best = ranked[0]
    abstained = best.verdict.abstained
    text = "" if abstained else best.raw.text
    return Answer(
        text=text,
        confidence=best.verdict.confidence,
        abstained=abstained,
        sources=() if abstained else best.shard.sources.find(question, text),
        shards=tuple(vote.shard.id for vote in ranked),
        seconds=sum(vote.raw.seconds for vote in ranked),
        tokens=sum(vote.raw.tokens for vote in ranked),
        refused=best.raw.text if abstained else "",
    )


def _check_answerable(manifest: BankManifest) -> None:
    if manifest.composition not in (CONFIDENCE, QUESTION_LIKELIHOOD):
        raise UsageError(
            f"this bank composes its shards by '{manifest.composition}', which works inside fusion"
            f" only; set composition to '{CONFIDENCE}' in bank.json to ask it directly"
        )
