"""Reading an evaluation back from its folder, in the order in which its methods ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.answering import MODES
from memo_dist.evaluation.mistakes import Mistake
from memo_dist.evaluation.scoring import Comparison, MethodScores, Scores, Verdict
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder

MISTAKES, TRAINED = "mistakes.jsonl", "trained.json"


@dataclass(frozen=True, slots=True)
class TrainedRecall:
    """What a memory makes of questions in the wording that it was trained on.

    Attributes:
        n, right: sampled questions with an answer, and those answered rightly.
        n_abstentions, refused: sampled abstentions, and those where it abstains.
        seconds: that asking them took.
    """

    n: int
    right: int
    n_abstentions: int
    refused: int
    seconds: float

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> TrainedRecall:
        """Count the verdicts of a sample; a trained answer counts at any length."""
        asked = [v for v in verdicts if v.question.answerable]
        others = [v for v in verdicts if not v.question.answerable]
        return cls(
            n=len(asked),
            right=sum(v.right or v.em == 1.0 for v in asked),
            n_abstentions=len(others),
            refused=sum(v.right for v in others),
            seconds=round(sum(v.answer.seconds for v in verdicts), 1),
        )


@dataclass(frozen=True, slots=True)
class TrainedSummary:
    """What an evaluation knows of the training: ``trained.json``.

    Attributes:
        questions: number of trained questions, abstentions among them.
        missing: why they are not known; empty where they are.
        recall: of a sample of them, by mode.
    """

    questions: int
    missing: str
    recall: Mapping[str, TrainedRecall]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TrainedSummary:
        """The inverse of ``dataclasses.asdict`` after a round through JSON."""
        recall = {mode: TrainedRecall(**counts) for mode, counts in row["recall"].items()}
        return cls(row["questions"], row["missing"], recall)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        name: the folder's name under ``RUN/eval``.
        scores: by method, in the order of the table.
        verdicts: judged answers by method.
        comparisons: pairs of methods on the same questions.
        mistakes: wrong answers of each mode of the memory, with their causes; empty where the
            trained questions are not known.
        trained: what is known of the training; None: an earlier version evaluated.
    """

    name: str
    scores: Scores
    verdicts: Mapping[str, list[Verdict]]
    comparisons: list[Comparison]
    mistakes: Mapping[str, list[Mistake]]
    trained: TrainedSummary | None

    @property
    def memory(self) -> str:
        """The method that stands for the memory: the first mode, else the first method."""
        return next((name for name in self.scores if name in MODES), next(iter(self.scores)))


def load_evaluations(run: RunFolder) -> list[Evaluation]:
    """The run's finished evaluations, by name; one without its manifest is not finished."""
    manifests = sorted(run.root.glob("eval/*/manifest.json"))
    return [load_evaluation(manifest.parent) for manifest in manifests]


def load_evaluation(folder: Path) -> Evaluation:
    """Read one finished evaluation."""
    manifest = atomic.read_json(folder / "manifest.json")
    scores = atomic.read_json(folder / "scores.json")
    names = [method["name"] for method in manifest["methods"]]
    verdicts: dict[str, list[Verdict]] = {name: [] for name in names}
    for row in atomic.read_jsonl(folder / "results.jsonl"):
        verdicts[row["method"]].append(Verdict.from_json(row))
    return Evaluation(
        name=folder.name,
        scores={name: MethodScores.from_json(scores[name]) for name in names},
        verdicts=verdicts,
        comparisons=[
            Comparison.from_json(row) for row in atomic.read_json(folder / "comparisons.json", list)
        ],
        mistakes=_mistakes(folder / MISTAKES, names),
        trained=_trained(folder / TRAINED),
    )


def _mistakes(path: Path, methods: Sequence[str]) -> dict[str, list[Mistake]]:
    if not path.exists():
        return {}
    found = [Mistake.from_json(row) for row in atomic.read_jsonl(path)]
    return {name: [m for m in found if m.method == name] for name in methods if name in MODES}


def _trained(path: Path) -> TrainedSummary | None:
    return TrainedSummary.from_json(atomic.read_json(path)) if path.exists() else None
