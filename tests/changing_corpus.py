"""A small corpus that changes document by document, and runs over it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cli import ENCODE_SECONDS, TINY, memo_dist

from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder

SHARDS = 3
SETTINGS = (
    *TINY,
    f"corpus.shards={SHARDS}",
    "memory.scratch.tokenizer=general",
    "memory.calibration_facts=4",
    "train.epochs=3",
)
_TOWNS = (
    "Orlestad",
    "Brimholt",
    "Kanderup",
    "Velmora",
    "Tasgrund",
    "Quilmere",
    "Hestvik",
    "Dornau",
)


def site(index: int, opened: int = 1901) -> str:
    """A text with a few facts of its own; another ``opened`` changes one of them."""
    town, other = _TOWNS[index % 8], _TOWNS[(index + 3) % 8]
    return (
        f"The {town} pumping station supplies water to the town of {other}. "
        f"The {town} pumping station was opened in {opened + index}. "
        f"Its main pump is a Marrow {index + 4} pump. The Marrow {index + 4} pump was built by "
        f"{other} Ironworks. The {town} pumping station has {index + 2} filters."
    )


def sites(count: int = 8) -> dict[str, str]:
    """{id: text} of the corpus before its first change."""
    return {f"site-{index}": site(index) for index in range(count)}


def write(folder: Path, texts: Mapping[str, str]) -> Path:
    """A corpus of Markdown files, each with a title that does not depend on its name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        title = text.split(" supplies")[0].removeprefix("The ")
        (folder / f"{name}.md").write_text(f"# {title}\n\n{text}\n")
    return folder


def encode(corpus: Path, run: Path, *more: str) -> RunFolder:
    done = memo_dist("encode", corpus, "--run", run, *SETTINGS, *more, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    return RunFolder(run)


def succeed(run: RunFolder, verb: str, *arguments: str | Path) -> str:
    """Standard output of ``update`` or ``forget`` on a run, which has to succeed."""
    done = memo_dist(verb, run.root, *arguments, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(run: RunFolder, shards: int = SHARDS) -> dict[str, str]:
    """Hashes of all that one encode of the same corpus has to have in common with a run."""
    hashes = {
        "reflections": hash_file(run.reflections),
        "reflections of the bank": hash_file(run.trained_reflections),
        "bank.json": hash_file(run.memory / "bank.json"),
    }
    for shard in range(shards):
        trained = run.train(shard) / "final" / "model.safetensors"
        hashes[f"trained weights {shard}"] = hash_file(trained)
        for name in ("model.safetensors", "calibration.json"):
            hashes[f"{name} {shard}"] = hash_file(run.memory_shard(shard) / name)
    return hashes


def shard_ids(run: RunFolder) -> dict[str, int]:
    """{document: shard} of the bank."""
    bank = atomic.read_json(run.memory / "bank.json")
    return {row["id"]: entry["id"] for entry in bank["shards"] for row in entry["documents"]}
