"""The public Python API: ``from memo_dist import encode, Bank``.

It runs the same library as the command line on the same run folders: ``memo-dist`` continues a
run that the API made, and the other way round. Errors are the classes of
:mod:`memo_dist.errors`; their text names what is wrong, the value, and the key to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any, Self

from memo_dist.answers.answer import Answer
from memo_dist.config import load_config
from memo_dist.io.store import read_place
from memo_dist.runs import existing_run, open_run
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import require

if TYPE_CHECKING:
    from memo_dist.answering import Answered, Answerer

FilePath = str | PathLike[str]
Settings = Mapping[str, Any]
"""{dotted key: value}, as ``memo-dist config --help-keys`` lists them."""


def encode(
    corpus: FilePath,
    run: FilePath,
    *,
    config_files: Sequence[FilePath] = (),
    settings: Settings | None = None,
    resume: str = "auto",
) -> Bank:
    """Turn documents into a memory: ``memo-dist encode`` as a function.

    The same call again continues a run that was stopped or killed, and finds a finished one done.
    Ray runs for the duration of the call, or on the cluster that ``cluster.address`` names.
    Called in the main thread, it handles SIGINT, SIGTERM and SIGUSR1 until it returns: the first
    one saves and ends the call with an error.

    Args:
        corpus: a folder or file of the kinds that docs/corpus.md lists, or its URL in an object
            store (``s3://BUCKET/PREFIX``).
        run: the run folder; it is created.
        config_files: YAML files; later ones win.
        settings: values that win over the files: ``{"train.epochs": 4}``.
        resume: ``auto``; ``never`` (the run must be new); ``must`` (the run must exist); or a
            folder: one of the run's own checkpoints.

    Returns:
        The memory of the run. Its models load with the first question.

    Raises:
        UsageError: a path, key or value is wrong; the run was started with another
            configuration, or another process writes into it.
        RunError: a stage failed. What is finished stays.
        StoppedError, InterruptedRunError: a signal came (the latter: Ctrl-C) and the state is
            saved; the same call continues.
    """
    config = load_config([Path(file) for file in config_files], settings or {})
    source = read_place(fspath(corpus))
    # Imported here: a wrong key is refused before torch is imported.
    from memo_dist import pipeline
    from memo_dist.cluster.stop import STOP

    pipeline.check_before(config)
    with STOP.installed(), open_run(Path(run), config, resume) as folder:
        pipeline.encode(folder, config, source, resume)
    return Bank(run)


class Bank:
    """The memory of a run: it answers questions about the run's documents.

    A context manager. Threads may share it. Models load with the first question and stay loaded
    until :meth:`close`.

    Attributes:
        mode: how it answers.
    """

    def __init__(
        self, run: FilePath, mode: str = "direct", *, settings: Settings | None = None
    ) -> None:
        """Open the memory of a run.

        Args:
            run: the folder of a run that was encoded.
            mode: ``direct``: the memory alone. ``hybrid``: the memory asked the nearest trained
                question. ``protocol``: an executive
                (``executive.kind``) questions the memory. ``logits``, ``latent``: a frozen
                backbone and the memory write together, after ``memo-dist fuse``.
            settings: values that win over the run's own configuration.

        Raises:
            UsageError: there is no such run or mode, a key or value is wrong, or the mode needs
                what the run does not have.
        """
        from memo_dist.answering import check_mode

        self._run, _ = existing_run(Path(run))
        require(self._run, EXPORT)
        self._config = load_config((), settings or {}, stored=self._run.config)
        check_mode(mode, self._config)
        self.mode = mode
        self._opened: Answerer | None = None
        self._calls = 0
        self._changed = Condition()

    def ask(self, question: str) -> Answer:
        """Answer one question.

        Returns:
            Text, calibrated confidence (0 to 1), whether the memory abstained, and the ids of the
            documents behind the answer.

        Raises:
            UsageError: the question is longer than a model reads, or the bank cannot be loaded.
            RunError: an executive cannot be reached, or weights are not those of ``bank.json``.
        """
        (answer,) = self.answer([question])
        return answer

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Answer questions in batches; the answers have the order of the questions.

        Raises:
            UsageError, RunError: see :meth:`ask`.
        """
        return [answered.answer for answered in self.answer_with_details(questions)]

    def answer_with_details(self, questions: Sequence[str]) -> list[Answered]:
        """Answer questions; each answer comes with the details that its mode has.

        Raises:
            UsageError, RunError: see :meth:`ask`.
        """
        with self._answerer() as answerer:
            return answerer.answer(questions)

    def close(self) -> None:
        """Wait for the calls of other threads, then release the models.

        The next question loads them again.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._calls)
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _answerer(self) -> Iterator[Answerer]:
        """The open answerer, which stays open until the block ends."""
        from memo_dist.answering import open_answerer
        from memo_dist.observability.logs import quiet_libraries

        with self._changed:
            if self._opened is None:
                quiet_libraries()
                self._opened = open_answerer(self._run, self._config, self.mode)
            opened = self._opened
            self._calls += 1
        try:
            yield opened
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()
