"""What a mixture has read and written so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memo_dist.errors import UsageError
from memo_dist.fusion.logits.source import CachedModel, Reading, Source
from memo_dist.fusion.logits.token_map import mean_lost
from memo_dist.fusion.types import Request
from memo_dist.io.hashing import stable_modulo

_SEEDS = 2**62
_CERTAIN = 1e-6  # confidences nearer to 0 or 1 would have endless log-odds


class State:
    """All sources of a batch of requests: what they read, grouped by the model that they share.

    Attributes:
        requests: the batch.
        mixed: the memories are read too; else the backbone alone.
        active: bool [rows, K], the memories that have a say.
        so_far: float32 [rows, K], log-prob of what is written under each memory minus the
            backbone's, nats; whoever writes adds to it.
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
        known = [[(_log_odds(b.confidence), b.familiar) for b in r.beliefs] for r in requests]
        self._beliefs = torch.tensor(known, device=device)
        self.so_far = torch.zeros(self.active.shape, device=device)
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
        """Each memory's log-prob of beginning an abstention, and what was believed before.

        Args:
            logits: of the first position, [rows, V] or more rows; read by the first call alone.
            vocabulary: tokens to read.

        Returns:
            Float32 [rows, K]; and [rows, K, 2]: log-odds of the confidence, and familiarity.
        """
        if self._noted is None:
            first = [part[: self.rows, :vocabulary].float() for part in logits[1:]]
            starts = [part.log_softmax(dim=-1)[:, self._abstain] for part in first]
            self._noted = torch.stack(starts, dim=-1)
        return self._noted, self._beliefs

    def seeds(self, seed: int, places: Sequence[int]) -> Tensor:
        """A seed for each row, int64: of the question and the position of its token."""
        asked = [request.question for request in self.requests]
        return row_seeds(seed, asked * len(places) if len(asked) == 1 else asked, places)

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
                check_room(source, question, room, "a memory" if i else "the backbone")


def row_seeds(seed: int, questions: Sequence[str], places: Sequence[int]) -> Tensor:
    """A seed for each row, int64 [rows]: of its question and the position of its token."""
    pairs = zip(questions, places, strict=True)
    return torch.tensor([stable_modulo(f"{seed}:{place}:{q}", _SEEDS) for q, place in pairs])


def check_room(source: Source, question: str, room: int, who: str) -> None:
    """Refuse a question that with its answer is longer than a model reads.

    Raises:
        UsageError: it is.
    """
    tokens = len(source.prompt(question))
    if tokens + room > source.model.context:
        raise UsageError(
            f"a question of {tokens} tokens and an answer of memory.max_answer_tokens={room} do"
            f" not fit into the {source.model.context} tokens that {who} reads:"
            f" '{question[:60]}...'"
        )


def _log_odds(probability: float) -> float:
    clamped = min(max(probability, _CERTAIN), 1.0 - _CERTAIN)
    return float(torch.tensor(clamped, dtype=torch.float64).logit())
