"""Shards whose weights vLLM has: its tokens and log-probabilities as raw answers and readings.

Prompts are sent as token ids and answers come back as such, so that the text is cut and joined by
the memory's own tokenizer on both sides. What :mod:`memo_dist.memory.answering` computes from all
logits is computed here from log-probabilities: of the generated tokens, of the two likeliest first
tokens and, only where a calibration uses them, of all first tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.errors import RunError
from memo_dist.memory.answering import (
    RawAnswer,
    Reading,
    answer_features,
    answer_length,
    question_prompts,
    raw_answer,
)
from memo_dist.memory.grouping import Item
from memo_dist.memory.loading import Voice
from memo_dist.models.chat_format import ChatFormat

_GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # the memory's own ends count, which are sent
    "add_special_tokens": False,
    "skip_special_tokens": False,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
_TOKEN = "token_id:"  # noqa: S105 - how vLLM names a token by its id
_NONE = math.nan


class Server(Protocol):
    """One vLLM server: a process of ours, or one at a URL."""

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path."""
        ...

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers another one."""
        ...


@dataclass(frozen=True)
class ServedShard:
    """A shard that vLLM serves.

    Attributes:
        server: serves it.
        model: its name there.
        chat: how questions are put to it.
        positions: tokens that it reads and writes at most.
        whole: its calibration needs all first tokens' log-probabilities.
    """

    server: Server
    model: str
    chat: ChatFormat
    positions: int
    whole: bool


class VllmShards:
    """All shards of a bank, served by vLLM; see ``memo_dist.memory.loading.Memories``."""

    streams, parallel = False, True

    def __init__(
        self,
        shards: Mapping[int, ServedShard],
        max_answer_tokens: int,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Take shards that are served.

        Args:
            shards: by id.
            max_answer_tokens: longest generated answer.
            release: ends what serves them.
        """
        self._served, self._most, self._release = dict(shards), max_answer_tokens, release
        self.shards = tuple(sorted(shards))

    def answer(
        self, asked: Mapping[int, Sequence[str]], batch_size: int
    ) -> dict[int, list[RawAnswer]]:
        """See ``Memories``; vLLM chooses its batches itself.

        Raises:
            UsageError: a question is longer than a memory can read.
            RunError: vLLM does not answer.
        """
        return self._each(asked, self._answer)

    def read(self, questions: Sequence[str], batch_size: int) -> dict[int, list[Reading]]:
        """See ``Memories`` and :meth:`answer`."""
        return self._each(dict.fromkeys(self.shards, questions), self._read)

    def voices(self) -> dict[int, Voice]:
        """None: no model is in this process."""
        return {}

    def release(self) -> None:
        """See ``Memories``."""
        self._release()

    def check(self) -> None:
        """Answers and readings of each shard, so that what is missing is found at the start.

        Raises:
            RunError: vLLM does not answer as it has to.
        """
        questions = ("Who?", "Who was it, and when?")  # different lengths in one request
        self.answer(dict.fromkeys(self.shards, questions), len(questions))
        self.read(questions, len(questions))

    def _each(
        self,
        asked: Mapping[int, Sequence[str]],
        work: Callable[[ServedShard, Sequence[str]], list[Item]],
    ) -> dict[int, list[Item]]:
        """What ``work`` finds for each shard, all shards at the same time."""
        rows = {shard: questions for shard, questions in asked.items() if questions}
        found: dict[int, list[Item]] = {shard: [] for shard in asked}
        with ThreadPoolExecutor(max(1, len(rows))) as pool:
            running = {
                shard: pool.submit(work, self._served[shard], questions)
                for shard, questions in rows.items()
            }
            return found | {shard: future.result() for shard, future in running.items()}

    def _answer(self, shard: ServedShard, questions: Sequence[str]) -> list[RawAnswer]:
        began = time.perf_counter()
        prompts = question_prompts(shard.chat, questions, shard.positions, self._most)
        choices = _complete(shard, prompts, {"max_tokens": self._most, "logprobs": 2})
        firsts = [(_NONE, _NONE)] * len(prompts)
        if shard.whole:
            every = _complete(shard, prompts, {"max_tokens": 1, "logprobs": -1})
            abstain = shard.chat.answer_ids(ABSTAIN_ANSWER)[0]
            firsts = [_first_step(choice, abstain) for choice in every]
        seconds = (time.perf_counter() - began) / len(prompts)
        found = [
            _raw(shard.chat, choice, first, len(prompt), seconds)
            for choice, first, prompt in zip(choices, firsts, prompts, strict=True)
        ]
        return [replace(raw, asked=text) for raw, text in zip(found, questions, strict=True)]

    def _read(self, shard: ServedShard, questions: Sequence[str]) -> list[Reading]:
        began = time.perf_counter()
        prompts = question_prompts(shard.chat, questions, shard.positions, self._most)
        choices = _complete(shard, prompts, {"max_tokens": 1, "prompt_logprobs": 0})
        seconds = (time.perf_counter() - began) / len(prompts)
        return [
            Reading(_question_logprob(shard.chat, prompt, choice), len(prompt), seconds)
            for prompt, choice in zip(prompts, choices, strict=True)
        ]


def _complete(
    shard: ServedShard, prompts: Sequence[list[int]], more: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The choice for each prompt, in their order; ``more``: of the request's body."""
    stops = sorted(shard.chat.stop_ids)
    body = {**_GREEDY, **more, "model": shard.model, "prompt": prompts, "stop_token_ids": stops}
    reply = shard.server.post("/completions", body)
    with _expecting():
        choices = {int(choice["index"]): choice for choice in reply["choices"]}
        return [choices[place] for place in range(len(prompts))]


def _raw(
    chat: ChatFormat,
    choice: Mapping[str, Any],
    first: tuple[float, float],
    prompt_tokens: int,
    seconds: float,
) -> RawAnswer:
    """Of one choice; ``first``: entropy of the first step, log-probability of an abstention."""
    with _expecting():
        tokens, logprobs = choice["token_ids"], choice["logprobs"]
        length = answer_length(chat, tokens)
        steps = [float(value) for value in logprobs["token_logprobs"][:length]]
        best, second, *_ = sorted(map(float, logprobs["top_logprobs"][0].values()), reverse=True)
        entropy, abstain = first
        features = answer_features(steps, (steps[0], entropy, best - second, abstain))
        return raw_answer(chat, tokens[:length], features, prompt_tokens, seconds)


def _first_step(choice: Mapping[str, Any], abstain: int) -> tuple[float, float]:
    """Entropy of the first token, nats, and the log-probability of the token ``abstain``."""
    with _expecting():
        found = choice["logprobs"]["top_logprobs"][0]
        entropy = -math.fsum(math.exp(value) * value for value in found.values())
        return entropy, float(found[f"{_TOKEN}{abstain}"])


def _question_logprob(chat: ChatFormat, prompt: Sequence[int], choice: Mapping[str, Any]) -> float:
    """See :attr:`Reading.logprob`."""
    start = chat.question_start(prompt)
    with _expecting():
        rows = choice["prompt_logprobs"]
        found = [float(rows[i][str(prompt[i])]["logprob"]) for i in range(start, len(prompt))]
        return round(math.fsum(found) / len(found), 6)


@contextmanager
def _expecting() -> Iterator[None]:
    """Turn what a reply without some field raises into one message."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"vLLM's reply lacks what confidences are computed from ({error!r}); vLLM 0.32 is"
            " known to send it"
        ) from error
