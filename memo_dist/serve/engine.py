"""The loaded bank, one answerer for each mode, and the switch to the next generation."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from memo_dist.answering import Answered, Answerer, Options, check_mode, open_answerer
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io.generations import current_number, held
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank, OpenMemories
from memo_dist.memory.loading import SharedBases
from memo_dist.memory.manifest import FILE_NAME, load_manifest
from memo_dist.models.loading import load_memory_tokenizer
from memo_dist.serve.hidden import Hidden, Hides

logger = logging.getLogger(__name__)

NOT_LOADED = "the memory is not loaded"
_SERVED_BATCHES = 4
"""Batches of one mode in progress where another program computes them: it joins them itself."""


@dataclass(frozen=True)
class Known:
    """What there is to know of a generation without its weights.

    Attributes:
        number: of the generation.
        tokenizer: of the memory.
        documents: {id: content hash} of what it was trained on.
    """

    number: int
    tokenizer: Any
    documents: dict[str, str]


class Answering(ABC):
    """What answers a server's questions: an :class:`Engine`, or replicas of one.

    Attributes:
        at_once: batches of one mode that are answered in parallel.
    """

    at_once = 1

    def __init__(self, run: RunFolder, config: Config, hides: Hides) -> None:
        """Check the modes; nothing is loaded before :meth:`refresh`.

        Args:
            run: its bank answers.
            config: ``serve.modes`` names the modes.
            hides: see ``Hides``.

        Raises:
            UsageError: a mode is unknown, or the executive that it needs is not configured.
        """
        for mode in config.serve.modes:
            check_mode(mode, config)
        self._run, self._config, self._hides = run, config, hides
        self._loading = threading.Lock()

    @property
    def modes(self) -> list[str]:
        """Modes that answer; the first one is the default."""
        return list(self._config.serve.modes)

    @property
    def number(self) -> int:
        """Number of the generation that answers; -1: none."""
        known = self._current()
        return known.number if known else -1

    def known(self) -> Known:
        """Of the generation that answers.

        Raises:
            UsageError: nothing is loaded.
        """
        known = self._current()
        if known is None:
            raise UsageError(NOT_LOADED)
        return known

    @abstractmethod
    def _current(self) -> Known | None:
        """Of the generation that answers; None: none does."""

    @abstractmethod
    def refresh(self) -> bool:
        """Answer from the generation that holds; whether that is another one."""

    @abstractmethod
    def answer(self, mode: str, questions: Sequence[str]) -> list[Answered]:
        """Answers of a mode, in the order of the questions."""

    @abstractmethod
    def close(self) -> None:
        """Answer no more."""


@dataclass
class Generation:
    """One loaded generation of the bank.

    Attributes:
        known: see :class:`Known`.
        answerers: by mode; they share the bank.
        bank: what the answerers share.
        users: calls that are using it.
        retired: another generation has taken its place.
    """

    known: Known
    answerers: dict[str, Answerer]
    bank: Bank
    users: int = 0
    retired: bool = False

    def close(self) -> None:
        """Release the models."""
        for answerer in self.answerers.values():
            answerer.close()
        self.answerers.clear()
        self.bank.release()


class Engine(Answering):
    """Answers from the generation that holds; threads may share it."""

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        hides: Hides,
        bases: SharedBases | None = None,
        open_memories: OpenMemories | None = None,
    ) -> None:
        """See :class:`Answering`.

        Args:
            run, config, hides: see there.
            bases: to share the base of adapters with other engines.
            open_memories: what answers, in place of models in this process; threads may share it.
        """
        super().__init__(run, config, hides)
        self._bases, self._open_memories = bases, open_memories
        if open_memories:
            self.at_once = _SERVED_BATCHES
        self._holds: Generation | None = None
        self._lock = threading.Lock()

    def _current(self) -> Known | None:
        holds = self._holds
        return holds.known if holds else None

    def refresh(self) -> bool:
        """Load the generation that holds, where it is not loaded; whether there was a change.

        Calls in progress end on the generation that they began with. Takes seconds; the
        generation before answers in the meantime, so both are in memory for a while.

        Raises:
            UsageError, RunError: the bank cannot be loaded; the one before stays.
        """
        with self._loading:
            if current_number(self._run.generations) == self.number:
                return False
            fresh = self._load()
            if self._replace(fresh):
                logger.info("generation %d answers", fresh.known.number)
            return True

    def answer(self, mode: str, questions: Sequence[str]) -> list[Answered]:
        """Answers of a mode, in the order of the questions.

        Raises:
            UsageError, RunError: see ``Answerer.answer``.
        """
        with self.using() as loaded:
            return loaded.answerers[mode].answer(questions)

    @contextmanager
    def using(self) -> Iterator[Generation]:
        """The loaded generation, which stays open while the block lasts.

        Raises:
            UsageError: nothing is loaded.
        """
        with self._lock:
            loaded = self._holds
            if loaded is None:
                raise UsageError(NOT_LOADED)
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
            self._close_unused(loaded)

    def close(self) -> None:
        """Release the models once no call uses them."""
        self._replace(None)

    def _replace(self, fresh: Generation | None) -> bool:
        """Answer from ``fresh`` from now on; whether there was a generation before."""
        with self._lock:
            before, self._holds = self._holds, fresh
            if before is not None:
                before.retired = True
        if before is not None:
            self._close_unused(before)
        return before is not None

    def _close_unused(self, loaded: Generation) -> None:
        with self._lock:
            unused = loaded.retired and not loaded.users
        if unused:
            loaded.close()

    def _load(self) -> Generation:
        run = self._run.pin()
        known = load_known(run)
        with ExitStack() as opened, held(run.memory, FILE_NAME):
            bank = Bank.of_run(
                run, self._config, bases=self._bases, open_memories=self._open_memories
            )
            opened.callback(bank.release)
            if bank.withheld is not None:
                bank.withheld = Hidden(bank.withheld, self._hides)
            options = Options(bank=bank, batch_size=self._config.serve.batch_size)
            answerers = {}
            for mode in self.modes:
                answerers[mode] = open_answerer(run, self._config, mode, options)
                opened.callback(answerers[mode].close)
            opened.pop_all()  # each answerer holds the generation itself
        return Generation(known, answerers, bank)


def load_known(run: RunFolder) -> Known:
    """What there is to know of the generation that ``run`` is pinned to.

    Raises:
        UsageError: there is no memory, or its manifest or tokenizer is damaged.
    """
    if not (run.memory / FILE_NAME).is_file():
        raise UsageError(f"{run.root} has no memory yet; `memo-dist encode` makes one")
    with held(run.memory, FILE_NAME):
        manifest = load_manifest(run.memory)
        tokenizer = load_memory_tokenizer(manifest.shard_folder(run.memory, manifest.shards[0].id))
    documents = {row.id: row.hash for entry in manifest.shards for row in entry.documents}
    return Known(run.pinned or 0, tokenizer, documents)
