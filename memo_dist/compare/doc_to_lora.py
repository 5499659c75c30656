"""Doc-to-LoRA (arXiv 2602.15902): a trained hypernetwork turns each passage into an adapter.

A hypernetwork is an entry point of the group ``memo_dist.hypernetworks``, named by
``compare.lora_hypernetwork``: a callable that takes the backbone's folder and gives a
:class:`Hypernetwork`. The package has none of its own. The authors' package ``ctx_to_lora`` with
its released weights needs an entry point of a few lines and a GPU.

Adapters of several passages are joined along their rank, as the paper does with a long document's
chunks: the sum of B_i A_i equals [B_1 B_2 ...] [A_1; A_2; ...].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch

from memo_dist.compare.forgetting import ability, forgotten, unrelated_questions
from memo_dist.compare.method import Corpus, Cost, NotRunError, Reply, Setting
from memo_dist.compare.weights import reply_of
from memo_dist.evaluation.baselines import closed_book
from memo_dist.io.hashing import short_hash
from memo_dist.models.base import resolve_base
from memo_dist.models.reader import Reader

GROUP = "memo_dist.hypernetworks"
VERSION = "1"
"""Raise it with every change of how adapters are joined: older replies are not reused."""

Adapter = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""{name of a linear layer of the backbone: (A [rank, in], B [out, rank], its scale included)}."""


class Hypernetwork(Protocol):
    """From a text to an adapter of the backbone that it was trained for."""

    @property
    def identity(self) -> str:
        """Hash of its weights."""
        ...

    def adapter(self, text: str) -> Adapter:
        """The adapter that lets the backbone answer as if the text stood before it."""
        ...


class DocToLora:
    """The backbone with the adapters of all passages.

    Attributes:
        name: of the row.
        identity: see :class:`memo_dist.compare.method.Method`.
    """

    name = "doc_to_lora"

    def __init__(self, setting: Setting) -> None:
        if not setting.is_local:
            raise NotRunError("doc_to_lora adapts the reader's weights; this one is an endpoint")
        self._setting = setting
        self._base = resolve_base(setting.reader_name, key="--reader")
        self._hypernetwork = _hypernetwork(
            setting.config.compare.lora_hypernetwork, self._base.path
        )
        self.identity = short_hash(
            [self.name, VERSION, self._base.weights_hash, self._hypernetwork.identity,
             setting.config.memory.max_answer_tokens]
        )  # fmt: skip

    def prepare(self, corpus: Corpus) -> Cost:
        """Make and add the adapters; a few seconds a passage, so nothing is kept."""
        from memo_dist.models.loading import load_language_model

        failure = f"the backbone in '{self._base.path}' cannot be loaded"
        model, tokenizer = load_language_model(self._base.path, failure, "choose another --reader")
        questions = unrelated_questions()
        before = ability(model, tokenizer, questions)
        texts = [chunk.text for chunk in corpus.chunks]
        stored = add_adapters(model, (self._hypernetwork.adapter(text) for text in texts))
        after = ability(model, tokenizer, questions)
        self._reader = Reader(model, tokenizer)
        share = 1.0 / max(1, len(corpus.documents))
        lost = forgotten(before, after, len(questions))
        return Cost(stored_bytes=stored, update_share=share, forgetting=lost)

    def answer(self, questions: Sequence[str]) -> list[Reply]:
        """See :meth:`memo_dist.compare.method.Method.answer`."""
        config = self._setting.config
        prompts = [closed_book(question) for question in questions]
        size, longest = config.evaluate.batch_size, config.memory.max_answer_tokens
        return [reply_of(one) for one in self._reader.generate(prompts, longest, size)]


@torch.no_grad()
def add_adapters(model: Any, adapters: Iterable[Adapter]) -> int:
    """Add adapters to a model's weights, one after the other, in float32.

    Returns:
        Bytes of all adapters.

    Raises:
        NotRunError: an adapter is of a layer that the model does not have, or of another shape.
    """
    stored = 0
    for adapter in adapters:
        for name, (down, up) in adapter.items():
            try:
                weight = model.get_submodule(name).weight
            except AttributeError as error:
                raise NotRunError(
                    f"the hypernetwork adapts {name}, which the backbone does not have"
                ) from error
            delta = up.float() @ down.float()
            if delta.shape != weight.shape:
                raise NotRunError(
                    f"the hypernetwork's adapter of {name} is {tuple(delta.shape)}, the backbone's"
                    f" layer {tuple(weight.shape)}"
                )
            weight.copy_((weight.float() + delta.to(weight.device)).to(weight.dtype))
            stored += (down.numel() + up.numel()) * down.element_size()
    return stored


def _hypernetwork(name: str, backbone: Path) -> Hypernetwork:
    """The hypernetwork of a name.

    Raises:
        NotRunError: none is named, or it is not installed.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        named = f"compare.lora_hypernetwork={name} is not installed" if name else "no hypernetwork"
        raise NotRunError(
            f"{named}: doc_to_lora needs trained weights behind an entry point of {GROUP}"
        )
    loaded: Hypernetwork = found[name].load()(backbone)
    return loaded


def doc_to_lora(setting: Setting) -> DocToLora:
    """Make the method."""
    return DocToLora(setting)
