"""The reflections of each shard in a file of its own, beside ``reflections.jsonl`` with them all.

Whoever needs one shard reads that shard's file, once. ``reflections.jsonl`` is what counts: the
marker of the synthesis names the hash of it that the shards' files belong to, and where it is
another file now (put there by hand, or by an earlier version) the shards' files are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memo_dist.io.atomic import as_record, read_json, read_jsonl
from memo_dist.io.runfolder import RunFolder
from memo_dist.stages.records import SYNTHESIS
from memo_dist.synthesis.types import Reflection

FIELD = "shards"
"""Field of the marker."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """What the marker has about the file of one shard.

    Attributes:
        shard: which one.
        rows: its reflections.
        sha256: of the file.
        ids: hash over the ids, in file order, as
            :func:`memo_dist.memory.provenance.reflections_hash` makes it.
        kinds: number of reflections by kind.
    """

    shard: int
    rows: int
    sha256: str
    ids: str
    kinds: dict[str, int]


def marker_path(run: RunFolder) -> Path:
    """The manifest of the whole synthesis: written last, so it marks a complete one."""
    return run.root / SYNTHESIS.done[0]


def shards_folder(run: RunFolder) -> Path:
    """Where the files of all shards are."""
    return run.synth / "shards"


def shard_path(run: RunFolder, shard: int) -> Path:
    """The reflections of one shard, sorted by id."""
    return shards_folder(run) / f"reflections-{shard}.jsonl"


def marker_field(run: RunFolder, fingerprint: str, files: list[ShardFile]) -> dict[str, Any]:
    """What the marker keeps of the shards' files.

    Args:
        run: the run folder, its reflections written.
        fingerprint: SHA-256 of ``reflections.jsonl``.
        files: one for each shard that has documents.
    """
    size = run.reflections.stat().st_size
    return {"of": fingerprint, "bytes": size, "files": [asdict(file) for file in files]}


def shard_files(run: RunFolder) -> dict[int, ShardFile] | None:
    """The shards' files by shard; a shard without documents has none.

    Returns:
        None where the marker has none for the present ``reflections.jsonl``, or one is missing.
    """
    marker = marker_path(run)
    if not marker.exists() or not run.reflections.exists():
        return None
    manifest = read_json(marker)
    found = manifest.get(FIELD)
    if found is None or found["of"] != manifest["summary"]["fingerprint"]:
        return None
    files = [as_record(row, marker, ShardFile) for row in found["files"]]
    whole = run.reflections.stat().st_size == found["bytes"]
    if not whole or not all(shard_path(run, file.shard).exists() for file in files):
        return None
    return {file.shard: file for file in files}


def shard_reflections(run: RunFolder, shard: int) -> Iterator[Reflection]:
    """The reflections of one shard, sorted by id.

    Raises:
        DamagedFileError: the shard's file is not the one that the synthesis wrote.
    """
    files = shard_files(run)
    if files is None:
        rows = (row for row in read_jsonl(run.reflections) if row["shard"] == shard)
        yield from map(Reflection.from_json, rows)
    elif shard in files:
        own = read_jsonl(shard_path(run, shard), files[shard].sha256)
        yield from map(Reflection.from_own, own)
