"""Invented people, and the sentences that tell about them, in a vocabulary of a hundred tokens.

Pools and attributes are those of bioS (Allen-Zhu & Li, arXiv 2404.05405, section 2). A value is
written in shared symbols: one, or two or three where its pool is larger than 32, so that a memory's
parameters are not all embeddings.

People are a table of symbols, one row each. A sentence is a *form*: tokens with gaps that stand for
columns of that table. Thousands of rows are written by two gathers, which keeps up with a GPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memo_dist.scaling.sources.types import IGNORE, Batch, generator

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


def spell(values: torch.Tensor, pool: int) -> torch.Tensor:
    """The symbols of values [n] of a pool, most significant first: [n, symbols]."""
    count, base = digits(pool)
    return torch.stack([values // base**place % base for place in reversed(range(count))], 1)


VOCABULARY = SYMBOLS + len(_TOKENS)
"""Tokens: symbols, marks, pronouns and the words of all wordings."""


def encode(text: str) -> list[int]:
    """The tokens of marks and words, separated by spaces."""
    return [_TOKENS[word] for word in text.split()]


def _columns() -> dict[str, list[int]]:
    """Columns of a table of people: name, pronoun, then each attribute."""
    lengths = {"name": sum(digits(pool)[0] for pool in NAME_POOLS), "pronoun": 1}
    lengths |= {name: sum(digits(p)[0] for p in pools) for name, pools in ATTRIBUTES.items()}
    ends = itertools.accumulate(lengths.values())
    return {
        name: list(range(end - length, end))
        for (name, length), end in zip(lengths.items(), ends, strict=True)
    }


COLUMNS = _columns()
"""Which columns of :func:`draw_people` hold a name, a pronoun, a value."""


def draw_people(count: int, *seed: int) -> torch.Tensor:
    """Independent people, uniform over all there could be; the same seed, the same people.

    Returns:
        int64 [count, columns]: their symbols, see :data:`COLUMNS`.
    """
    stream = generator(*seed)
    employers = torch.randint(0, CITIES, (ATTRIBUTES["employer"][0],), generator=generator(0))

    def uniform(pool: int) -> torch.Tensor:
        return torch.randint(0, pool, (count,), generator=stream)

    spelled = [spell(uniform(pool), pool) for pool in NAME_POOLS]
    spelled.append(torch.tensor([_TOKENS[word] for word in _PRONOUNS])[uniform(2)][:, None])
    for name, pools in ATTRIBUTES.items():
        drawn = [uniform(pool) for pool in pools] if name != "work city" else []
        if name == "employer":
            work = employers[drawn[0]]
        for values, pool in zip(drawn or [work], pools, strict=True):
            spelled.append(spell(values, pool))
    return torch.cat(spelled, 1)


PAD = -1
NAME, VALUE = 1, 2
"""What a token counts as."""

Piece = tuple[list[int], int]
"""Tokens, gaps among them, and what they count as: :data:`NAME`, :data:`VALUE` or 0."""


def gap(part: str, kind: int = 0) -> Piece:
    """The place of a person's name, pronoun or value."""
    return [VOCABULARY + column for column in COLUMNS[part]], kind


def words(text: str) -> Piece:
    """Marks and words, which count as nothing."""
    return encode(text), 0


