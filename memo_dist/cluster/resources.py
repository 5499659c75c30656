"""What this process may use: cores, memory and GPUs, as affinity and cgroups allow it."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from memo_dist.cluster import guard
from memo_dist.errors import UsageError

CGROUPS = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")
ROOT = Path("/")
_LIMITS = ("memory.max", "memory.limit_in_bytes", "memory/memory.limit_in_bytes")
_COUNTERS = ("memory.events", "memory.oom_control")
_GPU_SIGNS = ("dev/nvidiactl", "dev/kfd", "dev/dxg", "dev/nvmap", "proc/driver/nvidia")
"""NVIDIA's, AMD's, WSL's and Jetson's device nodes, and NVIDIA's driver, whose nodes may first be
made when somebody counts its GPUs."""
_GPU_VENDORS = ("0x10de", "0x1002")
"""NVIDIA and AMD on the PCI bus."""
RAY_ADDRESSES = 4 * 2**30
"""Address space that a process under Ray reserves beyond the memory that it uses (maps of
libraries, stacks and arenas of threads, the object store), measured (benchmarks/memory_need.py)."""
OBJECT_STORE_BYTES = 192 * 2**20
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
    """GPUs that torch sees; 0 without importing it (which takes seconds) where nothing hints at
    a GPU."""
    if not _may_have_gpus():
        return 0
    import torch

    return torch.cuda.device_count()


def _may_have_gpus() -> bool:
    """A device node, a driver, a PCI device of a maker of GPUs, or a choice among GPUs."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "-1") not in ("", "-1"):
        return True
    if any((ROOT / sign).exists() for sign in _GPU_SIGNS):
        return True
    vendors = (ROOT / "sys/bus/pci/devices").glob("*/vendor")
    return any(vendor in _words(path) for path in vendors for vendor in _GPU_VENDORS)


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
        for name in _LIMITS:
            words = _words(folder / name)
            if words and words[0].isdigit():
                memory = min(memory, int(words[0]))
    return memory


def address_limit() -> int | None:
    """Bytes of address space that each process may have (``ulimit -v``); None: no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def check_addresses(needed: int, what: str) -> None:
    """Refuse a limit of the address space that is too small for what is about to start.

    A thread that cannot start makes its starter wait for ever, or ends the process.

    Args:
        needed: bytes of address space of one process.
        what: needs them, for people.

    Raises:
        UsageError: names the limit.
    """
    # https://github.com/python/cpython/issues/140746
    limit = address_limit()
    if limit is not None and limit < needed:
        raise UsageError(
            f"ulimit -v gives each process {limit / 2**30:.2f} GiB of address space, and {what}"
            f" reserves {needed / 2**30:.2f} GiB: run `ulimit -v unlimited` in the shell or job"
            " that starts this command"
        )


def used_addresses() -> int:
    """Bytes of address space that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def oom_counters() -> list[Path]:
    """The file that counts processes killed for want of memory in this process' own cgroup.

    The kernel counts a kill for the cgroup of the killed process and for all above it, whichever
    one's limit it was. So the own one has all kills among this process and those that it started,
    while those above also have kills of other jobs, which say nothing about this one. In a
    container the own cgroup is the first one that is visible. Empty where nothing counts.
    """
    found = (folder / name for folder in _cgroup_folders() for name in _COUNTERS)
    return list(islice((path for path in found if path.is_file()), 1))


def oom_kills() -> int:
    """Processes killed for want of memory in this process' own cgroup, since it exists."""
    return guard.oom_kills(map(str, oom_counters()))


def memory_limit() -> str:
    """How much memory this process may use, and who says so, for people."""
    limit, machine = usable_memory(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    whose = "the cgroup's limit" if limit < machine else "the machine's memory"
    addresses = address_limit()
    also = "" if addresses is None else f"; ulimit -v {addresses / 2**30:.2f} GiB a process"
    return f"{limit / 2**30:.2f} GiB, {whose}{also}"


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

    The mount point also holds a container's version 1 controllers as folders; of these, only the
    memory controller's own folders are looked through.
    """
    for line in _lines(PROC_CGROUP):
        _, controllers, relative = line.split(":", 2)
        root = CGROUPS / controllers if controllers == "memory" else CGROUPS
        folder = root / relative.strip("/")
        while controllers in ("", "memory") and CGROUPS in folder.parents:
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
