"""Frozen causal models that read the same growing text, each with its own keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from memo_dist.fusion.logits.token_map import TokenMap
from memo_dist.models.batching import padded

BASE_ROWS = "__base__"
"""PEFT's name for rows that no adapter touches."""


class CachedModel:
    """A frozen causal language model, ready to read rows of tokens.

    Attributes:
        width: tokens that its head writes. A tokenizer may know more (a padding token was added
            and no row for it), or fewer (rows are padded).
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        """Wrap a loaded model.

        Args:
            model: a transformers causal language model (or a PEFT model of one).
            pad_id: token to pad shorter rows with.
        """
        self.model = model.eval()
        self.pad_id = pad_id
        base = getattr(model, "get_base_model", lambda: model)()
        accepted = inspect.signature(base.forward)
        self._positions = "position_ids" in accepted.parameters
        self._keeps = "logits_to_keep" in accepted.parameters
        self.width = int(base.get_output_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return torch.device(self.model.device)

    @property
    def context(self) -> int:
        """Longest text that it can read, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 2048))

    def read(
        self,
        ids: Tensor,
        mask: Tensor,
        cache: DynamicCache,
        keep: int,
        adapters: Sequence[str] | None,
    ) -> Tensor:
        """Read tokens behind those in the cache.

        Args:
            ids: int64 [rows, n].
            mask: int64 [rows, cached + n]; 0: padding.
            cache: grows by n positions.
            keep: logits are returned of the last so many positions.
            adapters: for a PEFT model, the adapter of each row.

        Returns:
            Logits [rows, keep, head], in the model's dtype.
        """
        more: dict[str, Any] = {}
        if self._positions:
            places = (mask.cumsum(dim=-1) - 1).clamp_min(0)
            more["position_ids"] = places[:, -ids.shape[1] :]
        if self._keeps:
            more["logits_to_keep"] = keep
        if adapters is not None:
            more["adapter_names"] = list(adapters)
        output = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more
        )
        logits: Tensor = output.logits[:, -keep:]
        return logits


@dataclass(frozen=True, eq=False)
class Source:
    """One voice of the mixture: a model, and how it is asked.

    Attributes:
        model: several sources may share one; their rows then run in one forward.
        prompt: token ids of a question up to where its answer begins.
        adapter: for a PEFT model, the adapter of this source's rows.
        tokens: None: the source has the backbone's vocabulary; else how its tokens become the
            backbone's.
    """

    model: CachedModel
    prompt: Callable[[str], list[int]]
    adapter: str | None = None
    tokens: TokenMap | None = None

    @property
    def width(self) -> int:
        """Tokens of the backbone's vocabulary for which it gives logits."""
        return self.model.width if self.tokens is None else self.tokens.width


class Reading:
    """What several sources of one model have read so far: rows are sources times questions."""

    def __init__(self, sources: Sequence[Source], window: bool) -> None:
        """Prepare to read.

        Args:
            sources: of one model; all or none with a token map.
            window: keep what sliding-window layers forget, so that :meth:`rewind` works.
        """
        self._model = sources[0].model
        self._sources = tuple(sources)
        self._tokens = sources[0].tokens
        self._cache = DynamicCache(config=self._model.model.config)
        # https://github.com/huggingface/transformers/pull/47447
        if window and hasattr(self._cache, "activate_past_recording"):
            self._cache.activate_past_recording()
        self._mask = torch.empty(0)
        self._adapters: list[str] | None = None
        self.forwards = 0
        self.lost: list[Tensor] = []

    def start(self, questions: Sequence[Sequence[str]], drafts: Sequence[list[int]]) -> Tensor:
        """Read the prompts, and behind each the beginning of an answer.

        Args:
            questions: for each source, one wording a row.
            drafts: for each row, tokens of the backbone's vocabulary, equally many.

        Returns:
            [sources, rows, n + 1, V]: logits before and after each of the n draft tokens.
        """
        rows = len(drafts)
        names = [source.adapter for source in self._sources for _ in range(rows)]
        self._adapters = [name or BASE_ROWS for name in names] if any(names) else None
        prompts = [
            source.prompt(question)
            for source, asked in zip(self._sources, questions, strict=True)
            for question in asked
        ]
        if self._tokens is not None:
            first = self._append(prompts, 1)
            draft = torch.tensor([list(d) for d in drafts], dtype=torch.long)
            rest = [self.feed(draft[:, i : i + 1]) for i in range(draft.shape[1])]
            return torch.cat([self._shape(first), *rest], dim=2)
        behind = [*drafts] * len(self._sources)
        full = [[*p, *d] for p, d in zip(prompts, behind, strict=True)]
        return self._shape(self._append(full, len(drafts[0]) + 1))

    def feed(self, tokens: Tensor) -> Tensor:
        """Read further tokens of the backbone's vocabulary, int64 [rows, n].

        Returns:
            [sources, rows, n, V]: logits after each.
        """
        if self._tokens is None:
            ids = tokens.repeat(len(self._sources), 1).to(self._model.device)
            return self._shape(self._run(ids, torch.ones_like(ids), tokens.shape[1]))
        columns = []
        for column in tokens.T.tolist():
            rows = [self._tokens.to_source(token) for token in column]
            columns.append(self._shape(self._append(rows, 1)))
        return torch.cat(columns, dim=2)

    def rewind(self, tokens: int) -> None:
        """Forget the last so many tokens (of a source with the backbone's vocabulary)."""
        if tokens:
            self._cache.crop(-tokens)
            self._mask = self._mask[:, :-tokens]

    def _append(self, rows: Sequence[Sequence[int]], keep: int) -> Tensor:
        """Read rows of different lengths: padded on the left, the padding masked."""
        ids, mask = padded(rows, self._model.pad_id, self._model.device, left=True)
        return self._run(ids, mask, keep)

    def _run(self, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        self._mask = torch.cat([self._mask.to(mask), mask], dim=1) if self.forwards else mask
        self.forwards += 1
        return self._model.read(ids, self._mask, self._cache, keep, self._adapters)

    def _shape(self, logits: Tensor) -> Tensor:
        """[sources * rows, n, head] as [sources, rows, n, V]."""
        if self._tokens is not None:
            logits, lost = self._tokens.to_backbone(logits)
            self.lost.append(lost)
        return logits.reshape(len(self._sources), -1, *logits.shape[1:])
