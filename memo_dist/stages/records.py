"""One record per stage: what it needs, what identifies it, where it writes, when it is done.

A new stage adds its record to :data:`STAGES`; the pipeline, ``status``, ``--dry-run``, the guard
of requeues, the report and the identity of the configuration read it there. Paths are globs
relative to the run folder, in the syntax of ``pathlib``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StageName = Literal[
    "corpus", "synthesis", "train", "export", "fuse logits", "fuse latent", "evaluate", "ask"
]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage is.

    Attributes:
        name: in messages, and where its identity is asked for.
        needs: stages whose results it reads.
        groups: configuration groups that are part of its identity, without the keys that cannot
            change a result. They are fixed once the stage has begun: another value is refused.
        reads: what else identifies its result: the names that its own record of it has.
        writes: everything that it writes.
        begun: it has begun where this matches.
        done: written last, one file per part (shard, backbone, evaluation).
        status: folders with a STATUS.json and a metrics.jsonl of its own.
        progress: files that appear or grow only when work is finished for good.
        texts: files with text of documents or of reflections that a search for the words finds.
        encoded: files that hold such text in another form: token ids, a vocabulary learned from
            it, weights trained on it, a compressed table.
        hashed: markers that name files with their SHA-256, see memo_dist.io.marker.
        missing: what to say, behind the run's name, to who needs its result too early.
    """

    name: StageName
    needs: tuple[StageName, ...]
    writes: tuple[str, ...]
    begun: str
    groups: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    status: str = ""
    progress: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()
    missing: str = ""


