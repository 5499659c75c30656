"""What a launcher must know of a verb's arguments, without importing the verb.

The verbs' modules import torch and Ray; a login node, a batch script and the guard of a requeue
should not wait for that. A test compares this table with the verbs' own definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memo_dist.config import Config, load_config
from memo_dist.errors import UsageError, suggest
from memo_dist.scaling.folder import find_study

VERBS: dict[str, str] = {
    "demo": "",
    "encode": "corpus",
    "synthesize": "corpus",
    "train": "run",
    "export": "run",
    "fuse": "run",
    "evaluate": "run",
    "ask": "run",
    "scale": "study",
}
"""Verbs that can be launched, and what their first argument is (of ``scale run`` for a study)."""
VALUE_OPTIONS = (
    "--run",
    "--config",
    "--resume",
    "--questions",
    "--limit",
    "--name",
    "--mode",
    "--backbone",
    "--modes",
    "--only-partition",
)
"""Options of these verbs that are followed by a value."""


@dataclass(frozen=True)
class VerbCall:
    """One verb with its arguments.

    Attributes:
        verb: its name.
        arguments: everything behind it, as given.
        corpus, run: the folders it works on, where it names them.
        files: its ``--config`` files.
        overrides: its ``key=value`` arguments.
    """

    verb: str
    arguments: tuple[str, ...]
    corpus: Path | None
    run: Path | None
    files: tuple[Path, ...]
    overrides: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The verb and its arguments, as a command line has them."""
        return [self.verb, *self.arguments]

    def config(self) -> Config:
        """The configuration that the verb will resolve.

        Raises:
            UsageError: it is wrong.
        """
        stored = self.run / "config.yaml" if self.run else None
        fresh = self.verb in ("encode", "scale")
        known = [stored] if stored is not None and stored.exists() and not fresh else []
        return load_config([*known, *self.files], self.overrides)


def parse_verb(words: Sequence[str]) -> VerbCall:
    """Take a verb's command line apart.

    Raises:
        UsageError: no verb, one that cannot be launched, or an option without its value.
    """
    if not words:
        raise UsageError(f"no verb after --; verbs are {', '.join(VERBS)}")
    verb, *rest = words
    if verb not in VERBS:
        raise UsageError(
            f"'{verb}' cannot be launched{suggest(verb, VERBS)}; verbs are {', '.join(VERBS)}"
        )
    options, plain = _split(rest)
    if verb == "scale":
        return _scale_call(tuple(rest), options, plain)
    first = plain[0] if plain and VERBS[verb] else None
    run = first if VERBS[verb] == "run" else next(iter(options.get("--run", [])), None)
    return VerbCall(
        verb=verb,
        arguments=tuple(rest),
        corpus=Path(first) if first and VERBS[verb] == "corpus" else None,
        run=Path(run) if run else Path("runs") / _demo_name(rest) if verb == "demo" else None,
        files=tuple(Path(file) for file in options.get("--config", [])),
        overrides=tuple(word for word in plain if _is_override(word)),
    )


def _scale_call(
    arguments: tuple[str, ...], options: dict[str, list[str]], plain: list[str]
) -> VerbCall:
    """``scale run STUDY``: a YAML file and where its results go, or a study's folder."""
    if len(plain) < 2 or plain[0] != "run":
        raise UsageError("of the scaling study `scale run STUDY` can be launched")
    named = next(iter(options.get("--run", [])), None)
    file, run = find_study(Path(plain[1]), Path(named) if named else None)
    more = (Path(name) for name in options.get("--config", []))
    return VerbCall(
        verb="scale",
        arguments=arguments,
        corpus=None,
        run=run,
        files=(run / "config.yaml" if file is None else file, *more),
        overrides=tuple(word for word in plain if _is_override(word)),
    )


def _demo_name(words: Sequence[str]) -> str:
    return "demo-full" if "--full" in words else "demo"


def _split(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    options: dict[str, list[str]] = {}
    plain: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name in VALUE_OPTIONS:
            given = value if equals else next(left, None)
            if given is None:
                raise UsageError(f"{name} needs a value")
            options.setdefault(name, []).append(given)
        elif not word.startswith("-"):
            plain.append(word)
    return options, plain


def _is_override(word: str) -> bool:
    """``group.key=value``; a question or a path with ``=`` in it has no such beginning."""
    key, equals, _ = word.partition("=")
    return bool(equals) and all(part.isidentifier() for part in key.split(".")) and "." in key
