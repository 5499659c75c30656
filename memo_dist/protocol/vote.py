"""The majority vote over a question's wordings."""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.answers.answer import Answer
from memo_dist.answers.text import answer_key
from memo_dist.protocol.types import Ballot


def vote(answers: Sequence[Answer]) -> Ballot:
    """Count the memory's answers to the wordings of one question (at least one).

    Answers that are equal without case, punctuation and articles are one party (C++ and C are
    two), abstentions are another; the largest party wins. Among equally large ones an answer
    beats silence, then the larger sum of confidences decides, then the earlier wording.
    """
    parties: dict[tuple[str, ...], list[Answer]] = {}
    for answer in answers:
        key = () if answer.abstained else answer_key(answer.text)
        parties.setdefault(key, []).append(answer)
    # max() keeps the first of equals: the party of the earlier wording.
    key = max(parties, key=lambda k: (len(parties[k]), k != (), _confidence(parties[k])))
    winners = parties[key]
    best = max(winners, key=lambda answer: answer.confidence)
    return Ballot(
        text="" if key == () else " ".join(best.text.split()),
        silent=key == (),
        votes=len(winners),
        wordings=len(answers),
        confidence=_confidence(winners) / len(winners),
        sources=tuple(dict.fromkeys(name for a in winners for name in a.sources)),
        shards=tuple(dict.fromkeys(a.shards[0] for a in winners if a.shards)),
        answers=tuple(answers),
    )


def _confidence(answers: Sequence[Answer]) -> float:
    return sum(answer.confidence for answer in answers)
