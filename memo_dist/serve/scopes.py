"""Weights of scopes: the documents of each scope train a run of their own, below RUN/serve/scopes.

A scope's texts, reflections and weights lie in one folder that nothing else uses. An answer for a
scope comes from that folder and the shared memory, so it cannot hold what another scope was told,
and deleting the scope is deleting the folder.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from memo_dist.answering import Answered
from memo_dist.answers.answer import Answer
from memo_dist.change.difference import bank_documents
from memo_dist.change.staying import OTHER_RUNS
from memo_dist.config.schema import Config
from memo_dist.errors import MemoDistError, RunError
from memo_dist.io.hashing import sha256_text
from memo_dist.io.locks import file_lock
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.loading import SharedBases
from memo_dist.memory.manifest import FILE_NAME, load_manifest
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.serve.buffer_file import json_text
from memo_dist.serve.engine import Engine
from memo_dist.serve.hidden import Hides
from memo_dist.serve.keys import Scope

logger = logging.getLogger(__name__)

_MODE = "direct"
_NAME_DIGITS = 32
SILENCE = Answered(Answer("", 0.0, True, (), (), 0.0, 0))
"""What a scope without weights answers."""


class ScopeMemories:
    """The runs of all scopes, of which the last used ones are loaded; threads may share it.

    The adapters of loaded scopes share one base in memory. A scope whose base is a scratch model
    has a small model of its own.
    """

    def __init__(self, run: RunFolder, config: Config, hides: Hides) -> None:
        """Nothing is loaded before :meth:`answer`.

        Args:
            run: the shared run.
            config: of it; ``serve.scopes_loaded`` bounds the loaded scopes.
            hides: see :class:`Hidden`.
        """
        self._root, self._hides = run.root / OTHER_RUNS, hides
        self.config = scope_config(config)
        self._most = config.serve.scopes_loaded
        self._bases = SharedBases()
        self._loaded: OrderedDict[str, Engine] = OrderedDict()
        self._lock = threading.RLock()
        self.loads = 0

    @property
    def loaded(self) -> int:
        """Number of scopes whose weights are in memory."""
        return len(self._loaded)

    def run(self, scope: Scope) -> RunFolder:
        """The run of one scope; its name is a hash, no text of a request becomes a path."""
        return RunFolder(self._root / _name(scope))

    def trained(self, scope: Scope) -> bool:
        """Whether the scope has weights."""
        run = self.run(scope)
        return run.generations.is_dir() and (run.memory / FILE_NAME).is_file()

    def documents(self, scope: Scope) -> dict[str, str]:
        """{id: content hash} of what the scope's weights were trained on.

        Raises:
            UsageError: its ``bank.json`` is damaged.
        """
        return bank_documents(load_manifest(self.run(scope).memory)) if self.trained(scope) else {}

    def answer(self, asked: Sequence[tuple[Scope, str]]) -> list[Answered]:
        """Answers of the scopes' own memories, in the order of the pairs (scope, question).

        A scope that was not loaded is loaded first, and the one used longest ago makes room.

        Raises:
            UsageError, RunError: see ``Answerer.answer``.
        """
        places: dict[str, list[int]] = {}
        for place, (scope, _) in enumerate(asked):
            places.setdefault(_name(scope), []).append(place)
        found = [SILENCE] * len(asked)
        for rows in places.values():
            answers = self._of_scope(asked[rows[0]][0], [asked[row][1] for row in rows])
            for row, answered in zip(rows, answers, strict=True):
                found[row] = answered
        return found

    def remove(self, scope: Scope) -> None:
        """Delete everything that the scope's weights were made of, and the weights.

        Raises:
            RunError: another process writes into the scope's run, or a file cannot be removed.
        """
        run = self.run(scope)
        with self._lock:
            self._drop(_name(scope))
            if not run.root.exists():
                return
            try:
                with file_lock(run.lock, 0, _in_use):
                    shutil.rmtree(run.root)
            except OSError as error:
                reason = error.strerror or str(error)
                raise RunError(f"the run of a scope cannot be removed: {reason}") from error

    def close(self) -> None:
        """Release the models."""
        with self._lock:
            for name in list(self._loaded):
                self._drop(name)

    def _of_scope(self, scope: Scope, questions: Sequence[str]) -> list[Answered]:
        with self._lock:  # adapters on one base: one call at a time
            if not self.trained(scope):
                self._drop(_name(scope))
                return [SILENCE] * len(questions)
            return self._engine(scope).answer(_MODE, questions)

    def _engine(self, scope: Scope) -> Engine:
        """The loaded memory of a scope, at its current generation."""
        name = _name(scope)
        engine = self._loaded.get(name)
        if engine is None:
            while len(self._loaded) >= self._most:
                self._drop(next(iter(self._loaded)))
            engine = Engine(self.run(scope), self.config, self._hides, self._bases)
        try:
            self.loads += engine.refresh()
        except (MemoDistError, OSError):
            if engine.number < 0:
                raise
            logger.error("the next generation of a scope was not loaded; the one before answers")
        self._loaded[name] = engine
        self._loaded.move_to_end(name)
        return engine

    def _drop(self, name: str) -> None:
        engine = self._loaded.pop(name, None)
        if engine is not None:
            engine.close()


def scope_config(config: Config) -> Config:
    """The configuration of a scope's run: the shared run's, with one shard, an adapter where the
    base is a model that exists."""
    found = replace(
        config,
        corpus=replace(config.corpus, shards=1),
        serve=replace(config.serve, modes=[_MODE]),
    )
    if config.memory.base == SCRATCH_NAME:
        return found
    return replace(
        found,
        train=replace(config.train, method="lora"),
        export=replace(config.export, adapter="kept"),
    )


def most_confident(shared: Answered, scoped: Sequence[Answered]) -> Answered:
    """The answer of the shared memory, or a more confident one of the scopes asked."""
    heard = [one for one in (shared, *scoped) if not one.answer.abstained]
    return max(heard, key=lambda one: one.answer.confidence, default=shared)


def _in_use(holder: str) -> RunError:
    return RunError(f"the run of the scope is in use by process {holder or 'unknown'}")


def _name(scope: Scope) -> str:
    return sha256_text(json_text(scope))[:_NAME_DIGITS]
