"""Many short texts after one passage: the passage is processed once, batch by batch of branches.

All branches of a batch are one sequence: a token sees the passage, its own prompt and the tokens
written for the same row, by an attention mask. So no row holds a copy of the passage's keys and
values, and finished rows cost nothing. (Tree attention, as SpecInfer, arXiv 2305.09781, verifies
many continuations at once.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from memo_dist.models.identity import quiet_loading
from memo_dist.models.loading import load_frozen, load_tokenizer, native_bfloat16
from memo_dist.models.sampling import Sampling

_ROWS = 64
"""Of a batch: enough for full matrix products, few enough for masks of some thousand keys."""
_LIKELY = 20
"""Most probable tokens that sampling chooses among."""


@dataclass(slots=True)
class _Row:
    prompt: int
    id: int
    place: int
    best: bool
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class BranchModel:
    """A causal language model with a folded LoRA adapter, for branches after a passage."""

    def __init__(self, model: Any, tokenizer: Any, end: str) -> None:
        """Take a loaded model; ``end`` is the token that ends a text."""
        self._model, self._tokenizer = model, tokenizer
        self._end = int(tokenizer.convert_tokens_to_ids(end))
        self._cache: Any = DynamicCache()
        self._owners = torch.zeros(0, dtype=torch.long, device=model.device)
        self._read = 0

    @classmethod
    def load(cls, base: Path, adapter: Path, end: str) -> BranchModel:
        """Load a base and fold a PEFT adapter into it: on the GPU where there is one.

        On a CPU the dtype is bfloat16 where the CPU multiplies it natively, which is several
        times faster, else float32.

        Raises:
            OSError, ValueError, RuntimeError: either folder does not load.
        """
        from peft import PeftModel

        model = load_frozen(base)
        with quiet_loading():
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        if model.device.type == "cpu" and native_bfloat16():
            model = model.to(torch.bfloat16)
        return cls(model.eval(), load_tokenizer(base), end)

    @contextmanager
    def reading(self, passage: str) -> Iterator[None]:
        """Process a passage; the texts written inside the context continue it."""
        ids = self._encode(passage)
        self._cache = DynamicCache()
        self._owners = torch.zeros(0, dtype=torch.long, device=self._model.device)
        self._read = 0
        self._forward(ids, list(range(len(ids))), [0] * len(ids), [0] * len(ids))
        self._read = len(ids)
        try:
            yield
        finally:
            self._cache = DynamicCache()

    def write(self, prompts: Sequence[str], how: Sampling, seed: int = 0) -> list[list[str]]:
        """For each prompt its texts that came to an end; call it inside :meth:`reading`.

        Args:
            prompts: each continues the passage on its own.
            how: number of texts and their sampling.
            seed: of the sampling; equal arguments give equal texts.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        noise = torch.Generator(device=self._model.device).manual_seed(seed)
        size = max(1, _ROWS // how.rows)
        found: list[list[str]] = []
        for start in range(0, len(encoded), size):
            found += self._batch(encoded[start : start + size], how, noise)
        return found

    @torch.inference_mode()
    def _batch(
        self, prompts: list[list[int]], how: Sampling, noise: torch.Generator
    ) -> list[list[str]]:
        rows = self._begin(prompts, how)
        active = rows
        for _ in range(how.most_tokens):
            for row in active:
                row.ended = row.tokens[-1] == self._end
            active = [row for row in active if not row.ended]
            if not active:
                break
            hidden = self._forward(
                [row.tokens[-1] for row in active],
                [row.place for row in active],
                [row.id for row in active],
                [row.prompt + 1 for row in active],
            )
            best = torch.tensor([row.best for row in active])
            chosen = _choose(self._logits(hidden), best, how.temperature, noise)
            for row, token in zip(active, chosen, strict=True):
                row.tokens.append(token)
                row.place += 1
        self._crop()
        texts: list[list[str]] = [[] for _ in prompts]
        for row in rows:
            if row.ended:
                text = self._tokenizer.decode(row.tokens[:-1], skip_special_tokens=True)
                texts[row.prompt].append(text.strip())
        return texts

    def _begin(self, prompts: list[list[int]], how: Sampling) -> list[_Row]:
        """Process the prompts and choose the first tokens of their rows."""
        ids = [token for prompt in prompts for token in prompt]
        places = [self._read + i for prompt in prompts for i in range(len(prompt))]
        owners = [n for n, prompt in enumerate(prompts, 1) for _ in prompt]
        hidden = self._forward(ids, places, owners, owners)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ends = (lengths.cumsum(0) - 1).to(hidden.device)
        best = self._logits(hidden[ends]).softmax(-1).topk(how.rows)
        rows: list[_Row] = []
        for prompt in range(len(prompts)):
            place = self._read + len(prompts[prompt])
            chances = best.values[prompt].tolist()
            tokens = best.indices[prompt].tolist()
            for rank, (chance, token) in enumerate(zip(chances, tokens, strict=True)):
                first = token if chance >= how.least else tokens[0]
                row = _Row(prompt, len(prompts) + 1 + len(rows), place, rank == 0, [first])
                rows.append(row)
        return rows

    @torch.inference_mode()
    def _forward(
        self, ids: list[int], places: list[int], owners: list[int], groups: list[int]
    ) -> torch.Tensor:
        """Hidden states [tokens, width] of new tokens, which join the cache.

        Args:
            ids: the tokens.
            places: their positions.
            owners: prompt or row that each belongs to; 0: the passage.
            groups: the prompt that each sees beside its own owner's tokens.
        """
        device = self._model.device
        mine = torch.tensor(owners, device=device)
        group = torch.tensor(groups, device=device)
        before = len(self._owners)
        self._owners = torch.cat([self._owners, mine])
        keys = self._owners[None, :]
        seen = (keys == 0) | (keys == mine[:, None]) | (keys == group[:, None])
        order = torch.arange(len(self._owners), device=device)
        seen &= order[None, :] <= order[before:, None]
        output = self._model.model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([places], device=device),
            attention_mask=seen[None, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model.lm_head(hidden).float()
        return logits

    def _crop(self) -> None:
        """Forget everything but the passage."""
        self._cache.crop(self._read - len(self._owners))
        self._owners = self._owners[: self._read]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _choose(
    logits: torch.Tensor, best: torch.Tensor, temperature: float, noise: torch.Generator
) -> list[int]:
    """The next token of each row [rows, vocabulary]: the most probable one where ``best``."""
    likely = logits.topk(_LIKELY)
    if temperature == 0:
        return [int(token) for token in likely.indices[:, 0]]
    drawn = torch.multinomial((likely.values / temperature).softmax(-1), 1, generator=noise)[:, 0]
    drawn[best.to(drawn.device)] = 0
    return [int(token) for token in likely.indices.gather(1, drawn[:, None])[:, 0]]
