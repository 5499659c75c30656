"""Invented people, and the sentences that tell about them, in a vocabulary of a hundred tokens.

Pools and attributes are those of bioS (Allen-Zhu & Li, arXiv 2404.05405, section 2). A value is
written in shared symbols: one, or two or three where its pool is larger than 32, so that a memory's
parameters are not all embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from memo_dist.scaling.sources.types import generator

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


VOCABULARY = SYMBOLS + len(_TOKENS)
"""Tokens: symbols, marks, pronouns and the words of all wordings."""


def encode(text: str) -> list[int]:
    """The tokens of marks and words, separated by spaces."""
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


@dataclass(slots=True)
class Text:
    """A row of tokens about a person.

    Attributes:
        tokens: from the start token on.
        name: positions of the name's symbols, where they are to be counted.
        values: positions of the symbols (and the pronoun) whose nats add up to those of all values.
    """

    tokens: list[int]
    name: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)

    def add(self, tokens: list[int], kind: list[int] | None = None) -> None:
        """Append tokens; their positions go to ``kind``."""
        if kind is not None:
            kind += range(len(self.tokens), len(self.tokens) + len(tokens))
        self.tokens = self.tokens + tokens


def wording(attribute: int, number: int) -> list[int]:
    """One wording of an attribute's sentence: what stands between person and value."""
    return encode(list(WORDINGS.values())[attribute][number])


def biography(
    person: Person, order: Sequence[int], numbers: Sequence[int], start: list[int]
) -> Text:
    """All sentences in one row: the first one names the person, the others say he or she.

    Args:
        person: whom it tells about.
        order: of the attributes.
        numbers: the wording of each attribute.
        start: tokens before the text.
    """
    text = Text(list(start))
    for place, attribute in enumerate(order):
        if place == 0:
            text.add(person.name, text.name)
        else:  # the first pronoun tells the gender, the others repeat it
            text.add([person.pronoun], text.values if place == 1 else None)
        text.add(wording(attribute, numbers[attribute]))
        text.add(person.values[attribute], text.values)
        text.add(encode("."))
    return text


def statement(person: Person, attribute: int, number: int, start: list[int]) -> Text:
    """One sentence that stands alone: full name, pronoun, wording, value.

    Name and gender are counted in the first attribute's sentence only, the city of work in none:
    it follows from the employer.
    """
    text = Text(list(start))
    text.add(person.name, text.name if attribute == 0 else None)
    text.add([person.pronoun], text.values if attribute == 0 else None)
    text.add(wording(attribute, number))
    is_free = attribute != list(ATTRIBUTES).index("work city")
    text.add(person.values[attribute], text.values if is_free else None)
    text.add(encode("."))
    return text
