"""Methods in which the shared reader reads passages, or the bare question."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memo_dist.answers.search import Bm25Index
from memo_dist.compare.embedding import Embedder, embedder_stamp
from memo_dist.compare.graph import PassageGraph
from memo_dist.compare.method import Corpus, Cost, NotRunError, Reply, Setting
from memo_dist.compare.readers import CountedReader, settings_of
from memo_dist.evaluation import baselines
from memo_dist.evaluation.baselines import OpenBook, Passage, ReaderSettings, titled
from memo_dist.evaluation.questions import Question
from memo_dist.io.hashing import short_hash

VERSION = "1"
"""Raise it with every change of a search below: replies of an older one are not reused."""
_LEAST_SECONDS = 1e-6  # 0 would say that nothing was measured
_RANK_OFFSET = 60
"""Of the reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

Search = Callable[[str], Sequence[int]]
"""Places of the best passages for a question, best first."""
Build = Callable[[CountedReader, ReaderSettings, Corpus], baselines.Method]


class ReadingMethod:
    """A baseline of ``evaluate`` with the shared reader, as a compared method.

    Attributes:
        name: of the row.
        identity: see :class:`memo_dist.compare.method.Method`.
    """

    def __init__(self, name: str, setting: Setting, build: Build, *decided: Any) -> None:
        """``decided``: JSON values that decide its answers beside reader and corpus."""
        self.name = name
        self._setting = setting
        self._build = build
        self.identity = short_hash(
            [
                name,
                VERSION,
                baselines.PROMPT_VERSION,
                setting.reader_identity,
                setting.config.memory.max_answer_tokens,
                *decided,
            ]
        )

    def prepare(self, corpus: Corpus) -> Cost:
        """Load the reader and build the index; the reader's loading is no cost of the index."""
        self._reader = self._setting.reader()
        settings = settings_of(self._reader, self._setting.config)
        started = time.perf_counter()
        self._method = self._build(self._reader, settings, corpus)
        stored = sum(len(chunk.text.encode()) for chunk in corpus.chunks)
        share = 1.0 / max(1, len(corpus.documents))
        seconds = max(time.perf_counter() - started, _LEAST_SECONDS)
        return Cost(seconds=seconds, stored_bytes=stored, update_share=share)

    def answer(self, questions: Sequence[str]) -> list[Reply]:
        """See :meth:`memo_dist.compare.method.Method.answer`."""
        answers = self._method.answer(questions)
        written, failed = self._reader.last, self._reader.failed
        rows = zip(answers, written, failed, strict=True)
        billed = self._reader.billed
        return [
            Reply(
                text=answer.text,
                sources=answer.sources,
                tokens_in=one.prompt_tokens,
                tokens_out=one.new_tokens,
                tokens_priced_in=one.prompt_tokens if billed else 0,
                tokens_priced_out=one.new_tokens if billed else 0,
                calls=1,
                seconds=answer.seconds,
                failed=why,
            )
            for answer, one, why in rows
        ]


class Searched(OpenBook):
    """The reader with the passages that a search finds."""

    def __init__(
        self,
        reader: CountedReader,
        settings: ReaderSettings,
        passages: Sequence[Passage],
        search: Search,
        count: int,
    ) -> None:
        super().__init__(reader, settings)
        self._passages = passages
        self._search = search
        self._count = count
        self.identity = ""  # the compared method around it has one

    def passages(self, question: str) -> list[Passage]:
        """See :meth:`OpenBook.passages`."""
        return [self._passages[place] for place in self._search(question)[: self._count]]


