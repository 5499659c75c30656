"""Takes a verb's command line apart for the launchers, without importing the verb.

The verbs' modules import torch and Ray; a login node, a batch script and the guard of a requeue
should not wait for that. What they need of each verb stands in :mod:`memo_dist.verbs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memo_dist.config import Config, load_config
from memo_dist.errors import UsageError, suggest
from memo_dist.io.store import Place, read_place
from memo_dist.scaling.folder import find_study
from memo_dist.verbs import VERBS


@dataclass(frozen=True)
class VerbCall:
    """One verb with its arguments.

    Attributes:
        verb: its name.
        arguments: everything behind it, as given.
        corpus, run: the folders it works on, where it names them.
        files: its ``--config`` files.
        overrides: its ``key=value`` arguments.
        continues: a study that is named by its folder: the configuration there holds.
    """

    verb: str
    arguments: tuple[str, ...]
    corpus: Place | None
    run: Path | None
    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    continues: bool = False

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
        reads = VERBS[self.verb].reads_stored or self.continues
        known = stored if reads and stored is not None and stored.exists() else None
        return load_config(self.files, self.overrides, stored=known)


def parse_verb(words: Sequence[str]) -> VerbCall:
    """Take a verb's command line apart.

    Raises:
        UsageError: no verb, one that cannot be launched, or an option without its value.
    """
    launched = [verb.name for verb in VERBS.values() if verb.launches]
    if not words:
        raise UsageError(f"no verb after --; verbs are {', '.join(launched)}")
    name, *rest = words
    if name not in launched:
        raise UsageError(
            f"'{name}' cannot be launched{suggest(name, launched)}; verbs are {', '.join(launched)}"
        )
    verb = VERBS[name]
    options, plain = _split(rest, verb.value_options)
    if verb.first == "study":
        return _study_call(name, tuple(rest), options, plain)
    first = plain[0] if plain and verb.first else None
    run = first if verb.first == "run" else next(iter(options.get("--run", [])), None)
    return VerbCall(
        verb=name,
        arguments=tuple(rest),
        corpus=read_place(first) if first and verb.first == "corpus" else None,
        run=Path(run) if run else Path("runs") / _demo_name(rest) if name == "demo" else None,
        files=tuple(Path(file) for file in options.get("--config", [])),
        overrides=tuple(word for word in plain if _is_override(word)),
    )


def _study_call(
    name: str, arguments: tuple[str, ...], options: dict[str, list[str]], plain: list[str]
) -> VerbCall:
    """``scale run STUDY``: a YAML file and where its results go, or a study's folder."""
    if len(plain) < 2 or plain[0] != "run":
        raise UsageError("of the scaling study only `scale run STUDY` can be launched")
    named = next(iter(options.get("--run", [])), None)
    file, run = find_study(Path(plain[1]), Path(named) if named else None)
    more = [Path(file) for file in options.get("--config", [])]
    return VerbCall(
        verb=name,
        arguments=arguments,
        corpus=None,
        run=run,
        files=tuple(more) if file is None else (file, *more),
        overrides=tuple(word for word in plain if _is_override(word)),
        continues=file is None,
    )


def _demo_name(words: Sequence[str]) -> str:
    return "demo-full" if "--full" in words else "demo"


def _split(
    words: Sequence[str], value_options: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """({option: its values}, the words that belong to no option)."""
    options: dict[str, list[str]] = {}
    plain: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name in value_options:
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
