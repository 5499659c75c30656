"""The connector's loss: its parts, and what of it needs the teacher."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.fusion.latent import Connector, ConnectorShape
from memo_dist.fusion.latent.examples import ConnectorBatch, ConnectorExample
from memo_dist.fusion.latent.loss import ARMS, ConnectorRows
from memo_dist.fusion.latent.slots import MemoryText, SlotReader
from memo_dist.memory.loading import Voice

VOCABULARY, PAD = 50, 0


def model(seed, width):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def models():
    return model(1, 32), model(2, 16)


def rows(models, **settings):
    backbone, memory = models
    connector = Connector(ConnectorShape((0, 1), 32, 16, 2, 8, (0, -1)), seed=3)
    with torch.no_grad():
        for layer in connector.attentions:
            layer.gate.fill_(0.05)
    held = SimpleNamespace(model=memory, chat=SimpleNamespace(pad_id=PAD))
    reader = SlotReader(Voice(held, None), (0, -1))
    return ConnectorRows(connector, backbone, [reader], LatentConfig(**settings), VOCABULARY)


def example(start, inside, taught=()):
    prompt = tuple(range(start, start + 4))
    text = MemoryText(tuple(range(start + 2, start + 7)), 1)
    return ConnectorExample(prompt, (start, 7), taught or prompt, (text,), inside)


def batch(*examples):
    return ConnectorBatch.of(examples, PAD, torch.device("cpu"))


INSIDE = (example(3, True, taught=tuple(range(20, 30))), example(11, True))
OUTSIDE = example(19, False)


def test_without_distillation_facts_cost_their_targets(models):
    plain = rows(models, distill=0.0)
    fused = plain(batch(*INSIDE), want="arms")[:, ARMS.index("fused")]
    torch.testing.assert_close(plain(batch(*INSIDE)), fused.sum())


def test_a_batch_costs_what_its_examples_do_alone(models):
    for settings in ({"distill": 0.0}, {"distill": 0.7, "locality": 2.0}):
        both = rows(models, **settings)
        alone = sum(both(batch(one)) for one in (*INSIDE, OUTSIDE))
        torch.testing.assert_close(both(batch(*INSIDE, OUTSIDE)), alone)


def test_distillation_adds_the_divergence_from_the_backbone_that_reads_the_passage(models):
    facts = batch(*INSIDE)
    costs = [float(rows(models, distill=weight)(facts).detach()) for weight in (0.0, 1.0, 2.0)]
    assert costs[1] > costs[0]
    assert costs[2] - costs[1] == pytest.approx(costs[1] - costs[0], rel=1e-4)


def test_outside_only_the_distance_from_the_backbone_counts(models):
    outside = rows(models, distill=0.0, locality=3.0)
    assert float(outside(batch(OUTSIDE))) > 0
    with torch.no_grad():
        for layer in outside.connector.attentions:
            layer.gate.zero_()
    assert float(outside(batch(OUTSIDE))) == pytest.approx(0.0, abs=1e-6)
