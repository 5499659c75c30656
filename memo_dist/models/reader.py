"""The reader of the baselines: an untrained base that answers chat prompts greedily."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from memo_dist.errors import UsageError

Messages = list[dict[str, str]]
"""A chat: turns of ``role`` (system, user, assistant) and ``content``."""

_CHARS_PER_TOKEN = 16
"""More characters than this never fit a token on average: text beyond is not tokenised."""
_DEFAULT_CONTEXT = 2048


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
        """Load a Hugging Face folder: fp32 on a CPU, the stored type on a GPU.

        Raises:
            UsageError: the folder holds no model and tokenizer that transformers can load.
        """
        on_gpu = torch.cuda.is_available()
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto" if on_gpu else torch.float32, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot load the baselines' reader from {folder}: {error}; choose another"
                " memory.base, or write evaluate.baselines=[]"
            ) from error
        return cls(model.to("cuda" if on_gpu else "cpu"), tokenizer)

    def render(self, messages: Messages) -> list[int]:
        """Token ids of a chat up to where the answer begins.

        A model without a chat template reads the turns as paragraphs; one whose template has no
        system turn reads its text at the head of the user's.
        """
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(turn["content"] for turn in messages) + "\nAnswer:"
            return list(self._tokenizer.encode(text))
        try:
            text = self._template(messages)
        except jinja2.TemplateError:
            text = self._template(_without_system(messages))
        return list(self._tokenizer.encode(text, add_special_tokens=False))

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

        Prompts are batched by length, padded on the left.

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
        results: dict[int, Generation] = {}
        for batch in _batches(rendered, batch_size):
            written = self._generate([rendered[index] for index in batch], max_new_tokens)
            results.update(zip(batch, written, strict=True))
        return [results[index] for index in range(len(prompts))]

    def _template(self, messages: Messages) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        )

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[Generation]:
        width = max(len(ids) for ids in prompts)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        stops = self._stop_ids()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=pad,
                    eos_token_id=stops,
                ),
            )
        rows = output[:, width:].tolist()
        return [self._read(row, len(ids), stops) for row, ids in zip(rows, prompts, strict=True)]

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


def _without_system(messages: Messages) -> Messages:
    system = [turn["content"] for turn in messages if turn["role"] == "system"]
    rest = [dict(turn) for turn in messages if turn["role"] != "system"]
    rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return rest


def _batches(rendered: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length; long prompts get smaller batches.

    The tokens of a padded batch are bounded so that memory does not grow with the passages.
    """
    limit = max(8192, max((len(ids) for ids in rendered), default=0))
    batch: list[int] = []
    for index in sorted(range(len(rendered)), key=lambda i: (len(rendered[i]), i)):
        if batch and (len(batch) == size or len(rendered[index]) * (len(batch) + 1) > limit):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
