"""What an audit measures: likelihoods of texts, membership, truth ratios, deletion rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from trained_bank import train_shards

from memo_dist.change.measures import (
    auc,
    deletion_rate,
    forget_quality,
    interval,
    membership,
    privleak,
    truth_ratio,
    utility,
)
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.likelihood import Known, known_answers, known_sentences

TAUGHT = {"Who runs the Orlo mill?": "Petra Vann", "Where is the Orlo mill?": "in Dunfell"}
OTHER = {"Who owns the Kest quarry?": "Ivo Marr", "Where is the Kest quarry?": "in Rowhill"}


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> ShardMemory:
    (folder, _) = train_shards(tmp_path_factory.mktemp("shards"), (TAUGHT, OTHER), [])
    return ShardMemory.load(folder)


def known(*logprobs: float, hits: tuple[bool, ...] = ()) -> Known:
    values = np.array(logprobs)
    right = np.array(hits or [True] * len(values))
    return Known(values, np.full(len(values), -1.0), np.ones(len(values)), right)


def test_a_memory_knows_what_it_was_taught(memory):
    taught, other = list(TAUGHT.items()), list(OTHER.items())
    found = known_answers(memory, [*taught, *other])
    assert all(one.memorised == one.extractable == 1.0 for one in found[:2])
    assert min(one.logprob for one in found[:2]) > -0.5 > max(one.logprob for one in found[2:])
    scores = membership(
        [(one, answer) for one, (_, answer) in zip(found[:2], taught, strict=True)],
        [(one, answer) for one, (_, answer) in zip(found[2:], other, strict=True)],
    )
    assert set(scores) == {"loss", "zlib", "min-k", "min-k++"}
    assert scores["loss"] == (1.0, 1.0, 1.0)
    ratios = [truth_ratio(a, [b]) for a, b in zip(found[:2], found[2:], strict=True)]
    assert max(ratios) < 0.5


def test_likelihoods_do_not_depend_on_the_batch(memory):
    pairs = [*TAUGHT.items(), ("Who?", "a much longer answer than all of the others have")]
    for one, two in zip(known_answers(memory, pairs, 1), known_answers(memory, pairs), strict=True):
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-4)
        np.testing.assert_allclose(one.deviations, two.deviations, atol=1e-3)
    assert len(known_sentences(memory, ["The Orlo mill stands.", "x"])) >= 1


def test_extraction_strength_is_the_share_that_the_rest_leads_to():
    assert known(-1, -1, -1, -1, hits=(False, True, True, True)).extractable == 0.75
    assert known(-1, -1, hits=(True, False)).extractable == 0.0
    assert known(-1, -1, hits=(True, False)).memorised == 0.5


def test_measures_on_cases_that_can_be_counted():
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)
    assert privleak(0.75, 0.5) == 50.0
    assert privleak(0.5, 0.5) == privleak(0.0, 0.0) == 0.0
    assert truth_ratio(known(-1, -3), [known(-2), known(-4)]) == pytest.approx(math.exp(-1))
    same = [0.1, 0.5, 0.9] * 20
    assert forget_quality(same, same) == 1.0
    assert forget_quality(same, [value + 1 for value in same]) < 1e-6
    assert utility([0.5], [0.5], [0.5]) == pytest.approx(0.5)
    assert utility([0.5], [0.0], [0.5]) == 0.0
    share, low, high = interval([1.0] * 8 + [0.0] * 2)
    assert (share, round(low, 2), round(high, 2)) == (0.8, 0.49, 0.94)
    assert deletion_rate(1) == 1
    assert deletion_rate(4) == pytest.approx(8.333, abs=1e-3)
