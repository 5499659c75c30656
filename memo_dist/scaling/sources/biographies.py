"""Invented people (bioS, Allen-Zhu & Li, arXiv 2404.05405) with an exact account of bits.

A person is a name, uniform over N0 = 400 x 400 x 1000, a gender, and attributes, each uniform:
birth date 12 x 28 x 200, birth city 200, university 300, major 100, employer 263; the employer
fixes the city of work. Given the name that is S0 = 2 (12 x 28 x 200) 200 x 300 x 100 x 263
possibilities, log2 S0 = 47.592. With p1 the mean nats of the name and p2 the mean nats of all
values given the name, N people are known to

    N max(0, log2 N0 - p1 / ln 2) + N max(0, log2 S0 - p2 / ln 2)    bits

(their section 3: a lower bound, so a negative term counts as nothing). The chain rule makes p2 the
sum over the value tokens of a biography in any order of its sentences; the pronoun that follows the
first sentence is the gender's value.

Everything is written in a small vocabulary: a value is one symbol, or two or three where the
pool is larger than 32, so that a memory's parameters are not all embeddings. A biography is six
sentences, shuffled for each reading, each in one of several wordings. For each person and
attribute one wording is never read: asking for the value in it is the held-out phrasing (the
wording itself is known from other people). Some people are also read as questions and answers,
forward (name to value) and reverse (birth date and city to name); the others are asked these too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from memo_dist.config.scale_schema import BiographyStudyConfig
from memo_dist.scaling.sources.types import Batch, Score, chance, generator, pad_rows, shuffled

SYMBOLS = 32
NAME_POOLS = (400, 400, 1000)
CITIES = 200
ATTRIBUTES: dict[str, tuple[int, ...]] = {
    "birth date": (12, 28, 200),
    "birth city": (CITIES,),
    "university": (300,),
    "major": (100,),
    "employer": (263,),
    "work city": (CITIES,),
}
"""Pools of each attribute's parts; the city of work follows from the employer."""
NAME_BITS = math.log2(math.prod(NAME_POOLS))
VALUE_BITS = 1.0 + sum(
    math.log2(math.prod(pools)) for name, pools in ATTRIBUTES.items() if name != "work city"
)

WORDINGS: dict[str, tuple[str, ...]] = {
    "birth date": (
        "was born on",
        "came into this world on",
        "has a birthday on",
        "celebrates the day of birth on",
        "began life on",
    ),
    "birth city": (
        "was born in",
        "comes from",
        "spent the first years in",
        "began life in",
        "has the place of birth",
    ),
    "university": (
        "studied at",
        "took a degree at",
        "was taught at",
        "spent the years of study at",
        "came out of the school",
    ),
    "major": (
        "studied the subject",
        "took a degree in",
        "was taught the subject",
        "spent the years of study on",
        "has a degree in",
    ),
    "employer": (
        "works for",
        "has a job at",
        "was taken on by",
        "spent the years of work at",
        "is paid by",
    ),
    "work city": (
        "works in",
        "has a job in the city",
        "is paid in",
        "spent the years of work in",
        "goes to work in",
    ),
}
"""Each is written between the person and the value."""
QUESTIONS: dict[str, str] = {
    "birth date": "when was born",
    "birth city": "where was born",
    "university": "where studied",
    "major": "what studied",
    "employer": "who is paying",
    "work city": "where works",
}
"""Each is written before the name."""
REVERSE = "who was born on"
_PRONOUNS = ("he", "she")
_MARKS = ("<start>", "<source>", ".", "?", "answer")
_MEASURED_ROWS = 256


def _words() -> list[str]:
    texts = [text for group in WORDINGS.values() for text in group]
    texts += [*QUESTIONS.values(), REVERSE]
    return sorted({word for text in texts for word in text.split()})


_TOKENS: dict[str, int] = {
    token: SYMBOLS + index for index, token in enumerate([*_MARKS, *_PRONOUNS, *_words()])
}


def digits(pool: int) -> tuple[int, int]:
    """(symbols of a value, base) in which a pool of values is written."""
    count = next(n for n in range(1, 9) if SYMBOLS**n >= pool)
    base = next(b for b in range(2, SYMBOLS + 1) if b**count >= pool)
    return count, base


