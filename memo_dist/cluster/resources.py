"""What this process may use: cores, memory and GPUs, as affinity and cgroups allow it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OBJECT_STORE_BYTES = 192 * 2**20
DEVICES = Path("/dev")
_GPU_NODES = ("nvidiactl", "kfd", "dxg", "nvmap")
"""Device nodes of which every machine with a GPU has one: NVIDIA's, AMD's, WSL's, Jetson's."""
SMALLEST_OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True, slots=True)
class Resources:
    """Cores (whole ones), GPUs, and memory in bytes."""

    cores: int
    gpus: int
    memory_bytes: int

    def __str__(self) -> str:
        gib = self.memory_bytes / 2**30
        return f"{self.cores} cores, {self.gpus} GPUs, {gib:.0f} GiB memory"


def detect_resources() -> Resources:
    """The resources of this process: never more than its affinity and its cgroups grant."""
    return Resources(usable_cores(), usable_gpus(), usable_memory())


def usable_gpus() -> int:
    """GPUs that torch sees; without a GPU's device node 0, for which torch need not be imported
    (it takes seconds)."""
    if not any((DEVICES / name).exists() for name in _GPU_NODES):
        return 0
    import torch

    return torch.cuda.device_count()


def usable_cores() -> int:
    """Cores by affinity (Slurm, taskset), cut by the CPU quota of a container; at least 1."""
    cores = len(os.sched_getaffinity(0))
    for folder in _cgroup_folders():
        quota = _cpu_quota(folder)
        if quota is not None:
            cores = min(cores, int(quota))
    return max(cores, 1)


def usable_memory() -> int:
    """Bytes of memory of the machine, or of the tightest cgroup around this process."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _cgroup_folders():
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            words = _words(folder / name)
            if words and words[0].isdigit():
                memory = min(memory, int(words[0]))
    return memory


def object_store_bytes() -> int:
    """Ray's object store: little (results are small, files carry the data), less where /dev/shm
    is tiny."""
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108 (Ray's own choice)
    except OSError:
        return SMALLEST_OBJECT_STORE_BYTES
    return max(SMALLEST_OBJECT_STORE_BYTES, min(OBJECT_STORE_BYTES, free // 2))


def _cgroup_folders() -> Iterator[Path]:
    """This process' cgroup (version 2) and its parents; the last is the mount point itself.

    The mount point also holds a container's version 1 controllers as folders.
    """
    relative = ""
    for line in _lines(Path("/proc/self/cgroup")):
        if line.startswith("0::"):
            relative = line[3:].strip("/")
    folder = CGROUPS / relative
    while folder != CGROUPS and CGROUPS in folder.parents:
        yield folder
        folder = folder.parent
    yield CGROUPS


def _cpu_quota(folder: Path) -> float | None:
    """Cores that a cgroup's quota amounts to (``quota period`` in microseconds), if it has one."""
    words = _words(folder / "cpu.max")
    if not words:
        words = _words(folder / "cpu/cpu.cfs_quota_us") + _words(folder / "cpu/cpu.cfs_period_us")
    if len(words) != 2 or not words[0].isdigit():
        return None
    return int(words[0]) / int(words[1])


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
