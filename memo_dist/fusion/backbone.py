"""The frozen backbone of a fusion: found, loaded, and asked in its own chat format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.memory.manifest import BaseRef, load_manifest
from memo_dist.models.base import SCRATCH_NAME, resolve_base
from memo_dist.models.chat_template import Messages, render_chat
from memo_dist.models.identity import BaseModel
from memo_dist.models.loading import load_language_model

BACKBONE_KEY = "fusion.backbone"
_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone.

    Attributes:
        base: its name and hashes.
        model: frozen, on its device.
        tokenizer: its own.
    """

    base: BaseModel
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, base: BaseModel, device: str = "auto") -> Backbone:
        """Load a backbone: float32 on a CPU, the stored dtype on a GPU.

        Raises:
            UsageError: it cannot be loaded.
        """
        failure = f"{BACKBONE_KEY}='{base.name}' cannot be loaded"
        loaded = load_language_model(base.path, failure, "name another model", device)
        return cls(base, loaded.model.requires_grad_(False), loaded.tokenizer)

    def stop_ids(self) -> frozenset[int]:
        """Tokens that end its turn."""
        told = self.model.generation_config.eos_token_id
        ids = [*told] if isinstance(told, list) else [told]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)


class Prompt:
    """Puts a question to a backbone: an instruction, then the question, in its own template."""

    def __init__(self, backbone: Backbone, instruction: str) -> None:
        """``instruction`` is the system turn; empty: none."""
        self._tokenizer = backbone.tokenizer
        self._instruction = instruction

    def __call__(self, question: str) -> list[int]:
        """Token ids up to where the answer begins."""
        turns: Messages = [{"role": "user", "content": question}]
        if self._instruction:
            turns.insert(0, {"role": "system", "content": self._instruction})
        return render_chat(self._tokenizer, turns)


def find_backbone(config: Config, memory: Path) -> BaseModel:
    """The model of ``fusion.backbone``; empty: the base of the bank in ``memory``.

    Raises:
        UsageError: there is none, a scratch memory leaves no default, or the base has changed.
    """
    if not config.fusion.backbone:
        return _own_base(load_manifest(memory).base)
    return resolve_base(config.fusion.backbone, key=BACKBONE_KEY)


def _own_base(base: BaseRef) -> BaseModel:
    """The base of a bank, if its name still leads to the same weights."""
    if base.id == SCRATCH_NAME:
        raise UsageError(
            "this memory was trained from scratch, so its base cannot answer: name a model"
            " with fusion.backbone=NAME (a folder, a hub id, or smollm2-135m)"
        )
    found = resolve_base(base.id, key=BACKBONE_KEY)
    if found.weights_hash != base.weights_hash:
        raise UsageError(
            f"the base '{base.id}' of this memory has weights {found.weights_hash[:16]} now, it was"
            f" trained from {base.weights_hash[:16]}: bring that base back, or name a backbone with"
            " fusion.backbone=NAME"
        )
    return found


def folder_name(base: BaseModel) -> str:
    """Name of the folder below ``RUN/fusion/`` for a backbone: readable, and one a model."""
    return f"{_UNSAFE.sub('-', Path(base.name).name)}-{base.weights_hash[:8]}"
