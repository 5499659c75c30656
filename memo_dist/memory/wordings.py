"""A question in several wordings: a memory that misses one often knows another.

A memory is taught each fact in several wordings, and people ask otherwise than any of these. All
wordings of a question run in the same batches. Equal answers are counted together, and the answer
with the largest summed probability counts (self-consistency, arXiv 2203.11171, over wordings
instead of samples); the share of the wordings that agree is one of the numbers that confidence is
calibrated on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from memo_dist.answers.rewording import rewordings
from memo_dist.answers.text import answer_key
from memo_dist.memory.answering import FEATURES, RawAnswer, Reading
from memo_dist.memory.grouping import Item, joined, parted
from memo_dist.memory.loading import Memories

_CERTAINTY = FEATURES.index("mean_logprob")
_AGREEMENT = FEATURES.index("agreement")


def answer_wordings(
    memory: Memories, asked: Mapping[int, Sequence[str]], batch_size: int, count: int
) -> dict[int, list[RawAnswer]]:
    """As :meth:`Memories.answer`, each question asked in up to ``count`` wordings at once.

    A batch has ``batch_size`` rows, wordings counted.
    """
    texts = {shard: _all_wordings(questions, count) for shard, questions in asked.items()}
    raws = memory.answer({shard: joined(rows) for shard, rows in texts.items()}, batch_size)
    return {
        shard: [agreed(answers) for answers in _by_question(raws[shard], rows)]
        for shard, rows in texts.items()
    }


def read_wordings(
    memory: Memories, questions: Sequence[str], batch_size: int, count: int
) -> dict[int, list[Reading]]:
    """As :meth:`Memories.read`, each question read in up to ``count`` wordings at once.

    The log-probability is the mean over wordings, tokens and seconds are those of all.
    """
    texts = _all_wordings(questions, count)
    read = memory.read(joined(texts), batch_size)
    return {
        shard: [_all_of(rows) for rows in _by_question(found, texts)]
        for shard, found in read.items()
    }


def _all_of(readings: Sequence[Reading]) -> Reading:
    logprob = sum(read.logprob for read in readings) / len(readings)
    seconds = sum(read.seconds for read in readings)
    return Reading(logprob, sum(read.tokens for read in readings), seconds)


def _all_wordings(questions: Sequence[str], count: int) -> list[tuple[str, ...]]:
    return [rewordings(question, count) for question in questions]


def _by_question(found: Sequence[Item], texts: Sequence[Sequence[str]]) -> list[list[Item]]:
    """What was found for all wordings in a row, by question."""
    return parted(found, [len(row) for row in texts])


def agreed(answers: Sequence[RawAnswer]) -> RawAnswer:
    """The answer on which most probability lies, in its most certain wording.

    The probability of an answer is exp of its mean log-probability a token; those of equal
    (normalised) texts are summed. Of equals the first counts. ``agreement`` becomes the share of
    the answers with this text; tokens and seconds are those of all.
    """
    groups: dict[tuple[str, ...], list[RawAnswer]] = {}
    for answer in answers:
        groups.setdefault(answer_key(answer.text), []).append(answer)
    group = max(groups.values(), key=lambda group: sum(map(_probability, group)))
    best = max(group, key=_probability)
    features = list(best.features)
    features[_AGREEMENT] = len(group) / len(answers)
    return replace(
        best,
        features=tuple(features),
        tokens=sum(answer.tokens for answer in answers),
        seconds=sum(answer.seconds for answer in answers),
    )


def _probability(answer: RawAnswer) -> float:
    return math.exp(answer.features[_CERTAINTY])
