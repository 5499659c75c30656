"""Cells of the scaling study: shapes, knowledge, bit accounting, training, rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from known_memories import lookup, uniform
from transformers import LlamaForCausalLM

from memo_dist.config import load_config
from memo_dist.config.scale_schema import ScaleConfig
from memo_dist.errors import UsageError
from memo_dist.io.atomic import read_json
from memo_dist.scaling.cells import Cell, cell_name, line_of, partition_cells, study_cells
from memo_dist.scaling.folder import StudyFolder
from memo_dist.scaling.ladder import choose_shape
from memo_dist.scaling.rounding import round_weight, rounded
from memo_dist.scaling.skipping import Saturation
from memo_dist.scaling.sources.random import RandomSequences
from memo_dist.scaling.sources.types import pad_rows
from memo_dist.scaling.training import CellTraining, rate_factor

CPU = torch.device("cpu")


def never():
    return False


# The ladder


@pytest.mark.parametrize(
    ("size", "vocabulary"), [(5_000, 65), (80_000, 65), (1_000_000, 2048), (30_000_000, 4096)]
)
def test_a_shape_has_the_parameters_that_it_says(size, vocabulary):
    shape = choose_shape(size, vocabulary)
    with torch.device("meta"):
        model = LlamaForCausalLM(shape.config())
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.embedding_parameters == model.get_input_embeddings().weight.numel()
    assert shape.parameters == pytest.approx(size, rel=0.02)


def test_a_size_that_its_vocabulary_does_not_allow_is_refused():
    with pytest.raises(UsageError, match=r"3,000 parameters .* vocabulary of 5,000"):
        choose_shape(3_000, 5_000)


# Bit accounting on memories whose knowledge is known


def test_random_sequences_uniform_memory_has_no_bits_and_lookup_all():
    knowledge = RandomSequences(20_000, 64, 32, seed=1)
    assert knowledge.bits == pytest.approx(20_000, rel=0.01)
    assert knowledge.measure(uniform(64))["bits"] == pytest.approx(0, abs=1e-6)
    found = knowledge.measure(lookup)
    assert found["bits"] == pytest.approx(knowledge.bits)
    assert found["recall"] == 1.0


def test_a_real_memory_is_measured_by_its_own_probabilities(tmp_path):
    scale = ScaleConfig()
    training = CellTraining(Cell("random", 6_000, 1.0, 1, 1), scale, tmp_path, CPU)
    batch = training.knowledge.batch(0, 0, 512)
    nats, hits = training.score(batch)
    logits = training.model(input_ids=batch.tokens).logits.double()
    expected = torch.log_softmax(logits, -1).gather(-1, batch.targets[..., None])[..., 0]
    assert torch.allclose(nats, -expected, atol=1e-9)
    assert torch.equal(hits, logits.argmax(-1) == batch.targets)


def test_padding_changes_nothing(tmp_path):
    training = CellTraining(Cell("random", 6_000, 1.0, 1, 1), ScaleConfig(), tmp_path, CPU)
    short, long = [64, 1, 2, 3], [64, 5, 6, 7, 8, 9, 10]
    alone, _ = training.score(pad_rows([short]))
    together, hits = training.score(pad_rows([short, long]))
    assert torch.allclose(alone[0], together[0, :3], atol=1e-6)
    assert float(together[0, 3:].sum()) == 0.0
    assert bool(hits[0, 3:].all())


# Cells and their names


def test_names_follow_from_what_decides_a_result():
    scale = load_config().scale
    cell = Cell("random", 6_000, 1.0, 100, 1)
    name = cell_name(cell, scale)
    assert cell_name(replace(cell, role="predict"), scale) == name
    assert cell_name(replace(cell, rate=2.0), scale) != name
    for override in (
        "scale.random.vocabulary=32",
        "scale.random.length=16",
        "scale.random.lr=0.1",
        "scale.random.lr_exponent=0.1",
        "scale.random.batch_tokens=64",
        "scale.full=0.9",
        "scale.precisions=[fp32]",
        "scale.warmup_fraction=0.5",
        "scale.measurements=3",
        "scale.cell_threads=2",
        "scale.precision=fp32",
    ):
        assert cell_name(cell, load_config([], [override]).scale) != name, override
    for override in ("scale.random.sizes=[7000]", "scale.bootstrap=40", "scale.max_failures=0"):
        assert cell_name(cell, load_config([], [override]).scale) == name, override


def test_the_grid_is_whole_and_checks_the_rate_where_memories_are_full():
    scale = load_config(
        [], ["scale.random.predict=[90000]", "scale.random.predict_loads=[2]"]
    ).scale
    cells = study_cells(scale)
    assert len(cells) == len(set(cells))
    fitted = [cell for cell in cells if cell.role == "fit"]
    assert len(fitted) == 4 * 5 * 1 * 2
    assert {cell.load for cell in cells if cell.role == "rate"} == {4.0}
    assert {(cell.size, cell.load) for cell in cells if cell.role == "predict"} == {(90000, 2.0)}


def test_the_rate_is_checked_in_an_arm_that_is_there():
    keys = ["scale.sources=[biographies]", "scale.biographies.arms=[source_token,junk]"]
    cells = study_cells(load_config([], keys).scale)
    assert {cell.arm for cell in cells if cell.role == "rate"} == {"source_token"}


# Training


@pytest.fixture
def scale():
    overrides = ["scale.random.batch_tokens=256", "scale.checkpoint_minutes=0.0001"]
    return load_config([], overrides).scale


def test_a_stopped_cell_goes_on_exactly(scale, tmp_path):
    cell = Cell("random", 6_000, 1.0, 8, 1)
    whole = CellTraining(cell, scale, tmp_path / "whole", CPU).run(never)
    steps = iter([False] * 5 + [True])
    first = CellTraining(cell, scale, tmp_path / "parts", CPU)
    assert first.run(lambda: next(steps)) is None
    assert not (tmp_path / "parts" / "result.json").exists()
    rest = CellTraining(cell, scale, tmp_path / "parts", CPU).run(never)
    assert rest["starts"] == len(rest["spans"]) == 2
    assert all(begun < ended for begun, ended in rest["spans"])
    for key in ("measured", "curve", "steps", "outcome"):
        assert rest[key] == whole[key]
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()


def test_a_cell_that_diverges_says_so(scale, tmp_path):
    cell = Cell("random", 6_000, 1.0, 8, 1, rate=1e4)
    result = CellTraining(cell, scale, tmp_path, CPU).run(never)
    assert result["outcome"] == "diverged"
    assert result["measured"] == {}
    assert read_json(tmp_path / "result.json")["outcome"] == "diverged"


def test_a_cell_that_knows_everything_ends_early(tmp_path):
    scale = load_config([], ["scale.full=0.9", "scale.random.vocabulary=16"]).scale
    cell = Cell("random", 6_000, 0.1, 400, 1)
    result = CellTraining(cell, scale, tmp_path, CPU).run(never)
    assert result["outcome"] == "full"
    assert result["exposures"] < 400
    assert result["measured"]["fp32"]["bits"] >= 0.9 * result["volume_bits"]


def test_the_rate_rises_and_falls_to_zero():
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.01
    assert factors[10:] == sorted(factors[10:], reverse=True)


# Saturation


def test_loads_beyond_saturation_are_skipped(tmp_path):
    overrides = [
        "scale.random.sizes=[6000]",
        "scale.random.seeds=[1]",
        "scale.random.exposures=[10]",
        "scale.random.loads=[1,2,4,8]",
        "scale.saturated=0.05",
    ]
    scale = load_config([], overrides).scale
    study = StudyFolder(tmp_path)
    cells = {cell.load: cell for cell in study_cells(scale) if cell.role == "fit"}

    def settle(load, bits):
        folder = study.cell(cells[load], scale)
        folder.mkdir(parents=True)
        text = f'{{"outcome": "done", "measured": {{"fp32": {{"bits": {bits}}}}}}}'
        (folder / "result.json").write_text(text)

    left = set(cells.values())

    def verdict(load):
        return Saturation(study, scale).verdict(cells[load], left)

    assert verdict(1.0) == "run"
    assert verdict(2.0) == "wait"
    left.remove(cells[1.0])  # it failed, or another task has it: nobody waits for it
    assert verdict(2.0) == "run"
    settle(1.0, 4000)
    settle(2.0, 8000)
    left.remove(cells[2.0])
    assert verdict(4.0) == "run"
    settle(4.0, 8200)
    left.remove(cells[4.0])
    assert verdict(8.0) == "skip"


def test_a_skipped_cell_waits_again_under_another_rule(tmp_path):
    scale, study = load_config([], ["scale.saturated=0.05"]).scale, StudyFolder(tmp_path)
    cell = study_cells(scale)[0]
    study.mark_skipped(cell, scale)
    assert study.outcome(cell, scale) == "skipped"
    for rule in (0.0, 0.01):
        assert study.outcome(cell, replace(scale, saturated=rule)) == "waiting"


def test_partitions_hold_every_cell_once_and_lines_whole_where_loads_are_skipped():
    for rule in (0.0, 0.05):
        scale = load_config([], [f"scale.saturated={rule}", "scale.partitions=3"]).scale
        parts = [partition_cells(scale, number) for number in range(3)]
        assert sorted(str(cell) for part in parts for cell in part) == sorted(
            map(str, study_cells(scale))
        )
        lines = [{line_of(cell) for cell in part} for part in parts]
        assert not rule or not (lines[0] & lines[1] or lines[1] & lines[2] or lines[0] & lines[2])


# Rounding


def test_rounding_has_the_stated_error_and_is_undone():
    torch.manual_seed(0)
    weight = torch.randn(48, 70)
    row = weight.abs().amax(1, keepdim=True)
    assert (round_weight(weight, "int8") - weight).abs().le(row / 127 / 2 + 1e-7).all()
    assert len(round_weight(weight, "int8")[0].unique()) <= 255
    grouped = round_weight(weight, "int4")[:, :32]
    assert all(len(line.unique()) <= 15 for line in grouped)
    assert torch.equal(round_weight(weight, "fp32"), weight)
    model = torch.nn.Linear(70, 48)
    before = model.weight.detach().clone()
    with rounded(model, "int4"):
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)
