"""From the buffer into the weights: runs ``update`` and ``forget`` beside the server, and
``encode`` for the first weights of a scope.

The verbs run as processes of their own: they train, and the server's process only answers. What
they were asked for stands in the buffer, so that after a crash the next server asks them the same
again, and finds done what was done.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

from memo_dist.change.difference import bank_documents, corpus_documents
from memo_dist.change.pending import Pending
from memo_dist.change.refusals import refusals
from memo_dist.config import origin, to_yaml
from memo_dist.config.load import guarded_values
from memo_dist.config.schema import Config
from memo_dist.errors import EXIT_STOPPED, EXIT_USAGE, MemoDistError, RunError, StoppedError
from memo_dist.io import atomic
from memo_dist.io.locks import file_lock
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.serve.buffer import PendingBuffer
from memo_dist.serve.buffer_file import json_text
from memo_dist.serve.engine import Answering
from memo_dist.serve.keys import VARIABLE, Scope
from memo_dist.serve.messages import shown
from memo_dist.serve.records import WAITING, Stored
from memo_dist.serve.scopes import ScopeMemories

logger = logging.getLogger(__name__)

WHY = "deleted over the API"
"""The reason in the receipts."""
_TICK_SECONDS = 0.5
_RETRY_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
"""After a failure, where a write or a request asks for another try before that."""
_STOP_SECONDS = 20.0
_IN_USE = "is in use by process"
"""What ``memo_dist.runs`` says of a run that another process writes into."""


_NOT_ALL = "not every document was trained: their own events say why, or the server's log"
"""Of a consolidation, whose event callers of every scope see."""


class _BusyError(Exception):
    """Another process consolidates this run."""


class _BehindError(Exception):
    """The next generation is there and cannot be loaded: its events wait until it can."""


class Consolidator:
    """A thread that brings the memory to the state of the buffer."""

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        buffer: PendingBuffer,
        engine: Answering,
        scopes: ScopeMemories,
    ) -> None:
        """Of all processes that serve a run, the one that holds the lock file works."""
        self._run, self._config, self._buffer, self._engine = run, config, buffer, engine
        self._scopes = scopes
        self._folder = run.root / "serve"
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._not_before = self._failed = 0.0
        self._day = time.strftime("%Y%m%d") if self._past_the_hour() else ""
        self._thread = threading.Thread(target=self._loop, name="memo-consolidate", daemon=True)

    def start(self) -> None:
        """Begin; what a crash interrupted is continued."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work now, or a moment after a failure."""
        self._not_before = min(self._not_before, self._failed + _PAUSE_SECONDS)
        self._wake.set()

    def stop(self) -> None:
        """End; a verb that runs saves its state, and the next server continues it."""
        self._stop.set()
        self._wake.set()
        self._thread.join(_STOP_SECONDS + 5)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_TICK_SECONDS)
            self._wake.clear()
            if self._stop.is_set() or time.monotonic() < self._not_before:
                continue
            try:
                self._refresh()
                with file_lock(self._folder / ".lock", 0, _BusyError):
                    self._work()
            except _BusyError:
                continue
            except Exception as error:
                logger.error("the buffer was not consolidated: %s", self._shown(error))
                self._failed = time.monotonic()
                self._not_before = self._failed + _RETRY_SECONDS

    def _refresh(self) -> None:
        """Another process may have made a generation."""
        try:
            self._engine.refresh()
        except (MemoDistError, OSError) as error:  # the one before answers
            logger.error("the next generation was not loaded: %s", self._shown(error))

    def _work(self) -> None:
        """What fails in one scope keeps neither the others nor the training from their turn.

        Raises:
            RunError: the first failure, once everything has been tried.
            StoppedError: the rest has to wait for the next server or another process.
        """
        failed = self._forget()
        if self._due():
            failed += self._train()
        if failed:
            raise RunError(failed[0])

    def _due(self) -> bool:
        if self._buffer.consolidation_requested():
            return True
        settings = self._config.serve
        waiting = self._buffer.waiting(settings.scopes == "trained")
        if settings.consolidate == "after":
            return waiting >= settings.consolidate_after
        today = time.strftime("%Y%m%d")
        if settings.consolidate != "nightly" or self._day == today or not self._past_the_hour():
            return False
        self._day = today
        return waiting > 0

    def _past_the_hour(self) -> bool:
        return time.strftime("%H:%M") >= self._config.serve.consolidate_at

    def _forget(self) -> list[str]:
        """Delete what requests deleted, scope by scope; returns what failed."""
        failed: list[str] = []
        for scope, rows in _by_scope(self._buffer.to_forget()):
            names = [row.id for row in rows]
            try:
                refused = self._forget_scope(scope, names)
            except StoppedError as error:
                self._buffer.fail_forget(dict.fromkeys(names, self._shown(error)), WAITING)
                raise
            except _BehindError as error:  # the weights are clean, and do not answer yet
                failed.append(str(error))
                continue
            except (MemoDistError, OSError) as error:
                refused = dict.fromkeys(names, self._shown(error))
            self._buffer.fail_forget(refused)
            self._buffer.end_forget([name for name in names if name not in refused])
            failed += refused.values()
        return failed

    def _forget_scope(self, scope: Scope, names: Sequence[str]) -> dict[str, str]:
        """Returns {document: why it is refused}; the others are forgotten."""
        if scope and not self._kept(scope, names):
            self._scopes.remove(scope)
            return {}
        refused = self._forget_in(scope, names)
        if not scope:
            self._load()
        return refused

    def _kept(self, scope: Scope, names: Sequence[str]) -> bool:
        """Whether a scope's weights hold another document than these."""
        return bool(self._scopes.documents(scope).keys() - set(names))

    def _forget_in(self, scope: Scope, names: Sequence[str]) -> dict[str, str]:
        run = self._run_of(scope)
        pending = Pending.load(run.generations)
        begun = [one.id for one in pending.documents] if pending else []
        refused = refusals(run, self._scopes.config if scope else self._config, names, begun)
        known = {*corpus_documents(run.corpus), *bank_documents(load_manifest(run.memory)), *begun}
        there = [name for name in names if name in known and name not in refused]
        if there:
            self._buffer.empty_log()  # it may hold earlier texts of documents that stay
            with self._work_folder() as folder:
                atomic.write_text(folder / "ids", "".join(f"{name}\n" for name in there))
                self._verb("forget", str(run.root), f"@{folder / 'ids'}", "--why", WHY)
        return {name: self._shown(reason) for name, reason in refused.items()}

    def _train(self) -> list[str]:
        """Train what waits, scope by scope; returns what failed."""
        failed, behind = [], []
        for scope in self._buffer.begin_consolidation(self._config.serve.scopes == "trained"):
            try:
                self._train_scope(scope)
            except StoppedError:
                raise
            except _BehindError as error:
                behind.append(str(error))
            except (MemoDistError, OSError) as error:
                failed.append(self._shown(error))
        if not behind:
            self._buffer.end_consolidation(_NOT_ALL if failed else "")
        return failed + behind

    def _train_scope(self, scope: Scope) -> None:
        run = self._run_of(scope)
        known = (
            self._scopes.documents(scope) if scope else bank_documents(load_manifest(run.memory))
        )
        batch = self._buffer.begin_batch(scope, known)
        try:
            if scope and not self._scopes.trained(scope):
                self._encode(scope, batch)
            else:
                self._update(run, batch)
        except StoppedError:
            raise  # the batch stays begun, the next server continues it
        except (MemoDistError, OSError) as error:
            self._buffer.end_batch(batch, {}, self._shown(error))
            raise
        if not scope:
            self._load()  # first: else neither buffer nor memory would answer
        trained = bank_documents(load_manifest(run.memory))
        reason = "the corpus did not take it: see corpus/quarantine.jsonl of a run over the text"
        refused = {row.id: reason for row in batch if row.id not in trained}
        self._buffer.end_batch(batch, refused)

    def _load(self) -> None:
        """Answer from the generation that was just made.

        Raises:
            _BehindError: the one before answers still.
        """
        try:
            self._engine.refresh()
        except (MemoDistError, OSError) as error:
            raise _BehindError(self._shown(error)) from error

    def _encode(self, scope: Scope, batch: Sequence[Stored]) -> None:
        """The first weights of a scope."""
        # A file given by --config counts as named by the caller: only what may be so is written.
        origin.check(guarded_values(self._scopes.config))
        with self._work_folder() as folder:
            atomic.write_text(folder / "config.yaml", to_yaml(self._scopes.config))
            atomic.write_jsonl(folder / "added.jsonl", map(_row, batch))
            try:
                self._verb("encode", str(folder / "added.jsonl"), "--run",
                           str(self._run_of(scope).root),
                           "--config", str(folder / "config.yaml"))  # fmt: skip
            except RunError:
                self._scopes.remove(scope)  # it may hold texts deleted since
                raise

    def _update(self, run: RunFolder, batch: Sequence[Stored]) -> None:
        known = corpus_documents(run.corpus)
        fresh = [row for row in batch if row.id not in known]
        with self._work_folder() as folder:
            words = [str(run.root)]
            if fresh:
                atomic.write_jsonl(folder / "added.jsonl", map(_row, fresh))
                words += ["--add", str(folder / "added.jsonl")]
            for number, row in enumerate(row for row in batch if row.id in known):
                file = folder / f"replaced-{number}.jsonl"
                atomic.write_jsonl(file, [_row(row)])
                words += ["--replace", f"{row.id}={file}"]
            self._verb("update", *words)

    def _run_of(self, scope: Scope) -> RunFolder:
        return self._scopes.run(scope) if scope else self._run

    @contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """An empty folder for the files that a verb reads; a killed server's is emptied first."""
        folder = self._folder / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _verb(self, verb: str, *words: str) -> None:
        """Run ``memo-dist VERB WORDS`` to its end.

        Raises:
            RunError: it failed; the message is the last line that it wrote.
            StoppedError: the server stops, the verb was stopped, or another process writes into
                the run (as a verb does whose server was killed); it is tried again.
        """
        command = [sys.executable, "-m", "memo_dist", verb, *words]
        env = {name: value for name, value in os.environ.items() if name != VARIABLE}
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env
            )
            while process.poll() is None:
                if self._stop.is_set():
                    _end(process)
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_SECONDS)
            output.seek(0)
            written = output.read().decode("utf-8", "replace")
        if process.returncode == EXIT_STOPPED or (self._stop.is_set() and process.returncode):
            raise StoppedError(f"`memo-dist {verb}` was stopped; it continues with the next server")
        if process.returncode == EXIT_USAGE and _IN_USE in written:
            raise StoppedError(self._shown(written))
        if process.returncode:
            raise RunError(f"`memo-dist {verb}` failed: {self._shown(written)}")

    def _shown(self, text: object) -> str:
        return shown(text, self._run.root)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _by_scope(rows: Iterable[Stored]) -> Iterator[tuple[Scope, list[Stored]]]:
    """Rows whose scopes stand together, scope by scope."""
    for _, found in groupby(rows, key=lambda row: json_text(row.scope)):
        same = list(found)
        yield same[0].scope, same


def _row(row: Stored) -> dict[str, str]:
    return {"id": row.id, "title": row.title or row.id, "text": row.text}
