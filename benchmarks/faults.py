"""Faults times verbs: what a damaged run, disk, clock or machine does to a command.

    python benchmarks/faults.py --work /tmp/faults [--faults NAME ...] [--verbs NAME ...]

Each cell takes a copy of a finished tiny run (three documents, a base from scratch), brings one
fault about, and runs one verb. It must end, within its deadline, in the result that it has without
a fault, or in an error that names what is wrong: no traceback, no other result. Verbs run in forks
of this process, which has imported the libraries once (Ray's workers are new processes, without the
faults that are inside of a process). A command that is killed is run again. Faults of file systems
and cgroups need root; as another user their cells are not run, and the table says so.

The table goes to ``benchmarks/results/faults.md``. Cells of an earlier table that this call does
not run stay in ``cells.jsonl`` of the work folder, and in the table.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import importlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fault_verbs import FINAL, SHARD, VERBS, Harm, Verb, prepare

ROOT = Path(__file__).parent.parent
GROUP = Path("/sys/fs/cgroup/memory/memo-faults")
RESULTS = ROOT / "benchmarks" / "results" / "faults.md"
DEADLINE = 300.0
PRELOAD = (
    "memo_dist.training.worker", "memo_dist.answering", "memo_dist.cli.main", "memo_dist.cli.ask",
    "memo_dist.cli.evaluate", "memo_dist.cli.export", "memo_dist.cli.train",
    "memo_dist.cli.synthesize", "memo_dist.cli.update", "memo_dist.cli.forget",
    "memo_dist.cli.serve", "memo_dist.serve.server", "deepspeed",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip


# -- the faults ----------------------------------------------------------------------------------


def flip(name: str) -> Harm:
    """One other bit in the middle of a file."""

    def harm(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run / name).write_bytes(bytes(data))

    return harm


def zeros(name: str) -> Harm:
    """Zeros in place of the second half, as some file systems leave after a crash."""

    def harm(run: Path) -> None:
        data = (run / name).read_bytes()
        half = len(data) // 2
        (run / name).write_bytes(data[:half] + bytes(len(data) - half))

    return harm


def empty(name: str) -> Harm:
    """A file of no bytes."""
    return lambda run: (run / name).write_bytes(b"")


def half(name: str) -> Harm:
    """The first half of a file."""

    def harm(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: len(data) // 2])

    return harm


FILES: dict[str, Harm] = {
    "bit flip: config.yaml": flip("config.yaml"),
    "empty: config.yaml": empty("config.yaml"),
    "empty: run.json": empty("run.json"),
    "bit flip: corpus/documents.jsonl": flip("corpus/documents.jsonl"),
    "half: corpus/manifest.json": half("corpus/manifest.json"),
    "half: reflections.jsonl": half("reflections.jsonl"),
    "empty: synth/manifest.json": empty("synth/manifest.json"),
    "bit flip: weights of train/base": flip("train/base/model.safetensors"),
    "bit flip: weights of final/": flip(f"{FINAL}/model.safetensors"),
    "zeros: exported weights": zeros(f"{SHARD}/model.safetensors"),
    "bit flip: exported tokenizer": flip(f"{SHARD}/tokenizer.json"),
    "bit flip: bank.json": flip("memory/bank.json"),
    "empty: calibration.json": empty(f"{SHARD}/calibration.json"),
}


@contextmanager
def _tmpfs(run: Path, options: str) -> Iterator[None]:
    """The run on a file system of its own."""
    kept = run.with_name(f"{run.name}-kept")
    run.rename(kept)
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(run)], check=True)
    try:
        shutil.copytree(kept, run, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)
        shutil.rmtree(kept)


@contextmanager
def full_disk(run: Path) -> Iterator[None]:
    """Room for the run's files and 4 KiB more."""
    pages = sum(-(-path.stat().st_size // 4096) + 1 for path in run.rglob("*"))
    with _tmpfs(run, f"size={(pages + 2) * 4}k"):
        free = shutil.disk_usage(run).free - 4096
        (run / "logs" / "filler").write_bytes(bytes(max(0, free)))
        yield


@contextmanager
def no_inodes(run: Path) -> Iterator[None]:
    """No inode is left for another file."""
    with _tmpfs(run, f"nr_inodes={sum(1 for _ in run.rglob('*')) + 3}"):
        for number in range(10):
            with suppress(OSError):
                (run / "logs" / f"filler-{number}").touch()
        yield


@contextmanager
def read_only(run: Path) -> Iterator[None]:
    """A file system that nothing can be written to."""
    with _tmpfs(run, "size=64m"):
        subprocess.run(["mount", "-o", "remount,ro", str(run)], check=True)
        yield


def read_only_later() -> None:
    """As when a file system becomes read-only after an error: no file is made after the third."""
    make, left = os.open, iter(range(3))

    def refuse(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_EXCL and next(left, None) is None:  # a new file, as io/atomic.py makes it
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return make(path, flags, *rest, **named)

    os.open = refuse  # type: ignore[assignment]


def little_memory() -> None:
    """A cgroup (version 1) with room for 12 MiB: the kernel kills what needs more."""
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(12 * 2**20))
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))


