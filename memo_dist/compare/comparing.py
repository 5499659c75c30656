"""A comparison from beginning to end: every method, the statistics, the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memo_dist.compare.apart import run_apart
from memo_dist.compare.breakeven import BreakEven, break_even
from memo_dist.compare.judge import Judgement, judge_answers
from memo_dist.compare.method import corpus_identity
from memo_dist.compare.prices import load_prices
from memo_dist.compare.readers import DEFAULT_CONTEXT, ReaderChoice, choose_reader
from memo_dist.compare.registry import METHODS, ROWS_VERSION, check_methods, origin
from memo_dist.compare.rows import Answered, Pricing, TableRow, judged, table_row
from memo_dist.compare.task import CACHE, REQUESTS, Outcome, Task, finished, replies_of, run_task
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import load_chunks, load_documents
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.evaluation.methods import memory_identity
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.scoring import Comparison, compare
from memo_dist.evaluation.statistics import holm
from memo_dist.io.hashing import hash_file, hash_value, short_hash
from memo_dist.io.runfolder import RunFolder, is_plain_name
from memo_dist.llm.reopening import reopen_requests
from memo_dist.memory.manifest import FILE_NAME

QUESTIONS_PER_DAY = 1000.0
"""Of the daily use for which the updates are compared."""
JUDGED = "judge.jsonl"
"""The requests to the judge."""
_FREE = ("urls", "api_key_env", "patience", "retries")
"""Keys of ``executive`` that change no answer."""


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        run, config: the run and its configuration with the command's own values.
        questions: asked of every method.
        name: of the comparison, a plain folder name.
        methods: names of the rows, in their order; those of ``predictions`` among them.
        predictions: files of answers, by the name of their row.
        reader: the shared reader.
    """

    run: RunFolder
    config: Config
    questions: Sequence[Question]
    name: str
    methods: Sequence[str]
    predictions: Mapping[str, Path]
    reader: ReaderChoice


@dataclass(frozen=True)
class Pair:
    """Two methods on the same questions, the p value adjusted over all such pairs (Holm)."""

    comparison: Comparison
    p_holm: float


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    Attributes:
        plan: what was compared.
        rows: of all methods.
        answered: replies and verdicts by method.
        pairs: the reference against each other method that answered.
        reference: the memory where it answered, else the first method that did; "": none did.
        breaks: the reference's expense against each other's, where both are known.
        currency: of all money.
        judgement: of the judge; None: none was asked, or it could not be reached.
        no_judgement: why there is none, where one was asked.
    """

    plan: Plan
    rows: Sequence[TableRow]
    answered: Mapping[str, Answered]
    pairs: Sequence[Pair]
    reference: str
    breaks: Sequence[BreakEven]
    currency: str
    judgement: Judgement | None = None
    no_judgement: str = ""


Work = Callable[[Task, Callable[[], bool]], Outcome]


def make_plan(  # noqa: PLR0913 - the choices of the compare verb
    run: RunFolder,
    config: Config,
    questions: Sequence[Question],
    name: str,
    methods: Sequence[str],
    predictions: Mapping[str, Path],
    reader: str,
) -> Plan:
    """Check what is to be compared, before anything is loaded.

    Raises:
        UsageError: an unknown or doubled method, no memory, no such reader, or a bad name.
    """
    run = run.pin()
    if not (run.memory / FILE_NAME).exists():
        raise UsageError(f"there is no memory to compare in {run.root}: run encode first")
    check_methods(methods)
    every = [*methods, *predictions]
    doubled = sorted({method for method in every if every.count(method) > 1})
    if doubled:
        raise UsageError(f"the method '{doubled[0]}' is named twice")
    if not every:
        raise UsageError("--methods names no method")
    for method in every:
        if not is_plain_name(method):
            raise UsageError(f"the method '{method}' cannot name files: its name must be plain")
    if not is_plain_name(name) or name == CACHE:
        raise UsageError(f"'{name}' cannot name a comparison: write a plain folder name")
    for file in predictions.values():
        if not file.is_file():
            raise UsageError(f"cannot read the predictions {file}: there is no such file")
    load_prices(config.compare.prices).machine(config.compare.machine)
    if config.executive.kind != "none" or config.compare.judge != "none":
        from memo_dist.protocol.session import check_executive

        check_executive(config)
    return Plan(run, config, questions, name, every, predictions, choose_reader(reader, config))


def compare_methods(plan: Plan, should_stop: Callable[[], bool], work: Work = run_apart) -> Result:
    """Let every method answer, then judge and compare; what is finished is not done again.

    Args:
        plan: what is compared.
        should_stop: polled while methods work.
        work: runs one task; :func:`memo_dist.compare.task.run_task` stays in this process.

    Raises:
        StoppedError: ``should_stop`` said so; replies so far are kept.
    """
    prices = load_prices(plan.config.compare.prices)
    price = prices.models.get(plan.config.executive.model)
    context = price.context if price and price.context else DEFAULT_CONTEXT
    outcomes: dict[str, Outcome] = {}
    folder = plan.run.compare(plan.name)
    folder.mkdir(parents=True, exist_ok=True)
    for journal in (folder / REQUESTS, folder / JUDGED):
        reopen_requests(journal)
    shared = _shared_key(plan)
    for method in plan.methods:
        task = _task(plan, method, folder, context, shared)
        # A file of answers needs no process of its own: it loads nothing.
        do = run_task if task.predictions is not None else work
        outcomes[method] = finished(task) or do(task, should_stop)
        if outcomes[method].state == "stopped" and should_stop():
            raise StoppedError("the comparison was stopped: run the same command again")
    how = Pricing(
        prices,
        plan.config.compare.machine,
        plan.reader.label if plan.reader.folder is None else plan.config.executive.model,
        plan.config.evaluate.bootstrap,
        plan.config.run.seed,
    )
    result = _result(plan, folder, outcomes, how)
    return (
        result if plan.config.compare.judge == "none" else _with_judge(result, folder, should_stop)
    )


def _with_judge(result: Result, folder: Path, should_stop: Callable[[], bool]) -> Result:
    """A judge that fails is no reason to lose the table."""
    plan = result.plan
    journal = folder / JUDGED
    try:
        found = judge_answers(plan.config, plan.questions, result.answered, journal, should_stop)
    except RunError as error:
        return replace(result, no_judgement=str(error))
    return replace(result, judgement=found)


def _task(plan: Plan, method: str, folder: Path, context: int, shared: str) -> Task:
    file = plan.predictions.get(method)
    own = hash_file(file) if file else origin(method)
    return Task(
        run=plan.run,
        config=plan.config,
        questions=tuple(plan.questions),
        folder=folder,
        method=method,
        reader=plan.reader,
        context=context,
        predictions=file,
        key=short_hash([shared, method, own, context]),
    )


def _shared_key(plan: Plan) -> str:
    """Hash of all that can change a row, beside the method's own code."""
    config = plan.config
    executive = {k: v for k, v in asdict(config.executive).items() if k not in _FREE}
    documents, chunks = load_documents(plan.run.corpus), list(load_chunks(plan.run.corpus))
    values: list[Any] = [
        ROWS_VERSION,
        memory_identity(plan.run.memory),
        corpus_identity(documents, chunks),
        plan.reader.identity,
        [asdict(question) for question in plan.questions],
        {k: v for k, v in asdict(config.compare).items() if k not in ("prices", "machine")},
        asdict(config.train),
        asdict(config.fusion),
        asdict(config.protocol),
        executive,
        config.evaluate.passages,
        config.memory.max_answer_tokens,
        config.run.seed,
    ]
    return hash_value(values)


