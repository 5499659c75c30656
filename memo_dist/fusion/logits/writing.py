"""What a batch of rows has written, and its text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from memo_dist.answers.text import after_bridge
from memo_dist.fusion.types import FusedText
from memo_dist.models.chat_format import ChatFormat


@dataclass(frozen=True, slots=True)
class Choice:
    """One token a row (int64 [rows]), its log-prob, and the log weights [rows, sources] behind."""

    tokens: Tensor
    log_probs: Tensor
    weights: Tensor


class Record:
    """Tokens written by each row, and the numbers behind them."""

    def __init__(self, rows: int) -> None:
        """Nothing is written yet."""
        self._tokens: list[list[int]] = [[] for _ in range(rows)]
        self._log_probs: list[list[float]] = [[] for _ in range(rows)]
        self._weights: list[list[float]] = [[] for _ in range(rows)]
        self._shown = 0
        self._read = [0] * rows
        self._forwards = 0
        self._lost = 0.0

    def add(self, choice: Choice) -> None:
        """One token a row."""
        memory = _memory_weights(choice)
        rows = zip(choice.tokens.tolist(), choice.log_probs.tolist(), memory, strict=True)
        for row, (token, log_prob, weight) in enumerate(rows):
            self._append(row, token, log_prob, weight)

    def add_run(self, choice: Choice, count: int) -> None:
        """The first ``count`` tokens of a choice of consecutive positions, to the only row."""
        memory = _memory_weights(choice)
        columns = zip(choice.tokens.tolist(), choice.log_probs.tolist(), memory, strict=True)
        for token, log_prob, weight in list(columns)[:count]:
            self._append(0, token, log_prob, weight)

    def done(self, stops: frozenset[int]) -> bool:
        """Whether every row has ended."""
        return all(any(token in stops for token in row) for row in self._tokens)

    def fresh(self, stops: frozenset[int]) -> list[int]:
        """The first row's tokens since the last call, up to its end."""
        row = self._tokens[0]
        end = _length(row, stops)
        new = [token for token in row[self._shown : end] if token not in stops]
        self._shown = len(row)
        return new

    def close(self, read: Sequence[int], forwards: int, lost: float = 0.0) -> None:
        """Keep what was counted: tokens read by each row, forwards, probability lost."""
        self._read, self._forwards, self._lost = list(read), forwards, lost

    def text(self, row: int, chat: ChatFormat, stops: frozenset[int], seconds: float) -> FusedText:
        """What one row wrote, up to its end."""
        end = _length(self._tokens[row], stops)
        return FusedText(
            text=after_bridge(chat.decode(self._tokens[row][:end])),
            tokens=tuple(self._tokens[row][:end]),
            log_probs=tuple(self._log_probs[row][:end]),
            memory_weights=tuple(self._weights[row][:end]),
            read=self._read[row] + end,
            forwards=self._forwards,
            lost=self._lost,
            seconds=seconds,
        )

    def _append(self, row: int, token: int, log_prob: float, weight: float) -> None:
        self._tokens[row].append(token)
        self._log_probs[row].append(log_prob)
        self._weights[row].append(weight)


def _length(tokens: Sequence[int], stops: frozenset[int]) -> int:
    """Tokens up to and including the first one that ends an answer."""
    return next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))


def _memory_weights(choice: Choice) -> list[float]:
    weights: list[float] = choice.weights[:, 1:].exp().sum(dim=-1).tolist()
    return weights


def stream_text(steps: Iterable[Sequence[int]], backend: Any) -> Iterator[str]:
    """Pieces of the text of tokens that come step by step; joined they are the whole text.

    Args:
        steps: new tokens of each step.
        backend: the tokenizer's ``backend_tokenizer``.
    """
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=True)
    begun = False
    held = ""
    for tokens in steps:
        for token in tokens:
            piece = stream.step(backend, token) or ""
            # The text is stripped at both ends: trailing space waits for what follows.
            piece = held + (piece if begun else piece.lstrip())
            kept = piece.rstrip()
            held = piece[len(kept) :]
            begun = begun or bool(kept)
            if kept:
                yield kept
