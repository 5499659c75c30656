"""Which values a run's own config.yaml has brought that only its reader's own word may bring.

A run folder can come from somebody else. Where its ``config.yaml`` names an endpoint, a variable
that holds a key, a recording, or a Ray cluster, taking that over would let the folder choose where
documents and secrets go. Such a value counts only if whoever runs the command has named it: on the
command line, in a file of their own, in the API's settings, or in an earlier command of theirs for
this run, which :func:`remember` keeps outside of it.

What a load has found is kept for the process, as pairs of key and value: a configuration is copied
and taken apart on its way to where it is used, and the refusal must not get lost there.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from memo_dist.errors import UsageError
from memo_dist.io.hashing import canonical_json, hash_value

_ENDPOINT = ("kind", "urls", "api_key_env", "recording")
GUARDED = (
    *(f"{group}.{name}" for group in ("generator", "executive") for name in _ENDPOINT),
    "cluster.address",
    "cluster.authentication",
    *(f"serve.vllm_{name}" for name in ("command", "args", "urls", "api_key_env")),
    "train.replay_text",
    "train.held_out_questions",
)
"""Keys that decide where documents, questions and secrets go, whose code may run here, and which
files outside of the run are read into it."""
_STATE = "own-values"
_foreign: dict[tuple[str, str], str] = {}
"""{(key, canonical value): the file that it came from}."""
_own: set[tuple[str, str]] = set()
"""(key, canonical value) that the caller of this process has named."""


def note(
    stored: Mapping[str, Any], given: Collection[str], defaults: Mapping[str, Any], file: Path
) -> None:
    """Remember for this process which guarded values came from a run's file alone.

    Args:
        stored: {dotted key: value} of the run's file.
        given: dotted keys that the caller has named.
        defaults: {dotted key: value} of the schema.
        file: the run's ``config.yaml``.
    """
    known = _known()
    for key in GUARDED:
        if key not in stored or key in given or stored[key] == defaults[key]:
            continue
        pair = key, canonical_json(stored[key])
        if pair not in _own and _digest(file.parent, key, stored[key]) not in known:
            _foreign[pair] = str(file)


def vouch(given: Mapping[str, Any]) -> None:
    """Values that the caller has named are the caller's, wherever else they stand."""
    for key in GUARDED:
        if key in given:
            pair = key, canonical_json(given[key])
            _own.add(pair)
            _foreign.pop(pair, None)


def check(values: Mapping[str, Any]) -> None:
    """Refuse to use what only the run folder has named.

    Args:
        values: {guarded key: value that is about to be used}.

    Raises:
        UsageError: shows the values, and the keys to repeat.
    """
    foreign = {key: value for key, value in values.items() if _file(key, value)}
    if not foreign:
        return
    file = next(filter(None, (_file(key, value) for key, value in foreign.items())))
    lines = "\n".join(f"  {key}: {_text(value)}" for key, value in foreign.items())
    words = " ".join(shlex.quote(f"{key}={_text(value)}") for key, value in foreign.items())
    raise UsageError(
        f"{file} says where data and keys go, and no command of yours has:\n{lines}\n"
        f"if that is what you want, repeat it: {words}"
    )


def check_endpoint(group: str, endpoint: Any) -> None:
    """:func:`check` of a generator or an executive, for what its kind uses.

    Raises:
        UsageError: see there.
    """
    used = {"openai": ("urls", "api_key_env"), "anthropic": ("kind", "urls", "api_key_env")}
    names = used.get(endpoint.kind, ("recording",) if endpoint.kind == "recorded" else ())
    check({f"{group}.{name}": getattr(endpoint, name) for name in names})


def remember(run: Path, values: Mapping[str, Any]) -> None:
    """Keep, outside of the run, what this user has named for it; a later command then takes it.

    Where that cannot be written the later command asks for the keys again.

    Args:
        run: its folder.
        values: {guarded key: value}, without those that are the default.
    """
    own = {key: value for key, value in values.items() if not _file(key, value)}
    new = {_digest(run, key, value) for key, value in own.items()} - _known()
    if not new:
        return
    with suppress(OSError):
        _state().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(_state(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, "".join(f"{digest}\n" for digest in sorted(new)).encode())
        finally:
            os.close(descriptor)


def _known() -> set[str]:
    """Digests of what this user has named; a file that others may write counts for nothing."""
    try:
        with _state().open("rb") as stream:
            found = os.fstat(stream.fileno())
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
                return set()
            return set(stream.read().decode("ascii", "replace").split())
    except OSError:
        return set()


def _state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "memo_dist" / _STATE


def _digest(run: Path, key: str, value: Any) -> str:
    return hash_value([str(run.resolve()), key, value])


def _file(key: str, value: Any) -> str | None:
    return _foreign.get((key, canonical_json(value)))


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10**6))
    return text.removesuffix("...\n").strip()
