"""The table of verbs that the command line, the launchers, the requeue guard and README share.

It imports nothing of the package: login nodes and batch scripts read it without torch and Ray.
A new verb is a record here and a module ``memo_dist/cli/NAME.py`` that holds the click command
``command``; tests compare both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FirstArgument = Literal["", "corpus", "run", "study"]


@dataclass(frozen=True)
class Verb:
    """What must be known of a verb without importing its module.

    Attributes:
        name: as it is typed, and the name of its module in ``memo_dist.cli``.
        summary: one sentence for ``memo-dist --help``.
        first: kind of its first argument; empty: it takes none that a launcher needs.
        saves: it polls for a stop request and saves. Its signals are handled before heavy
            imports, so that an early signal of a scheduler does not end it unsaved.
        launches: ``memo-dist launch`` can run it elsewhere.
        reads_stored: its configuration starts from ``RUN/config.yaml``.
        value_options: its options that take a value, where it can be launched.
    """

    name: str
    summary: str
    first: FirstArgument = ""
    saves: bool = False
    launches: bool = False
    reads_stored: bool = False
    value_options: tuple[str, ...] = ()


_TABLE = (
    Verb(
        "demo",
        "Run the whole chain on built-in documents and print the scores.",
        saves=True,
        launches=True,
        value_options=("--config", "--run", "--generator"),
    ),
    Verb(
        "encode",
        "Turn documents into a memory: synthesize, train and export.",
        first="corpus",
        saves=True,
        launches=True,
        value_options=("--config", "--run", "--resume"),
    ),
    Verb(
        "synthesize",
        "Turn documents into reflections (question-answer pairs).",
        first="corpus",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=(
            "--config",
            "--run",
            "--resume",
            "--questions",
            "--only-partition",
            "--record",
            "--record-note",
        ),
    ),
    Verb(
        "train",
        "Train a memory on the reflections of a run.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config", "--resume"),
    ),
    Verb(
        "export",
        "Verify trained weights and write them as Hugging Face folders with bank.json.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config",),
    ),
    Verb(
        "update",
        "Bring a memory to the state of a changed corpus; only what changed is trained again.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config", "--add", "--replace"),
    ),
    Verb(
        "forget",
        "Remove documents from a memory, exactly, and write a receipt.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config", "--why", "--questions"),
    ),
    Verb(
        "rebalance",
        "Spread the documents of a memory over another number of shards.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config", "--shards"),
    ),
    Verb("merge", "Join the memories of several runs in a new run, without training."),
    Verb("verify", "Recompute what the receipts of a memory claim.", first="run"),
    Verb("push", "Copy a run to an object store.", first="run"),
    Verb("pull", "Bring a run back from an object store."),
    Verb(
        "fuse",
        "Fit the gate or connector that joins a memory to a frozen LLM.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config", "--mode", "--backbone"),
    ),
    Verb(
        "ask",
        "Answer a question from a memory.",
        first="run",
        launches=True,
        reads_stored=True,
        value_options=("--config", "--mode"),
    ),
    Verb("serve", "Answer over HTTP: native, OpenAI and mem0 APIs, and MCP.", first="run"),
    Verb("mcp", "Offer a memory to an agent as MCP tools.", first="run"),
    Verb(
        "evaluate",
        "Score a memory and its baselines on a file of questions.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=("--config", "--questions", "--limit", "--modes", "--name"),
    ),
    Verb(
        "compare",
        "Compare a memory with retrieval and trained weights on a file of questions.",
        first="run",
        saves=True,
        launches=True,
        reads_stored=True,
        value_options=(
            "--config",
            "--questions",
            "--limit",
            "--methods",
            "--predictions",
            "--reader",
            "--name",
        ),
    ),
    Verb(
        "scale",
        "Measure how much knowledge a memory of a given size can store.",
        first="study",
        saves=True,
        launches=True,
        value_options=("--config", "--run", "--only-partition"),
    ),
    Verb(
        "plan",
        "Estimate facts, memory size, hours, GPU memory and generator calls of a corpus.",
        first="corpus",
    ),
    Verb("dataset", "Convert a published data set to a corpus and questions."),
    Verb("launch", "Run a verb on this machine, under torchrun, on a Ray cluster or on Slurm."),
    Verb("status", "Show the state and failures of a run or of a launched job."),
    Verb("config", "Print the resolved configuration."),
    Verb("doctor", "Check this machine: versions, cores, GPUs, disk, limits."),
)
VERBS: dict[str, Verb] = {verb.name: verb for verb in _TABLE}
"""The verbs by name, in the order of ``memo-dist --help``."""
