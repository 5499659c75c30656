"""How likely a model finds a question: what tells a shard's own questions from others'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from memo_dist.models.batching import padded
from memo_dist.models.chat_format import ChatFormat

_MOST_LOGITS = 1 << 27  # that exist at once: half a GiB in float32


class QuestionLogProb(NamedTuple):
    """Of one question's tokens and of the turn that ends it.

    Attributes:
        total: sum of their log-probs, nats.
        tokens: how many there are.
    """

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.total / self.tokens


@torch.inference_mode()
def question_log_probs(
    model: Any,
    chat: ChatFormat,
    prompts: Sequence[list[int]],
    batch_size: int,
    adapters: Sequence[str] | None = None,
) -> list[QuestionLogProb]:
    """How likely the question in each prompt is.

    The logits of all positions are needed: as few rows run at once as keep them small. Questions
    of similar length run together.

    Args:
        model: a loaded causal language model.
        chat: its format.
        prompts: token ids of questions in its user turn (``chat.prompt_ids``).
        batch_size: most rows of one forward pass.
        adapters: of a PEFT model, the adapter that reads each prompt.

    Returns:
        In the order of the prompts.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    found: dict[int, QuestionLogProb] = {}
    while order:
        longest = len(prompts[order[0]])
        rows = max(1, min(batch_size, _MOST_LOGITS // (longest * vocabulary)))
        part, order = order[:rows], order[rows:]
        names = {"adapter_names": [adapters[i] for i in part]} if adapters else {}
        found.update(zip(part, _read(model, chat, [prompts[i] for i in part], names), strict=True))
    return [found[i] for i in range(len(prompts))]


def _read(
    model: Any, chat: ChatFormat, prompts: Sequence[list[int]], names: dict[str, list[str]]
) -> list[QuestionLogProb]:
    ids, mask = padded(prompts, chat.pad_id, model.device, left=False)
    output = model(input_ids=ids, attention_mask=mask, use_cache=False, **names)
    found = []
    for row, prompt, logits in zip(ids, prompts, output.logits, strict=True):
        start, end = chat.question_start(prompt), len(prompt)
        log_probs = logits[start - 1 : end - 1].float().log_softmax(dim=-1)
        total = log_probs.gather(1, row[start:end, None]).sum()
        found.append(QuestionLogProb(float(total), end - start))
    return found