def no_flock() -> None:
    """As on Lustre without ``-o flock``."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    fcntl.flock = refuse  # type: ignore[assignment]


def clock_back() -> None:
    """The wall clock is a year early, for this process."""
    now = time.time
    time.time = lambda: now() - 365 * 86400


def little_address_space() -> None:
    """``ulimit -v``: 40 MiB more than now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20,) * 2)


def stopped(pid: int) -> None:
    """SIGSTOP for five seconds."""
    time.sleep(1.0)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.kill(pid, signal.SIGCONT)


def killed(pid: int) -> None:
    """SIGKILL after a second; the command is then run again."""
    time.sleep(1.0)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


FOLDERS = {"disk full": full_disk, "0 inodes": no_inodes, "read-only": read_only}
MEMORY = "out of memory (cgroup), then again"
INSIDE = {
    "read-only after three files": read_only_later,
    MEMORY: little_memory,
    "no flock": no_flock,
    "clock a year back": clock_back,
    "no address space (ulimit -v)": little_address_space,
}
OUTSIDE = {"SIGSTOP for 5 s": stopped, "SIGKILL, then again": killed}
RENAMED = "renamed run folder"
FAULTS = [*FILES, *FOLDERS, *INSIDE, *OUTSIDE, RENAMED]


# -- cells ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int | None
    out: str
    err: str
    seconds: float


def command(
    arguments: list[str],
    inside: Callable[[], None] | None = None,
    outside: Callable[[int], None] | None = None,
    client: Callable[[int], str] | None = None,
) -> Ending:
    """Run a verb in a fork; ``code`` None: it did not end in time."""
    out, err = (Path(f"/tmp/faults-{os.getpid()}.{name}") for name in ("out", "err"))
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = ["memo-dist", *arguments]
        if inside:
            inside()
        code = 70
        try:
            code = importlib.import_module("memo_dist.cli.main").run(arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if outside:
        outside(pid)
    told = client(pid) if client else ""
    code = None
    while code is None and time.monotonic() - began < DEADLINE:
        done, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.05)
    if code is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    return Ending(code, texts[0] + told, texts[1], time.monotonic() - began)


def judge(verb: Verb, run: Path, ending: Ending, wanted: object) -> str:
    """``result``, ``error N: message``, or ``FAULT: why``."""
    lines = [line for line in ending.err.splitlines() if line.startswith("memo-dist: ")]
    if ending.code is None:
        return f"FAULT: no end within {DEADLINE:.0f} s"
    if "Traceback (most" in ending.err or "unexpected " in ending.err:
        return f"FAULT: {ending.err.strip().splitlines()[-1][:160]}"
    if ending.code == 0:
        try:
            same = verb.result(run, ending.out) == wanted
        except (OSError, ValueError, KeyError) as error:
            return f"FAULT: exit code 0, and {error!r}"
        return "result" if same else "FAULT: exit code 0, and another result"
    if ending.code in (1, 2, 75) and lines:
        return f"error {ending.code}: {lines[-1].removeprefix('memo-dist: ')}"
    return f"FAULT: exit code {ending.code}: {ending.err.strip()[-160:]}"