def _result(plan: Plan, folder: Path, outcomes: Mapping[str, Outcome], how: Pricing) -> Result:
    answered = {name: _answered(plan, folder, name, end) for name, end in outcomes.items()}
    rows = [
        table_row(name, meaning(name), outcomes[name], answered[name], how) for name in plan.methods
    ]
    reference = reference_of(rows)
    pairs = _pairs(reference, answered, how)
    return Result(
        plan, rows, answered, pairs, reference, breaks_of(reference, rows), how.prices.currency
    )


def _answered(plan: Plan, folder: Path, method: str, outcome: Outcome) -> Answered:
    known = replies_of(folder / f"replies-{method}.jsonl", method, outcome.identity)
    return judged(plan.questions, [known.get(question) for question in plan.questions])


def meaning(method: str) -> str:
    """What a method is, in a phrase."""
    return METHODS[method].meaning if method in METHODS else "an outside method"


def reference_of(rows: Sequence[TableRow]) -> str:
    """The method that all others are compared with."""
    answered = [row.method for row in rows if row.n]
    memories = [name for name in answered if name == "memory" or name.startswith("memory_")]
    return next(iter([*memories, *answered]), "")


def _pairs(reference: str, answered: Mapping[str, Answered], how: Pricing) -> list[Pair]:
    verdicts = {name: found.verdicts for name, found in answered.items() if found.verdicts}
    if reference not in verdicts:
        return []
    ordered = {reference: verdicts[reference], **verdicts}
    every = compare(ordered, how.bootstrap, how.seed, unanswerable=True)
    own = [one for one in every if one.first == reference]
    adjusted = holm([one.p_value for one in own])
    return [Pair(one, p) for one, p in zip(own, adjusted, strict=True)]


def breaks_of(reference: str, rows: Sequence[TableRow]) -> list[BreakEven]:
    """The reference's expense against each other method's."""
    known = {row.method: row.expense for row in rows}
    own = known.get(reference)
    others = [one for name, one in known.items() if one is not None and name != reference]
    return [break_even(own, one, QUESTIONS_PER_DAY) for one in others] if own else []
