"""The methods of one evaluation, built from a run folder: a bank, and the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memo_dist.answers.answer import Answer
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import load_chunks, load_documents
from memo_dist.errors import UsageError
from memo_dist.evaluation.baselines import Answerer, Bm25, ClosedBook, Oracle, ReaderSettings
from memo_dist.evaluation.questions import Question
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import FILE_NAME
from memo_dist.models.identity import model_stamp
from memo_dist.protocol.requests import prompts_version
from memo_dist.protocol.session import ProtocolSession

if TYPE_CHECKING:
    from memo_dist.fusion.latent.answering import LatentBank
    from memo_dist.fusion.logits.answering import FusedBank

EXECUTIVE_IDENTITY = (
    "kind",
    "model",
    "structured",
    "attempts",
    "max_reply_tokens",
    "temperature",
)
"""Keys of ``executive`` that can change an answer."""
EMBEDDED_BASE = "smollm2-135m"
"""Reader of the baselines of a scratch memory, whose own base knows no language."""


class ProtocolAnswerer:
    """An executive that asks the memory, as a method; reused while all that decides it is equal."""

    def __init__(self, session: ProtocolSession, config: Config, memory: Path) -> None:
        """Wrap an open session.

        Args:
            session: asks executive and memory.
            config: of that session.
            memory: the folder that holds ``bank.json``.
        """
        self._session = session
        executive = config.executive
        self.identity = short_hash(
            [
                memory_identity(memory),
                prompts_version(),
                asdict(config.protocol),
                [getattr(executive, name) for name in EXECUTIVE_IDENTITY],
                config.run.seed,
                config.memory.max_answer_tokens,
                model_stamp(executive.model) if executive.kind == "transformers" else "",
            ]
        )
        self.calls = self.failed = 0

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Answer them side by side."""
        outcomes = self._session.answer(questions)
        self.calls += sum(outcome.calls for outcome in outcomes)
        self.failed += sum(outcome.failed for outcome in outcomes)
        return [outcome.answer for outcome in outcomes]


class MemoryAnswerer:
    """A memory as a method: its answers are reused only while its weights stay the same."""

    def __init__(
        self,
        answer: Callable[[Sequence[str]], list[Answer]],
        memory: Path,
        at_once: int = 0,
        max_answer_tokens: int = 0,
    ) -> None:
        """Wrap a bank.

        Args:
            answer: the bank's method.
            memory: the folder that holds ``bank.json``.
            at_once: questions that a call should bring at least; 0: ``evaluate.batch_size``.
            max_answer_tokens: longest answer; 0: always the same.
        """
        self._answer = answer
        self.at_once = at_once
        memories = memory_identity(memory)
        self.identity = short_hash([memories, max_answer_tokens]) if max_answer_tokens else memories

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Ask the memory."""
        return self._answer(questions)


class FusionAnswerer:
    """A backbone that reads the memory, as a method; reused while all that decides it is equal."""

    def __init__(self, fused: FusedBank | LatentBank, run: RunFolder) -> None:
        """Wrap a bank and its backbone."""
        self._fused = fused
        self.identity = short_hash([memory_identity(run.memory), fused.identity])

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Ask memory and backbone together."""
        return self._fused.answer(questions, max(len(questions), 1))


def memory_identity(memory: Path) -> str:
    """Hash of ``bank.json`` (it holds every weights hash) and of the shards' calibrations.

    Raises:
        UsageError: there is no bank in the folder.
    """
    bank = memory / FILE_NAME
    if not bank.exists():
        raise UsageError(f"there is no memory to evaluate in {memory}: run encode first")
    calibrations = sorted(memory.glob("*/calibration.json"))
    return short_hash([hash_file(bank), *(hash_file(path) for path in calibrations)])


def build_baselines(
    run: RunFolder, config: Config, questions: Sequence[Question]
) -> dict[str, Answerer]:
    """The baselines that ``evaluate.baselines`` names, in its order, over the run's corpus.

    Raises:
        UsageError: the reader cannot be loaded.
    """
    names = config.evaluate.baselines
    if not names:
        return {}
    # Imported here: a config check or a report must not wait for torch and transformers.
    from memo_dist.models.base import resolve_base
    from memo_dist.models.reader import Reader

    wanted = config.memory.base
    base = resolve_base(EMBEDDED_BASE if wanted == "scratch" else wanted)
    reader = Reader.load(base.path)
    settings = ReaderSettings(
        base.weights_hash, config.memory.max_answer_tokens, config.evaluate.batch_size
    )
    documents = load_documents(run.corpus) if set(names) - {"closed_book"} else []
    built: dict[str, Answerer] = {}
    for name in names:
        if name == "closed_book":
            built[name] = ClosedBook(reader, settings)
        elif name == "bm25":
            chunks = load_chunks(run.corpus)
            built[name] = Bm25(reader, settings, documents, chunks, config.evaluate.passages)
        else:
            built[name] = Oracle(reader, settings, documents, questions)
    return built
