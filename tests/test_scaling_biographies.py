"""Invented people as a study's knowledge: forms, readings, and the account of their bits."""

from __future__ import annotations

import math

import pytest
import torch
from known_memories import lookup, uniform

from memo_dist.config.scale_schema import BiographyStudyConfig
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
