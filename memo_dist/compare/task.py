"""One method of a comparison, from its preparation to its last reply; resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from memo_dist.compare.method import (
    Corpus,
    Cost,
    Forgetting,
    Method,
    NotRunError,
    Reply,
    Setting,
    corpus_identity,
)
from memo_dist.compare.outside import PredictedMethod
from memo_dist.compare.readers import ReaderChoice
from memo_dist.compare.registry import make_method
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import load_chunks, load_documents
from memo_dist.errors import InterruptedRunError, StoppedError
from memo_dist.evaluation.predictions import Predictions
from memo_dist.evaluation.questions import Question
from memo_dist.io import atomic
from memo_dist.io.hashing import short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.progress import progress

State = Literal["done", "failed", "not run", "stopped"]
CACHE = "cache"
"""Folder below ``RUN/compare`` of what methods have prepared; no comparison has this name."""
REQUESTS = "requests.jsonl"
"""The requests to the reader's endpoint, in the folder of the comparison."""
_COST = "cost.json"
_MAX_REASON = 300


@dataclass(frozen=True)
class Task:
    """A method and what it is asked; it travels to the process that works on it.

    Attributes:
        run: pinned.
        config: with the files and overrides of the command.
        questions: all of them are asked.
        folder: of the comparison.
        method: name of the row.
        reader: the shared reader.
        context: tokens that an endpoint reads.
        predictions: file of the answers of another system; None: the method is in the registry.
        key: hash of all that decides the row; a finished row of the same key is not done again.
    """

    run: RunFolder
    config: Config
    questions: tuple[Question, ...]
    folder: Path
    method: str
    reader: ReaderChoice
    context: int
    predictions: Path | None
    key: str

    @property
    def replies(self) -> Path:
        """The replies, one a line, as they come."""
        return self.folder / f"replies-{self.method}.jsonl"

    def is_open(self, reply: Reply | None) -> bool:
        """Whether a question is asked (again): it has no reply, or its request failed.

        What a file of predictions leaves out stays missing.
        """
        return reply is None or (bool(reply.failed) and self.predictions is None)

    @property
    def outcome(self) -> Path:
        """How the method ended."""
        return self.folder / f"method-{self.method}.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a method ended: ``method-NAME.json``.

    Attributes:
        key: of the task.
        state: "done", "failed", "not run" or "stopped".
        reason: why it is not done; "" where it is.
        identity: hash of the method's own and of the corpus; "": it was never made.
        peak_bytes: peak resident memory of the process; the largest of several launches.
        cost: of the preparation; None: it was not completed.
    """

    key: str
    state: State
    reason: str = ""
    identity: str = ""
    peak_bytes: int = 0
    cost: Cost | None = None

    @classmethod
    def read(cls, path: Path) -> Outcome | None:
        """The outcome in a file; None where there is none, or another version wrote it."""
        if not path.exists():
            return None
        row = atomic.read_json(path)
        try:
            cost = cost_from_json(row["cost"]) if row["cost"] is not None else None
            return cls(**{**row, "cost": cost})
        except (TypeError, KeyError):
            return None


def cost_from_json(row: Mapping[str, Any]) -> Cost:
    """A cost from ``dataclasses.asdict`` after a round through JSON."""
    forgetting = Forgetting(**row["forgetting"]) if row["forgetting"] else None
    return Cost(**{**row, "forgetting": forgetting})


def reply_from_json(row: Mapping[str, Any]) -> Reply:
    """A reply from ``dataclasses.asdict`` after a round through JSON."""
    return Reply(**{**row, "sources": tuple(row["sources"])})


def replies_of(path: Path, method: str, identity: str) -> Predictions[Reply]:
    """The replies of a method in a file."""
    return Predictions(path, method, identity, Reply, reply_from_json)


def finished(task: Task) -> Outcome | None:
    """The outcome of a task with nothing left to ask; None where there is work.

    A question whose request failed is work: the endpoint may answer by now.
    """
    outcome = Outcome.read(task.outcome)
    if outcome is None or outcome.key != task.key or outcome.state != "done":
        return None
    known = replies_of(task.replies, task.method, outcome.identity)
    return None if any(task.is_open(known.get(q)) for q in task.questions) else outcome


def run_task(task: Task, should_stop: Callable[[], bool]) -> Outcome:
    """Work on a task until it is done or cannot go on; every error becomes the outcome.

    The outcome is written last. Replies are on the disk batch by batch.
    """
    before = Outcome.read(task.outcome)
    working = _Working(task, should_stop)
    try:
        working.run()
        outcome = working.ended("done")
    except NotRunError as error:
        outcome = working.ended("not run", error)
    except (StoppedError, InterruptedRunError, KeyboardInterrupt) as error:
        outcome = working.ended("stopped", error)
    except Exception as error:  # whatever an outside method raises is its row
        outcome = working.ended("failed", error)
    if before is not None and before.key == task.key:
        outcome = replace(
            outcome,
            identity=outcome.identity or before.identity,
            peak_bytes=max(outcome.peak_bytes, before.peak_bytes),
        )
    write_outcome(task, outcome)
    return outcome


def write_outcome(task: Task, outcome: Outcome) -> None:
    """Write ``method-NAME.json``."""
    atomic.write_json(task.outcome, asdict(outcome))


@dataclass
class _Working:
    """One launch of a task."""

    task: Task
    should_stop: Callable[[], bool]
    identity: str = ""
    cost: Cost | None = None
    begun: float = field(default_factory=time.perf_counter)

    def run(self) -> None:
        task = self.task
        documents, chunks = load_documents(task.run.corpus), list(load_chunks(task.run.corpus))
        method = self._make()
        self.identity = short_hash([method.identity, corpus_identity(documents, chunks)])
        cached = task.folder.parent / CACHE / f"{task.method}-{self.identity}"
        corpus = Corpus(documents, chunks, cached)
        # A process that is ended from outside writes no outcome: this one tells whose replies
        # are there.
        write_outcome(task, self.ended("stopped", StoppedError("it has not ended")))
        known = replies_of(task.replies, task.method, self.identity)
        open_questions = [q for q in task.questions if task.is_open(known.get(q))]
        self.cost = _stored_cost(corpus.folder)
        if self.cost is None or open_questions:
            self._prepare(method, corpus)
        self._answer(method, known, open_questions)

    def _make(self) -> Method:
        task = self.task
        if task.predictions is not None:
            return PredictedMethod(task.method, task.predictions, task.questions)
        journal = task.folder / REQUESTS
        setting = Setting(
            run=task.run,
            config=task.config,
            reader=cache(
                lambda: task.reader.load(task.config, task.context, journal, self.should_stop)
            ),
            reader_name=task.reader.name,
            reader_identity=task.reader.identity,
            gold=gold_documents(task.questions),
            should_stop=self.should_stop,
        )
        return make_method(task.method, setting)

    def _prepare(self, method: Method, corpus: Corpus) -> None:
        corpus.folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        cost = method.prepare(corpus)
        if self.cost is None:
            seconds = cost.seconds or time.perf_counter() - started
            self.cost = replace(cost, seconds=seconds)
            atomic.write_json(corpus.folder / _COST, asdict(self.cost))

    def _answer(
        self, method: Method, known: Predictions[Reply], open_questions: Sequence[Question]
    ) -> None:
        task = self.task
        total, size = len(task.questions), task.config.evaluate.batch_size
        done = total - len(open_questions)
        with progress(total, f"compare {task.method}", done=done, unit="questions") as bar:
            for start in range(0, len(open_questions), size):
                if self.should_stop():
                    raise StoppedError("stopped; the replies so far are kept")
                batch = open_questions[start : start + size]
                known.append(batch, self._timed(method, [self._asked(q) for q in batch]))
                bar.advance(len(batch))

    def _asked(self, question: Question) -> str:
        """What the method gets: a file is looked up by id, every other method reads the text."""
        return question.question if self.task.predictions is None else question.id

    def _timed(self, method: Method, questions: Sequence[str]) -> list[Reply]:
        started = time.perf_counter()
        replies = list(method.answer(questions))
        if len(replies) != len(questions):
            raise ValueError(f"{len(replies)} replies to {len(questions)} questions")
        if self.task.predictions is not None:  # another system answered, on its own time
            return replies
        share = (time.perf_counter() - started) / len(questions)
        return [reply if reply.seconds else replace(reply, seconds=share) for reply in replies]

    def ended(self, state: State, error: BaseException | None = None) -> Outcome:
        if self.task.predictions is not None:  # its memory and cost are not ours
            return Outcome(self.task.key, state, _reason(error), self.identity)
        peak = peak_bytes()
        return Outcome(self.task.key, state, _reason(error), self.identity, peak, self.cost)


def gold_documents(questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
    """Ids of the gold documents by the text of the question; equal questions are joined."""
    gold: dict[str, dict[str, None]] = {}
    for question in questions:
        gold.setdefault(question.question, {}).update(dict.fromkeys(question.supporting_ids))
    return {text: tuple(ids) for text, ids in gold.items()}


def peak_bytes() -> int:
    """Peak memory of this process: of the GPU where there is one, else resident memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Not ru_maxrss: a process inherits it from the one that started it.
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _stored_cost(folder: Path) -> Cost | None:
    path = folder / _COST
    try:
        return cost_from_json(atomic.read_json(path)) if path.exists() else None
    except (TypeError, KeyError):  # another version wrote it
        return None


def _reason(error: BaseException | None) -> str:
    if error is None:
        return ""
    text = next(iter(str(error).strip().splitlines()), "")
    own = isinstance(error, (NotRunError, StoppedError))
    named = text if own else f"{type(error).__name__}: {text}"
    return named[:_MAX_REASON]
