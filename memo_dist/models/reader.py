"""The reader of the baselines: an untrained base that answers chat prompts greedily."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from memo_dist.errors import UsageError
from memo_dist.models.batching import in_batches, padded
from memo_dist.models.chat_template import Messages, render_chat
from memo_dist.models.loading import load_language_model

_CHARS_PER_TOKEN = 16
"""More characters than this never fit a token on average: text beyond is not tokenised."""
_DEFAULT_CONTEXT = 2048
_BATCH_TOKENS = 8192
"""Of a padded batch: memory does not grow with the passages."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What the reader wrote for one prompt, and the tokens it cost (padding not counted)."""

    text: str
    prompt_tokens: int
    new_tokens: int


class Reader:
    """A causal language model with its tokenizer, ready to read prompts in batches.

    Attributes:
        context: longest prompt with its answer, in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.context = int(getattr(model.config, "max_position_embeddings", _DEFAULT_CONTEXT))

    @classmethod
    def load(cls, folder: Path) -> Reader:
        """Load a Hugging Face folder: float32 on a CPU, the stored dtype on a GPU.

        Raises:
            UsageError: the folder holds no model and tokenizer that transformers can load.
        """
        failure = f"the baselines' reader in '{folder}' cannot be loaded"
        advice = "choose another memory.base, or write evaluate.baselines=[]"
        return cls(*load_language_model(folder, failure, advice))

    def render(self, messages: Messages) -> list[int]:
        """Token ids of a chat up to where the answer begins, see :func:`render_chat`."""
        return render_chat(self._tokenizer, messages)

    def count(self, messages: Messages) -> int:
        """Prompt tokens of a chat."""
        return len(self.render(messages))

    def truncate(self, text: str, tokens: int) -> str:
        """The beginning of ``text`` that fits into ``tokens`` tokens."""
        encoded = self._tokenizer(
            text[: tokens * _CHARS_PER_TOKEN], add_special_tokens=False, return_offsets_mapping=True
        )
        offsets = encoded["offset_mapping"]
        return text if len(offsets) <= tokens else text[: offsets[tokens][0]].rstrip()

    def generate(
        self, prompts: Sequence[Messages], max_new_tokens: int, batch_size: int = 16
    ) -> list[Generation]:
        """Answer each prompt greedily; the order of the results is that of the prompts.

        Prompts are batched by length, padded on the left; long ones get smaller batches.

        Raises:
            UsageError: a prompt and its answer are longer than the model's context.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        longest = max((len(ids) for ids in rendered), default=0)
        if longest + max_new_tokens > self.context:
            raise UsageError(
                f"a prompt of {longest} tokens and an answer of {max_new_tokens} do not fit the"
                f" reader's context of {self.context}; lower evaluate.passages, corpus.chunk_chars"
                " or memory.max_answer_tokens"
            )
        return in_batches(
            [len(ids) for ids in rendered],
            batch_size,
            lambda batch: self._generate([rendered[i] for i in batch], max_new_tokens),
            most_tokens=max(_BATCH_TOKENS, longest),
        )

    @torch.inference_mode()
    def surprise(self, prompt: Messages, text: str) -> tuple[float, int]:
        """How unlikely a text is as the answer to a prompt.

        Returns:
            (summed cross-entropy of its tokens in nats, number of its tokens).
        """
        before = self.render(prompt)
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([[*before, *tokens]], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=False).logits[0, len(before) - 1 : -1]
        targets = ids[0, len(before) :]
        nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
        return float(nats), len(tokens)

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[Generation]:
        pad = self._tokenizer.pad_token_id
        ids, mask = padded(prompts, pad, self._model.device, left=True)
        stops = self._stop_ids()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=pad,
                    eos_token_id=stops,
                ),
            )
        rows = output[:, ids.shape[1] :].tolist()
        return [self._read(row, len(p), stops) for row, p in zip(rows, prompts, strict=True)]

    def _read(self, row: list[int], prompt_tokens: int, stops: list[int]) -> Generation:
        end = next((place for place, token in enumerate(row) if token in stops), len(row))
        text = self._tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        if self._tokenizer.chat_template is None:
            text = text.split("\n", 1)[0]  # A text model goes on with the next question.
        return Generation(text, prompt_tokens, min(end + 1, len(row)))

    def _stop_ids(self) -> list[int]:
        configured = self._model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({i for i in [*ids, self._tokenizer.eos_token_id] if i is not None})
