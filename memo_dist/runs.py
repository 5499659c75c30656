"""Opening a run folder: one writer, one configuration, a record of every launch."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from memo_dist.cluster.leftovers import remove_abandoned
from memo_dist.cluster.resources import usable_cores, usable_memory
from memo_dist.config import Config, load_config, origin, stored_yaml
from memo_dist.config.load import guarded_values
from memo_dist.config.stages import changed_keys
from memo_dist.errors import UsageError
from memo_dist.io import atomic, permissions
from memo_dist.io.locks import file_lock, holder
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.logs import LOG_FILE, logged
from memo_dist.observability.redact import redact
from memo_dist.stages.state import started_stages
from memo_dist.version import VERSION

logger = logging.getLogger(__name__)

LOCK_SECONDS = 20.0
PREPARE_SECONDS = 1800.0
"""Seconds that the first of several processes has to read the corpus for all."""
Preparation = Callable[[RunFolder], None]
_LIBRARIES = ("torch", "deepspeed", "ray", "transformers", "datasets", "safetensors", "omegaconf")


class RunInUseError(UsageError):
    """Another process writes into the run."""


@contextmanager
def open_run(
    root: Path, config: Config, resume: str, lock_seconds: float = LOCK_SECONDS
) -> Iterator[RunFolder]:
    """Create or continue a run and be its only writer while the block lasts.

    Args:
        root: the run folder.
        config: the resolved configuration of this launch.
        resume: ``auto`` continues what is there, ``never`` refuses it, ``must`` requires it; a
            path (of a checkpoint) requires it too.
        lock_seconds: how long to wait for another writer to end.

    Raises:
        UsageError: the folder is not a run, cannot be written, belongs to another live process,
            was started with another configuration, or contradicts ``resume``.
    """
    run = RunFolder(root)
    check_open(run, config, resume)
    shared = config.run.group_readable
    created = _create(run, shared)
    try:
        with permissions.creating(shared), locked(run, lock_seconds), _settled(run, shared):
            atomic.write_text(run.config, stored_yaml(config))
            origin.remember(run.root, guarded_values(config))
            _record_launch(run)
            with logged(run.logs):
                yield run
    except UsageError:
        if created:
            _remove_if_unused(run)
        raise


@contextmanager
def _settled(run: RunFolder, group_readable: bool) -> Iterator[None]:
    """The run's modes hold for every file, before and after the block; what killed launches left
    goes in the walk before it."""
    permissions.settle(run.root, group_readable, remove_abandoned)
    try:
        yield
    finally:
        permissions.settle(run.root, group_readable)


def check_open(run: RunFolder, config: Config, resume: str = "auto") -> None:
    """What :func:`open_run` refuses, without writing anything.

    Raises:
        UsageError: see there.
    """
    _check_folder(run, resume)
    _check_config(run, config)


def existing_run(root: Path) -> tuple[RunFolder, Config]:
    """A run that is only read, and its configuration.

    Raises:
        UsageError: there is none.
    """
    run = RunFolder(root)
    if not run.config.exists():
        raise UsageError(
            f"{root} is not a run folder (no config.yaml); `memo-dist encode` makes one"
        )
    return run, load_config(stored=run.config)


def _check_folder(run: RunFolder, resume: str) -> None:
    known = run.config.exists()
    if run.root.exists() and not run.root.is_dir():
        raise UsageError(f"--run {run.root} is a file, not a folder")
    if run.root.is_dir() and not known and any(is_foreign(p) for p in run.root.iterdir()):
        raise UsageError(f"--run {run.root} holds files but is not a run; name an empty folder")
    if known and resume == "never":
        raise UsageError(
            f"--run {run.root} has been started, and --resume never refuses a started run"
        )
    if not known and resume not in ("auto", "never"):
        raise UsageError(f"--run {run.root} has nothing to resume (--resume {resume})")


def is_foreign(path: Path) -> bool:
    """Whether a file is none of those that a run has before its configuration is written."""
    return path.name not in (".lock", ".lock.leases", "logs") and not path.name.startswith(
        atomic.TEMP_PREFIX
    )


def _check_config(run: RunFolder, config: Config) -> None:
    """Refuse other values for keys that decided the result of a stage that has begun."""
    if not run.config.exists():
        return
    old = load_config(stored=run.config)
    for stage in started_stages(run):
        changed = changed_keys(old, config, stage)
        if changed:
            lines = [f"{key}: {then!r} there, {now!r} now" for key, (then, now) in changed.items()]
            raise UsageError(
                f"--run {run.root} was started with another configuration of stage '{stage}':\n  "
                + "\n  ".join(lines)
                + "\nrepeat the first command's keys, or name another --run"
            )


def _create(run: RunFolder, group_readable: bool) -> bool:
    """Make the folder; whether it was not there before."""
    created = not run.root.exists()
    try:
        permissions.make_folder(run.root, group_readable)
        permissions.make_folder(run.logs, group_readable)
    except OSError as error:
        raise UsageError(f"--run {run.root} cannot be written: {error.strerror}") from None
    return created


def _remove_if_unused(run: RunFolder) -> None:
    """A refused first launch leaves nothing half-written behind."""
    if started_stages(run):
        return
    for path in (run.config, run.run_json, run.lock, run.logs / LOG_FILE):
        path.unlink(missing_ok=True)
    for folder in (run.logs, run.root):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def shared_run(
    root: Path, config: Config, ready: Callable[[RunFolder], bool], prepare: Preparation
) -> Iterator[RunFolder]:
    """Be one of several processes that write different files of a run, while the block lasts.

    The first one prepares the run alone, as :func:`open_run` would; the others wait for that.
    While they work no process can be the run's only writer.

    Args:
        root: the run folder.
        config: the resolved configuration, the same for all.
        ready: whether the run is prepared.
        prepare: prepares it; called inside :func:`open_run`.

    Raises:
        UsageError: what :func:`open_run` refuses; another one prepares for too long.
    """
    run = RunFolder(root)
    deadline = time.monotonic() + PREPARE_SECONDS
    while not ready(run):
        try:
            with open_run(root, config, "auto", lock_seconds=1.0):
                if not ready(run):
                    prepare(run)
        except RunInUseError:
            if time.monotonic() >= deadline:
                raise
    check_open(run, config)
    with (
        permissions.creating(config.run.group_readable),
        locked(run, shared=True),
        logged(run.logs),
    ):
        yield run


@contextmanager
def locked(run: RunFolder, seconds: float = LOCK_SECONDS, shared: bool = False) -> Iterator[None]:
    """Keep other writers out of a run while the block lasts; nothing else in it changes.

    Args:
        run: its folder must exist.
        seconds: how long to wait for another writer to end.
        shared: together with others that write different files of it.

    Raises:
        RunInUseError: it did not end.
        UsageError: the folder cannot be written.
    """

    def busy(other: str) -> RunInUseError:
        return RunInUseError(
            f"--run {run.root} is in use by process {other or 'unknown'}"
            f" (waited {seconds:.0f} s); end it or name another --run"
        )

    with ExitStack() as stack:
        try:
            stream = stack.enter_context(file_lock(run.lock, seconds, busy, shared))
        except OSError as error:
            raise UsageError(f"--run {run.root} cannot be written: {error.strerror}") from None
        if shared:
            yield
            return
        _tell_killed(run, stream)
        stream.truncate(0)
        stream.write(f"{holder()}\n")
        stream.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # of a full disk
                stream.truncate(0)


def _tell_killed(run: RunFolder, stream: TextIO) -> None:
    """A launch that ends by itself empties its lock, whatever it ends with."""
    stream.seek(0)
    before = stream.read().strip()
    if " on " in before:  # earlier versions wrote a process only, and left it there
        logger.warning(
            "the launch before, process %s, was killed while it wrote into %s (by hand, or out of"
            " memory: see memory need, and cluster.workers, train.micro_batch_tokens); what it"
            " completed is kept",
            before,
            run.root,
        )


def _record_launch(run: RunFolder) -> None:
    launches = atomic.read_json(run.run_json)["launches"] if run.run_json.exists() else []
    launches.append(
        {
            "argv": [redact(word) for word in sys.argv[1:]],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": library_versions(),
            "git": _git_commit(),
            "hardware": {
                "machine": platform.machine(),
                "cores": usable_cores(),
                "memory_bytes": usable_memory(),
            },
        }
    )
    atomic.write_json(run.run_json, {"schema_version": 1, "launches": launches})


def library_versions() -> dict[str, str]:
    """Versions of the package, Python, and the libraries that matter to a result."""
    found = {"memo_dist": VERSION, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _git_commit() -> str | None:
    """The checkout's commit, where the package runs from one."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
