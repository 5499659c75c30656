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

import torch

from memo_dist.config.scale_schema import BiographyStudyConfig
from memo_dist.scaling.sources.people import (
    ATTRIBUTES,
    NAME,
    NAME_BITS,
    VALUE,
    VALUE_BITS,
    VOCABULARY,
    Forms,
    draw_people,
    prompt_forms,
    question_forms,
    sentence_forms,
    statement_forms,
    words,
)
from memo_dist.scaling.sources.types import Batch, Score, generator, shuffled

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
        self._unread = torch.randint(
            0, study.templates, (self.items, _COUNT), generator=generator(seed, 2)
        )
        asked = round(study.asked_fraction * self.items)
        self._asked, self._unasked = shuffled(self.items, seed, 3).split(
            [asked, self.items - asked]
        )
        alone = study.text == "statements"
        self._parts = _COUNT if alone else 1
        self._unmarked = Forms.of([[words("<start>")]])
        self._unmarked_statements = statement_forms("<start>", study.templates)
        start = "<start> <source>" if arm == "source_token" else "<start>"
        self._start = Forms.of([[words(start)]])
        self._statements = statement_forms(start, study.templates)
        self._sentences = sentence_forms(study.templates)
        subject = ["name", "pronoun"] if alone else ["name"]
        self._prompts = prompt_forms(start, subject, study.templates)
        self._questions = question_forms(start)
        self.length = self._longest()

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
        stream = generator(self._seed, 5, epoch, place)
        if place < kinds[0]:
            order = shuffled(self.items * self._parts, self._seed, 6, epoch)[place :: kinds[0]]
            return self._read(order // self._parts, order % self._parts, stream)
        place -= kinds[0]
        if place < kinds[1]:
            order = shuffled(len(self._asked), self._seed, 7, epoch)[place :: kinds[1]]
            asked = torch.randint(0, _COUNT + 1, (len(order),), generator=stream)
            return self._questions[asked].batch(self._people[self._asked[order]])
        return self._junk(draw_people(self._rows(tokens), self._seed, 8, epoch, place), stream)

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
        found = {
            "bits": name_bits + value_bits,
            "name_bits": name_bits,
            "value_bits": value_bits,
            "recall": self._recall_statements(self._unread, score),
            "recall_trained": self._recall_statements(
                (self._unread + 1) % self._study.templates, score
            ),
        }
        for label, people in (("asked", self._asked), ("unasked", self._unasked)):
            forward, reverse = self._questions[:_COUNT], self._questions[_COUNT:]
            found[label] = self._recall_questions(forward, people, score)
            found[f"reverse_{label}"] = self._recall_questions(reverse, people, score)
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
        questions = max(1, tokens // self._questions.tokens.shape[-1])
        return (
            math.ceil(texts / rows),
            math.ceil(len(self._asked) / questions),
            math.ceil(junk / rows),
        )

    def _longest(self) -> int:
        """Tokens of the longest text."""
        if self._parts > 1:
            return self._statements.tokens.shape[-1]
        named, later = (self._sentences[place].lengths().amax(1) for place in (0, 2))
        return int(self._start.tokens.shape[-1] + later.sum() + (named - later).max())

    def _read(self, people: torch.Tensor, parts: torch.Tensor, stream: torch.Generator) -> Batch:
        """Rows about people, in wordings that they are read in."""
        return self._texts(people, parts, stream).batch(self._people[people])

    def _texts(self, people: torch.Tensor, parts: torch.Tensor, stream: torch.Generator) -> Forms:
        """The forms of rows about people [rows]: statements ``parts`` [rows], or biographies."""
        numbers = torch.randint(
            0, self._study.templates - 1, (len(people), _COUNT), generator=stream
        )
        numbers += (numbers >= self._unread[people]).long()
        if self._parts > 1:
            return self._statements[parts, numbers[torch.arange(len(parts)), parts]]
        return self._biographies(numbers, self._start, stream)

    def _biographies(self, numbers: torch.Tensor, start: Forms, stream: torch.Generator) -> Forms:
        """Sentences in these wordings [rows, attributes], in a random order, as one row each."""
        order = torch.rand(numbers.shape, generator=stream).argsort(1)
        place = torch.arange(_COUNT).clamp_max(2).expand_as(order)
        return self._sentences[place, order, numbers.gather(1, order)].joined(start)

    def _junk(self, people: torch.Tensor, stream: torch.Generator) -> Batch:
        """Texts about people who are read once; they have no mark of a source."""
        shape = (len(people), _COUNT)
        numbers = torch.randint(0, self._study.templates, shape, generator=stream)
        if self._parts == 1:
            return self._biographies(numbers, self._unmarked, stream).batch(people)
        parts = torch.randint(0, _COUNT, (len(people),), generator=stream)
        return self._unmarked_statements[parts, numbers[:, 0]].batch(people)

    def _nats(self, score: Score) -> tuple[float, float]:
        """Mean nats a person of the name, and of all values given the name."""
        name, values = 0.0, 0.0
        for rows in torch.arange(self.items * self._parts).split(_MEASURED_ROWS):
            people, parts = rows // self._parts, rows % self._parts
            forms = self._texts(people, parts, generator(self._seed, 9, int(rows[0])))
            cost, _ = score(forms.batch(self._people[people]))
            kinds = forms.kinds[:, 1 : 1 + cost.shape[1]]
            name += float(cost[kinds == NAME].sum())
            values += float(cost[kinds == VALUE].sum())
        return name / self.items, values / self.items

    def _recall_statements(self, numbers: torch.Tensor, score: Score) -> float:
        """Fraction of all values that are known, asked in these wordings [people, attributes]."""
        forms = self._prompts[torch.arange(_COUNT), numbers].reshape(numbers.numel(), -1)
        return _recall(forms, self._people.repeat_interleave(_COUNT, 0), score)

    def _recall_questions(self, questions: Forms, people: torch.Tensor, score: Score) -> float:
        """Fraction of answers that are known, each of the questions asked about these people."""
        each = questions[torch.arange(len(questions.tokens)).repeat(len(people))]
        return _recall(
            each, self._people[people].repeat_interleave(len(questions.tokens), 0), score
        )


def _recall(forms: Forms, people: torch.Tensor, score: Score) -> float:
    """Fraction of rows of which every token that counts is the likeliest."""
    if not len(people):
        return float("nan")
    right = 0
    for rows in torch.arange(len(people)).split(_MEASURED_ROWS):
        _, hit = score(forms[rows].batch(people[rows], counted_only=True))
        right += int(hit.all(1).sum())
    return right / len(people)
