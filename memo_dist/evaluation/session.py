"""One evaluation of a run from beginning to end: memory, baselines, tables, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError, suggest
from memo_dist.evaluation.baselines import Answerer
from memo_dist.evaluation.methods import (
    FusionAnswerer,
    MemoryAnswerer,
    ProtocolAnswerer,
    build_baselines,
)
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.report import write_report
from memo_dist.evaluation.results import load_evaluation
from memo_dist.evaluation.run import evaluate
from memo_dist.evaluation.scoring import Scores
from memo_dist.evaluation.table import scores_text, types_text
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.protocol.session import ProtocolSession, check_executive

STREAMED_QUESTIONS = 1024
"""Questions a call where shards are loaded anew for each: their answers are written together."""
PROTOCOL_MODES = {
    "protocol": "",
    "protocol-full": "full",
    "protocol-one-turn": "one_turn",
    "protocol-multi-turn": "multi_turn",
}
"""Modes that ask an executive, and their variant ("": ``protocol.variant``)."""
MODES = ("direct", "logits", "latent", *PROTOCOL_MODES)
"""What ``evaluate --modes`` may name."""


def check_modes(modes: Sequence[str], config: Config) -> None:
    """Refuse modes that cannot be evaluated.

    Raises:
        UsageError: none or an unknown one is named, one twice, or its executive is missing.
    """
    for mode in modes:
        if mode not in MODES:
            raise UsageError(
                f"--modes: unknown mode '{mode}'{suggest(mode, MODES)}; modes are"
                f" {', '.join(MODES)}"
            )
    if not modes or len(set(modes)) != len(modes):
        raise UsageError(f"--modes {','.join(modes)}: name each mode once, and at least one")
    if set(modes) & set(PROTOCOL_MODES):
        check_executive(config)


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
        modes: ways of asking the memory, of :data:`MODES`.

    Returns:
        The scores and the tables for a terminal.
    """
    check_modes(modes, config)
    bank = Bank.load(
        run.memory,
        run.reflections,
        config.memory.max_answer_tokens,
        loaded_gb=config.memory.loaded_gb,
    )
    building = _Building(run, config, name, bank, should_stop)
    with ExitStack() as stack:
        methods: dict[str, Answerer] = {mode: building.method(mode, stack) for mode in modes}
        methods |= build_baselines(run, config, questions)
        scores = evaluate(run, config, questions, name, methods, should_stop)
    write_report(run)
    verdicts = load_evaluation(run.eval(name)).verdicts
    tables = scores_text(scores) + types_text(verdicts)
    return scores, tables + "".join(_failed_calls(mode, methods[mode]) for mode in modes)


class _Building:
    """Builds the methods of an evaluation's modes."""

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        name: str,
        bank: Bank,
        should_stop: Callable[[], bool],
    ) -> None:
        self._run, self._config, self._name = run, config, name
        self._bank, self._should_stop = bank, should_stop
        self._ask = partial(bank.answer, batch_size=config.evaluate.batch_size)

    def method(self, mode: str, stack: ExitStack) -> Answerer:
        """The method of one mode; what it holds open is closed with the stack."""
        if mode == "logits":
            from memo_dist.fusion.logits.answering import FusedBank

            return FusionAnswerer(FusedBank.load(self._run, self._config, self._bank), self._run)
        if mode == "latent":
            from memo_dist.fusion.latent.answering import LatentBank

            return FusionAnswerer(LatentBank.load(self._run, self._config, self._bank), self._run)
        if mode == "direct":
            at_once = STREAMED_QUESTIONS if self._bank.streams else 0
            limit = self._config.memory.max_answer_tokens
            return MemoryAnswerer(self._ask, self._run.memory, at_once, limit)
        variant = PROTOCOL_MODES[mode] or self._config.protocol.variant
        config = replace(self._config, protocol=replace(self._config.protocol, variant=variant))
        folder = self._run.eval(self._name) / mode
        session = ProtocolSession(config, self._ask, folder, self._should_stop)
        return ProtocolAnswerer(stack.enter_context(session), config, self._run.memory)


def _failed_calls(mode: str, method: Answerer) -> str:
    if not isinstance(method, ProtocolAnswerer) or not method.failed:
        return ""
    return f"{mode}: {method.failed} of {method.calls} calls of the executive gave no valid reply\n"
