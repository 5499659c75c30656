"""What a mixture has read and written so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memo_dist.errors import UsageError
from memo_dist.fusion.logits.source import CachedModel, Reading, Source
from memo_dist.fusion.logits.token_map import mean_lost
from memo_dist.fusion.logits.types import FusedText, Request
from memo_dist.io.hashing import stable_modulo
from memo_dist.training.format import ChatFormat

_SEEDS = 2**62
_CERTAIN = 1e-6  # confidences nearer to 0 or 1 would have endless log-odds


@dataclass(frozen=True, slots=True)
class Choice:
    """One token a row (int64 [rows]), its log-prob, and the log weights [rows, sources] behind."""

    tokens: Tensor
    log_probs: Tensor
    weights: Tensor


class State:
    """All sources of a batch of requests: what they read, grouped by the model that they share.

    Attributes:
        requests: the batch.
        mixed: the memories are read too; else the backbone alone.
        active: bool [rows, K], the memories that have a say.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        requests: Sequence[Request],
        abstain: int,
        mixed: bool,
        window: bool,
    ) -> None:
        """Group the sources.

        Args:
            sources: the backbone's first.
            requests: one a row.
            abstain: token that begins an abstention.
            mixed: whether the memories are read.
            window: whether :meth:`rewind` will be called.
        """
        self.requests, self.mixed = tuple(requests), mixed
        self._sources = tuple(sources) if mixed else (sources[0],)
        self._abstain = abstain
        groups: dict[CachedModel, list[int]] = {}
        for place, source in enumerate(self._sources):
            groups.setdefault(source.model, []).append(place)
        self._groups = list(groups.values())
        self._readings = [
            Reading([self._sources[i] for i in group], window) for group in self._groups
        ]
        device = sources[0].model.device
        silent = [[belief.silent for belief in request.beliefs] for request in requests]
        self.active = ~torch.tensor(silent, device=device)
        odds = [[_log_odds(belief.confidence) for belief in r.beliefs] for r in requests]
        self._confidence = torch.tensor(odds, device=device)
        self._noted: Tensor | None = None

    @property
    def rows(self) -> int:
        """Requests in the batch."""
        return len(self.requests)

    @property
    def forwards(self) -> int:
        """Forwards of the backbone so far."""
        return self._readings[0].forwards

    @property
    def lost(self) -> float:
        """Mean probability that memories lost to the backbone's vocabulary."""
        return mean_lost([part for reading in self._readings for part in reading.lost])

    def start(self, drafts: Sequence[list[int]], room: int) -> list[Tensor]:
        """Read prompts and drafts (equally many tokens a row), with ``room`` tokens to write.

        Returns:
            For each source, logits [rows, n + 1, V].

        Raises:
            UsageError: a question and its answer do not fit into a model.
        """
        self._check(room)
        parts = [
            reading.start([self._questions(i) for i in group], drafts)
            for group, reading in zip(self._groups, self._readings, strict=True)
        ]
        return self._by_source(parts, self._groups)

    def feed(self, tokens: Tensor) -> list[Tensor]:
        """Read tokens int64 [rows, n]; for each source, logits [rows, n, V]."""
        return self._by_source([r.feed(tokens) for r in self._readings], self._groups)

    def feed_backbone(self, tokens: Tensor) -> Tensor:
        """As :meth:`feed`, of a backbone that is :attr:`apart`."""
        part: Tensor = self._readings[0].feed(tokens)[0]
        return part

    def feed_memories(self, tokens: Tensor) -> list[Tensor]:
        """As :meth:`feed`, of the memories of a backbone that is :attr:`apart`."""
        parts = [reading.feed(tokens) for reading in self._readings[1:]]
        return self._by_source(parts, self._groups[1:])

    @property
    def apart(self) -> bool:
        """Whether the backbone shares its forwards with no memory."""
        return len(self._groups[0]) == 1

    def rewind(self, tokens: int) -> None:
        """Forget the last so many tokens."""
        for reading in self._readings:
            reading.rewind(tokens)

    def notes(self, logits: Sequence[Tensor], vocabulary: int) -> tuple[Tensor, Tensor]:
        """Each memory's log-prob of beginning an abstention, and the log-odds of its answer.

        Args:
            logits: of the first position, [rows, V] or more rows; read by the first call alone.
            vocabulary: tokens to read.

        Returns:
            Two float32 [rows, K].
        """
        if self._noted is None:
            first = [part[: self.rows, :vocabulary].float() for part in logits[1:]]
            starts = [part.log_softmax(dim=-1)[:, self._abstain] for part in first]
            self._noted = torch.stack(starts, dim=-1)
        return self._noted, self._confidence

    def seeds(self, seed: int, places: Sequence[int]) -> Tensor:
        """A seed for each row, int64: of the question and the position of its token."""
        asked = [request.question for request in self.requests]
        if len(asked) == 1:
            asked *= len(places)
        pairs = zip(asked, places, strict=True)
        return torch.tensor([stable_modulo(f"{seed}:{place}:{q}", _SEEDS) for q, place in pairs])

    def read(self, row: int) -> int:
        """Prompt tokens of one request, over all sources."""
        return sum(
            len(source.prompt(self._questions(i)[row])) for i, source in enumerate(self._sources)
        )

    def _questions(self, source: int) -> list[str]:
        if source == 0:
            return [request.question for request in self.requests]
        return [request.beliefs[source - 1].question for request in self.requests]

    @staticmethod
    def _by_source(parts: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Parts [sources of a group, ...] in the order of the sources."""
        found: dict[int, Tensor] = {}
        for group, part in zip(groups, parts, strict=True):
            found.update(zip(group, part, strict=True))
        return [found[i] for i in sorted(found)]

    def _check(self, room: int) -> None:
        for i, source in enumerate(self._sources):
            for question in self._questions(i):
                tokens = len(source.prompt(question))
                if tokens + room > source.model.context:
                    raise UsageError(
                        f"a question of {tokens} tokens and an answer of"
                        f" memory.max_answer_tokens={room} do not fit into the"
                        f" {source.model.context} tokens that"
                        f" {'the backbone' if i == 0 else 'a memory'} reads: '{question[:60]}...'"
                    )


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

    def close(self, state: State) -> None:
        """Keep what the state counted."""
        self._read = [state.read(row) for row in range(state.rows)]
        self._forwards, self._lost = state.forwards, state.lost

    def text(self, row: int, chat: ChatFormat, stops: frozenset[int], seconds: float) -> FusedText:
        """What one row wrote, up to its end."""
        end = _length(self._tokens[row], stops)
        return FusedText(
            text=chat.decode(self._tokens[row][:end]),
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


def _log_odds(probability: float) -> float:
    clamped = min(max(probability, _CERTAIN), 1.0 - _CERTAIN)
    return float(torch.tensor(clamped, dtype=torch.float64).logit())
