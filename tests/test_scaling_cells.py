"""Cells of the scaling study: shapes, knowledge, bit accounting, training, rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from memo_dist.config import load_config
from memo_dist.config.scale_schema import BiographyStudyConfig, ScaleConfig
from memo_dist.errors import UsageError
from memo_dist.io.atomic import read_json
from memo_dist.scaling.cells import Cell, cell_name, line_of, partition_cells, study_cells
from memo_dist.scaling.folder import StudyFolder
from memo_dist.scaling.ladder import choose_shape
from memo_dist.scaling.rounding import round_weight, rounded
from memo_dist.scaling.skipping import Saturation
from memo_dist.scaling.sources.biographies import Biographies
from memo_dist.scaling.sources.people import (
    ATTRIBUTES,
    COLUMNS,
    NAME,
    NAME_BITS,
    PAD,
    SYMBOLS,
    VALUE,
    VALUE_BITS,
    WORDINGS,
    digits,
    draw_people,
    encode,
    spell,
    statement_forms,
)
from memo_dist.scaling.sources.random import RandomSequences
from memo_dist.scaling.sources.types import IGNORE, generator, pad_rows
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


def uniform(symbols):
    def score(batch):
        predicted = batch.targets != IGNORE
        return predicted.double() * math.log(symbols), ~predicted

    return score


def lookup(batch):
    return torch.zeros(batch.targets.shape, dtype=torch.float64), torch.ones_like(batch.targets) > 0


def test_random_sequences_uniform_memory_has_no_bits_and_lookup_all():
    knowledge = RandomSequences(20_000, 64, 32, seed=1)
    assert knowledge.bits == pytest.approx(20_000, rel=0.01)
    assert knowledge.measure(uniform(64))["bits"] == pytest.approx(0, abs=1e-6)
    found = knowledge.measure(lookup)
    assert found["bits"] == pytest.approx(knowledge.bits)
    assert found["recall"] == 1.0


def uniform_over_people(batch):
    """Every name, gender and value as likely as any other, every other token certain."""
    nats = torch.zeros(batch.targets.shape, dtype=torch.float64)
    for row, targets in enumerate(batch.targets.tolist()):
        symbols = [index for index, token in enumerate(targets) if 0 <= token < SYMBOLS]
        name, values = symbols[:6], symbols[6:]
        nats[row, name] = NAME_BITS * math.log(2) / len(name)
        nats[row, values] = VALUE_BITS * math.log(2) / max(1, len(values))
    return nats, torch.zeros_like(batch.targets) > 0


def test_biographies_uniform_memory_has_no_bits_and_lookup_all():
    knowledge = Biographies(3000, BiographyStudyConfig(), "plain", seed=1)
    assert knowledge.bits == pytest.approx(3000, rel=0.02)
    assert pytest.approx(47.592, abs=1e-3) == VALUE_BITS
    assert knowledge.measure(uniform_over_people)["bits"] == pytest.approx(0, abs=1e-6)
    assert knowledge.measure(uniform(knowledge.vocabulary))["bits"] == 0.0  # worse than nothing


@pytest.mark.parametrize("text", ["biography", "statements"])
def test_a_lookup_knows_all_and_names_alone_are_names(text):
    knowledge = Biographies(3000, BiographyStudyConfig(text=text), "plain", seed=1)
    assert knowledge.measure(uniform(knowledge.vocabulary))["bits"] == 0.0
    found = knowledge.measure(lookup)
    assert found["bits"] == pytest.approx(knowledge.bits)
    assert found["recall"] == found["unasked"] == found["reverse_asked"] == 1.0

    def names_only(batch):
        nats, hits = uniform(knowledge.vocabulary)(batch)
        nats[:, :6] = 0.0
        return nats, hits

    found = knowledge.measure(names_only)
    assert found["name_bits"] == pytest.approx(knowledge.items * NAME_BITS)
    assert found["value_bits"] == 0.0


@pytest.mark.parametrize("text", ["biography", "statements"])
def test_what_is_counted_is_one_name_the_gender_and_every_free_value(text):
    knowledge = Biographies(3000, BiographyStudyConfig(text=text), "plain", seed=1)
    parts = torch.arange(knowledge._parts)
    forms = knowledge._texts(torch.zeros_like(parts), parts, generator(1))
    person = knowledge._people[:1]
    tokens = forms.filled(person.expand(len(parts), -1))
    free = list(ATTRIBUTES) if text == "biography" else list(ATTRIBUTES)[:5]
    values = [column for name in ["pronoun", *free] for column in COLUMNS[name]]
    assert tokens[forms.kinds == NAME].tolist() == person[0, COLUMNS["name"]].tolist()
    assert sorted(tokens[forms.kinds == VALUE].tolist()) == sorted(person[0, values].tolist())


def test_a_real_memory_is_measured_by_its_own_probabilities(tmp_path):
    scale = ScaleConfig()
    training = CellTraining(Cell("random", 6_000, 1.0, 1, 1), scale, tmp_path, CPU)
    batch = training.knowledge.batch(0, 0, 512)
    nats, hits = training.score(batch)
    logits = training.model(input_ids=batch.tokens).logits.double()
    expected = torch.log_softmax(logits, -1).gather(-1, batch.targets[..., None])[..., 0]
    assert torch.allclose(nats, -expected, atol=1e-9)
    assert torch.equal(hits, logits.argmax(-1) == batch.targets)


def test_tokens_are_counted_without_padding():
    batch = pad_rows([[64, 1, 2, 3], [64, 5, 6, 7, 8, 9, 10]], starts=[2, 3])
    assert batch.read == 3 + 6
    for text in ("biography", "statements"):
        knowledge = Biographies(1500, BiographyStudyConfig(text=text), "plain", seed=3)
        for index in range(knowledge.batches(512)):
            batch = knowledge.batch(0, index, 512)
            assert batch.read == sum(len(row) - 1 for row in rows_of(batch))
    random = RandomSequences(20_000, 64, 32, seed=1)
    assert random.batch(0, 0, 512).read == random.batch(0, 0, 512).targets.numel()


def test_padding_changes_nothing(tmp_path):
    training = CellTraining(Cell("random", 6_000, 1.0, 1, 1), ScaleConfig(), tmp_path, CPU)
    short, long = [64, 1, 2, 3], [64, 5, 6, 7, 8, 9, 10]
    alone, _ = training.score(pad_rows([short]))
    together, hits = training.score(pad_rows([short, long]))
    assert torch.allclose(alone[0], together[0, :3], atol=1e-6)
    assert float(together[0, 3:].sum()) == 0.0
    assert bool(hits[0, 3:].all())


# Biographies


def test_values_are_spelled_one_to_one():
    for pool in (2, 12, 32, 33, 263, 1000):
        count, base = digits(pool)
        spelled = {tuple(text) for text in spell(torch.arange(pool), pool).tolist()}
        assert len(spelled) == pool
        assert all(len(text) == count and max(text) < base <= SYMBOLS for text in spelled)


def test_the_employer_fixes_the_city_of_work():
    people, cities = draw_people(2000, 5), {}
    employers, works = (people[:, COLUMNS[name]].tolist() for name in ("employer", "work city"))
    for employer, city in zip(employers, works, strict=True):
        assert cities.setdefault(tuple(employer), city) == city
    assert len(cities) == 263


def test_rows_say_what_their_forms_say():
    people = draw_people(50, 7)
    forms = statement_forms("<start> <source>", templates=5)
    everyone = torch.arange(50)
    parts, numbers = everyone % 6, everyone % 5
    rows = forms[parts, numbers].filled(people).tolist()
    for index, row in enumerate(rows):
        attribute = list(WORDINGS)[index % 6]
        said = [people[index, COLUMNS[name]].tolist() for name in ("name", "pronoun", attribute)]
        wording = encode(WORDINGS[attribute][index % 5])
        expected = [*encode("<start> <source>"), *said[0], *said[1], *wording, *said[2]]
        assert [token for token in row if token != PAD] == [*expected, *encode(".")]


def rows_of(batch):
    """What a batch reads, row by row, without padding."""
    found = []
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        length = sum(target != IGNORE for target in targets)
        assert tokens[1:length] == targets[: length - 1]
        found.append([tokens[0], *targets[:length]])
    return found


def test_a_biography_is_a_name_and_six_sentences_in_any_order():
    knowledge = Biographies(3000, BiographyStudyConfig(asked_fraction=0.0), "plain", seed=1)
    people, orders = {tuple(row[:6].tolist()): row for row in knowledge._people}, set()
    for index in range(knowledge.batches(512)):
        for row in rows_of(knowledge.batch(0, index, 512)):
            person = people[tuple(row[1:7])]
            sentences = " ".join(map(str, row[7:])).split(f" {encode('.')[0]}")
            assert sentences.pop() == ""
            assert len(row) <= knowledge.length
            order = []
            for place, sentence in enumerate(sentences):
                subject = [] if place == 0 else person[COLUMNS["pronoun"]].tolist()
                told = [
                    attribute
                    for attribute, wordings in WORDINGS.items()
                    for wording in wordings
                    if sentence.split()
                    == list(
                        map(str, subject + encode(wording) + person[COLUMNS[attribute]].tolist())
                    )
                ]
                assert len(told) == 1
                order += told
            assert sorted(order) == sorted(ATTRIBUTES)
            orders.add(tuple(order))
    assert len(orders) > 20


@pytest.mark.parametrize("text", ["biography", "statements"])
def test_a_held_out_wording_is_never_read(text):
    knowledge = Biographies(1500, BiographyStudyConfig(text=text), "plain", seed=3)
    everything = ""
    for epoch in range(40):
        for index in range(knowledge.batches(512)):
            for row in rows_of(knowledge.batch(epoch, index, 512)):
                everything += " " + " ".join(map(str, row)) + " |"
    person, unread = knowledge._people[0], knowledge._unread[0].tolist()
    for attribute, wordings in enumerate(WORDINGS.values()):
        value = person[COLUMNS[list(WORDINGS)[attribute]]].tolist()
        for number, wording in enumerate(wordings):
            said = f" {' '.join(map(str, encode(wording) + value))} "
            assert (said in everything) == (number != unread[attribute])


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_all_or_nobody_is_asked(fraction):
    knowledge = Biographies(1500, BiographyStudyConfig(asked_fraction=fraction), "plain", seed=3)
    found = knowledge.measure(lookup)
    labels = ("asked", "unasked") if fraction else ("unasked", "asked")
    assert [found[label] for label in labels] == [1.0, pytest.approx(math.nan, nan_ok=True)]
    rows = [
        row for i in range(knowledge.batches(512)) for row in rows_of(knowledge.batch(0, i, 512))
    ]
    assert sum(encode("?")[0] in row for row in rows) == fraction * knowledge.items


def test_every_person_is_read_once_a_pass_and_a_pass_repeats():
    knowledge = Biographies(6000, BiographyStudyConfig(), "plain", seed=2)
    names = []
    for index in range(knowledge.batches(512)):
        batch = knowledge.batch(3, index, 512)
        again = knowledge.batch(3, index, 512)
        assert torch.equal(batch.tokens, again.tokens)
        rows = batch.tokens.tolist()
        names += [row[1:7] for row in rows if all(t < SYMBOLS for t in row[1:7])]
    assert sorted(names) == sorted(knowledge._people[:, :6].tolist())


def test_junk_and_source_tokens():
    study = BiographyStudyConfig(junk=7.0)
    plain = Biographies(3000, study, "plain", seed=1)
    junk = Biographies(3000, study, "junk", seed=1)
    marked = Biographies(3000, study, "source_token", seed=1)
    assert plain.items == junk.items == marked.items
    assert 6 < junk.batches(512) / plain.batches(512) < 9
    for index in range(20):
        rows = rows_of(marked.batch(0, index, 512))
        assert not any(encode("<source>")[0] in row for row in rows_of(junk.batch(0, index, 512)))
        people = {tuple(row) for row in marked._people[:, :6].tolist()}
        texts = [row for row in rows if encode("?")[0] not in row]
        assert all((tuple(row[2:8]) in people) == (row[1:2] == encode("<source>")) for row in texts)


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