CORPUS = Stage(
    name="corpus",
    needs=(),
    groups=("corpus",),
    reads=("source files",),
    writes=("corpus/**/*", "corpus.next/**/*", "corpus.old/**/*"),
    begun="corpus",
    done=("corpus/manifest.json",),
    progress=("corpus/manifest.json",),
    texts=tuple(
        f"{folder}/{name}.jsonl"
        for folder in ("corpus", "corpus.next", "corpus.old")
        for name in ("documents", "chunks", "quarantine")
    ),
    hashed=("corpus/manifest.json",),
    missing="has no corpus yet; `memo-dist synthesize CORPUS --run ...`",
)
SYNTHESIS = Stage(
    name="synthesis",
    needs=("corpus",),
    groups=("run", "corpus", "generator", "synthesis"),
    reads=("documents", "chunks", "generator", "versions of the steps"),
    writes=("synth/**/*", "reflections.jsonl"),
    begun="synth",
    done=("synth/manifest.json", "reflections.jsonl"),
    status="synth",
    progress=(
        "synth/manifest.json",
        "synth/*/journal/*.jsonl",
        "synth/*/part-*.jsonl",
        "synth/shards/*.jsonl",
        "reflections.jsonl",
    ),
    texts=(
        "synth/*/part-*.jsonl",
        "synth/*/journal/*.jsonl",
        "synth/*/quarantine/*.jsonl",
        "synth/requests/*.jsonl",
        "synth/quarantine.jsonl",
        "synth/shards/*.jsonl",
        "synth/merging/*.jsonl",
        "synth/dataset/README.md",
        "synth/coverage.jsonl",
        "reflections.jsonl",
    ),
    encoded=("synth/dataset/data/*",),
    hashed=("synth/manifest.json",),
    missing="has no reflections yet; `memo-dist synthesize` comes first",
)
TRAIN = Stage(
    name="train",
    needs=("corpus", "synthesis"),
    groups=("run", "corpus", "generator", "synthesis", "memory", "train"),
    reads=("base", "documents", "reflections"),
    writes=("train/**/*",),
    begun="train/[!.]*",  # before it begins, ranks meet by hidden files there
    done=("train/shard-*/final/COMPLETE",),
    status="train/shard-*",
    progress=(
        "train/base/COMPLETE",
        "train/shard-*/soft/*.safetensors",
        "train/shard-*/replay.json",
        "train/shard-*/activations.json",
        "train/shard-*/anchor.json",
        "train/shard-*/checkpoints/*/COMPLETE",
        "train/shard-*/final/COMPLETE",
    ),
    texts=(
        "train/shard-*/held-out.jsonl",
        "train/shard-*/held-out-questions.jsonl",
        "train/shard-*/too-long.jsonl",
    ),
    encoded=(
        "train/shard-*/examples.safetensors",
        "train/shard-*/replay.safetensors",
        "train/shard-*/soft.safetensors",
        "train/shard-*/soft/*.safetensors",
        "train/shard-*/job.json",
        "train/shard-*/activations.npy",
        "train/shard-*/anchor.npy",
        "train/shard-*/checkpoints/**/*",
        "train/shard-*/final/*",
        "train/base/*",
    ),
    hashed=(
        "train/base/COMPLETE",
        "train/shard-*/activations.json",
        "train/shard-*/anchor.json",
        "train/shard-*/checkpoints/*/COMPLETE",
        "train/shard-*/final/COMPLETE",
    ),
    missing="is not trained; `memo-dist train` first",
)
EXPORT = Stage(
    name="export",
    needs=("train",),
    groups=("run", "corpus", "generator", "synthesis", "memory", "train", "export"),
    reads=("trained weights", "held-out questions", "trained on"),
    writes=("memory/**/*",),
    begun="memory",
    done=("memory/**/bank.json",),
    progress=(
        "memory/**/COMPLETE",
        "memory/**/bank.json",
        "memory/CURRENT",
        "memory/receipts/*.json",
    ),
    texts=("memory/**/reflections.jsonl",),
    encoded=("memory/**/*.safetensors", "memory/**/tokenizer*.json"),
    hashed=("memory/**/bank.json", "memory/**/COMPLETE"),
    missing="has no memory yet; `memo-dist encode` makes one",
)
GATE = Stage(
    name="fuse logits",
    needs=("export",),
    reads=("backbone", "memory", "calibration"),
    writes=("fusion/*/gate.*",),
    begun="fusion/*/gate.*",
    done=("fusion/*/gate.json",),
    hashed=("fusion/*/gate.json",),
    progress=("fusion/*/gate.json",),
)
CONNECTOR = Stage(
    name="fuse latent",
    needs=("corpus", "synthesis", "export"),
    reads=("backbone", "memory", "reflections"),
    writes=("fusion/*/latent/**/*", "fusion/*/latent-training/**/*"),
    begun="fusion/*/latent-training",
    done=("fusion/*/latent/COMPLETE",),
    status="fusion/*/latent-training",
    progress=(
        "fusion/*/latent-training/prepared.json",
        "fusion/*/latent-training/checkpoints/*/COMPLETE",
        "fusion/*/latent/COMPLETE",
    ),
    encoded=("fusion/*/latent-training/**/*", "fusion/*/latent/*.safetensors"),
    hashed=("fusion/*/latent-training/checkpoints/*/COMPLETE", "fusion/*/latent/COMPLETE"),
)
EVALUATE = Stage(
    name="evaluate",
    needs=("export",),
    reads=("memory", "calibration", "questions"),
    writes=("eval/**/*", "compare/**/*", "report.html"),
    begun="eval",
    done=("eval/*/manifest.json",),
    status="eval/*",
    progress=(
        "eval/*/manifest.json",
        "eval/*/predictions-*.jsonl",
        "eval/*/*/requests.jsonl",
        "compare/*/replies-*.jsonl",
        "compare/*/requests.jsonl",
        "compare/*/judge.jsonl",
        "compare/cache/*/cost.json",
        "compare/cache/**/COMPLETE",
        "compare/cache/**/soft/*.safetensors",
    ),
    texts=("eval/**/*.jsonl", "compare/**/*.jsonl", "compare/*/*.html", "report.html"),
    encoded=("compare/cache/**/*",),
)
ASK = Stage(
    name="ask",
    needs=("export",),
    writes=("ask/**/*",),
    begun="ask",
    progress=("ask/*/requests.jsonl",),
    texts=("ask/**/*",),
)
STAGES = (CORPUS, SYNTHESIS, TRAIN, EXPORT, GATE, CONNECTOR, EVALUATE, ASK)
"""In the order in which a run comes to them."""
RUN_FILES = ("config.yaml", "run.json", ".lock", ".lock.leases/*", "logs/**/*")
"""What belongs to the run itself, whatever its stages."""


def stage(name: str) -> Stage:
    """The record of a stage.

    Raises:
        KeyError: there is no such stage.
    """
    named: dict[str, Stage] = {record.name: record for record in STAGES}
    return named[name]
