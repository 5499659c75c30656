"""The run folder's layout in one place (see docs/run-folder.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``RUN``; creates nothing by itself."""

    root: Path

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
    def memory(self) -> Path:
        """The bank: ``bank.json`` and one Hugging Face folder a shard."""
        return self.root / "memory"

    def memory_shard(self, shard: int) -> Path:
        """The exported memory of one shard."""
        return self.memory / f"shard-{shard}"

    def eval(self, name: str) -> Path:
        """Scores and predictions of one evaluation."""
        return self.root / "eval" / name

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