def cell(work: Path, fault: str, verb: Verb, wanted: object) -> tuple[str, float]:
    """Bring a fault about, run a verb, and judge its ending; (judgement, seconds)."""
    run = work / "cell" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    shutil.copytree(work / "run", run)
    verb.prepare(run)
    with ExitStack() as stack:
        if fault in FILES:
            try:
                FILES[fault](run)
            except FileNotFoundError:
                return "not there", 0.0
        elif fault in FOLDERS:
            if os.getuid():
                return "not run: needs root", 0.0
            stack.enter_context(FOLDERS[fault](run))
        elif fault == RENAMED:
            run = run.rename(run.with_name("elsewhere"))
        elif fault == MEMORY and not os.access(GROUP.parent, os.W_OK):
            return "not run: needs a cgroup of version 1", 0.0
        arguments = verb.arguments(run, work)
        ending = command(arguments, INSIDE.get(fault), OUTSIDE.get(fault), verb.client)
        if fault in (*OUTSIDE, MEMORY) and ending.code == -signal.SIGKILL:
            ending = command(arguments, client=verb.client)
        found = judge(verb, run, ending, wanted)
    found = re.sub(r"\.tmp-[\w-]+", ".tmp-...", found)
    return found.replace(str(run), "RUN").replace(str(work), "WORK"), ending.seconds


def baseline(work: Path, verb: Verb) -> object:
    """The result of a verb without a fault."""
    run = work / "cell" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    shutil.copytree(work / "run", run)
    verb.prepare(run)
    ending = command(verb.arguments(run, work), client=verb.client)
    if ending.code != 0:
        raise SystemExit(f"{verb.name} without a fault: exit code {ending.code}: {ending.err}")
    return verb.result(run, ending.out)


# -- the table -----------------------------------------------------------------------------------


def table(cells: dict[tuple[str, str], tuple[str, float]]) -> str:
    """The cells for people, and every message once."""
    names = [verb.name for verb in VERBS]
    found = [value for value, _ in cells.values()]
    shapes = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
    lines = [
        "# Faults times verbs", "",
        f"`python benchmarks/faults.py --work /tmp/faults`, {shapes}, other work on the machine.",
        f"{len(FAULTS)} faults x {len(names)} verbs = {len(FAULTS) * len(names)} cells;"
        f" {len(cells)} run: {sum(v == 'result' for v in found)} end in the unbroken result,"
        f" {sum(v.startswith('error') for v in found)} in a clear error,"
        f" {sum(v == 'not there' for v in found)} have no such file at the start of the verb,"
        f" {sum(v.startswith('FAULT') for v in found)} are faults.", "",
        "`corpus` is `synthesize` on a finished run, which reads and compares the corpus; `update`"
        " has a changed document, `forget` one that goes; a server answers one question.", "",
        f"| fault | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    messages: list[str] = []
    for fault in FAULTS:
        row = [_short(cells.get((fault, name)), messages) for name in names]
        lines.append(f"| {fault} | {' | '.join(row)} |")
    lines += ["", "Messages:", ""]
    lines += [f"{number}. {text}" for number, text in enumerate(messages, start=1)]
    return "\n".join(lines) + "\n"


def _short(value: tuple[str, float] | None, messages: list[str]) -> str:
    if value is None:
        return "not run"
    text, seconds = value
    if not text.startswith(("error", "FAULT")):
        return f"{text}, {seconds:.0f} s" if text == "result" else text
    if text not in messages:
        messages.append(text)
    return f"{text.split(':')[0]}, {seconds:.0f} s ({messages.index(text) + 1})"


def main() -> None:
    """Run the cells that were asked for, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--faults", nargs="*", default=FAULTS)
    parser.add_argument("--verbs", nargs="*", default=[verb.name for verb in VERBS])
    given = parser.parse_args()
    work = given.work.resolve()
    prepare(work)
    for name in PRELOAD:
        importlib.import_module(name)
    kept = work / "cells.jsonl"
    cells: dict[tuple[str, str], tuple[str, float]] = {}
    if kept.exists():
        rows = map(json.loads, kept.read_text().splitlines())
        cells = {(row[0], row[1]): (row[2], row[3]) for row in rows}
    for verb in (verb for verb in VERBS if verb.name in given.verbs):
        wanted = baseline(work, verb)
        for fault in given.faults:
            found, seconds = cells[fault, verb.name] = cell(work, fault, verb, wanted)
            print(f"{verb.name:<20} {fault:<40} {seconds:5.1f} s  {found}", flush=True)
            with kept.open("a") as stream:
                stream.write(json.dumps([fault, verb.name, found, seconds]) + "\n")
            RESULTS.write_text(table(cells))
    RESULTS.write_text(table(cells))


if __name__ == "__main__":
    main()
