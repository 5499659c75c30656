"""Options that verbs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from memo_dist.config import Config, load_config
from memo_dist.errors import UsageError, install_hint
from memo_dist.io.store import Place, read_place
from memo_dist.training.job import RESUME_CHOICES

_OVERRIDE = re.compile(r"\w+(\.\w+)+=")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _place(ctx: click.Context, param: click.Parameter, value: str) -> Place:
    """Not a click type: errors of those repeat the value, which may hold a login."""
    return read_place(value)


run_option = click.option(
    "--run",
    "run_folder",
    required=True,
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Folder for all files of the run.",
)
run_argument = click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
corpus_argument = click.argument("corpus", metavar="CORPUS", callback=_place)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Check everything and print the plan; change nothing."
)
resume_option = click.option(
    "--resume",
    default="auto",
    show_default=True,
    metavar="auto|never|must|PATH",
    help="auto: continue if possible; never: require a new run; must: require an existing run;"
    " PATH: continue from this checkpoint of the run.",
)
_questions_option = click.option(
    "--questions",
    "questions_file",
    required=True,
    type=click.Path(path_type=Path),
    help="JSONL file; a line has id, question, answer and optionally aliases, supporting_ids,"
    " answerable, type.",
)
_limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="Use only the first N questions."
)
config_option = click.option(
    "--config",
    "config_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="YAML configuration file; repeatable, later files override earlier ones.",
)


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config FILE`` (repeatable) and trailing ``key=value`` overrides."""
    overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    return config_option(overrides(function))


def questions_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--questions FILE`` and ``--limit N``."""
    return _questions_option(_limit_option(function))


def names_in(text: str) -> list[str]:
    """The names of a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def split_overrides(words: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    """Plain words, and ``group.key=value`` words, for verbs whose arguments both end.

    A path or an id that looks like a key is given as ``./PATH`` or in a file.
    """
    overrides = tuple(word for word in words if _OVERRIDE.match(word))
    return [word for word in words if word not in overrides], overrides


def resolve(
    config_files: tuple[Path, ...], overrides: tuple[str, ...], run_folder: Path | None = None
) -> Config:
    """Defaults, then the run's own configuration (if given), then files, then overrides."""
    stored = run_folder / "config.yaml" if run_folder is not None else None
    known = stored if stored is not None and stored.exists() else None
    return load_config(config_files, overrides, stored=known)


def need_extra(extra: str, *modules: str) -> None:
    """Refuse where the packages of an optional dependency are missing.

    Raises:
        UsageError: says what to install.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(f"the package {missing[0]} is not installed: {install_hint(extra)}")


def need_server(config: Config, extra: str, *modules: str) -> None:
    """Refuse where a package of the HTTP server, or of what it offers, is missing.

    Args:
        config: ``serve.replicas`` needs an extra of its own.
        extra, modules: of the verb, see :func:`need_extra`.

    Raises:
        UsageError: says what to install.
    """
    need_extra(extra, *modules, "fastapi", "uvicorn", "prometheus_client")
    if config.serve.replicas:
        need_extra("serve-ray", "grpc_reflection")


def check_resume(resume: str) -> str:
    """Check the value of ``--resume``."""
    if resume not in RESUME_CHOICES and not Path(resume).is_dir():
        raise UsageError(f"--resume {resume}: use auto, never, must, or the folder of a checkpoint")
    return resume
