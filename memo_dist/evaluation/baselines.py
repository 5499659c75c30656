"""What a memory is compared with: a search over its training questions, and the untrained base."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from memo_dist.answers.answer import Answer
from memo_dist.answers.search import Bm25Index
from memo_dist.answers.text import ABSTAIN_ANSWER, normalise
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import UsageError
from memo_dist.evaluation.lookup import Lookup
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.taught import Taught
from memo_dist.io.hashing import short_hash

if TYPE_CHECKING:
    from memo_dist.models.chat_template import Messages
    from memo_dist.models.reader import Generation

PROMPT_VERSION = "1"
"""Raise it with every change of a prompt below: answers of an older one are not reused."""

LOOKUP = "lookup"
"""The name of the baseline without a model."""

_CLOSED_SYSTEM = f"Answer in a few words. If you do not know the answer, say: {ABSTAIN_ANSWER}"
_OPEN_SYSTEM = (
    "Answer the question from the passages, in a few words. If the passages do not tell the"
    f" answer, say: {ABSTAIN_ANSWER}"
)
_ABSTENTIONS = tuple(
    tuple(normalise(text))
    for text in (
        ABSTAIN_ANSWER,
        "I do not know",
        "I'm not sure",
        "I cannot answer",
        "The passage does not",
        "The passages do not",
    )
)
"""How an untrained base begins when it says that it does not know."""


class ReadingModel(Protocol):
    """A model that answers chat prompts greedily: :class:`memo_dist.models.reader.Reader`, or an
    endpoint."""

    context: int

    def count(self, messages: Messages) -> int:
        """Prompt tokens of a chat."""
        ...

    def truncate(self, text: str, tokens: int) -> str:
        """The beginning of ``text`` that fits into ``tokens`` tokens."""
        ...

    def generate(
        self, prompts: Sequence[Messages], max_new_tokens: int, batch_size: int = 16
    ) -> list[Generation]:
        """Answer each prompt, in order."""
        ...


class Method(Protocol):
    """A method that is evaluated: it sees questions only, never their gold answers."""

    @property
    def identity(self) -> str:
        """Hash of all that decides its answers: answers of another identity are not reused."""
        ...

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """One answer for each question, in order."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """How the baselines' reader is asked.

    Attributes:
        base: the base's weights hash.
        max_answer_tokens: longest answer, in tokens.
        batch_size: prompts read in one batch.
    """

    base: str
    max_answer_tokens: int
    batch_size: int = 16

    def identity(self, *parts: object) -> str:
        """Hash of the reader's part in an answer and of ``parts`` (JSON values)."""
        return short_hash([PROMPT_VERSION, self.base, self.max_answer_tokens, *parts])


class ClosedBook:
    """The untrained base asked the bare question: what it knew before the memory was trained."""

    def __init__(self, reader: ReadingModel, settings: ReaderSettings) -> None:
        self._reader = reader
        self._settings = settings
        self.identity = settings.identity("closed_book")

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Answer without any document."""
        started = time.perf_counter()
        prompts = [closed_book(question) for question in questions]
        return _read(self._reader, self._settings, prompts, [()] * len(prompts), started)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that the reader reads, and the document that it is from."""

    document: str
    text: str


class OpenBook(ABC):
    """The base reading passages; how they are found is what such methods differ in.

    Passages that do not fit the context are cut at the end, each to an equal share.

    Attributes:
        identity: see :class:`Method`.
    """

    identity: str

    def __init__(self, reader: ReadingModel, settings: ReaderSettings) -> None:
        self._reader = reader
        self._settings = settings

    @abstractmethod
    def passages(self, question: str) -> list[Passage]:
        """What is read for a question, best first."""

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """Answer from the passages; sources are the documents that were read."""
        started = time.perf_counter()
        found = [self.passages(question) for question in questions]
        budget = self._reader.context - self._settings.max_answer_tokens
        prompts = [
            _open_book(self._reader, question, [passage.text for passage in passages], budget)
            for question, passages in zip(questions, found, strict=True)
        ]
        sources = [tuple(dict.fromkeys(passage.document for passage in row)) for row in found]
        return _read(self._reader, self._settings, prompts, sources, started)


def titled(documents: Sequence[Document], chunks: Sequence[Chunk]) -> list[Passage]:
    """The chunks as passages, each below the title of its document."""
    titles = {document.id: document.title for document in documents}
    return [
        Passage(chunk.document, f"{titles.get(chunk.document, chunk.document)}\n{chunk.text}")
        for chunk in chunks
    ]


class Bm25(OpenBook):
    """The same base reading the passages that BM25 (Lucene's variant) finds for the question.

    Raises:
        UsageError: there are no chunks, or ``passages`` is not positive.
    """

    def __init__(
        self,
        reader: ReadingModel,
        settings: ReaderSettings,
        documents: Sequence[Document],
        chunks: Sequence[Chunk],
        passages: int,
    ) -> None:
        super().__init__(reader, settings)
        if not chunks:
            raise UsageError("the bm25 baseline has no passages: the corpus holds no chunk")
        if passages < 1:
            raise UsageError(f"evaluate.passages is {passages}; write 1 or more")
        self._chunks = chunks
        self._titled = titled(documents, chunks)
        self._count = min(passages, len(chunks))
        texts = [passage.text for passage in self._titled]
        self._index = Bm25Index(texts)
        self.identity = settings.identity("bm25", passages, short_hash(texts))

    def search(self, question: str) -> list[Chunk]:
        """The best passages, best first; none where the question shares no word with any."""
        return [self._chunks[place] for place in self._index.find(question, self._count)]

    def passages(self, question: str) -> list[Passage]:
        """See :meth:`OpenBook.passages`."""
        return [self._titled[place] for place in self._index.find(question, self._count)]


