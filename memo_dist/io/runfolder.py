"""The run folder's layout in one place (see docs/run-folder.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from memo_dist.io.generations import current_number, generation


def is_plain_name(name: str) -> bool:
    """Whether a name from outside can name a folder here: no path, not hidden, not empty."""
    return bool(name) and not name.startswith(".") and Path(name).name == name


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``RUN``; creates nothing by itself.

    Attributes:
        root: the folder.
        pinned: number of the generation whose memory it shows; None: the one that holds, which
            ``update`` and ``forget`` may change at any moment.
    """

    root: Path
    pinned: int | None = None

    def pin(self) -> RunFolder:
        """The run with the memory that holds now, for whoever reads several of its files.

        Raises:
            UsageError: see :attr:`memory`.
        """
        return self if self.pinned is not None else replace(self, pinned=self._holding())

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def run_json(self) -> Path:
        """argv, versions, git commit and hardware of every launch."""
        return self.root / "run.json"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        """Lock held by the driver that writes into this run."""
        return self.root / ".lock"

    @property
    def corpus(self) -> Path:
        """``documents.jsonl``, ``chunks.jsonl``, ``quarantine.jsonl`` and ``manifest.json``."""
        return self.root / "corpus"

    @property
    def synth(self) -> Path:
        """One folder a synthesis step, and the synthesis' STATUS.json and metrics.jsonl."""
        return self.root / "synth"

    def step(self, name: str) -> Path:
        """The folder of one synthesis step."""
        return self.synth / name

    @property
    def reflections(self) -> Path:
        """All accepted reflections, sorted by id."""
        return self.root / "reflections.jsonl"

    def train(self, shard: int) -> Path:
        """Checkpoints, STATUS.json and metrics.jsonl of one shard's training."""
        return self.root / "train" / f"shard-{shard}"

    @property
    def generations(self) -> Path:
        """Every generation of the bank; see memo_dist.io.generations."""
        return self.root / "memory"

    @property
    def memory(self) -> Path:
        """The bank that holds: ``bank.json`` and one Hugging Face folder a shard.

        Raises:
            UsageError: the pointer to it is damaged.
        """
        number = self._holding() if self.pinned is None else self.pinned
        return generation(self.generations, number)

    def _holding(self) -> int:
        return current_number(self.generations)

    @property
    def trained_reflections(self) -> Path:
        """The reflections of the bank: its own, or the run's where an earlier version has none."""
        own = self.memory / "reflections.jsonl"
        return own if own.exists() else self.reflections

    def memory_shard(self, shard: int) -> Path:
        """The exported memory of one shard."""
        return self.memory / f"shard-{shard}"

    def eval(self, name: str) -> Path:
        """Scores and predictions of one evaluation."""
        return self.root / "eval" / name

    def compare(self, name: str) -> Path:
        """One comparison of the memory with other methods."""
        return self.root / "compare" / name

    def ask(self, name: str) -> Path:
        """Transcript of one question that an executive asked the memory for."""
        return self.root / "ask" / name

    def fusion(self, backbone: str) -> Path:
        """What was fitted for the memory and one frozen backbone."""
        return self.root / "fusion" / backbone

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.root / "report.html"
