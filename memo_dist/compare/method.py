"""The interface of a compared method: a corpus is prepared once, then questions are answered.

The framework (:mod:`memo_dist.compare.task`) does the rest: it runs a method in a process of
its own, measures time and memory, keeps what was prepared and answered, and turns an error into a
row that says so. Tokens are those of the method's own tokenizer or of the endpoint's usage report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from memo_dist.config.schema import Config
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import MemoDistError
from memo_dist.io.hashing import short_hash
from memo_dist.io.runfolder import RunFolder

if TYPE_CHECKING:
    from memo_dist.compare.readers import CountedReader

ENTRY_POINTS = "memo_dist.compare"
"""Group of entry points: name = a callable that makes a :class:`Method` from a :class:`Setting`."""


class NotRunError(MemoDistError):
    """A method cannot run here: a package, a GPU or a file is missing. Its row says why."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a method may learn from or search.

    Attributes:
        documents: of the run, in their order.
        chunks: their passages.
        folder: the method's own cache; the name holds a hash of its identity and of the corpus, so
            what is found there belongs to this method and this corpus. A killed ``prepare`` finds
            in it what it wrote before.
    """

    documents: Sequence[Document]
    chunks: Sequence[Chunk]
    folder: Path

    @property
    def identity(self) -> str:
        """Hash of all documents and passages."""
        return corpus_identity(self.documents, self.chunks)


def corpus_identity(documents: Sequence[Document], chunks: Sequence[Chunk]) -> str:
    """Hash of documents and passages, in their order."""
    return short_hash(
        [
            [[document.id, document.content_hash] for document in documents],
            [[chunk.document, chunk.text] for chunk in chunks],
        ]
    )


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The backbone's score on questions that have nothing to do with the corpus.

    Attributes:
        questions: name of the question set.
        n: number of its questions.
        right_before, right_after: how many of them are right before and after the training.
        detail: how both were measured, in a sentence.
    """

    questions: str
    n: int
    right_before: int
    right_after: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to prepare a method for the corpus.

    Attributes:
        seconds: wall-clock seconds; 0: the framework's own measure of ``prepare`` counts.
        tokens_in, tokens_out: prompt and generated tokens of models that were asked.
        calls: number of these calls.
        trained_tokens: tokens of all training steps, repetitions counted.
        peak_bytes: peak resident memory; 0: the framework's measure of the process counts.
        stored_bytes: of what must be kept to answer (weights, adapter, index).
        priced_model: name in the price file of the model behind ``tokens_in`` and ``tokens_out``;
            "": a local one, whose cost is the seconds of the machine.
        update_share: fraction of this cost that one changed document costs again; 1: all of it.
        forgetting: of a method that changes the backbone, or shows that it does not.
        details: further JSON values for the report.
    """

    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    trained_tokens: int = 0
    peak_bytes: int = 0
    stored_bytes: int = 0
    priced_model: str = ""
    update_share: float = 1.0
    forgetting: Forgetting | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A method's answer to one question.

    Attributes:
        text: the answer; "": it says that it does not know.
        confidence: calibrated probability that the answer is right; None: the method has none.
        sources: ids of the documents behind the answer, best first.
        tokens_in, tokens_out: prompt and generated tokens of all models that were asked.
        tokens_priced_in, tokens_priced_out: those of them that the reader's endpoint bills; 0 for
            a local reader.
        calls: models asked.
        seconds: wall-clock seconds of this question; 0: its share of the batch counts.
        failed: why there is no answer (a request that failed); such a question is missing, not
            wrong.
    """

    text: str
    confidence: float | None = None
    sources: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_priced_in: int = 0
    tokens_priced_out: int = 0
    calls: int = 0
    seconds: float = 0.0
    failed: str = ""


class Method(Protocol):
    """A compared method. It sees the corpus and the texts of questions, never gold answers.

    Both methods may raise: :class:`NotRunError` makes the row "not run", any other error makes it
    "failed"; replies of earlier batches are kept.
    """

    @property
    def name(self) -> str:
        """Name of the row: a plain folder name."""
        ...

    @property
    def identity(self) -> str:
        """Hash of all that decides its answers, beside the corpus: settings, seeds, weights.

        It must be known before ``prepare``: replies and artifacts of another identity are not
        reused.
        """
        ...

    def prepare(self, corpus: Corpus) -> Cost:
        """Make ready to answer; called once in every process that asks the method.

        A costly method keeps its artifacts in ``corpus.folder``, with a marker written last, and
        only opens them where they are complete. The cost of the first completed call counts; a
        method that may be killed between its artifacts and its return keeps its :class:`Cost` with
        them and returns that.
        """
        ...

    def answer(self, questions: Sequence[str]) -> Sequence[Reply]:
        """One reply for each question, in order."""
        ...


@dataclass(frozen=True)
class Setting:
    """What a method is made from.

    Attributes:
        run: the run folder, pinned to one generation of its memory; read only.
        config: its configuration with the files and overrides of the command.
        reader: loads the reader that all methods share (once); a local model or an endpoint.
        reader_name: what ``--reader`` named: a local folder, a hub id, a built-in name, or
            ``executive``.
        reader_identity: hash of that model, known before it is loaded.
        gold: ids of the gold documents by the text of the question: for upper bounds only.
        should_stop: polled by long work, which then raises
            :class:`memo_dist.errors.StoppedError`.
    """

    run: RunFolder
    config: Config
    reader: Callable[[], CountedReader]
    reader_name: str
    reader_identity: str = ""
    gold: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    should_stop: Callable[[], bool] = lambda: False

    @property
    def is_local(self) -> bool:
        """Whether the reader's weights are on this machine: a method may train them."""
        return self.reader_name != "executive"


Make = Callable[[Setting], Method]
"""Makes a method; an error there is treated as one of ``prepare``."""