class Oracle(OpenBook):
    """The same base reading the gold documents: an upper bound for what retrieval can give it."""

    def __init__(
        self,
        reader: ReadingModel,
        settings: ReaderSettings,
        documents: Sequence[Document],
        questions: Sequence[Question],
    ) -> None:
        super().__init__(reader, settings)
        self._documents: Mapping[str, Document] = {d.id: d for d in documents}
        self._gold = self._known(questions)
        hashes = {d.id: d.content_hash for d in documents}
        gold = {text: [hashes[name] for name in ids] for text, ids in self._gold.items()}
        self.identity = settings.identity("oracle", gold)

    def passages(self, question: str) -> list[Passage]:
        """See :meth:`OpenBook.passages`."""
        gold = [self._documents[name] for name in self._gold[question]]
        return [Passage(document.id, f"{document.title}\n{document.text}") for document in gold]

    def _known(self, questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
        """Gold documents that the corpus holds, by the text of the question."""
        gold: dict[str, dict[str, None]] = {q.question: {} for q in questions}
        for question in questions:
            gold[question.question].update(dict.fromkeys(question.supporting_ids))
        return {
            text: tuple(name for name in ids if name in self._documents)
            for text, ids in gold.items()
        }


@dataclass(frozen=True, slots=True)
class Material:
    """What baselines are built from.

    Attributes:
        reader: loads the untrained base, and says how it reads; called by the baselines that
            need it, as the next ones are.
        taught: what the memory was trained on.
        documents, chunks: read the corpus.
        questions: what is asked.
        passages: number of passages of a retrieval (``evaluate.passages``).
    """

    reader: Callable[[], tuple[ReadingModel, ReaderSettings]]
    taught: Callable[[], Taught]
    documents: Callable[[], Sequence[Document]]
    chunks: Callable[[], Sequence[Chunk]]
    questions: Sequence[Question]
    passages: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """A row of the table.

    Attributes:
        build: makes the method.
        reads: it reads long prompts: it answers ``evaluate.baseline_limit`` questions.
    """

    build: Callable[[Material], Method]
    reads: bool = False


BASELINES = {
    LOOKUP: Baseline(lambda has: Lookup(has.taught())),
    "closed_book": Baseline(lambda has: ClosedBook(*has.reader())),
    "bm25": Baseline(
        lambda has: Bm25(*has.reader(), has.documents(), has.chunks(), has.passages), reads=True
    ),
    "oracle": Baseline(
        lambda has: Oracle(*has.reader(), has.documents(), has.questions), reads=True
    ),
}
"""Every baseline by name: those that ``evaluate.baselines`` may name."""


def closed_book(question: str) -> Messages:
    """The prompt without any document."""
    return _messages(_CLOSED_SYSTEM, question)


def abstains(text: str) -> bool:
    """Whether an untrained base says that it does not know (or says nothing)."""
    tokens = tuple(normalise(text) or text.split())
    return not tokens or any(tokens[: len(start)] == start for start in _ABSTENTIONS)


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _open_book(
    reader: ReadingModel, question: str, passages: Sequence[str], budget: int
) -> Messages:
    """A prompt with passages, each cut to an equal share where they do not fit ``budget``."""
    prompt = _messages(_OPEN_SYSTEM, _with_passages(question, passages))
    if not passages or reader.count(prompt) <= budget:
        return prompt
    bare = reader.count(_messages(_OPEN_SYSTEM, _with_passages(question, [""] * len(passages))))
    share = max(1, (budget - bare) // len(passages) - 2)  # Two tokens for joints that split.
    cut = [reader.truncate(passage, share) for passage in passages]
    return _messages(_OPEN_SYSTEM, _with_passages(question, cut))


def _with_passages(question: str, passages: Sequence[str]) -> str:
    return "\n\n".join([*passages, f"Question: {question}"])


def _read(
    reader: ReadingModel,
    settings: ReaderSettings,
    prompts: Sequence[Messages],
    sources: Sequence[tuple[str, ...]],
    started: float,
) -> list[Answer]:
    """Read the prompts; ``started`` is when the work on them began (``time.perf_counter``)."""
    written = reader.generate(prompts, settings.max_answer_tokens, settings.batch_size)
    seconds = (time.perf_counter() - started) / max(1, len(prompts))
    return [_answer(text, read, seconds) for text, read in zip(written, sources, strict=True)]


def _answer(generation: Generation, sources: tuple[str, ...], seconds: float) -> Answer:
    """An untrained base has no calibrated confidence: 1 where it answers, 0 where it abstains."""
    abstained = abstains(generation.text)
    return Answer(
        text="" if abstained else generation.text,
        confidence=0.0 if abstained else 1.0,
        abstained=abstained,
        sources=() if abstained else sources,
        shards=(),
        seconds=seconds,
        tokens=generation.prompt_tokens + generation.new_tokens,
    )
