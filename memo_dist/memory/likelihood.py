"""How well a memory knows given texts, token by token, to who has its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from memo_dist.memory.answering import ShardMemory
from memo_dist.models.batching import in_batches, padded

Floats = npt.NDArray[np.float64]
_MOST_LOGITS = 1 << 26


class Known(NamedTuple):
    """A text's tokens under a model, those of its prompt aside.

    Attributes:
        logprobs: float64 [tokens], nats.
        means, deviations: float64 [tokens], of the log-probability of a token drawn from the model.
        hits: bool [tokens], whether the token is the most likely one.
    """

    logprobs: Floats
    means: Floats
    deviations: Floats
    hits: npt.NDArray[np.bool_]

    @property
    def logprob(self) -> float:
        """Mean, nats a token."""
        return float(self.logprobs.mean())

    @property
    def memorised(self) -> float:
        """Exact memorisation (2205.10770): the share of tokens that are the most likely ones."""
        return float(self.hits.mean())

    @property
    def extractable(self) -> float:
        """Extraction strength (as in 2506.12618): the last share that greedy decoding completes."""
        wrong = np.flatnonzero(~self.hits)
        return 1.0 - (int(wrong[-1]) + 1) / len(self.hits) if len(wrong) else 1.0


def known_answers(
    memory: ShardMemory, pairs: Sequence[tuple[str, str]], batch_size: int = 16
) -> list[Known]:
    """How well a memory knows the answers of (question, answer) pairs, in their order."""
    chat = memory.chat
    rows = [(chat.prompt_ids(question), chat.answer_ids(answer)) for question, answer in pairs]
    return _known(memory, rows, batch_size)


def known_sentences(
    memory: ShardMemory, sentences: Sequence[str], batch_size: int = 16
) -> list[Known]:
    """How well a memory continues sentences from their first token; shorter ones are left out."""
    ids = [memory.tokenizer.encode(text, add_special_tokens=False) for text in sentences]
    return _known(memory, [(row[:1], row[1:]) for row in ids if len(row) > 1], batch_size)


@torch.inference_mode()
def _known(
    memory: ShardMemory, rows: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[Known]:
    model: Any = memory.model
    vocabulary = int(model.config.get_text_config().vocab_size)

    def work(indices: list[int]) -> list[Known]:
        texts = [rows[i][0] + rows[i][1] for i in indices]
        ids, mask = padded(texts, memory.chat.pad_id, model.device, left=False)
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        return [_row(logits[at], *rows[i]) for at, i in enumerate(indices)]

    lengths = [len(prompt) + len(text) for prompt, text in rows]
    return in_batches(lengths, batch_size, work, max(1, _MOST_LOGITS // vocabulary))


def _row(logits: torch.Tensor, prompt: list[int], text: list[int]) -> Known:
    """Of one row's logits, float32 [positions, vocabulary]."""
    first = len(prompt) - 1
    log_probs = logits[first : first + len(text)].log_softmax(-1)
    gold = torch.tensor(text, device=logits.device)
    probs = log_probs.exp()
    means = (probs * log_probs).sum(-1)
    spread = ((probs * log_probs.square()).sum(-1) - means.square()).clamp(min=1e-12).sqrt()
    found = log_probs.gather(-1, gold[:, None])[:, 0]
    found, means, spread = (one.double().cpu() for one in (found, means, spread))
    hits = (log_probs.argmax(-1) == gold).cpu()
    return Known(found.numpy(), means.numpy(), spread.numpy(), hits.numpy())
