"""Compile the kernels once into a cache: g++ for the CPU and the bindings, nvcc for CUDA.

The package ships sources. A library is built on first use, into
``$MEMO_DIST_CACHE/kernels/`` (default ``~/.cache/memo_dist/kernels/``), under a name that holds
a hash of everything that it depends on: sources, compiler, flags, processor. Several processes
may start at once: one builds, the others wait.

``torch.utils.cpp_extension`` is not used: it refuses CUDA under a CPU-only torch, and it parses
torch's headers in nvcc, which makes a second's work a minute's.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import filelock
import torch

from memo_dist.cluster.resources import usable_cores
from memo_dist.memory.embedded import cache_folder

_PACKAGE = Path(__file__).parents[2]
_SUFFIXES = {".cpp", ".cu", ".h"}
_WAIT_SECONDS = 900.0
"""How long to wait for another process that builds the same library."""

_COMMON = (
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
)
# Vectorised loops without -ffast-math: masked tokens have logit -inf and must stay so.
_CPU = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
# Headers of torch 2.13 otherwise ask for newer symbols than torch 2.10 has.
_BINDING = ("-O2", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-Wno-unused-parameter")


class BuildError(RuntimeError):
    """A compiler is missing, or it failed; the message holds the command and its output."""


@dataclass(frozen=True)
class Target:
    """One library: which sources go in, and how they are compiled."""

    name: str
    kernels: str
    """Folder of the kernels' sources below ``kernels/``."""
    binding: str
    """File below ``kernels/bindings/``."""
    kernel_flags: tuple[str, ...]
    link_flags: tuple[str, ...] = ()


CPU = Target("cpu", "cpu", "mix_logits_cpu.cpp", (*_COMMON, *_CPU))


@cache
def sources_folder() -> Path:
    """``kernels/`` beside the package in a checkout, ``_kernels`` inside it in a wheel.

    Raises:
        BuildError: neither is there.
    """
    for folder in (_PACKAGE.parent / "kernels", _PACKAGE / "_kernels"):
        if (folder / "include" / "memo").is_dir():
            return folder
    raise BuildError(f"the kernels' sources are missing beside {_PACKAGE}: reinstall memo-dist")


@cache
def cxx() -> tuple[str, ...] | None:
    """The C++ compiler's command: ``$CXX``, g++ or clang++; None where there is none."""
    named = os.environ.get("CXX")
    if named:
        return tuple(shlex.split(named))
    found = shutil.which("g++") or shutil.which("clang++")
    return (found,) if found else None


def library_path(target: Target) -> Path:
    """Where the library of this machine, compiler and sources lies once it is built.

    Raises:
        BuildError: there is no compiler.
    """
    return cache_folder() / "kernels" / f"{target.name}-{_key(target)}.so"


def build(target: Target) -> Path:
    """Return the library's path, compiling it if the cache does not hold it.

    Raises:
        BuildError: no compiler, a compiler's error, or another process that builds the same
            library for longer than 15 minutes.
    """
    path = library_path(target)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{path}.lock", timeout=_WAIT_SECONDS):
            if not path.exists():
                _compile(target, path)
    except filelock.Timeout:
        raise BuildError(
            f"waited {_WAIT_SECONDS:.0f} s for another process to build {path}; "
            f"end it or delete {path}.lock"
        ) from None
    return path


def _compile(target: Target, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as name:
        folder = Path(name)
        commands = list(_object_commands(target, folder))
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(run, commands))
        built = folder / path.name
        run(_link_command(target, sorted(folder.glob("*.o")), built))
        built.replace(path)


def _object_commands(target: Target, folder: Path) -> Iterator[list[str]]:
    root = sources_folder()
    includes = [f"-I{root}", f"-I{root / 'include'}"]
    torch_root = _torch_folder() / "include"
    torch_includes = [f"-I{torch_root}", f"-I{torch_root / 'torch' / 'csrc' / 'api' / 'include'}"]
    binding = root / "bindings" / target.binding
    yield [
        *_cxx_command(),
        *_COMMON,
        *_BINDING,
        *includes,
        *torch_includes,
        *_object(binding, folder),
    ]
    for source in sorted((root / target.kernels).glob("*.c*")):
        yield [*_cxx_command(), *target.kernel_flags, *includes, *_object(source, folder)]


def _object(source: Path, folder: Path) -> list[str]:
    return ["-c", str(source), "-o", str(folder / f"{source.stem}.o")]


def _link_command(target: Target, objects: Sequence[Path], path: Path) -> list[str]:
    folder = _torch_folder() / "lib"
    libraries = [f"-L{folder}", "-ltorch", "-ltorch_cpu", "-lc10"]
    command = [*_cxx_command(), "-shared", "-o", str(path)]
    return [*command, *map(str, objects), *libraries, *target.link_flags]


def _cxx_command() -> tuple[str, ...]:
    command = cxx()
    if command is None:
        raise BuildError("no C++ compiler: install g++ or set CXX")
    return command


def run(command: Sequence[str]) -> str:
    """Run a compiler; return what it printed.

    Raises:
        BuildError: it could not be started or failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        raise BuildError(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _torch_folder() -> Path:
    return Path(torch.__file__).parent


def _key(target: Target) -> str:
    digest = hashlib.sha256()
    for source in sorted(p for p in sources_folder().rglob("*") if p.suffix in _SUFFIXES):
        digest.update(source.relative_to(sources_folder()).as_posix().encode())
        digest.update(source.read_bytes())
    command = _cxx_command()
    parts = [*_BINDING, *target.kernel_flags, *target.link_flags, run([*command, "--version"])]
    digest.update("\0".join([*parts, _processor()]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` depends on: a cache on a shared disk serves several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
