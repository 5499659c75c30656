"""A tiny deterministic generator for the tests of the engine, importable by Ray workers.

Its behaviour on odd documents is steered by words in their text, and it leaves marks in a
folder: the worker's pid, and one file a unit and step that was run.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.corpus.build import build_corpus
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.engine import synthesize
from memo_dist.synthesis.types import Reflection, Rejected, StepResult, Unit

VERSION = "1"


class ToyStep:
    def __init__(self, name: str, marks: Path, delay: float) -> None:
        self.name = name
        self.version = VERSION
        self._marks = marks
        self._delay = delay

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        (self._marks / f"pid-{os.getpid()}").touch()
        time.sleep(self._delay)
        text = " ".join(document.text for document in unit.documents)
        if "BOOM" in text and not (self._marks / "mended").exists():
            raise ValueError(f"cannot read this in {self.name}")
        died = self._marks / f"died-{unit.id}"
        if "DIE" in text or ("FALL" in text and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        result = getattr(self, f"_{self.name}")(unit, inputs)
        (self._marks / f"ran-{self.name}-{unit.id}-{time.time_ns()}").touch()
        return result

    def _direct(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        assert not inputs
        rows, rejected = [], []
        for chunk in unit.chunks:
            for sentence in chunk.text.split(". "):
                if "?" in sentence:
                    rejected.append(Rejected("question: not a fact", sentence, (chunk.document,)))
                    continue
                name, _, value = sentence.rstrip(".").partition(" is ")
                source = "elsewhere" if "LEAK" in sentence else chunk.document
                rows.append(self._row(unit, f"What is {name}?", value, "direct", source, chunk.id))
        return StepResult(rows, rejected)

    def _paraphrase(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        rows = []
        for row in inputs:
            question = f"Tell me: {row.question} ({unit.seed % 7})"
            chunk = row.chunks[0]
            rows.append(
                self._row(unit, question, row.answer, "paraphrase", row.sources[0], chunk, row.id)
            )
        return StepResult(rows)

    def _abstain(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        assert {row.kind for row in inputs} == {"direct", "paraphrase"}
        fixed = Reflection(
            "Who won?", "I don't know.", "abstain", (), (), unit.shard, "toy", "1", unit.id
        )
        return StepResult([fixed])

    def _row(self, unit, question, answer, kind, source, chunk, parent=None) -> Reflection:
        return Reflection(
            question,
            answer,
            kind,
            (source,),
            (chunk,),
            unit.shard,
            f"toy-{VERSION}",
            "1",
            f"{self.name}-{unit.id}",
            parent,
        )


class ToyGenerator:
    name = "toy"
    version = VERSION

    def __init__(self, marks: str, delay: float) -> None:
        self._marks = Path(marks)
        self._marks.mkdir(exist_ok=True)
        self._delay = delay

    def steps(self) -> dict:
        names = ("direct", "paraphrase", "abstain")
        return {name: ToyStep(name, self._marks, self._delay) for name in names}

    def limits(self) -> list[str]:
        return ["It reads only sentences of the form 'A is B'."]


def factory(marks: Path, delay: float = 0.0):
    return partial(ToyGenerator, str(marks), delay)


def make_run(root: Path, config: Config, odd: dict[int, str] | None = None) -> RunFolder:
    """A run folder with a corpus of 24 documents; ``odd`` replaces texts by index."""
    source = root / "source"
    source.mkdir(parents=True)
    for index in range(24):
        text = f"Item {index} is thing {index}. The home of {index} is town {index % 5}. Is it?"
        (source / f"doc{index:02}.txt").write_text((odd or {}).get(index, text))
    run = RunFolder(root / "run")
    build_corpus(source, run.corpus, config.corpus)
    return run


def make_config() -> Config:
    config = Config()
    config.corpus.shards = 2
    config.synthesis.partitions = 3
    config.synthesis.documents_per_unit = 2
    config.synthesis.steps = ["direct", "paraphrase", "abstain"]
    config.cluster.synthesis_workers = 2
    return config


def main(root: str, marks: str, delay: str) -> None:
    """A driver of its own, to be killed."""
    synthesize(RunFolder(Path(root)), make_config(), factory(Path(marks), float(delay)))


if __name__ == "__main__":
    main(*sys.argv[1:])
