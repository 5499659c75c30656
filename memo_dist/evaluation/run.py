"""One evaluation: every method answers, every answer is judged, scores are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memo_dist.answering import MODES
from memo_dist.config.schema import Config
from memo_dist.errors import InterruptedRunError, StoppedError, UsageError
from memo_dist.evaluation.baselines import BASELINES, Method
from memo_dist.evaluation.mistakes import Mistake, find_mistakes
from memo_dist.evaluation.predictions import answers_of
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.results import MISTAKES, TRAINED, TrainedRecall, TrainedSummary
from memo_dist.evaluation.scoring import Scores, Verdict, compare, judge, score
from memo_dist.evaluation.trained import Trained
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value
from memo_dist.io.runfolder import RunFolder, is_plain_name
from memo_dist.observability.progress import progress
from memo_dist.observability.status import StatusWriter

SCHEMA_VERSION = 1
ASKED_TRAINED = "direct"
"""The mode that is asked trained questions: the memory alone."""


def evaluate(  # noqa: PLR0913 - the seam of the evaluate verb; every argument is a choice of it
    run: RunFolder,
    config: Config,
    questions: Sequence[Question],
    name: str,
    methods: Mapping[str, Method],
    should_stop: Callable[[], bool] = lambda: False,
    trained: Trained | None = None,
) -> Scores:
    """Ask every method, judge the answers, and write ``RUN/eval/<name>/``.

    ``predictions-<method>.jsonl`` grows batch by batch, so a killed evaluation goes on where it
    was; ``results.jsonl`` (judged answers), ``scores.json``, ``comparisons.json``,
    ``mistakes.jsonl`` and ``trained.json`` (with ``trained``) and, last, ``manifest.json`` are
    written once all methods have answered.

    Args:
        run: the run folder.
        config: ``evaluate`` and ``run.seed`` are used.
        questions: what is asked; baselines that read may answer only the first of them.
        name: the evaluation's name, a plain folder name.
        methods: the methods by name, in the order of the table.
        should_stop: polled between batches.
        trained: what the memory was trained on: its wrong answers are compared with it, and the
            mode ``direct`` is asked a sample of it (``evaluate.trained_sample``).

    Raises:
        UsageError: no question, no method, or the name is not a folder name.
        StoppedError: ``should_stop`` said so; what was answered is kept.
    """
    _check(config, questions, name, methods)
    folder = run.eval(name)
    status = StatusWriter(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    asking = _Asking(folder, config.evaluate.batch_size, status, should_stop)
    try:
        verdicts = {
            method: asking.verdicts(method, answerer, _asked(config, method, questions))
            for method, answerer in methods.items()
        }
        found = _compare_with_training(config, asking, methods, verdicts, trained)
        scores = _write(folder, config, questions, methods, verdicts, found)
    except (StoppedError, InterruptedRunError, KeyboardInterrupt):
        status.status("stopped")
        raise
    except BaseException as error:
        status.status("failed", error=f"{type(error).__name__}: {error}")
        raise
    status.status("done", questions=len(questions), methods=list(methods))
    return scores


@dataclass(frozen=True)
class _Asking:
    """Asks methods batch by batch; what was answered before is not asked again."""

    folder: Path
    batch_size: int
    status: StatusWriter
    should_stop: Callable[[], bool]

    def verdicts(
        self, method: str, answerer: Method, questions: Sequence[Question]
    ) -> list[Verdict]:
        """One method's judged answers, in the order of the questions."""
        path = self.folder / f"predictions-{method}.jsonl"
        known = answers_of(path, method, answerer.identity)
        open_questions = [q for q in questions if known.get(q) is None]
        done = len(questions) - len(open_questions)
        with progress(len(questions), f"evaluate {method}", done=done, unit="questions") as bar:
            size = max(self.batch_size, getattr(answerer, "at_once", 0))
            for start in range(0, len(open_questions), size):
                self._poll(method, len(questions))
                batch = open_questions[start : start + size]
                answers = answerer.answer([q.question for q in batch])
                known.append(batch, answers, getattr(answerer, "passing", ()))
                bar.advance(len(batch))
        given = [(q, known.get(q)) for q in questions]
        return [judge(question, answer) for question, answer in given if answer is not None]

    def _poll(self, method: str, total: int) -> None:
        if self.should_stop():
            raise StoppedError(
                "evaluation stopped, the answers so far are kept: run the same command again"
            )
        self.status.status("running", method=method, questions=total)


