"""Reflections of a real corpus: knowledge whose volume only a model can tell.

Relative bits (Morris et al., arXiv 2505.24832, section 2, with the untrained memory as reference):
the sum over answers of log2 p(answer | question) under the trained memory minus the same under the
memory before training. An untrained memory knows no language either: part of these bits is English,
the less the more facts there are. Recall on wordings that were never trained says what the
knowledge is good for.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from memo_dist.config.scale_rules import REFLECTION_TOKENS
from memo_dist.config.scale_schema import ReflectionStudyConfig
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import sha256_text
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import train_tokenizer
from memo_dist.scaling.cells import taught_file
from memo_dist.scaling.sources.types import Batch, Score, generator, pad_rows, shuffled
from memo_dist.synthesis.types import Reflection
from memo_dist.training.examples import Examples, split_held_out, tokenize

_HELD_FACTS = 256
_MEASURED_ROWS = 64
_JITTER = 0.2
"""Lengths are blurred by up to this before rows are sorted by them: other neighbours each pass."""


class ReflectionKnowledge:
    """The facts of some documents of a run, in all their wordings but some held-out ones.

    Args:
        study: names the run; see :class:`ReflectionStudyConfig`.
        documents: how many documents are taught.
        seed: the order of reading, and which wordings are held out.

    Raises:
        UsageError: the run has no reflections, fewer documents than asked, or too few wordings.
    """

    def __init__(self, study: ReflectionStudyConfig, documents: int, seed: int) -> None:
        self._seed = seed
        everything = load_facts(Path(study.run))
        rows = _of_documents(everything, documents)
        trained, held = split_held_out(rows, _HELD_FACTS, seed)
        if not held:
            raise UsageError(
                f"scale.reflections.run={study.run}: no wording of {documents} document(s) can be"
                " held out, recall needs at least five facts of three wordings: raise"
                " scale.reflections.documents, or synthesis.phrasings of the run"
            )
        with tempfile.TemporaryDirectory(prefix="memo-bpe-") as name:
            texts = (f"{row.question} {row.answer}" for row in everything)
            self.vocabulary = train_tokenizer(texts, study.vocabulary, Path(name))
            chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(name))
        self._trained = _sorted_rows(tokenize(trained, chat, REFLECTION_TOKENS)[0])
        self._held = _sorted_rows(tokenize(held, chat, REFLECTION_TOKENS)[0])
        self._lengths = torch.tensor([len(ids) for ids, _ in self._trained])
        self._pass: tuple[int, list[list[int]]] = (-1, [])
        self.items = len({row.fact for row in rows})
        self.length = max(len(ids) for ids, _ in self._trained) - 1
        self._before = float("nan")

    @property
    def bits(self) -> float:
        """NaN: no one knows how many bits a sentence holds."""
        return float("nan")

    def batches(self, tokens: int) -> int:
        """See :class:`~memo_dist.scaling.sources.types.Knowledge`."""
        total, longest = int(self._lengths.sum()), int(self._lengths.max())
        return max(1, min(math.ceil(total / tokens), total // longest))  # none is empty

    def batch(self, epoch: int, index: int, tokens: int) -> Batch:
        """Rows of similar length together, of equally many tokens; both what is together and the
        order change from pass to pass."""
        if self._pass[0] != epoch:
            self._pass = (epoch, self._batches(epoch, self.batches(tokens)))
        return _padded([self._trained[row] for row in self._pass[1][index]])

    def _batches(self, epoch: int, count: int) -> list[list[int]]:
        """The rows of each batch of a pass."""
        blur = torch.rand(len(self._lengths), generator=generator(self._seed, 2, epoch))
        order = (self._lengths * (1 + _JITTER * blur)).argsort(stable=True)
        before = self._lengths[order].cumsum(0) - self._lengths[order]
        places = shuffled(count, self._seed, 1, epoch)[before * count // self._lengths.sum()]
        found: list[list[int]] = [[] for _ in range(count)]
        for row, place in zip(order.tolist(), places.tolist(), strict=True):
            found[place].append(row)
        return found

    def prepare(self, score: Score) -> None:
        """Measure the memory before training."""
        self._before = _measure(self._trained, score)[0]

    def measure(self, score: Score) -> dict[str, float]:
        """``bits`` (relative), ``recall`` on held-out wordings, ``recall_trained``, ``wordings``.

        A hit is an answer of which every token is the likeliest given those before: what greedy
        decoding writes. ``wordings`` are the trained ones a fact.
        """
        nats, trained = _measure(self._trained, score)
        return {
            "bits": (self._before - nats) / math.log(2),
            "recall": _measure(self._held, score)[1],
            "recall_trained": trained,
            "wordings": len(self._trained) / self.items,
        }

    def held_bits(self, score: Score) -> float:
        """``bits`` of :meth:`measure` alone."""
        return (self._before - _measure(self._trained, score)[0]) / math.log(2)


def load_facts(run: Path) -> list[Reflection]:
    """The reflections of a run that state something, in file order.

    Raises:
        UsageError: there are none.
    """
    rows = map(Reflection.from_json, atomic.read_jsonl(taught_file(run)))
    return [row for row in rows if row.kind != "abstain"]


def _of_documents(rows: Sequence[Reflection], documents: int) -> list[Reflection]:
    """The facts of the first documents in order of their ids' hashes."""
    ids = sorted({source for row in rows for source in row.sources}, key=sha256_text)
    if documents > len(ids):
        raise UsageError(
            f"scale.reflections.documents={documents}: the run has reflections of {len(ids)}"
            " documents"
        )
    chosen = set(ids[:documents])
    return [row for row in rows if chosen.issuperset(row.sources)]


def _sorted_rows(examples: Examples) -> list[tuple[list[int], int]]:
    """(token ids, index of the first answer token) of each example, short ones first."""
    rows = [
        ([int(token) for token in examples.tokens(index)], int(examples.prompts[index]))
        for index in range(len(examples))
    ]
    return sorted(rows, key=lambda row: len(row[0]))


def _padded(rows: Sequence[tuple[list[int], int]]) -> Batch:
    return pad_rows([ids for ids, _ in rows], [start for _, start in rows])


def _measure(rows: Sequence[tuple[list[int], int]], score: Score) -> tuple[float, float]:
    """(nats of all answers, fraction of answers that are right token by token)."""
    nats, right = 0.0, 0
    for first in range(0, len(rows), _MEASURED_ROWS):
        cost, hit = score(_padded(rows[first : first + _MEASURED_ROWS]))
        nats += float(cost.sum())
        right += int(hit.all(1).sum())
    return nats, right / len(rows)
