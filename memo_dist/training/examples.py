"""Training examples: reflections in the served format, as token ids with known prompt lengths.

The loss mask needs no search for an answer template: a prompt and its answer are tokenised
apart, so the answer begins at the prompt's length. Where shards are to be told apart by the
likelihood of a question (memo_dist.memory.bank) the question's tokens are trained too. Token ids
are kept on disk as one flat array, written once by one process before any rank starts; ranks map
the file into memory, so that a million examples cost them no more than the pages that they read.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from memo_dist.answers.text import with_bridge
from memo_dist.errors import DamagedFileError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import stable_modulo
from memo_dist.models.chat_format import ChatFormat
from memo_dist.synthesis.types import Reflection

_FEW_ABSTAIN = 4  # of each class, what fit_calibration needs
_HOLD_OUT_BUCKETS = 1 << 32
_ENCODED_AT_ONCE = 1000
_DTYPES: dict[str, Any] = {
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class Examples:
    """Tokenised examples, flat.

    Attributes:
        ids: int32 [total tokens], prompt then answer of each example in turn.
        starts: int64 [examples + 1], where each example begins in ``ids``.
        prompts: int32 [examples], tokens before the answer.
        untrained: int32 [examples], tokens before the first trained one, at most ``prompts``.
    """

    ids: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray
    untrained: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [examples], tokens of each example."""
        lengths: np.ndarray = np.diff(self.starts)
        return lengths

    @cached_property
    def trained(self) -> np.ndarray:
        """int64 [examples], trained tokens of each example."""
        trained: np.ndarray = self.lengths - self.untrained
        return trained

    def counted(self, indices: Sequence[int] | np.ndarray, question_weight: float) -> float:
        """Trained tokens of some examples, those of questions each as ``question_weight``."""
        chosen = np.asarray(indices)
        trained = int(self.trained[chosen].sum())
        of_questions = int((self.prompts[chosen] - self.untrained[chosen]).sum())
        return trained - (1.0 - question_weight) * of_questions

    def tokens(self, index: int) -> np.ndarray:
        """int32 ids of one example."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    def answers(self) -> list[np.ndarray]:
        """int32 ids of each example's answer."""
        return [self.tokens(n)[self.prompts[n] :] for n in range(len(self))]

    def subset(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Some of the examples, copied, in the given order."""
        parts = [self.tokens(int(index)) for index in indices]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        chosen = np.asarray(indices)
        lengths = self.prompts[chosen], self.untrained[chosen]
        return Examples(np.concatenate(parts), starts, *lengths)

    def part(self, first: int, last: int) -> Examples:
        """Examples ``first`` to ``last`` (half open), as views."""
        start, stop = self.starts[first], self.starts[last]
        rows = slice(first, last)
        return Examples(
            self.ids[start:stop],
            self.starts[first : last + 1] - start,
            self.prompts[rows],
            self.untrained[rows],
        )

    def followed_by(self, others: Examples) -> Examples:
        """These examples and then those of ``others``."""
        starts = np.concatenate([self.starts, others.starts[1:] + self.starts[-1]])
        names = ("ids", "prompts", "untrained")
        joined = (np.concatenate([getattr(self, n), getattr(others, n)]) for n in names)
        ids, prompts, untrained = joined
        return Examples(ids, starts, prompts, untrained)

    def answers_only(self) -> Examples:
        """The same examples, of which the answers are what counts."""
        return replace(self, untrained=self.prompts)

    def save(self, path: Path) -> None:
        """Write to a safetensors file, atomically."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        atomic.write_bytes(path, save(arrays))

    @classmethod
    def load(cls, path: Path) -> Examples:
        """The inverse of :meth:`save`; the arrays are read-only views of the file."""
        return cls(**mapped(path))


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped into memory.

    The format (github.com/huggingface/safetensors) is 8 bytes of header length (little endian),
    a JSON header with dtype, shape and offsets of each array, and the arrays themselves.

    Raises:
        DamagedFileError: it is none.
    """
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > path.stat().st_size:
            raise DamagedFileError.of(path, f"it has no header of {size} bytes")
        header = atomic.parse_json(stream.read(size), path)
    arrays = {}
    for name, entry in header.items():
        offset = 8 + size + entry["data_offsets"][0]
        shape = tuple(entry["shape"])
        array_in_file = np.memmap(path, _DTYPES[entry["dtype"]], "r", offset, shape)
        arrays[name] = array_in_file.view(np.ndarray)
    return arrays


def tokenize(
    reflections: Iterable[Reflection],
    chat: ChatFormat,
    max_tokens: int,
    questions: bool = False,
) -> tuple[Examples, list[Reflection]]:
    """Tokenise reflections; returns the examples and the reflections too long to train on.

    Args:
        reflections: in training-file order.
        chat: the format that is also served.
        max_tokens: longest example, prompt and answer together.
        questions: train the questions' tokens too.

    Raises:
        UsageError: an example has no trained token, or none is left.
    """
    ids = array("i")  # four bytes a token
    starts, prompts, untrained, too_long = array("q", [0]), array("i"), array("i"), []
    for reflection, prompt, answer in _encoded(reflections, chat):
        if not answer:
            raise UsageError(
                f"reflection {reflection.id} ({reflection.question!r}) has no trained token: the"
                " tokenizer turns its answer into nothing"
            )
        if len(prompt) + len(answer) > max_tokens:
            too_long.append(reflection)
            continue
        ids.extend(prompt + answer)
        starts.append(len(ids))
        prompts.append(len(prompt))
        untrained.append(chat.question_start(prompt) if questions else len(prompt))
    if not prompts:
        raise UsageError(
            f"no training example is left: all {len(too_long)} reflections are longer"
            f" than train.micro_batch_tokens={max_tokens}"
        )
    parts = (np.array(part, np.int32) for part in (prompts, untrained))
    return Examples(np.array(ids, np.int32), np.array(starts, np.int64), *parts), too_long


def _encoded(
    reflections: Iterable[Reflection], chat: ChatFormat
) -> Iterator[tuple[Reflection, list[int], list[int]]]:
    """Each reflection with the token ids of its prompt and of its answer."""
    waiting = iter(reflections)
    while some := list(islice(waiting, _ENCODED_AT_ONCE)):
        prompts = chat.prompts_ids([row.question for row in some])
        answers = chat.answers_ids([with_bridge(row.bridge, row.answer) for row in some])
        yield from zip(some, prompts, answers, strict=True)


def split_held_out(
    reflections: Iterable[Reflection],
    facts: int,
    seed: int,
    known: Collection[str] = frozenset(),
) -> tuple[list[Reflection], list[Reflection]]:
    """Hold out one wording of some facts, and some abstention questions, for calibration.

    A fact is eligible when at least three wordings of it exist, so that it stays well trained.
    The choice is by hash of the reflection's id, hence stable when others are added. Abstention
    questions are few and teach more than they measure, so most of them are trained.

    Args:
        reflections: all reflections of a shard.
        facts: at most this many wordings and as many abstention questions, and never more than a
            fifth of the eligible facts or a quarter of the abstention questions (half of them
            where they are fewer than sixteen, so that four can be held out).
        seed: changes the choice.
        known: ids that the weights were trained on before; none of them is held out.

    Returns:
        (trained, held out), both in the input's order.
    """
    rows = list(reflections)
    wordings: dict[str, list[Reflection]] = {}
    for row in rows:
        if row.kind != "abstain":
            wordings.setdefault(row.fact, []).append(row)

    def order(row: Reflection) -> int:
        return stable_modulo(f"{seed}:{row.id}", _HOLD_OUT_BUCKETS)

    def fresh(group: Iterable[Reflection]) -> list[Reflection]:
        return [row for row in group if row.id not in known]

    eligible = [group[1:] for group in wordings.values() if len(group) >= 3]
    abstain = [row for row in rows if row.kind == "abstain"]
    last = [max(unseen, key=order) for group in eligible if (unseen := fresh(group))]
    held = sorted(last, key=order)[: min(facts, len(eligible) // 5)]
    few = max(len(abstain) // 4, min(_FEW_ABSTAIN, len(abstain) // 2))
    held += sorted(fresh(abstain), key=order)[: min(facts, few)]
    out = {row.id for row in held}
    return [r for r in rows if r.id not in out], [r for r in rows if r.id in out]
