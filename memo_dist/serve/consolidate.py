"""From the buffer into the weights: runs ``update`` and ``forget`` beside the server.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from memo_dist.change.difference import bank_documents, corpus_documents
from memo_dist.change.pending import Pending
from memo_dist.config.schema import Config
from memo_dist.errors import EXIT_STOPPED, EXIT_USAGE, MemoDistError, RunError, StoppedError
from memo_dist.io import atomic
from memo_dist.io.locks import file_lock
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.serve.buffer import PendingBuffer
from memo_dist.serve.engine import Engine
from memo_dist.serve.keys import VARIABLE
from memo_dist.serve.records import Stored

logger = logging.getLogger(__name__)

WHY = "deleted over the API"
"""The reason in the receipts."""
_TICK_SECONDS = 0.5
_RETRY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_MESSAGE_CHARS = 500
_IN_USE = "is in use by process"
"""What ``memo_dist.runs`` says of a run that another process writes into."""


class _BusyError(Exception):
    """Another process consolidates this run."""


class Consolidator:
    """A thread that brings the memory to the state of the buffer."""

    def __init__(
        self, run: RunFolder, config: Config, buffer: PendingBuffer, engine: Engine
    ) -> None:
        """Of all processes that serve a run, the one that holds the lock file works."""
        self._run, self._config, self._buffer, self._engine = run, config, buffer, engine
        self._folder = run.root / "serve"
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._not_before = 0.0
        self._day = time.strftime("%Y%m%d") if self._past_the_hour() else ""
        self._thread = threading.Thread(target=self._loop, name="memo-consolidate", daemon=True)

    def start(self) -> None:
        """Begin; what a crash interrupted is continued."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work now."""
        self._not_before = 0.0
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
                logger.error("the buffer was not consolidated: %s", _line(str(error)))
                self._not_before = time.monotonic() + _RETRY_SECONDS

    def _refresh(self) -> None:
        """Another process may have made a generation."""
        try:
            self._engine.refresh()
        except (MemoDistError, OSError) as error:  # the one before answers
            logger.error("the next generation was not loaded: %s", _line(str(error)))

    def _work(self) -> None:
        if self._buffer.to_forget():
            self._forget()
        if self._due():
            self._train()

    def _due(self) -> bool:
        if self._buffer.consolidation_requested():
            return True
        settings, waiting = self._config.serve, self._buffer.waiting()
        if settings.consolidate == "after":
            return waiting >= settings.consolidate_after
        today = time.strftime("%Y%m%d")
        if settings.consolidate != "nightly" or self._day == today or not self._past_the_hour():
            return False
        self._day = today
        return waiting > 0

    def _past_the_hour(self) -> bool:
        return time.strftime("%H:%M") >= self._config.serve.consolidate_at

    def _forget(self) -> None:
        names = self._buffer.to_forget()
        known = {
            **corpus_documents(self._run.corpus),
            **bank_documents(load_manifest(self._run.memory)),
        }
        begun = Pending.load(self._run.generations)
        known |= {one.id: "" for one in begun.documents} if begun else {}
        there = [name for name in names if name in known]
        try:
            if there:
                with self._work_folder() as folder:
                    atomic.write_text(folder / "ids", "".join(f"{name}\n" for name in there))
                    self._verb("forget", f"@{folder / 'ids'}", "--why", WHY)
        except (RunError, StoppedError) as error:
            self._buffer.end_forget(names, _line(str(error)))
            raise
        self._engine.refresh()
        self._buffer.end_forget(names)

    def _train(self) -> None:
        batch = self._buffer.begin_batch()
        if not batch:
            self._buffer.end_batch(batch, {})
            return
        try:
            self._update(batch)
        except StoppedError:
            raise  # the batch stays begun, the next server continues it
        except RunError as error:
            self._buffer.end_batch(batch, {}, _line(str(error)))
            raise
        self._engine.refresh()  # first: else neither buffer nor memory would answer
        trained = bank_documents(load_manifest(self._run.memory))
        reason = "the corpus did not take it: see corpus/quarantine.jsonl of a run over the text"
        refused = {row.id: reason for row in batch if row.id not in trained}
        self._buffer.end_batch(batch, refused)

    def _update(self, batch: Sequence[Stored]) -> None:
        known = corpus_documents(self._run.corpus)
        fresh = [row for row in batch if row.id not in known]
        with self._work_folder() as folder:
            words: list[str] = []
            if fresh:
                atomic.write_jsonl(folder / "added.jsonl", map(_row, fresh))
                words += ["--add", str(folder / "added.jsonl")]
            for number, row in enumerate(row for row in batch if row.id in known):
                file = folder / f"replaced-{number}.jsonl"
                atomic.write_jsonl(file, [_row(row)])
                words += ["--replace", f"{row.id}={file}"]
            self._verb("update", *words)

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
        """Run ``memo-dist VERB RUN ...`` to its end.

        Raises:
            RunError: it failed; the message is the last line that it wrote.
            StoppedError: the server stops, the verb was stopped, or another process writes into
                the run (as a verb does whose server was killed); it is tried again.
        """
        command = [sys.executable, "-m", "memo_dist", verb, str(self._run.root), *words]
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
            raise StoppedError(_line(written))
        if process.returncode:
            raise RunError(f"`memo-dist {verb}` failed: {_line(written)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _row(row: Stored) -> dict[str, str]:
    return {"id": row.id, "title": row.title or row.id, "text": row.text}


def _line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MESSAGE_CHARS] if lines else "it wrote nothing"
