"""Invented people (bioS, Allen-Zhu & Li, arXiv 2404.05405) with an exact account of bits.

A person is a name, uniform over N0 = 400 x 400 x 1000, a gender, and attributes, each uniform:
birth date 12 x 28 x 200, birth city 200, university 300, major 100, employer 263; the employer
fixes the city of work. Given the name that is S0 = 2 (12 x 28 x 200) 200 x 300 x 100 x 263
possibilities, log2 S0 = 47.592. With p1 the mean nats of the name and p2 the mean nats of all
values given the name, N people are known to

    N max(0, log2 N0 - p1 / ln 2) + N max(0, log2 S0 - p2 / ln 2)    bits

(their section 3: a lower bound, so a negative term counts as nothing). In a biography the chain
rule makes p2 the sum over the value tokens in any order of the sentences; statements that stand
alone give every value given the name alone, which can only be more.

A biography is six sentences in one row, shuffled for each reading; with ``statements`` each is a
row of its own with the full name, the form of reflections. Each sentence has several wordings.
For each person and attribute one wording is never read: asking for the value in it is the held-out
phrasing (the wording itself is known from other people). Some people are also read as questions
and answers, forward (name to value) and reverse (birth date and city to name); the others are
asked these too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import torch

from memo_dist.config.scale_schema import BiographyStudyConfig
from memo_dist.scaling.sources.people import (
    ATTRIBUTES,
    NAME_BITS,
    QUESTIONS,
    REVERSE,
    VALUE_BITS,
    VOCABULARY,
    Person,
    Text,
    biography,
    draw_people,
    encode,
    statement,
    wording,
)
from memo_dist.scaling.sources.types import Batch, Score, chance, generator, pad_rows, shuffled

_MEASURED_ROWS = 256
_COUNT = len(ATTRIBUTES)


class Biographies:
    """People who are read as biographies, some also as questions.

    Args:
        bits: knowledge wanted; the number of people is rounded to the nearest, at least 1.
        study: wordings, asked people and junk; see :class:`BiographyStudyConfig`.
        arm: ``plain``, ``junk`` or ``source_token``.
        seed: draws the people and every reading.
    """

    def __init__(self, bits: float, study: BiographyStudyConfig, arm: str, seed: int) -> None:
        self.vocabulary = VOCABULARY
        self._study, self._arm, self._seed = study, arm, seed
        self.items = max(1, round(bits / (NAME_BITS + VALUE_BITS)))
        self._people = draw_people(self.items, seed, 0)
        self._unread: list[list[int]] = torch.randint(
            0, study.templates, (self.items, _COUNT), generator=generator(seed, 2)
        ).tolist()
        asked = round(study.asked_fraction * self.items)
        self._asked = [int(index) for index in shuffled(self.items, seed, 3)[:asked]]
        self._parts = _COUNT if study.text == "statements" else 1
        self.length = max(len(self._text(0, part, chance(0)).tokens) for part in range(self._parts))

    @property
    def bits(self) -> float:
        """N (log2 N0 + log2 S0)."""
        return self.items * (NAME_BITS + VALUE_BITS)

    def batches(self, tokens: int) -> int:
        """See :class:`~memo_dist.scaling.sources.types.Knowledge`."""
        return sum(self._counts(tokens))

    def batch(self, epoch: int, index: int, tokens: int) -> Batch:
        """Texts, questions or junk; every person once a pass, in new wordings and order."""
        kinds = self._counts(tokens)
        place = int(shuffled(sum(kinds), self._seed, 4, epoch)[index])
        draw = chance(self._seed, 5, epoch, place)
        if place < kinds[0]:
            order = shuffled(self.items * self._parts, self._seed, 6, epoch)[place :: kinds[0]]
            texts = [self._text(*divmod(int(row), self._parts), draw) for row in order]
            return pad_rows([text.tokens for text in texts])
        place -= kinds[0]
        if place < kinds[1]:
            order = shuffled(len(self._asked), self._seed, 7, epoch)[place :: kinds[1]]
            return pad_rows([self._question_read(self._asked[int(i)], draw) for i in order])
        people = draw_people(self._rows(tokens), self._seed, 8, epoch, place)
        return pad_rows([self._junk(person, draw).tokens for person in people])

    def prepare(self, score: Score) -> None:
        """Nothing: the bits are absolute."""

    def held_bits(self, score: Score) -> float:
        """``bits`` of :meth:`measure` alone."""
        return sum(self._bits(score))

    def measure(self, score: Score) -> dict[str, float]:
        """``bits``, ``name_bits``, ``value_bits``, and recall.

        ``recall`` is of values in the held-out wording, ``recall_trained`` in a read one;
        ``asked`` and ``unasked`` answer questions about people read with and without questions,
        ``reverse_asked`` and ``reverse_unasked`` name them. A hit has every symbol the likeliest
        given those before: what greedy decoding writes.
        """
        name_bits, value_bits = self._bits(score)
        everyone = range(self.items)
        asked = set(self._asked)
        unasked = [person for person in everyone if person not in asked]
        found = {
            "bits": name_bits + value_bits,
            "name_bits": name_bits,
            "value_bits": value_bits,
            "recall": self._recall(
                [self._statement(p, a, True) for p, a in _pairs(everyone)], score
            ),
            "recall_trained": self._recall(
                [self._statement(p, a, False) for p, a in _pairs(everyone)], score
            ),
        }
        for label, people in (("asked", self._asked), ("unasked", unasked)):
            forward = [self._question(p, a) for p, a in _pairs(people)]
            found[label] = self._recall(forward, score)
            reverse = [self._reverse(p) for p in people]
            found[f"reverse_{label}"] = self._recall(reverse, score)
        return found

    def _bits(self, score: Score) -> tuple[float, float]:
        """Bits of all names, and of all values given the names."""
        name, values = (nats / math.log(2) for nats in self._nats(score))
        return self.items * max(0.0, NAME_BITS - name), self.items * max(0.0, VALUE_BITS - values)

    def _rows(self, tokens: int) -> int:
        return max(1, tokens // self.length)

    def _counts(self, tokens: int) -> tuple[int, int, int]:
        """Batches of biographies, of questions, and of junk in one pass."""
        rows = self._rows(tokens)
        texts = self.items * self._parts
        junk = self._study.junk * texts if self._arm != "plain" else 0.0
        question = len(self._question(0, 0)[0])
        return (
            math.ceil(texts / rows),
            math.ceil(len(self._asked) / max(1, tokens // question)),
            math.ceil(junk / rows),
        )

    def _start(self) -> list[int]:
        mark = encode("<source>") if self._arm == "source_token" else []
        return encode("<start>") + mark

    def _text(self, index: int, part: int, draw: Random) -> Text:
        """One row about a person, in wordings that this person is read in."""
        numbers = [self._read_number(index, attribute, draw) for attribute in range(_COUNT)]
        if self._study.text == "statements":
            return statement(self._people[index], part, numbers[part], self._start())
        order = draw.sample(range(_COUNT), _COUNT)
        return biography(self._people[index], order, numbers, self._start())

    def _read_number(self, index: int, attribute: int, draw: Random) -> int:
        number = draw.randrange(self._study.templates - 1)
        return number + 1 if number >= self._unread[index][attribute] else number

    def _statement(self, index: int, attribute: int, held_out: bool) -> tuple[list[int], int]:
        """(row that ends in the value, where the value begins)."""
        person, unread = self._people[index], self._unread[index][attribute]
        number = unread if held_out else (unread + 1) % self._study.templates
        row = self._start() + person.name
        if self._study.text == "statements":
            row = [*row, person.pronoun]
        row = row + wording(attribute, number)
        return row + person.values[attribute], len(row)

    def _question(self, index: int, attribute: int) -> tuple[list[int], int]:
        person = self._people[index]
        row = self._start() + encode(list(QUESTIONS.values())[attribute]) + person.name
        row += encode("? answer")
        return row + person.values[attribute], len(row)

    def _reverse(self, index: int) -> tuple[list[int], int]:
        person = self._people[index]
        date, city = person.values[0], person.values[1]
        row = self._start() + encode(REVERSE) + date + encode("in") + city + encode("? answer")
        return row + person.name, len(row)

    def _question_read(self, index: int, draw: Random) -> list[int]:
        """One of the person's questions, the reverse one among them, with its answer."""
        number = draw.randrange(_COUNT + 1)
        if number == _COUNT:
            return self._reverse(index)[0] + encode(".")
        return self._question(index, number)[0] + encode(".")

    def _junk(self, person: Person, draw: Random) -> Text:
        """A text about somebody who is read once."""
        numbers = [draw.randrange(self._study.templates) for _ in range(_COUNT)]
        if self._study.text == "statements":
            attribute = draw.randrange(_COUNT)
            return statement(person, attribute, numbers[attribute], encode("<start>"))
        return biography(person, draw.sample(range(_COUNT), _COUNT), numbers, encode("<start>"))

    def _nats(self, score: Score) -> tuple[float, float]:
        """Mean nats a person of the name, and of all values given the name."""
        name, values = 0.0, 0.0
        for first in range(0, self.items * self._parts, _MEASURED_ROWS):
            rows = range(first, min(first + _MEASURED_ROWS, self.items * self._parts))
            places = [divmod(row, self._parts) for row in rows]
            texts = [self._text(*place, chance(self._seed, 9, *place)) for place in places]
            cost, _ = score(pad_rows([text.tokens for text in texts]))
            for row, text in enumerate(texts):
                name += _sum_before(cost[row], text.name)
                values += _sum_before(cost[row], text.values)
        return name / self.items, values / self.items

    def _recall(self, rows: Sequence[tuple[list[int], int]], score: Score) -> float:
        """Fraction of rows of which every predicted token is the likeliest."""
        right = 0
        for first in range(0, len(rows), _MEASURED_ROWS):
            part = rows[first : first + _MEASURED_ROWS]
            _, hit = score(pad_rows([row for row, _ in part], [start for _, start in part]))
            right += int(hit.all(1).sum())
        return right / len(rows) if rows else float("nan")


def _sum_before(cost: torch.Tensor, places: Sequence[int]) -> float:
    """Nats of the tokens at ``places``: each was predicted one position earlier."""
    return float(cost[[place - 1 for place in places]].sum())


def _pairs(people: Sequence[int]) -> list[tuple[int, int]]:
    return [(person, attribute) for person in people for attribute in range(_COUNT)]