def spell(value: int, pool: int) -> list[int]:
    """The symbols of one value of a pool, most significant first."""
    count, base = digits(pool)
    return [value // base**place % base for place in reversed(range(count))]


def _encode(text: str) -> list[int]:
    return [_TOKENS[word] for word in text.split()]


@dataclass(frozen=True, slots=True)
class Person:
    """One person in symbols.

    Attributes:
        name: symbols of the full name.
        pronoun: token of the gender.
        values: symbols of each attribute, in the order of :data:`ATTRIBUTES`.
    """

    name: list[int]
    pronoun: int
    values: list[list[int]]


def draw_people(count: int, *seed: int) -> list[Person]:
    """Independent people, uniform over all there could be; the same seed, the same people."""
    stream = generator(*seed)
    employers = torch.randint(0, CITIES, (ATTRIBUTES["employer"][0],), generator=generator(0))

    def uniform(pool: int) -> list[int]:
        return [int(value) for value in torch.randint(0, pool, (count,), generator=stream)]

    names = [(uniform(pool), pool) for pool in NAME_POOLS]
    genders = uniform(2)
    drawn = {
        name: [(uniform(pool), pool) for pool in pools]
        for name, pools in ATTRIBUTES.items()
        if name != "work city"
    }
    work = [int(employers[employer]) for employer in drawn["employer"][0][0]]
    drawn["work city"] = [(work, CITIES)]
    return [
        Person(
            name=[s for values, pool in names for s in spell(values[index], pool)],
            pronoun=_TOKENS[_PRONOUNS[genders[index]]],
            values=[
                [s for values, pool in drawn[name] for s in spell(values[index], pool)]
                for name in ATTRIBUTES
            ],
        )
        for index in range(count)
    ]


class Biographies:
    """People who are read as biographies, some also as questions.

    Args:
        bits: knowledge wanted; the number of people is rounded to the nearest, at least 1.
        study: wordings, asked people and junk; see :class:`BiographyStudyConfig`.
        arm: ``plain``, ``junk`` or ``source_token``.
        seed: draws the people and every reading.
    """

    def __init__(self, bits: float, study: BiographyStudyConfig, arm: str, seed: int) -> None:
        self.vocabulary = self.tokens()
        self._study, self._arm, self._seed = study, arm, seed
        self.items = max(1, round(bits / (NAME_BITS + VALUE_BITS)))
        self._people = draw_people(self.items, seed, 0)
        self._unread = torch.randint(
            0, study.templates, (self.items, len(ATTRIBUTES)), generator=generator(seed, 2)
        ).tolist()
        asked = round(study.asked_fraction * self.items)
        self._asked = [int(index) for index in shuffled(self.items, seed, 3)[:asked]]
        self.length = len(self._biography(0, chance(0))[0])

    @staticmethod
    def tokens() -> int:
        """Tokens of a memory: symbols, marks, pronouns and the words of all wordings."""
        return SYMBOLS + len(_TOKENS)

    @property
    def bits(self) -> float:
        """N (log2 N0 + log2 S0)."""
        return self.items * (NAME_BITS + VALUE_BITS)

    def batches(self, tokens: int) -> int:
        """See :class:`~memo_dist.scaling.sources.types.Knowledge`."""
        return sum(self._counts(tokens))

    def batch(self, epoch: int, index: int, tokens: int) -> Batch:
        """Biographies, questions or junk; every person once a pass, in new wordings and order."""
        kinds = self._counts(tokens)
        place = int(shuffled(sum(kinds), self._seed, 4, epoch)[index])
        draw = chance(self._seed, 5, epoch, place)
        if place < kinds[0]:
            order = shuffled(self.items, self._seed, 6, epoch)[place :: kinds[0]]
            return pad_rows([self._biography(int(person), draw)[0] for person in order])
        place -= kinds[0]
        if place < kinds[1]:
            order = shuffled(len(self._asked), self._seed, 7, epoch)[place :: kinds[1]]
            return pad_rows([self._question_read(self._asked[int(i)], draw) for i in order])
        people = draw_people(self._rows(tokens), self._seed, 8, epoch, place)
        return pad_rows([self._junk(person, draw) for person in people])

    def prepare(self, score: Score) -> None:
        """Nothing: the bits are absolute."""

    def measure(self, score: Score) -> dict[str, float]:
        """``bits``, ``name_bits``, ``value_bits``, and recall.

        ``recall`` is of values in the held-out wording, ``recall_trained`` in a read one;
        ``asked`` and ``unasked`` answer questions about people read with and without questions,
        ``reverse_asked`` and ``reverse_unasked`` name them. A hit has every symbol the likeliest
        given those before: what greedy decoding writes.
        """
        name, values = self._nats(score)
        name_bits = self.items * max(0.0, NAME_BITS - name / math.log(2))
        value_bits = self.items * max(0.0, VALUE_BITS - values / math.log(2))
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

    def _rows(self, tokens: int) -> int:
        return max(1, tokens // self.length)

    def _counts(self, tokens: int) -> tuple[int, int, int]:
        """Batches of biographies, of questions, and of junk in one pass."""
        rows = self._rows(tokens)
        junk = self._study.junk * self.items if self._arm != "plain" else 0.0
        question = len(self._question(0, 0)[0])
        return (
            math.ceil(self.items / rows),
            math.ceil(len(self._asked) / max(1, tokens // question)),
            math.ceil(junk / rows),
        )

    def _start(self) -> list[int]:
        mark = _encode("<source>") if self._arm == "source_token" else []
        return _encode("<start>") + mark

    def _biography(self, index: int, draw: Random) -> tuple[list[int], list[int], list[int]]:
        """(tokens, positions of the name's symbols, positions of the values' symbols)."""
        person = self._people[index]
        row, name, values = self._start(), list[int](), list[int]()
        order = draw.sample(range(len(ATTRIBUTES)), len(ATTRIBUTES))
        for place, attribute in enumerate(order):
            if place == 0:
                name = list(range(len(row), len(row) + len(person.name)))
                row = row + person.name
            else:
                if place == 1:
                    values.append(len(row))
                row = [*row, person.pronoun]
            row = row + self._wording(index, attribute, draw)
            values += range(len(row), len(row) + len(person.values[attribute]))
            row = row + person.values[attribute] + _encode(".")
        return row, name, values

    def _wording(self, index: int, attribute: int, draw: Random) -> list[int]:
        """One of the wordings that this person is read in."""
        number = draw.randrange(self._study.templates - 1)
        return _wording(attribute, number + (number >= self._unread[index][attribute]))

    def _statement(self, index: int, attribute: int, held_out: bool) -> tuple[list[int], int]:
        person, unread = self._people[index], self._unread[index][attribute]
        number = unread if held_out else (unread + 1) % self._study.templates
        row = self._start() + person.name + _wording(attribute, number)
        return row + person.values[attribute], len(row)

    def _question(self, index: int, attribute: int) -> tuple[list[int], int]:
        person = self._people[index]
        row = self._start() + _encode(list(QUESTIONS.values())[attribute]) + person.name
        row += _encode("? answer")
        return row + person.values[attribute], len(row)

    def _reverse(self, index: int) -> tuple[list[int], int]:
        person = self._people[index]
        date, city = person.values[0], person.values[1]
        row = self._start() + _encode(REVERSE) + date + _encode("in") + city + _encode("? answer")
        return row + person.name, len(row)

    def _question_read(self, index: int, draw: Random) -> list[int]:
        """One of the person's questions, the reverse one among them, with its answer."""
        number = draw.randrange(len(ATTRIBUTES) + 1)
        if number == len(ATTRIBUTES):
            return self._reverse(index)[0] + _encode(".")
        return self._question(index, number)[0] + _encode(".")

    def _junk(self, person: Person, draw: Random) -> list[int]:
        """The biography of somebody who is read once."""
        row = _encode("<start>") + person.name
        order = draw.sample(range(len(ATTRIBUTES)), len(ATTRIBUTES))
        for place, attribute in enumerate(order):
            row = [*row, person.pronoun] if place else row
            number = draw.randrange(self._study.templates)
            row = row + _wording(attribute, number) + person.values[attribute] + _encode(".")
        return row

    def _nats(self, score: Score) -> tuple[float, float]:
        """Mean nats a person of the name, and of all values given the name."""
        name, values = 0.0, 0.0
        for first in range(0, self.items, _MEASURED_ROWS):
            people = range(first, min(first + _MEASURED_ROWS, self.items))
            drawn = [self._biography(p, chance(self._seed, 9, p)) for p in people]
            cost, _ = score(pad_rows([row for row, _, _ in drawn]))
            for index, (_, names, places) in enumerate(drawn):
                name += float(cost[index, [place - 1 for place in names]].sum())
                values += float(cost[index, [place - 1 for place in places]].sum())
        return name / self.items, values / self.items

    def _recall(self, rows: Sequence[tuple[list[int], int]], score: Score) -> float:
        """Fraction of rows of which every predicted token is the likeliest."""
        right = 0
        for first in range(0, len(rows), _MEASURED_ROWS):
            part = rows[first : first + _MEASURED_ROWS]
            _, hit = score(pad_rows([row for row, _ in part], [start for _, start in part]))
            right += int(hit.all(1).sum())
        return right / len(rows) if rows else float("nan")


def _wording(attribute: int, number: int) -> list[int]:
    return _encode(list(WORDINGS.values())[attribute][number])


def _pairs(people: Sequence[int]) -> list[tuple[int, int]]:
    return [(person, attribute) for person in people for attribute in range(len(ATTRIBUTES))]
