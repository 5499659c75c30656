"""One evaluation of a run from beginning to end: memory, baselines, tables, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from memo_dist.answering import Options, check_mode, open_answerer
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.evaluation.findings import findings
from memo_dist.evaluation.methods import MemoryAnswerer, build_baselines
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.report import write_report
from memo_dist.evaluation.results import load_evaluation
from memo_dist.evaluation.run import evaluate
from memo_dist.evaluation.scoring import Scores
from memo_dist.evaluation.table import mistakes_text, scores_text, types_text, wrapped
from memo_dist.evaluation.trained import load_trained
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank


def check_modes(modes: Sequence[str], config: Config) -> None:
    """Refuse modes that cannot be evaluated.

    Raises:
        UsageError: none or an unknown one is named, one twice, or its executive is missing.
    """
    if not modes or len(set(modes)) != len(modes):
        raise UsageError(f"--modes {','.join(modes)}: name each mode once, and at least one")
    for mode in modes:
        check_mode(mode, config)


def evaluate_run(  # noqa: PLR0913 - the seam of the evaluate verb
    run: RunFolder,
    config: Config,
    questions: Sequence[Question],
    name: str,
    should_stop: Callable[[], bool],
    modes: Sequence[str] = ("direct",),
) -> tuple[Scores, str]:
    """Score the run's memory beside its baselines and write the report.

    Args:
        run: the run.
        config: its configuration.
        questions: what is asked.
        name: of the evaluation.
        should_stop: polled between batches and while an executive is asked.
        modes: ways of asking the memory, of :data:`memo_dist.answering.MODES`.

    Returns:
        The scores and the tables for a terminal.
    """
    check_modes(modes, config)
    run = run.pin()
    bank = Bank.of_run(run, config)
    options = Options(bank, config.evaluate.batch_size, should_stop=should_stop)
    with ExitStack() as stack:
        asked: dict[str, MemoryAnswerer] = {}
        for mode in modes:
            where = replace(options, transcripts=run.eval(name) / mode)
            answerer = stack.enter_context(open_answerer(run, config, mode, where))
            asked[mode] = MemoryAnswerer(answerer, run.memory)
        trained = load_trained(run)
        methods = {**asked, **build_baselines(run, config, questions, trained)}
        scores = evaluate(run, config, questions, name, methods, should_stop, trained)
    write_report(run)
    found = load_evaluation(run.eval(name))
    tables = scores_text(scores) + types_text(found.verdicts)
    tables += "".join(f"\n{wrapped(text)}\n" for text in findings(found))
    tables += mistakes_text(found.mistakes)
    return scores, tables + "".join(_failed_calls(mode, method) for mode, method in asked.items())


def _failed_calls(mode: str, method: MemoryAnswerer) -> str:
    if not method.failed:
        return ""
    return f"{mode}: {method.failed} of {method.calls} calls of the executive gave no valid reply\n"
