"""A question in two wordings: a memory that misses one often knows the other.

A memory is taught each fact in several wordings, one of them the words that a person types into
a search box. People ask otherwise than any of these; brought into that form, their questions come
nearer to what was trained. Both wordings run in one batch, the more certain answer counts, and
whether the two agree is one of the numbers that confidence is calibrated on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memo_dist.evaluation.metrics import normalise
from memo_dist.memory.answering import FEATURES, RawAnswer
from memo_dist.memory.loading import Memories
from memo_dist.synthesis.embedded.keywords import search_words

_CERTAINTY = FEATURES.index("mean_logprob")
_AGREEMENT = FEATURES.index("agreement")


def wordings(question: str) -> tuple[str, ...]:
    """The question, and its search-box wording where there is another one."""
    typed = search_words(question, "")
    return (question,) if typed in (None, question) else (question, str(typed))


def answer_wordings(
    memory: Memories,
    questions: Sequence[str],
    batch_size: int,
    reworded: bool,
    likelihood: bool = False,
) -> dict[int, list[RawAnswer]]:
    """As :meth:`Memories.answer`; ``reworded``: each question asked in all its wordings at once.

    A batch has ``batch_size`` rows, wordings counted.
    """
    if not reworded:
        return memory.answer(questions, batch_size, likelihood)
    asked = [wordings(question) for question in questions]
    raws = memory.answer([text for texts in asked for text in texts], batch_size, likelihood)
    merged: dict[int, list[RawAnswer]] = {}
    for shard, answers in raws.items():
        rest = iter(answers)
        merged[shard] = [most_certain([next(rest) for _ in texts]) for texts in asked]
    return merged


def most_certain(answers: Sequence[RawAnswer]) -> RawAnswer:
    """The answer with the highest mean log-probability, the first one of equals.

    Its agreement is the share of the answers with its (normalised) text; tokens and seconds are
    those of all, the question's log-probability is the mean.
    """
    best = max(answers, key=lambda answer: answer.features[_CERTAINTY])
    text = normalise(best.text)
    features = list(best.features)
    features[_AGREEMENT] = sum(normalise(a.text) == text for a in answers) / len(answers)
    return replace(
        best,
        features=tuple(features),
        question_logprob=sum(answer.question_logprob for answer in answers) / len(answers),
        tokens=sum(answer.tokens for answer in answers),
        seconds=sum(answer.seconds for answer in answers),
    )
