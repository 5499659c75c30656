"""One shard memory answering questions: greedy, batched, with the numbers confidence needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor

from memo_dist.answers.characters import clean_characters
from memo_dist.answers.text import ABSTAIN_ANSWER, after_bridge
from memo_dist.errors import UsageError
from memo_dist.memory.question_likelihood import question_log_probs
from memo_dist.models.batching import in_batches, padded
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.loading import greedy_generation, load_language_model

FEATURES = (
    "mean_logprob",
    "min_logprob",
    "sum_logprob",
    "first_logprob",
    "first_entropy",
    "first_margin",
    "abstain_logprob",
    "agreement",
)
"""Names of :attr:`RawAnswer.features`, in nats:

mean, least and summed log-probability of the generated tokens (the end token included); of the
first token its log-probability, the entropy there, and the gap to the runner-up; the
log-probability that the answer begins as an abstention does; and, no logarithm, the share of the
question's wordings that got this answer (1 where only one was asked, see ``wordings``).
"""
WHOLE_VOCABULARY = ("first_entropy", "abstain_logprob")
"""Those of FEATURES that need more than the likeliest tokens of a step."""

_FLOOR = -100.0  # log-probabilities below it say nothing more and would become -inf in float16
_DEFAULT_POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What a shard memory wrote, before calibration.

    Attributes:
        text: the answer, without special tokens.
        features: one float a name in :data:`FEATURES`; none of a shard that was not to answer.
        tokens: prompt and generated tokens.
        seconds: wall-clock seconds, this question's share of its batch.
        asked: the wording that was answered.
    """

    text: str
    features: tuple[float, ...]
    tokens: int
    seconds: float = field(default=0.0, compare=False)
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How likely a shard memory finds a question.

    Attributes:
        logprob: mean log-probability of the question's tokens and of the turn's end behind them,
            nats, of 6 digits: nearer ones are alike up to rounding.
        tokens: of the prompt.
        seconds: wall-clock seconds, this question's share of its batch.
    """

    logprob: float
    tokens: int
    seconds: float = field(default=0.0, compare=False)


class ShardMemory:
    """A memory model and its tokenizer, loaded to answer.

    Attributes:
        tokenizer: the memory's.
    """

    def __init__(self, model: Any, tokenizer: Any, max_answer_tokens: int = 48) -> None:
        """Wrap a loaded causal language model.

        Args:
            model: a transformers causal language model on its device.
            tokenizer: its tokenizer.
            max_answer_tokens: longest generated answer, the end token included.
        """
        self._model = model.eval()
        self.tokenizer = tokenizer
        self._format = ChatFormat.from_tokenizer(tokenizer)
        self._generation = greedy_generation(self._format, max_answer_tokens)
        # generate() fills what it was not told from the folder's own settings, which may
        # sample or penalise repetition; a memory answers greedily.
        # https://github.com/huggingface/transformers/pull/36684
        self._model.generation_config = self._generation
        self._abstain_start = self._format.answer_ids(ABSTAIN_ANSWER)[0]
        self._max_answer_tokens = max_answer_tokens

    @property
    def model(self) -> Any:
        """The frozen model."""
        return self._model

    @property
    def chat(self) -> ChatFormat:
        """How questions are put to it."""
        return self._format

    @classmethod
    def load(cls, folder: Path, max_answer_tokens: int = 48, device: str = "auto") -> ShardMemory:
        """Load a Hugging Face folder: float32 on a CPU, the stored dtype on a GPU.

        Args:
            folder: safetensors weights and a tokenizer; no code of its own is ever run.
            max_answer_tokens: longest generated answer (``memory.max_answer_tokens``).
            device: a torch device, or ``auto`` for the GPU where there is one.

        Raises:
            UsageError: the folder holds no such model.
        """
        failure = f"'{folder}' cannot be loaded as a memory"
        loaded = load_language_model(folder, failure, "export it again", device)
        return cls(loaded.model, loaded.tokenizer, max_answer_tokens)

    def answer(
        self,
        questions: Sequence[str],
        batch_size: int = 16,
        adapters: Sequence[str] | None = None,
    ) -> list[RawAnswer]:
        """Answer every question, in the given order.

        Questions of similar length share a batch; what else is in the batch changes an answer
        only where two tokens are equally likely up to rounding.

        Args:
            questions: what is asked.
            batch_size: rows of one batch.
            adapters: for a PEFT model, the adapter that answers each question; rows of
                different adapters share a batch.

        Raises:
            UsageError: a question does not fit into the model's positions.
        """
        prompts = self._prompts(questions)

        def batch_answers(batch: list[int]) -> list[RawAnswer]:
            names = {"adapter_names": [adapters[i] for i in batch]} if adapters else {}
            return self._answer_batch([prompts[i] for i in batch], names)

        answers = in_batches([len(prompt) for prompt in prompts], batch_size, batch_answers)
        return [replace(answers[i], asked=question) for i, question in enumerate(questions)]

    def read(
        self,
        questions: Sequence[str],
        batch_size: int = 16,
        adapters: Sequence[str] | None = None,
    ) -> list[Reading]:
        """How likely the memory finds each question, in the given order: one forward pass.

        Args:
            questions: what is read.
            batch_size: most rows of one batch.
            adapters: as in :meth:`answer`.

        Raises:
            UsageError: a question does not fit into the model's positions.
        """
        prompts = self._prompts(questions)
        start = time.perf_counter()
        found = question_log_probs(self._model, self._format, prompts, batch_size, adapters)
        seconds = (time.perf_counter() - start) / max(len(questions), 1)
        return [
            Reading(round(read.mean, 6), len(prompt), seconds)
            for read, prompt in zip(found, prompts, strict=True)
        ]

    def _prompts(self, questions: Sequence[str]) -> list[list[int]]:
        positions = getattr(self._model.config, "max_position_embeddings", _DEFAULT_POSITIONS)
        return question_prompts(self._format, questions, positions, self._max_answer_tokens)

    @torch.inference_mode()
    def _answer_batch(
        self, prompts: Sequence[list[int]], names: dict[str, list[str]]
    ) -> list[RawAnswer]:
        start = time.perf_counter()
        ids, mask = padded(prompts, self._format.pad_id, self._model.device, left=True)
        recorder = _Recorder(self._abstain_start)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation,
            logits_processor=[recorder],
            **names,
        )
        generated = output[:, ids.shape[1] :].tolist()
        lengths = [answer_length(self._format, row) for row in generated]
        features = recorder.features(lengths)
        seconds = (time.perf_counter() - start) / len(prompts)
        return [
            raw_answer(self._format, row[:n], values, len(prompt), seconds)
            for row, values, prompt, n in zip(generated, features, prompts, lengths, strict=True)
        ]


def question_prompts(
    chat: ChatFormat, questions: Sequence[str], positions: int, max_answer_tokens: int
) -> list[list[int]]:
    """Token ids of each question's prompt.

    Args:
        chat: of the memory.
        questions: what is asked.
        positions: tokens that the memory reads and writes at most.
        max_answer_tokens: of these for the answer.

    Raises:
        UsageError: a question is longer than what is left.
    """
    room = positions - max_answer_tokens
    prompts = [chat.prompt_ids(clean_characters(question)) for question in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) > room:
            raise UsageError(
                f"a question of {len(prompt)} tokens is longer than the {room} that this memory"
                f" can read beside an answer of memory.max_answer_tokens={max_answer_tokens}:"
                f" '{question[:60]}...'"
            )
    return prompts


def answer_length(chat: ChatFormat, generated: Sequence[int]) -> int:
    """Number of generated tokens up to and including the first one that ends the answer."""
    for position, token in enumerate(generated):
        if token in chat.stop_ids:
            return position + 1
    return len(generated)


def raw_answer(
    chat: ChatFormat,
    generated: Sequence[int],
    features: Sequence[float],
    prompt_tokens: int,
    seconds: float,
) -> RawAnswer:
    """The answer of one wording.

    Args:
        chat: of the memory.
        generated: its tokens, see :func:`answer_length`.
        features: see :func:`answer_features`.
        prompt_tokens: number of the prompt's.
        seconds: see :class:`RawAnswer`.
    """
    text = after_bridge(chat.decode(generated))
    return RawAnswer(text, (*features, 1.0), prompt_tokens + len(generated), seconds)


def answer_features(steps: Sequence[float], first: Sequence[float]) -> tuple[float, ...]:
    """FEATURES without the last one, of 6 digits.

    Args:
        steps: log-probability of each generated token, nats, at least one.
        first: of the first token log-probability, entropy, gap to the runner-up, and
            log-probability of an abstention's first token; nan: not known.
    """
    used = [max(_FLOOR, value) for value in steps]
    head = [min(max(_FLOOR, value), -_FLOOR) if value == value else value for value in first]
    parts = [sum(used) / len(used), min(used), sum(used), *head]
    return tuple(round(value, 6) for value in parts)


class _Recorder(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Sees the logits of every step and keeps a few numbers a row, never the logits."""

    def __init__(self, abstain_start: int) -> None:
        self._abstain_start = abstain_start
        self._chosen: list[torch.Tensor] = []
        self._first: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Record float logits ``scores`` [batch, vocabulary]; they pass through unchanged."""
        logprobs = scores.float().log_softmax(dim=-1)
        best = logprobs.topk(2, dim=-1).values
        self._chosen.append(best[:, 0])
        if self._first is None:
            entropy = -(logprobs.exp() * logprobs.clamp_min(_FLOOR)).sum(dim=-1)
            margin = best[:, 0] - best[:, 1]
            abstain = logprobs[:, self._abstain_start]
            self._first = torch.stack([best[:, 0], entropy, margin, abstain], dim=1)
        return scores

    def features(self, lengths: Sequence[int]) -> list[tuple[float, ...]]:
        """The features of each row whose answer took that many tokens (FEATURES, no agreement)."""
        assert self._first is not None
        steps = torch.stack(self._chosen, dim=1).cpu().tolist()
        first = self._first.cpu().tolist()
        return [
            answer_features(row[:length], head)
            for row, length, head in zip(steps, lengths, first, strict=True)
        ]
