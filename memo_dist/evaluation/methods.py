"""The methods of one evaluation, built from a run folder: a bank, and the baselines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from memo_dist import answering
from memo_dist.answers.answer import Answer
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import load_chunks, load_documents
from memo_dist.errors import UsageError
from memo_dist.evaluation.baselines import BASELINES, LOOKUP, Material, Method, ReaderSettings
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.taught import Taught
from memo_dist.evaluation.trained import Trained
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import FILE_NAME

if TYPE_CHECKING:
    from memo_dist.models.reader import Reader

BUILT_IN_BASE = "smollm2-135m"
"""Reader of the baselines of a scratch memory, whose own base knows no language."""
READER = "the reader of evaluate.baselines"
"""How messages name it: no key holds its name."""


class MemoryAnswerer:
    """A mode of answering as a method; its answers are reused while all that decides them is equal.

    Attributes:
        identity: hash of the memory and of what else decides the mode's answers.
        calls: of an executive so far; 0 for modes without one.
        failed: those of them without a valid reply.
        passing: the questions of the last batch with such a call: the next run asks them again.
    """

    def __init__(self, answerer: answering.Answerer, memory: Path) -> None:
        """Wrap an open answerer.

        Args:
            answerer: answers from the memory.
            memory: the folder that holds ``bank.json``.

        Raises:
            UsageError: there is no bank in the folder.
        """
        self._answerer = answerer
        self.at_once = answerer.at_once
        own = memory_identity(memory)
        self.identity = short_hash([own, *answerer.decided_by]) if answerer.decided_by else own
        self.calls = self.failed = 0
        self.passing: frozenset[str] = frozenset()

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Ask in the mode."""
        answered = self._answerer.answer(questions)
        self.calls += sum(one.details.get("executive_calls", 0) for one in answered)
        failed = [one.details.get("failed_calls", 0) for one in answered]
        self.failed += sum(failed)
        self.passing = frozenset(q for q, calls in zip(questions, failed, strict=True) if calls)
        return [one.answer for one in answered]


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
    run: RunFolder, config: Config, questions: Sequence[Question], trained: Trained
) -> dict[str, Method]:
    """The baselines that ``evaluate.baselines`` names, in its order, over the run's corpus.

    ``lookup`` is left out where the trained questions are not known: ``trained.missing`` says why.

    Raises:
        UsageError: the reader cannot be loaded.
    """
    taught = trained.taught
    material = Material(
        cache(lambda: _reader(config)),
        lambda: taught or Taught(()),
        cache(lambda: load_documents(run.corpus)),
        lambda: load_chunks(run.corpus),
        questions,
        config.evaluate.passages,
    )
    names = [name for name in config.evaluate.baselines if name != LOOKUP or taught]
    return {name: BASELINES[name].build(material) for name in names}


def _reader(config: Config) -> tuple[Reader, ReaderSettings]:
    """The untrained base of the baselines, loaded, and how it is asked."""
    # Imported here: a config check or a report must not wait for torch and transformers.
    from memo_dist.models.base import SCRATCH_NAME, resolve_base
    from memo_dist.models.reader import Reader

    chosen = config.memory.base
    try:
        base = (
            resolve_base(BUILT_IN_BASE, key=READER)
            if chosen == SCRATCH_NAME
            else resolve_base(chosen)
        )
    except UsageError as error:
        raise UsageError(f"{error}; evaluate.baselines=[] evaluates without a reader") from error
    settings = ReaderSettings(
        base.weights_hash, config.memory.max_answer_tokens, config.evaluate.batch_size
    )
    return Reader.load(base.path), settings
