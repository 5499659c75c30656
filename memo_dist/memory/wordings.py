"""A question in two wordings: a memory that misses one often knows the other.

A memory is taught each fact in several wordings, one of them the words that a person types into
a search box. People ask otherwise than any of these; brought into that form, their questions come
nearer to what was trained. Both wordings run in one batch, the more certain answer counts, and
whether the two agree is one of the numbers that confidence is calibrated on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memo_dist.answers.keywords import search_words
from memo_dist.answers.text import normalise
from memo_dist.memory.answering import FEATURES, RawAnswer, Reading
from memo_dist.memory.grouping import Item, joined, parted
from memo_dist.memory.loading import Memories

_CERTAINTY = FEATURES.index("mean_logprob")
_AGREEMENT = FEATURES.index("agreement")


def wordings(question: str) -> tuple[str, ...]:
    """The question, and its search-box wording where there is another one."""
    typed = search_words(question, "")
    return (question,) if typed in (None, question) else (question, str(typed))


def answer_wordings(
    memory: Memories, asked: Mapping[int, Sequence[str]], batch_size: int, reworded: bool
) -> dict[int, list[RawAnswer]]:
    """As :meth:`Memories.answer`; ``reworded``: each question asked in all its wordings at once.

    A batch has ``batch_size`` rows, wordings counted.
    """
    texts = {shard: _all_wordings(questions, reworded) for shard, questions in asked.items()}
    raws = memory.answer({shard: joined(rows) for shard, rows in texts.items()}, batch_size)
    return {
        shard: [most_certain(answers) for answers in _by_question(raws[shard], rows)]
        for shard, rows in texts.items()
    }


def read_wordings(
    memory: Memories, questions: Sequence[str], batch_size: int, reworded: bool
) -> dict[int, list[Reading]]:
    """As :meth:`Memories.read`; ``reworded``: each question read in all its wordings at once.

    The log-probability is the mean over wordings, tokens and seconds are those of all.
    """
    texts = _all_wordings(questions, reworded)
    read = memory.read(joined(texts), batch_size)
    return {
        shard: [_all_of(rows) for rows in _by_question(found, texts)]
        for shard, found in read.items()
    }


def _all_of(readings: Sequence[Reading]) -> Reading:
    logprob = sum(read.logprob for read in readings) / len(readings)
    seconds = sum(read.seconds for read in readings)
    return Reading(logprob, sum(read.tokens for read in readings), seconds)


def _all_wordings(questions: Sequence[str], reworded: bool) -> list[tuple[str, ...]]:
    return [wordings(question) if reworded else (question,) for question in questions]


def _by_question(found: Sequence[Item], texts: Sequence[Sequence[str]]) -> list[list[Item]]:
    """What was found for all wordings in a row, by question."""
    return parted(found, [len(row) for row in texts])


def most_certain(answers: Sequence[RawAnswer]) -> RawAnswer:
    """The answer with the highest mean log-probability, the first one of equals.

    Its agreement is the share of the answers with its (normalised) text; tokens and seconds are
    those of all.
    """
    best = max(answers, key=lambda answer: answer.features[_CERTAINTY])
    text = normalise(best.text)
    features = list(best.features)
    features[_AGREEMENT] = sum(normalise(a.text) == text for a in answers) / len(answers)
    return replace(
        best,
        features=tuple(features),
        tokens=sum(answer.tokens for answer in answers),
        seconds=sum(answer.seconds for answer in answers),
    )
