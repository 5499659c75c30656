"""A frozen backbone and its memories writing one text, token by token, from their mixture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.fusion import ops
from memo_dist.fusion.logits.gates import LARGEST, ConstantGate, Gate, gate_features
from memo_dist.fusion.logits.source import Source
from memo_dist.fusion.logits.state import State, check_room
from memo_dist.fusion.logits.writing import Choice, Record, stream_text
from memo_dist.fusion.types import FusedText, Request, Settings
from memo_dist.models.batching import in_batches
from memo_dist.models.chat_format import ChatFormat

DEFAULTS = Settings()


class LogitFusion:
    """Writes answers from the mixed next-token distributions of a backbone and K memories.

    ``log p = log sum_s exp(log w_s + log_softmax(logits_s / T_s))`` (kNN-LM, arXiv 1911.00172;
    Memory Decoder, arXiv 2508.09874), by the ops of :mod:`memo_dist.fusion.ops`. All models are
    only read.
    """

    def __init__(  # noqa: PLR0913 - what a mixture is made of
        self,
        backbone: Source,
        memories: Sequence[Source],
        gate: Gate,
        tokenizer: Any,
        temperatures: tuple[float, float] = (1.0, 1.0),
        stop_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Join a backbone and its memories.

        Args:
            backbone: reads and writes the vocabulary of ``tokenizer``.
            memories: one or more.
            gate: weighs them.
            tokenizer: the backbone's.
            temperatures: of the backbone and of the memories.
            stop_ids: tokens that end the backbone's turn, beside those of the memories' format.

        Raises:
            ValueError: no memory, or more than the ops mix.
        """
        if not 1 <= len(memories) < ops.MAX_SOURCES:
            raise ValueError(f"{len(memories)} memories; from 1 to {ops.MAX_SOURCES - 1} can mix")
        self.gate = gate
        self.chat = ChatFormat.from_tokenizer(tokenizer)
        self._stops = self.chat.stop_ids | stop_ids
        self._backend = tokenizer.backend_tokenizer
        self._sources = (backbone, *memories)
        self._vocabulary = min(len(tokenizer), *(source.width for source in self._sources))
        self._temperatures = [temperatures[0], *[temperatures[1]] * len(memories)]
        self._abstain = self.chat.answer_ids(ABSTAIN_ANSWER)[0]

    def generate(
        self, requests: Sequence[Request], settings: Settings = DEFAULTS, batch_size: int = 16
    ) -> list[FusedText]:
        """Answer every request, in the given order.

        Where every memory is silent (or the gate is constantly 0) the backbone writes alone:
        no memory is read and no op mixes. Sequential writing takes one request at a time.
        """
        written: dict[int, FusedText] = {}
        mixed = [i for i, request in enumerate(requests) if self._mixes(request)]
        alone = [i for i in range(len(requests)) if i not in set(mixed)]
        single = settings.order == "sequential"
        for indices, size in ((alone, batch_size), (mixed, 1 if single else batch_size)):
            texts = self._write_all([requests[i] for i in indices], settings, size)
            written.update(zip(indices, texts, strict=True))
        return [written[i] for i in range(len(requests))]

    def check(self, request: Request, settings: Settings = DEFAULTS) -> None:
        """Refuse a question that the backbone cannot read.

        Raises:
            UsageError: with its answer it is longer than the backbone's context.
        """
        check_room(self._sources[0], request.question, settings.max_new_tokens, "the backbone")

    def alone(self, request: Request, settings: Settings = DEFAULTS) -> FusedText:
        """What the backbone writes when no memory has a say."""
        (text,) = self.generate([request.silenced()], settings)
        return text

    def stream(self, request: Request, settings: Settings = DEFAULTS) -> Iterator[str]:
        """Answer one request piece by piece; the pieces joined are the text of `generate`."""
        yield from stream_text(self._steps([request], settings), self._backend)

    @torch.inference_mode()
    def score(self, request: Request, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Each source's log-prob of given answer tokens, and what a gate sees of them.

        Args:
            request: the question.
            tokens: n tokens of the backbone's vocabulary.

        Returns:
            float32 [n, K + 1] log-probs, and float32 [n, K, len(gates.FEATURES)].
        """
        state = State(self._sources, [request], self._abstain, mixed=True, window=False)
        logits = [part[0, : len(tokens)] for part in state.start([list(tokens)], len(tokens))]
        log_probs = self._log_probs(logits, torch.tensor(list(tokens), device=logits[0].device))
        features = self._features(logits, state, _before(_ratios(log_probs)))
        return log_probs, features

    def _mixes(self, request: Request) -> bool:
        return request.mixed and not (isinstance(self.gate, ConstantGate) and self.gate.g == 0.0)

    def _write_all(
        self, requests: Sequence[Request], settings: Settings, batch_size: int
    ) -> list[FusedText]:
        lengths = [len(request.question) for request in requests]
        return in_batches(
            lengths, batch_size, lambda batch: self._write([requests[i] for i in batch], settings)
        )

    def _write(self, requests: Sequence[Request], settings: Settings) -> list[FusedText]:
        started = time.perf_counter()
        record = Record(len(requests))
        for _ in self._steps(requests, settings, record):
            pass
        seconds = (time.perf_counter() - started) / len(requests)
        return [record.text(row, self.chat, self._stops, seconds) for row in range(len(requests))]

    def _steps(
        self, requests: Sequence[Request], settings: Settings, record: Record | None = None
    ) -> Iterator[list[int]]:
        """Write; yields the first row's new tokens of each step that it is not yet done at."""
        record = record or Record(len(requests))
        mixed = self._mixes(requests[0])
        sequential = mixed and settings.order == "sequential"
        state = State(self._sources, requests, self._abstain, mixed, window=sequential)
        write = self._sequential if sequential else self._parallel
        with torch.inference_mode():
            for _ in write(state, settings, record):
                yield record.fresh(self._stops)
        read = [state.read(row) for row in range(state.rows)]
        record.close(read, state.forwards, state.lost)

    def _parallel(self, state: State, settings: Settings, record: Record) -> Iterator[None]:
        limit = settings.max_new_tokens
        logits = [part[:, 0] for part in state.start([[]] * state.rows, limit)]
        for step in range(limit):
            places = [step] * state.rows
            choice = self._choose(logits, state, settings, places, state.so_far)
            state.so_far += self._gain(logits, state, choice.tokens)
            record.add(choice)
            yield
            if record.done(self._stops) or step + 1 == limit:
                return
            logits = [part[:, 0] for part in state.feed(choice.tokens[:, None])]

    def _sequential(self, state: State, settings: Settings, record: Record) -> Iterator[None]:
        """Draft, read, keep the agreeing beginning and the mixture's own next token; again."""
        limit = settings.max_new_tokens
        draft = self._first_draft(state)[: limit - 1]
        logits = [part[0] for part in state.start([draft], limit)]
        step = 0
        while True:
            places = range(step, step + len(draft) + 1)
            # What is drafted counts as written at the places behind it, until one disagrees.
            drafted = torch.tensor([*draft, 0], device=logits[0].device)
            before = state.so_far + _before(self._gain(logits, state, drafted))
            choice = self._choose(logits, state, settings, places, before)
            written = choice.tokens.tolist()
            agreed = _agreement(draft, written, self._stops)
            own = slice(agreed, agreed + 1)
            gain = self._gain([part[own] for part in logits], state, choice.tokens[own])
            state.so_far = before[own] + gain
            record.add_run(choice, agreed + 1)
            yield
            step += agreed + 1
            if written[agreed] in self._stops or step >= limit:
                return
            state.rewind(len(draft) - agreed)
            room = min(settings.draft_tokens, limit - step - 1)
            draft, logits = self._redraft(state, written[agreed], room)

    def _first_draft(self, state: State) -> list[int]:
        """The most believed memory's own answer; the tokens behind its end are not drafted."""
        beliefs = [belief for belief in state.requests[0].beliefs if not belief.silent]
        best = max(beliefs, key=lambda belief: belief.confidence)
        return self.chat.answer_ids(best.draft)[:-1] if best.draft else []

    def _redraft(self, state: State, last: int, room: int) -> tuple[list[int], list[Tensor]]:
        """Go on with the first memory that has a say; logits after ``last`` and each token.

        A backbone that shares its forwards with the memories cannot wait for them: no draft.
        """
        if not state.apart:
            return [], [part[0] for part in state.feed(torch.tensor([[last]]))]
        voice = next(i for i, b in enumerate(state.requests[0].beliefs, 1) if not b.silent)
        memories: list[list[Tensor]] = []
        draft: list[int] = []
        token = last
        while True:
            memories.append(state.feed_memories(torch.tensor([[token]])))
            if len(draft) == room:
                break
            likeliest = memories[-1][voice - 1][0, 0, : self._vocabulary]
            token = int(likeliest.argmax())
            if token in self._stops:
                break
            draft.append(token)
        backbone = state.feed_backbone(torch.tensor([[last, *draft]]))[0]
        rows = [torch.cat([step[k][0] for step in memories]) for k in range(len(memories[0]))]
        return draft, [backbone, *rows]

    def _log_probs(self, logits: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """Each source's log-prob of one token a row, float32 [rows, K + 1]."""
        alone = torch.zeros(1, device=logits[0].device)
        found = [
            ops.mix_logits_target([part], alone, tokens, [heat], vocabulary=self._vocabulary)
            for part, heat in zip(logits, self._temperatures, strict=True)
        ]
        return torch.stack(found, dim=-1).float()

    def _gain(self, logits: Sequence[Tensor], state: State, tokens: Tensor) -> Tensor:
        """How much likelier each memory finds each row's token, [rows, K]; 0 where no gate asks."""
        if not (state.mixed and self.gate.follows):
            return torch.zeros(len(tokens), state.so_far.shape[-1], device=tokens.device)
        return _ratios(self._log_probs(logits, tokens))

    def _features(self, logits: Sequence[Tensor], state: State, so_far: Tensor) -> Tensor:
        """Of each row; ``so_far`` [rows, K]: see :attr:`State.so_far`."""
        abstain, beliefs = state.notes(logits, self._vocabulary)
        rows = len(so_far)
        return gate_features(
            logits,
            abstain.expand(rows, -1),
            torch.cat([beliefs.expand(rows, -1, -1), so_far[..., None]], dim=-1),
            self._temperatures,
            self._vocabulary,
        )

    def _choose(
        self,
        logits: Sequence[Tensor],
        state: State,
        settings: Settings,
        places: Sequence[int],
        so_far: Tensor,
    ) -> Choice:
        """One token a row.

        Args:
            logits: of each source, [rows, V].
            state: what was read.
            settings: greedy or sampled.
            places: the position of each row's token in its answer.
            so_far: [rows, K], :attr:`State.so_far` before each row's token.
        """
        rows = len(logits[0])
        if not state.mixed:
            weights = torch.zeros(rows, 1, device=logits[0].device)
            if not settings.sample:
                alone = logits[0][:, : self._vocabulary] / self._temperatures[0]
                return _argmax(alone, weights)
        else:
            features = self._features(logits, state, so_far) if self.gate.sees else None
            weights = self.gate.log_weights(features, state.active.expand(rows, -1))
        heat = self._temperatures[: len(logits)]
        if not settings.sample:
            best = ops.mix_logits_argmax(logits, weights, heat, vocabulary=self._vocabulary)
            return Choice(best.tokens, best.log_probs, weights)
        seeds = state.seeds(settings.seed, places).to(logits[0].device)
        drawn = ops.mix_logits_sample(logits, weights, seeds, heat, vocabulary=self._vocabulary)
        return Choice(drawn.tokens, drawn.log_probs, weights)


def _ratios(log_probs: Tensor) -> Tensor:
    """From log-probs [rows, K + 1] how much likelier each memory is than the backbone [rows, K];
    bounded, as a memory of another vocabulary can find a token impossible."""
    return (log_probs[:, 1:] - log_probs[:, :1]).clamp(-LARGEST, LARGEST)


def _before(gains: Tensor) -> Tensor:
    """Sums over the rows before each row."""
    return gains.cumsum(dim=0) - gains


def _argmax(logits: Tensor, weights: Tensor) -> Choice:
    tokens = logits.argmax(dim=-1)
    log_probs = logits.float().log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
    return Choice(tokens, log_probs, weights)


def _agreement(draft: Sequence[int], written: Sequence[int], stops: frozenset[int]) -> int:
    """How many tokens of the draft the mixture would have written itself."""
    for place, token in enumerate(draft):
        if written[place] != token or token in stops:
            return place
    return len(draft)
