"""One evaluation of a run from beginning to end: memory, baselines, tables, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from memo_dist.config.schema import Config
from memo_dist.evaluation.methods import MemoryAnswerer, build_baselines
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.report import write_report
from memo_dist.evaluation.results import load_evaluation
from memo_dist.evaluation.run import evaluate
from memo_dist.evaluation.scoring import Scores
from memo_dist.evaluation.table import scores_text, types_text
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank

STREAMED_QUESTIONS = 1024
"""Questions a call where shards are loaded anew for each: their answers are written together."""


def evaluate_run(
    run: RunFolder,
    config: Config,
    questions: Sequence[Question],
    name: str,
    should_stop: Callable[[], bool],
) -> tuple[Scores, str]:
    """Score the run's memory beside its baselines and write the report.

    Returns:
        The scores and the tables for a terminal.
    """
    bank = Bank.load(
        run.memory,
        run.reflections,
        config.memory.max_answer_tokens,
        loaded_gb=config.memory.loaded_gb,
    )
    ask = partial(bank.answer, batch_size=config.evaluate.batch_size)
    methods = {
        "direct": MemoryAnswerer(
            ask, run.memory, at_once=STREAMED_QUESTIONS if bank.streams else 0
        ),
        **build_baselines(run, config, questions),
    }
    scores = evaluate(run, config, questions, name, methods, should_stop)
    write_report(run)
    verdicts = load_evaluation(run.eval(name)).verdicts
    return scores, scores_text(scores) + types_text(verdicts)