class DenseSearch:
    """Ranks passages by the cosine of their vector and the question's."""

    def __init__(self, embedder: Embedder, texts: Sequence[str]) -> None:
        self._embedder = embedder
        self._vectors = embedder.encode(texts)

    def similarity(self, question: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Cosines, float64 [passages]."""
        vector = self._embedder.encode([question])[0]
        return np.asarray(self._vectors @ vector, np.float64)

    def __call__(self, question: str) -> list[int]:
        """Places of all passages, best first."""
        return [int(place) for place in np.argsort(-self.similarity(question), kind="stable")]


def fuse_ranks(rankings: Sequence[Sequence[int]]) -> list[int]:
    """One ranking of several by summed reciprocal ranks, the smaller place first of equals."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking, start=1):
            scores[place] = scores.get(place, 0.0) + 1.0 / (_RANK_OFFSET + rank)
    return sorted(scores, key=lambda place: (-scores[place], place))


def closed_book(setting: Setting) -> ReadingMethod:
    """The reader alone."""
    return ReadingMethod(
        "closed_book", setting, lambda reader, how, corpus: baselines.ClosedBook(reader, how)
    )


def oracle(setting: Setting) -> ReadingMethod:
    """The reader with the gold documents."""
    gold = [
        Question(id=text, question=text, answer="", supporting_ids=ids, answerable=False)
        for text, ids in setting.gold.items()
    ]

    def build(reader: CountedReader, how: ReaderSettings, corpus: Corpus) -> baselines.Method:
        if not any(ids for ids in setting.gold.values()):
            raise NotRunError("the questions name no gold documents (supporting_ids)")
        return baselines.Oracle(reader, how, corpus.documents, gold)

    return ReadingMethod("oracle", setting, build, sorted(setting.gold.items()))


def full_context(setting: Setting) -> ReadingMethod:
    """The reader with the whole corpus, where it fits."""

    def build(reader: CountedReader, how: ReaderSettings, corpus: Corpus) -> baselines.Method:
        passages = [Passage(d.id, f"{d.title}\n{d.text}") for d in corpus.documents]
        content = "\n\n".join(passage.text for passage in passages)
        longest = max((len(text) for text in setting.gold), default=0)
        turn = {"role": "user", "content": content + " " * longest}
        tokens = reader.count([turn]) + how.max_answer_tokens
        if tokens > reader.context:
            raise NotRunError(
                f"the corpus has about {tokens} tokens, the reader reads {reader.context}"
            )
        every = list(range(len(passages)))
        return Searched(reader, how, passages, lambda question: every, len(passages))

    return ReadingMethod("full_context", setting, build)


def bm25(setting: Setting) -> ReadingMethod:
    """The reader with the passages that BM25 finds."""
    count = setting.config.evaluate.passages
    return ReadingMethod(
        "bm25",
        setting,
        lambda reader, how, corpus: baselines.Bm25(
            reader, how, corpus.documents, corpus.chunks, count
        ),
        count,
    )


def dense(setting: Setting) -> ReadingMethod:
    """The reader with the passages whose vectors are nearest."""

    def search(texts: Sequence[str]) -> Search:
        return DenseSearch(Embedder(setting.config.compare.embedder), texts)

    return _searching("dense", setting, search)


def hybrid(setting: Setting) -> ReadingMethod:
    """BM25 and dense retrieval, ranked again by reciprocal rank."""
    depth = setting.config.compare.fused_passages

    def search(texts: Sequence[str]) -> Search:
        near = DenseSearch(Embedder(setting.config.compare.embedder), texts)
        words = Bm25Index(texts)
        return lambda question: fuse_ranks([words.find(question, depth), near(question)[:depth]])

    return _searching("hybrid", setting, search, depth)


def graph(setting: Setting) -> ReadingMethod:
    """Personalised PageRank over entities and passages, our adapter of HippoRAG."""

    def search(texts: Sequence[str]) -> Search:
        found = PassageGraph(texts)
        if not setting.config.compare.embedder:
            words = Bm25Index(texts)
            return lambda question: found.rank(question, _scaled(words.scores(question)))
        near = DenseSearch(Embedder(setting.config.compare.embedder), texts)
        return lambda question: found.rank(question, _scaled(near.similarity(question)))

    return _searching("graph", setting, search)


def _scaled(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scores between 0 and 1, by the least and the largest."""
    values = np.asarray(scores, np.float64)
    span = float(values.max() - values.min())
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def _searching(
    name: str, setting: Setting, search: Callable[[Sequence[str]], Search], *decided: Any
) -> ReadingMethod:
    count = setting.config.evaluate.passages

    def build(reader: CountedReader, how: ReaderSettings, corpus: Corpus) -> baselines.Method:
        passages = titled(corpus.documents, corpus.chunks)
        if not passages:
            raise NotRunError("the corpus holds no passage")
        found = search([passage.text for passage in passages])
        return Searched(reader, how, passages, found, count)

    stamp = embedder_stamp(setting.config.compare.embedder)
    return ReadingMethod(name, setting, build, count, stamp, *decided)