@dataclass(frozen=True)
class _Training:
    """Mistakes of the modes, and what is known of the training."""

    mistakes: list[Mistake]
    summary: TrainedSummary


def _compare_with_training(
    config: Config,
    asking: _Asking,
    methods: Mapping[str, Method],
    verdicts: Mapping[str, Sequence[Verdict]],
    trained: Trained | None,
) -> _Training | None:
    """Ask the memory some trained questions, and find out why its answers are wrong."""
    if trained is None:
        return None
    sample = trained.sample(config.evaluate.trained_sample, config.run.seed)
    recall = {
        mode: TrainedRecall.of(asking.verdicts(f"{mode}-trained", methods[mode], sample))
        for mode in methods
        if mode == ASKED_TRAINED and sample
    }
    mistakes = [
        mistake
        for mode, rows in verdicts.items()
        if mode in MODES and trained.taught
        for mistake in find_mistakes(mode, rows, trained.taught)
    ]
    return _Training(mistakes, TrainedSummary(len(trained.rows), trained.missing, recall))


def _check(
    config: Config, questions: Sequence[Question], name: str, methods: Mapping[str, Method]
) -> None:
    if not questions:
        raise UsageError("there is no question to evaluate")
    if not methods:
        raise UsageError("there is no method to evaluate")
    if config.evaluate.batch_size < 1:
        raise UsageError(f"evaluate.batch_size is {config.evaluate.batch_size}; write 1 or more")
    if not is_plain_name(name):
        raise UsageError(f"'{name}' cannot name an evaluation: write a plain folder name")


def _asked(config: Config, method: str, questions: Sequence[Question]) -> Sequence[Question]:
    reads = method in BASELINES and BASELINES[method].reads
    limit = config.evaluate.baseline_limit if reads else 0
    return questions[:limit] if limit else questions


def _write(  # noqa: PLR0913 - all that an evaluation's folder holds
    folder: Path,
    config: Config,
    questions: Sequence[Question],
    methods: Mapping[str, Method],
    verdicts: Mapping[str, Sequence[Verdict]],
    training: _Training | None,
) -> Scores:
    """Write the results, the manifest last: it says that all of them belong together."""
    seed, resamples = config.run.seed, config.evaluate.bootstrap
    scores = {method: score(rows, resamples, seed) for method, rows in verdicts.items()}
    atomic.write_jsonl(
        folder / "results.jsonl",
        (row.to_json(method) for method, rows in verdicts.items() for row in rows),
    )
    atomic.write_json(folder / "scores.json", {m: asdict(s) for m, s in scores.items()})
    compared = [asdict(comparison) for comparison in compare(verdicts, resamples, seed)]
    atomic.write_json(folder / "comparisons.json", compared)
    _write_training(folder, training)
    atomic.write_json(
        folder / "manifest.json",
        {
            "schema_version": SCHEMA_VERSION,
            "questions": {
                "n": len(questions),
                "sha256": hash_value([asdict(question) for question in questions]),
            },
            "methods": [
                {"name": name, "identity": answerer.identity, "n": scores[name].n}
                for name, answerer in methods.items()
            ],
            "config": {"evaluate": asdict(config.evaluate), "run.seed": config.run.seed},
        },
    )
    return scores


def _write_training(folder: Path, training: _Training | None) -> None:
    """Write what was compared with the training; nothing of an earlier evaluation stays."""
    for name in (MISTAKES, TRAINED):
        (folder / name).unlink(missing_ok=True)
    if training is None:
        return
    if not training.summary.missing:
        atomic.write_jsonl(folder / MISTAKES, (asdict(mistake) for mistake in training.mistakes))
    atomic.write_json(folder / TRAINED, asdict(training.summary))
