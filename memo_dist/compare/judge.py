"""A language model as judge, beside the exact metrics, and how often it accepts wrong answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from memo_dist.answers.text import contains, normalise
from memo_dist.compare.asking import ask_endpoint
from memo_dist.compare.rows import Answered
from memo_dist.config.schema import Config
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.statistics import wilson_interval
from memo_dist.llm.prompt_files import PromptFiles
from memo_dist.llm.requests import Failure, Message, Reply, Request
from memo_dist.llm.schemas import choice, record, text_of

PLANTED = 100
"""Most planted answers of each kind."""
_PROMPTS = PromptFiles("memo_dist.compare")
_SCHEMA = text_of(record(verdict=choice("right", "wrong")))


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of judged answers with its 95 % Wilson interval; None without any.

    Attributes:
        n: answers with a verdict.
        accepted: those that the judge called right.
        missing: answers without a verdict: the judge's reply failed.
    """

    n: int
    accepted: int
    missing: int

    @property
    def value(self) -> float | None:
        """The fraction that was accepted."""
        return self.accepted / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % Wilson interval."""
        return wilson_interval(self.accepted, self.n) if self.n else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge said.

    Attributes:
        model: the judge.
        methods: by method, of its answers to answerable questions; a refusal is not shown to the
            judge and counts as not accepted.
        false_accepts: of planted wrong answers (the gold answer of another question).
        true_accepts: of planted right answers (the gold answer itself).
    """

    model: str
    methods: Mapping[str, Share]
    false_accepts: Share
    true_accepts: Share


def judge_answers(
    config: Config,
    questions: Sequence[Question],
    answered: Mapping[str, Answered],
    journal: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> Judgement:
    """Let the model of ``executive`` judge all answers, and planted ones.

    Args:
        config: ``executive`` and ``run.seed``.
        questions: the planted answers are made of theirs.
        answered: by method.
        journal: file of the requests; those in it are not sent again.
        should_stop: polled while replies are awaited.

    Raises:
        RunError: the judge cannot be reached.
        StoppedError: ``should_stop`` said so.
    """
    answerable = [question for question in questions if question.answerable]
    cases: dict[str, list[tuple[Question, str]]] = {
        name: [
            (v.question, v.answer.text)
            for v in found.verdicts
            if v.question.answerable and v.answer.text
        ]
        for name, found in answered.items()
    }
    wrong = list(islice(planted_wrong(answerable), PLANTED))
    right = [(question, question.answer) for question in answerable[:PLANTED]]
    groups = [*cases.values(), wrong, right]
    requests = [_request(config, *case) for group in groups for case in group]
    replies = iter(ask_endpoint(config.executive, requests, journal, should_stop))
    shares = [_share([next(replies) for _ in group]) for group in groups]
    methods = {
        name: _with_refusals(share, answered[name])
        for name, share in zip(cases, shares, strict=False)
    }
    return Judgement(config.executive.model, methods, shares[-2], shares[-1])


def planted_wrong(questions: Sequence[Question]) -> Iterator[tuple[Question, str]]:
    """Each question with the gold answer of a later one that is wrong for it, by both metrics.

    Questions of the same type come first: such an answer is of the right kind.
    """
    for place, question in enumerate(questions):
        others = _later(questions, place)
        answer = next((o.answer for o in others if _is_wrong(o.answer, question)), None)
        if answer is not None:
            yield question, answer


def _later(questions: Sequence[Question], place: int) -> Iterator[Question]:
    """The other questions, those of the same type first, in turn from the next one on."""
    for same in (True, False):
        for step in range(1, len(questions)):
            other = questions[(place + step) % len(questions)]
            if (other.type == questions[place].type) is same:
                yield other


def _is_wrong(answer: str, question: Question) -> bool:
    golds = question.golds
    if contains(answer, golds) or any(contains(gold, [answer]) for gold in golds):
        return False
    return not set(normalise(answer)) & {word for gold in golds for word in normalise(gold)}


def _request(config: Config, question: Question, answer: str) -> Request:
    text = _PROMPTS.render(
        "judge", question=question.question, golds=list(question.golds), answer=answer
    )
    return Request(
        model=config.executive.model,
        messages=(Message("user", text),),
        schema=_SCHEMA,
        max_tokens=config.executive.max_reply_tokens,
        temperature=0.0,
        seed=config.run.seed,
    )


def _share(replies: Sequence[Reply]) -> Share:
    verdicts = [reply.value["verdict"] for reply in replies if not isinstance(reply, Failure)]
    accepted = sum(verdict == "right" for verdict in verdicts)
    return Share(len(verdicts), accepted, len(replies) - len(verdicts))


def _with_refusals(share: Share, answered: Answered) -> Share:
    refused = sum(v.question.answerable and not v.answer.text for v in answered.verdicts)
    return Share(share.n + refused, share.accepted, share.missing)
