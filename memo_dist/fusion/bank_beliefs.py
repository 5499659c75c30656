"""Between a bank and a fusion: what its shards believe of a question, and the answer in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from memo_dist.answers.answer import Answer
from memo_dist.answers.text import answer_key
from memo_dist.errors import UsageError
from memo_dist.fusion.types import Belief, Fused, FusedText, Request
from memo_dist.memory.bank import Bank, Vote
from memo_dist.memory.calibration import is_abstention


def requests_of(
    bank: Bank, questions: Sequence[str], votes: Sequence[Sequence[Vote]]
) -> list[Request]:
    """A request for each question, with a belief for each of the bank's shards, in their order.

    Raises:
        UsageError: a document is being forgotten: a fusion reads the states of all shards, so no
            part of its text could be told to come from other documents alone.
    """
    if bank.withheld is not None and bank.withheld.documents():
        raise UsageError(
            "documents of this memory were forgotten and their shards are not trained again yet:"
            " ask with --mode direct until `memo-dist forget` has ended, then run `memo-dist fuse`"
        )
    found = []
    for question, row in zip(questions, votes, strict=True):
        by_shard = {vote.shard.id: vote for vote in row}
        found.append(Request(question, tuple(_belief(by_shard[s.id]) for s in bank.shards)))
    return found


def fused_answers(
    questions: Sequence[str], votes: Sequence[Sequence[Vote]], texts: Sequence[FusedText]
) -> list[Fused]:
    """Texts with the sources of the shard that says the same, and a confidence.

    That of calibration where a shard says the same; else the mean probability of the tokens, which
    nothing calibrates.
    """
    rows = zip(questions, votes, texts, strict=True)
    return [Fused(_answer(question, row, text), text) for question, row, text in rows]


def _belief(vote: Vote) -> Belief:
    raw, verdict = vote.raw, vote.verdict
    return Belief(raw.asked, verdict.confidence, verdict.abstained, raw.text, vote.heard)


def _answer(question: str, votes: Sequence[Vote], text: FusedText) -> Answer:
    spoken = [vote for vote in votes if not vote.verdict.abstained]
    same = [v for v in spoken if answer_key(v.raw.text) == answer_key(text.text)]
    abstained = is_abstention(text.text)
    mean = math.exp(sum(text.log_probs) / max(len(text.log_probs), 1))
    chosen = [vote.shard.id for vote in same[:1]]
    others = [vote.shard.id for vote in votes if vote.shard.id not in chosen]
    return Answer(
        text="" if abstained else text.text,
        confidence=same[0].verdict.confidence if same else mean,
        abstained=abstained,
        sources=same[0].shard.sources.find(question, text.text) if same and not abstained else (),
        shards=(*chosen, *others),
        seconds=text.seconds + sum(vote.raw.seconds for vote in votes),
        tokens=text.read + sum(vote.raw.tokens for vote in votes),
        calls=1 + len(votes) + len(spoken),
        refused=text.text if abstained else "",
    )
