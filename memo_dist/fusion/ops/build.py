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

import torch

from memo_dist.cluster.resources import usable_cores
from memo_dist.io import atomic
from memo_dist.io.cache import cache_folder
from memo_dist.io.locks import file_lock

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
    "-Wno-unknown-pragmas",
)
# Vectorised loops without -ffast-math: masked tokens have logit -inf and must stay so.
_CPU = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
# Headers of torch 2.13 otherwise ask for newer symbols than torch 2.10 has.
# https://github.com/pytorch/pytorch/pull/164356
_BINDING = ("-O2", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-Wno-unused-parameter")

NVCC_FLAGS = (
    "-std=c++20",
    "-O3",
    "-lineinfo",
    "-Xptxas=-v",  # registers and spills, into the library's .log
    "--threads=0",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
)


class BuildError(RuntimeError):
    """A compiler is missing, or it failed; the message holds the command and its output."""


@dataclass(frozen=True)
class Target:
    """One library: which sources go in, and how they are compiled."""

    name: str
    kernels: str
    """Folder of the kernels' sources below ``kernels/``."""
    kernel_flags: tuple[str, ...]
    binding_flags: tuple[str, ...] = ()
    by_nvcc: bool = False
    """Whether nvcc compiles the kernels; the bindings are g++'s in any case."""


CPU = Target("cpu", "cpu", (*_COMMON, *_CPU))
EMULATION = Target(
    "emulation",
    "cuda",
    (*_COMMON, "-O2", "-g", "-DMEMO_EMULATION", "-x", "c++"),
    ("-DMEMO_CUDA", "-DMEMO_EMULATION"),
)
"""The CUDA kernels as C++ on the CPU, for tests (kernels/emulation/cuda_emulation.h)."""


def cuda_target(architectures: Sequence[str]) -> Target:
    """Return the library of the CUDA kernels for architectures such as ``90a``."""
    return Target(
        "cuda",
        "cuda",
        (*NVCC_FLAGS, *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures)),
        ("-DMEMO_CUDA", "-DUSE_CUDA"),
        by_nvcc=True,
    )


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


@cache
def nvcc() -> str | None:
    """CUDA's compiler: below ``$CUDA_HOME`` or /usr/local/cuda, or on the path; None without."""
    home = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "bin" / "nvcc"
    return str(home) if home.exists() else shutil.which("nvcc")


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
    busy = BuildError(
        f"waited {_WAIT_SECONDS:.0f} s for another process to build {path}; "
        f"end it or delete {path}.lock"
    )
    with file_lock(Path(f"{path}.lock"), _WAIT_SECONDS, lambda holder: busy):
        if not path.exists():
            _compile(target, path)
    return path


def _compile(target: Target, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as name:
        folder = Path(name)
        commands = list(_object_commands(target, folder))
        with ThreadPoolExecutor(usable_cores()) as pool:
            said = list(pool.map(run, commands))
        atomic.write_text(path.with_suffix(".log"), "".join(said))
        built = folder / path.name
        run(_link_command(target, sorted(folder.glob("*.o")), built))
        built.replace(path)


def _object_commands(target: Target, folder: Path) -> Iterator[list[str]]:
    root = sources_folder()
    torch_include = _torch_folder() / "include"
    flags = [*_COMMON, *_BINDING, *target.binding_flags, *include_flags()]
    flags += [f"-isystem{torch_include}"]
    flags += [f"-isystem{torch_include / 'torch' / 'csrc' / 'api' / 'include'}"]
    for binding in sorted((root / "bindings").glob("*.cpp")):
        yield [*_cxx_command(), *flags, *_object(binding, folder)]
    for source in kernel_sources(target):
        command = _kernel_command(target)
        yield [*command, *target.kernel_flags, *include_flags(), *_object(source, folder)]


def kernel_sources(target: Target) -> list[Path]:
    """The files that hold the target's kernels."""
    return sorted((sources_folder() / target.kernels).glob("*.c*"))


def include_flags() -> list[str]:
    """Where the sources find each other's headers."""
    return [f"-I{sources_folder()}", f"-I{sources_folder() / 'include'}"]


def _object(source: Path, folder: Path) -> list[str]:
    return ["-c", str(source), "-o", str(folder / f"{source.parent.name}-{source.stem}.o")]


def _link_command(target: Target, objects: Sequence[Path], path: Path) -> list[str]:
    folder = _torch_folder() / "lib"
    # libtorch brings libtorch_cuda where there is one, and with it the weak stream symbol.
    libraries = ["-Wl,--no-as-needed", f"-L{folder}", "-ltorch", "-ltorch_cpu", "-lc10"]
    if target.by_nvcc:
        libraries += [f"-L{_cuda_libraries()}", "-lcudart_static", "-lrt", "-lpthread", "-ldl"]
    return [*_cxx_command(), "-shared", "-o", str(path), *map(str, objects), *libraries]


def _cuda_libraries() -> Path:
    root = Path(_nvcc_command()[0]).resolve().parents[1]
    for folder in (root / "lib64", root / "targets" / "x86_64-linux" / "lib", root / "lib"):
        if (folder / "libcudart_static.a").exists():
            return folder
    raise BuildError(f"libcudart_static.a is missing below {root}: install the CUDA runtime")


def _kernel_command(target: Target) -> tuple[str, ...]:
    return _nvcc_command() if target.by_nvcc else _cxx_command()


def _nvcc_command() -> tuple[str, ...]:
    command = nvcc()
    if command is None:
        raise BuildError("no nvcc: install the CUDA toolkit or set CUDA_HOME")
    return (command,)


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
    versions = [
        run([*command, "--version"]) for command in {_cxx_command(), _kernel_command(target)}
    ]
    parts = [*_BINDING, *target.binding_flags, *target.kernel_flags, *sorted(versions)]
    digest.update("\0".join([*parts, _processor()]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` depends on: a cache on a shared disk serves several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
