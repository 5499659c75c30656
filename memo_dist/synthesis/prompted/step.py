"""What all steps of the language model generator have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from memo_dist.config.schema import SynthesisConfig
from memo_dist.synthesis.prompted.prompts import ListedPair, Prompt, Prompter
from memo_dist.synthesis.prompted.reading import Reading, readings
from memo_dist.synthesis.prompted.reflection_builder import Author
from memo_dist.synthesis.types import Reflection, Unit

T = TypeVar("T")

FACT_KINDS = frozenset({"direct", "indirect", "consolidated", "entity", "cross"})
"""Kinds that state a fact in its first wording."""


@dataclass(frozen=True, slots=True)
class Toolkit:
    """What every step is built from.

    Attributes:
        settings: group ``synthesis``.
        prompter: builds requests for the model.
        generator: name and version that reflections carry.
    """

    settings: SynthesisConfig
    prompter: Prompter
    generator: str

    def author(self, unit: Unit, version: str) -> Author:
        """Whoever writes the reflections of one unit and step."""
        return Author(self.generator, version, unit.shard)

    def readings(self, unit: Unit) -> list[Reading]:
        """The unit, cut as ``synthesis.call_chars`` says."""
        return readings(unit, self.settings.call_chars)


def by_reading(
    parts: Iterable[Reading], rows: Iterable[Reflection]
) -> list[tuple[Reading, list[tuple[int, Reflection]]]]:
    """Each reading with (passage number, pair) of the pairs that rest on it, in passage order.

    A pair of several readings belongs to the first of them.
    """
    found: list[tuple[Reading, list[tuple[int, Reflection]]]] = [(part, []) for part in parts]
    places = {
        passage.chunk.id: (at, passage.number)
        for at, (reading, _) in enumerate(found)
        for passage in reading.passages
    }
    for row in rows:
        cited = [places[chunk] for chunk in row.chunks if chunk in places]
        if cited:
            at, number = min(cited)
            found[at][1].append((number, row))
    return [(reading, sorted(mine, key=lambda item: item[0])) for reading, mine in found]


def listed(pairs: Iterable[tuple[int, Reflection]]) -> list[ListedPair]:
    """Pairs as a prompt with passages lists them."""
    return [ListedPair(row.question, row.answer, passage=number) for number, row in pairs]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of at most ``size`` items, as equal as they can be."""
    count = -(-len(items) // size)
    edges = [len(items) * index // count for index in range(count + 1)] if count else []
    for low, high in pairwise(edges):
        yield items[low:high]


def version_of(*prompts: Prompt) -> str:
    """The version of a step that uses these prompts."""
    return "+".join(prompt.version for prompt in prompts)
