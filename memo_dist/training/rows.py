"""A packed row through a model: all examples at once, or apart where the model mixes them.

Packing rests on attention that ends at an example's borders. Convolutions, recurrences, biases by
distance and attention sinks do not know these borders, and nothing fails: the second example of a
row just sees the first. So a loaded model is tried on a row of two examples
(:func:`keeps_apart`). One that mixes them gets the examples of a row as a padded batch: the same
rows, steps and losses, for more work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from memo_dist.errors import UsageError
from memo_dist.models.batching import by_length
from memo_dist.training.attention import NAME, borders

_log = logging.getLogger(__name__)

_TRIED = [9, 6]
"""Tokens of the two tried examples: longer than the usual short convolution."""
_SEED = 5
_SEEN = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Of the difference's root mean square at a token, in standard deviations of its logits: what may
change with the other example (experts round differently in other groups), and how far the logits of
an example's median token may be from those of the example alone. Two correct attentions in bfloat16
differ by up to 0.09 there (SmolLM2-135M, six pairs of examples) and at single tokens by up to 0.9,
as random ids drive a model to places where rounding decides.
"""

Forward = Callable[..., torch.Tensor]
"""From a model's keyword arguments to one tensor [batch, tokens, features]."""


def states_of(decoder: Any) -> Forward:
    """The forward of a decoder, down to its last hidden states."""
    return lambda **values: decoder(**values).last_hidden_state


def run_row(
    forward: Forward,
    inputs: torch.Tensor,
    position_ids: torch.Tensor,
    lengths: list[int],
    packed: bool,
) -> torch.Tensor:
    """What a model makes of a row: [1, tokens, features].

    Args:
        forward: of the model.
        inputs: int64 [1, tokens] token ids, or [1, tokens, width] embeddings.
        position_ids: int64 [1, tokens], restarting at each example.
        lengths: tokens of each example.
        packed: the model keeps packed examples apart.
    """
    name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
    if packed:
        row = {name: inputs, "position_ids": position_ids, "use_cache": False}
        return forward(**row, **borders(lengths, inputs.device))
    parts = torch.split(inputs[0], lengths)
    found: dict[int, torch.Tensor] = {}
    for batch in by_length(lengths, len(lengths), sum(lengths)):
        # Padded on the right: nothing causal sees the padding.
        rows = torch.nn.utils.rnn.pad_sequence([parts[i] for i in batch], batch_first=True)
        for index, out in zip(batch, forward(**{name: rows, "use_cache": False}), strict=True):
            found[index] = out[: lengths[index]]
    return torch.cat([found[index] for index in range(len(lengths))])[None]


def set_packed_attention(model: Any) -> bool:
    """Choose the attention for packed rows, if the model keeps examples apart with it.

    Returns:
        Whether it does; if not, the model has the attention that it was loaded with.

    Raises:
        UsageError: the model is not causal, so a padded batch would mix them too.
    """
    loaded = model.config._attn_implementation
    capped = getattr(model.config, "attn_logit_softcapping", None)
    examples = _tried(model, _SEED)
    with torch.no_grad():
        alone = [model(input_ids=one[None], use_cache=False).logits[0] for one in examples]
    try:
        model.set_attn_implementation("eager" if capped else NAME)
        if keeps_apart(model, alone):
            return True
    except Exception as error:  # architectures fail in many ways at arguments they do not know
        _log.debug("%s cannot run a packed row: %s", type(model).__name__, error)
    model.set_attn_implementation(loaded)
    name = type(model).__name__
    if not _is_causal(model):
        raise UsageError(
            f"memory.base: a token's logits depend on later tokens in {name}, so it is not a"
            " causal language model; choose another base"
        )
    _log.warning(
        "%s does not keep the examples of a packed row apart: they run as a padded batch, which"
        " takes more memory and time",
        name,
    )
    return False


@torch.no_grad()
def keeps_apart(model: Any, alone: list[torch.Tensor]) -> bool:
    """Whether the second example of a row sees nothing of the first, and gets its own logits.

    Args:
        model: a causal LM with the attention for packed rows.
        alone: logits [tokens, vocabulary] of each tried example by itself.
    """
    first, second = _tried(model, _SEED)
    other, _ = _tried(model, _SEED + 1)
    places = torch.cat([torch.arange(length) for length in _TRIED]).to(model.device)
    logits, changed = (
        run_row(
            lambda **values: model(**values).logits,
            torch.cat([one, second])[None], places[None], _TRIED, packed=True,
        )[0]
        for one in (first, other)
    )  # fmt: skip
    seen = float(_distances(logits[_TRIED[0] :], changed[_TRIED[0] :]).max())
    wrong = max(
        float(_distances(own, expected).median())
        for own, expected in zip(torch.split(logits, _TRIED), alone, strict=True)
    )
    return seen <= _limit(_SEEN, logits) and wrong <= _limit(_TOLERANCE, logits)


@torch.no_grad()
def _is_causal(model: Any) -> bool:
    """Whether another last token leaves the logits before it as they are."""
    ids, _ = _tried(model, _SEED)
    other = torch.cat([ids[:-1], ids[:1]])
    logits, changed = (
        model(input_ids=one[None], use_cache=False).logits[0, :-1] for one in (ids, other)
    )
    return float(_distances(logits, changed).max()) <= _limit(_SEEN, logits)


def _limit(limits: dict[torch.dtype, float], logits: torch.Tensor) -> float:
    return limits[logits.dtype if logits.dtype == torch.float32 else torch.bfloat16]


def _distances(logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """fp32 [tokens], see :data:`_TOLERANCE`."""
    spread = expected.float().std(1).clamp_min(1e-9)
    return (logits.float() - expected.float()).square().mean(1).sqrt() / spread


def _tried(model: Any, seed: int) -> list[torch.Tensor]:
    """Seeded token ids of two examples, on the model's device."""
    chance = torch.Generator().manual_seed(seed)
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, size, (sum(_TRIED),), generator=chance)
    return list(torch.split(ids.to(model.device), _TRIED))
