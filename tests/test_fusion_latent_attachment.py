"""A connector on backbones without memories: gates, slots, absorbed projections, noise."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from memo_dist.config import Config
from memo_dist.fusion.latent import (
    Attachment,
    Connector,
    ConnectorShape,
    Slots,
    attached_layers,
    join_slots,
)
from memo_dist.fusion.latent.connector import GATE_PACE
from memo_dist.fusion.latent.job import rank_batches, step_examples
from memo_dist.fusion.latent.slots import noisy

SIZE = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma3": Gemma3TextConfig,
    "mistral": MistralConfig,
}
SHAPE = ConnectorShape((1, 3), 32, 24, heads=2, head_width=8, memory_layers=(-1,))


def backbone(family):
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(FAMILIES[family](**SIZE)).eval().requires_grad_(False)


def slots(batch, count, absent=0, seed=2):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, count, 24, generator=generator)
    present = torch.ones(batch, count, dtype=torch.bool)
    present[:, count - absent :] = False
    return Slots(states, present)


def opened(values=(0.7, -0.4)):
    connector = Connector(SHAPE, seed=3)
    with torch.no_grad():
        for layer, value in zip(connector.attentions, values, strict=True):
            layer.gate.fill_(value / GATE_PACE)
            layer.norm.add_(0.1 * torch.randn_like(layer.norm))
    return connector.eval().requires_grad_(False)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def entering(model, layer):
    """What a decoder layer reads."""
    seen = []
    hook = model.model.layers[layer].register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    logits(model, ids())
    hook.remove()
    return seen[0]


def ids(rows=3, length=7):
    return torch.randint(0, 90, (rows, length), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("live", [True, False])
def test_closed_gates_leave_every_bit_of_the_logits(family, live):
    model = backbone(family)
    before = logits(model, ids())
    attached = Attachment(model, Connector(SHAPE, seed=3))
    with attached.reading(slots(3, 5), live=live):
        inside = logits(model, ids())
    assert (inside - before).abs().max() == 0
    assert torch.equal(logits(model, ids()), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_open_gates_add_what_the_formula_says(family):
    """Against the formula written out, at the first attached layer."""
    model = backbone(family)
    connector = opened((0.7, 0.0))
    layer, read = connector.attentions[0], slots(3, 5, absent=2)
    with torch.no_grad():
        x, states = entering(model, 2), read.states[:, :3]
        states = states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        normed = layer.norm * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        added = 0
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            query, key, value = (
                rows @ weight[part].T
                for rows, weight in (
                    (normed, layer.query.weight),
                    (states, layer.key.weight),
                    (states, layer.value.weight),
                )
            )
            weights = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1)
            added = added + torch.tanh(torch.tensor(0.7)) * (
                weights @ value @ layer.output.weight[:, part].T
            )
        with Attachment(model, connector).reading(read):
            found = entering(model, 2)
    torch.testing.assert_close(found, x + added, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_absorbed_slots_give_what_the_trained_modules_give(count):
    model = backbone("llama")
    attached = Attachment(model, opened())
    with attached.reading(slots(3, count, absent=count // 3), live=True):
        wanted = logits(model, ids())
    with attached.reading(slots(3, count, absent=count // 3)):
        found = logits(model, ids())
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


def test_a_row_without_slots_stays_and_its_neighbours_do_not():
    model = backbone("llama")
    before, read = logits(model, ids()), slots(3, 5)
    read.present[1] = False
    read.states[1] = torch.nan
    for live in (True, False):
        with Attachment(model, opened()).reading(read, live=live):
            found = logits(model, ids())
        assert torch.equal(found[1], before[1])
        assert (found[0] - before[0]).abs().max() > 1e-3


def test_detached_is_as_it_was():
    model = backbone("llama")
    before = logits(model, ids())
    attached = Attachment(model, opened())
    attached.detach()
    with attached.reading(slots(3, 5)):
        assert torch.equal(logits(model, ids()), before)


def test_slots_of_several_memories_stand_side_by_side():
    one, other = slots(2, 3), slots(2, 4, absent=1, seed=9)
    both = join_slots([one, other])
    assert both.states.shape == (2, 7, 24)
    assert both.present.sum() == 2 * 3 + 2 * 3


def test_layers_that_a_connector_follows():
    assert attached_layers(12, 4) == (3, 7, 11)
    assert attached_layers(3, 4) == (2,)


@pytest.mark.parametrize("world", [1, 2])
def test_every_example_is_read_once_an_epoch_by_one_rank(world):
    latent = Config().fusion.latent
    latent.batch, latent.micro_batch = 4, 1
    seen = []
    for step in range(3):
        chosen = step_examples(step, 12, latent, seed=1)
        for rank in range(world):
            seen += [i for part in rank_batches(chosen, rank, world, latent) for i in part]
    assert sorted(seen) == list(range(12))


def test_noise_belongs_to_the_example():
    clean = slots(2, 5, absent=2)
    both = noisy(clean, 1, 0.5, [7, 8])
    part = Slots(clean.states[1:, :4], clean.present[1:, :4])
    alone = noisy(part, 1, 0.5, [8])
    torch.testing.assert_close(alone.states, both.states[1:, :4], atol=0, rtol=0)
    assert torch.equal(both.states[:, 3:], clean.states[:, 3:])
    moved = (both.states - clean.states)[:, :3]
    scale = clean.states[:, :3].square().mean().sqrt()
    assert 0.3 < float(moved.std() / scale) < 0.7
    assert not torch.equal(moved[0], moved[1])