@dataclass(frozen=True, slots=True)
class Forms:
    """Rows with gaps, padded on the right.

    Attributes:
        tokens: int64 [..., length]: a token, ``VOCABULARY`` + a column of people, or :data:`PAD`.
        kinds: int64 [..., length]: what each token counts as.
    """

    tokens: torch.Tensor
    kinds: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[Piece]]) -> Forms:
        """Rows [rows, length] from pieces."""
        flat = [
            ([t for tokens, _ in row for t in tokens], [k for ts, k in row for _ in ts])
            for row in rows
        ]
        longest = max(len(tokens) for tokens, _ in flat)
        found = torch.tensor(
            [
                [tokens + [PAD] * (longest - len(tokens)), kinds + [0] * (longest - len(tokens))]
                for tokens, kinds in flat
            ]
        )
        return cls(found[:, 0], found[:, 1])

    def __getitem__(self, index: object) -> Forms:
        return Forms(self.tokens[index], self.kinds[index])  # type: ignore[index]

    def reshape(self, *shape: int) -> Forms:
        """The same rows in another arrangement."""
        return Forms(self.tokens.reshape(*shape), self.kinds.reshape(*shape))

    def lengths(self) -> torch.Tensor:
        """Tokens of each row, int64 [...]."""
        return (self.tokens != PAD).sum(-1)

    def joined(self, start: Forms) -> Forms:
        """[rows, sentences, length] as one row each after ``start`` [1, length].

        Padding between sentences goes to the end.
        """
        rows = len(self.tokens)
        tokens = torch.cat([start.tokens.expand(rows, -1), self.tokens.flatten(1)], 1)
        kinds = torch.cat([start.kinds.expand(rows, -1), self.kinds.flatten(1)], 1)
        order = (tokens == PAD).to(torch.uint8).argsort(dim=1, stable=True)
        return Forms(tokens.gather(1, order), kinds.gather(1, order))

    def filled(self, people: torch.Tensor) -> torch.Tensor:
        """Tokens [rows, length] about people [rows, columns]; padding stays."""
        symbols = people.gather(1, (self.tokens - VOCABULARY).clamp_min(0))
        return torch.where(self.tokens >= VOCABULARY, symbols, self.tokens)

    def batch(self, people: torch.Tensor, counted_only: bool = False) -> Batch:
        """Rows about people, each token predicting the next.

        Args:
            people: int64 [rows, columns].
            counted_only: only tokens that count are predicted.
        """
        tokens = self.filled(people)
        longest = int(self.lengths().max())
        tokens, kinds = tokens[:, :longest], self.kinds[:, :longest]
        predicted = (tokens != PAD) & ((kinds > 0) | (not counted_only))
        targets = tokens.masked_fill(~predicted, IGNORE)
        read = int((tokens[:, 1:] != PAD).sum())
        return Batch(tokens[:, :-1].clamp_min(0), targets[:, 1:], read)


def statement_forms(start: str, templates: int) -> Forms:
    """[attributes, templates, length]: sentences that stand alone, with name and pronoun.

    Name and gender count in the first attribute's sentence only, the city of work in none: it
    follows from the employer.
    """
    rows = []
    for place, (attribute, wordings) in enumerate(WORDINGS.items()):
        first, free = place == 0, attribute != "work city"
        rows += [
            [
                words(start),
                gap("name", NAME * first),
                gap("pronoun", VALUE * first),
                words(wording),
                gap(attribute, VALUE * free),
                words("."),
            ]
            for wording in wordings[:templates]
        ]
    return Forms.of(rows).reshape(len(WORDINGS), templates, -1)


def sentence_forms(templates: int) -> Forms:
    """[3, attributes, templates, length]: sentences of a biography, by place in it.

    The first one names the person, the second one's pronoun tells the gender, later ones repeat it.
    """
    subjects = [gap("name", NAME), gap("pronoun", VALUE), gap("pronoun")]
    rows = [
        [subject, words(wording), gap(attribute, VALUE), words(".")]
        for subject in subjects
        for attribute, wordings in WORDINGS.items()
        for wording in wordings[:templates]
    ]
    return Forms.of(rows).reshape(len(subjects), len(WORDINGS), templates, -1)


def prompt_forms(start: str, subject: Sequence[str], templates: int) -> Forms:
    """[attributes, templates, length]: sentences that end in the value, which alone counts.

    Args:
        start: marks before the text.
        subject: who it is about: the name, or name and pronoun.
        templates: wordings of each attribute.
    """
    rows = [
        [words(start), *map(gap, subject), words(wording), gap(attribute, VALUE)]
        for attribute, wordings in WORDINGS.items()
        for wording in wordings[:templates]
    ]
    return Forms.of(rows).reshape(len(WORDINGS), templates, -1)


def question_forms(start: str) -> Forms:
    """[attributes + 1, length]: each attribute's question with its answer, last the reverse one.

    The answers count.
    """
    rows = [
        [words(f"{start} {question}"), gap("name"), words("? answer"), gap(attribute, VALUE)]
        for attribute, question in QUESTIONS.items()
    ]
    place = [words(f"{start} {REVERSE}"), gap("birth date"), words("in"), gap("birth city")]
    rows.append([*place, words("? answer"), gap("name", NAME)])
    return Forms.of([[*row, words(".")] for row in rows])
