"""Strict loading: defaults, then YAML files, then dotted overrides, then the rules.

Unknown keys, wrong types and the usual YAML traps are errors that name the key and the value;
``__post_init__`` is not used because OmegaConf runs it only in ``to_object``.
https://github.com/omry/omegaconf/issues/377
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from memo_dist.config import origin
from memo_dist.config.rules import check_rules, choices, lookup
from memo_dist.config.schema import Config
from memo_dist.errors import DamagedFileError, UsageError, suggest
from memo_dist.io.hashing import SHORT_DIGITS, sha256_text
from memo_dist.io.yaml_text import parse_yaml

_HEADER = "# memo-dist wrote this; SHA-256 of what follows: "

RENAMED_VALUES: dict[str, dict[str, str]] = {
    "generator.kind": {"embedded": "rules"},
    "synthesis.extraction": {"joint": "facts", "separate": "facts"},
}
"""{key: {an earlier version's value: today's}}. The old value is accepted, with a notice.

In a run's own file it is accepted without one."""
RENAMED_KEYS: dict[str, tuple[str, dict[bool, Any]]] = {
    "export.reword": ("export.wordings", {True: 2, False: 1})
}
"""{an earlier version's switch: (today's key, {its values: today's})}, accepted alike."""


def load_config(
    files: Sequence[Path] = (),
    overrides: Sequence[str] | Mapping[str, Any] = (),
    check: bool = True,
    stored: Path | None = None,
) -> Config:
    """Resolve the configuration: defaults < ``stored`` < ``files`` in order < ``overrides``.

    Args:
        files: YAML files of the user.
        overrides: ``a.b=value`` as typed, or {dotted key: value}.
        check: apply the rules, too.
        stored: a run's own configuration; an earlier version's values are taken without notice.

    Raises:
        UsageError: a file is missing or not YAML, a key is unknown, a value has the wrong type
            or breaks a rule; names the key and what exists.
    """
    tree = _default_tree()
    there = {} if stored is None else _read_stored(stored)
    tree = _merge(tree, there, str(stored), notice=False)
    own = [(_read_yaml(file), str(file)) for file in files]
    if isinstance(overrides, Mapping):
        own.append((_nested(overrides.items()), "settings"))
    elif overrides:
        own.append((_nested(map(_parse_override, overrides)), "command line"))
    given: dict[str, Any] = {}
    for addition, where in own:
        tree = _merge(tree, addition, where)
        given |= flatten(addition)
    if stored is not None:
        origin.note(flatten(there), given, _defaults(), stored)
    origin.vouch(given)
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    if check:
        check_rules(config)
    return config


def to_yaml(config: Config) -> str:
    """The whole tree as YAML, every default written out."""
    return str(OmegaConf.to_yaml(OmegaConf.structured(config)))


def stored_yaml(config: Config) -> str:
    """The file that keeps a run's configuration: its first line tells whether it is whole."""
    text = to_yaml(config)
    return f"{_HEADER}{sha256_text(text)[:SHORT_DIGITS]}\n{text}"


def guarded_values(config: Config) -> dict[str, Any]:
    """{key: value} of :data:`origin.GUARDED`, without those that are the default."""
    defaults = _defaults()
    values = {key: lookup(config, key) for key in origin.GUARDED}
    return {key: value for key, value in values.items() if value != defaults[key]}


def known_keys() -> list[str]:
    """Every dotted key of the schema."""
    return sorted(_defaults())


@cache
def _defaults() -> dict[str, Any]:
    """{dotted key: default value}; only read."""
    return flatten(OmegaConf.to_container(_default_tree()))


@cache
def _default_tree() -> DictConfig:
    """The schema with its defaults; only read (a merge copies it), as building it is slow."""
    tree: DictConfig = OmegaConf.structured(Config)
    OmegaConf.set_readonly(tree, True)
    return tree


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict as {dotted key: leaf}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _read_stored(file: Path) -> dict[str, Any]:
    """A run's own configuration; an empty or changed one is not taken for the defaults.

    Raises:
        DamagedFileError: it is not what memo_dist wrote.
    """
    text = _text(file)
    first, _, rest = text.partition("\n")
    if not text.strip():
        raise DamagedFileError.of(file, "it is empty")
    if first.startswith(_HEADER) and first != f"{_HEADER}{sha256_text(rest)[:SHORT_DIGITS]}":
        raise UsageError(
            f"{file} has changed since memo-dist wrote it (its first line has the SHA-256 of the"
            " rest): bring it back from a copy; values for one command go on the command line"
            " (key=value). If the change is meant, remove the first line"
        )
    return _parse_yaml(text, file)


def _read_yaml(file: Path) -> dict[str, Any]:
    text = _text(file)
    if not text.strip():
        raise UsageError(f"configuration file {file} is empty: write keys into it, or leave it out")
    return _parse_yaml(text, file)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration file {file}: {error}") from None


def _parse_yaml(text: str, file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"configuration file {file} is not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"configuration file {file} must hold a mapping, not {content!r:.80}")
    return content


def _parse_override(item: str) -> tuple[str, Any]:
    """(dotted key, value) of ``key=value``."""
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise UsageError(f"override '{item}' is not of the form key=value")
    if text == "None":
        raise UsageError(f"override '{item}': write {key}=null for no value")
    return key, _parse_value(text, item)


def _nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Groups of groups, from dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in values:
        node = nested
        parts = key.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(f"override '{key}': '{part}' was given a value before")
        node[parts[-1]] = value
    return nested


def _parse_value(text: str, item: str) -> Any:
    try:
        return parse_yaml(text) if text else ""
    except ValueError as error:
        raise UsageError(f"override '{item}': the value is not YAML: {error}") from None


def _merge(
    tree: DictConfig, addition: dict[str, Any], where: str, notice: bool = True
) -> DictConfig:
    addition = _with_new_keys(addition, where, notice)
    _check_keys(addition, where)
    read = _plain(_with_new_names(addition, where, notice))
    _check_shapes(read, where)
    try:
        return OmegaConf.merge(tree, read)  # type: ignore[return-value]
    except ValidationError as error:
        key = getattr(error, "full_key", "") or ""
        value = flatten(addition).get(key)
        reason = str(error).splitlines()[0]
        raise UsageError(f"{where}: {key}={value!r} has the wrong type: {reason}") from None
    except (ConfigKeyError, ConfigAttributeError, OmegaConfBaseException) as error:
        raise UsageError(f"{where}: {str(error).splitlines()[0]}") from None


def _with_new_names(addition: dict[str, Any], where: str, notice: bool) -> dict[str, Any]:
    """``addition`` with the values of earlier versions replaced (:data:`RENAMED_VALUES`)."""
    for key, names in RENAMED_VALUES.items():
        group, _, field = key.rpartition(".")
        node = addition.get(group)
        old = node.get(field) if isinstance(node, dict) else None
        if isinstance(old, str) and old in names:
            if notice:
                _print_new_name(f"{key}={old}", f"{key}={names[old]}", where)
            addition = {**addition, group: {**addition[group], field: names[old]}}
    return addition


def _with_new_keys(addition: dict[str, Any], where: str, notice: bool) -> dict[str, Any]:
    """``addition`` with the keys of earlier versions replaced (:data:`RENAMED_KEYS`)."""
    for old, (new, values) in RENAMED_KEYS.items():
        group, _, field = old.rpartition(".")
        node = addition.get(group)
        if not isinstance(node, dict) or not isinstance(node.get(field), bool):
            continue
        value = values[node[field]]
        if notice:
            _print_new_name(f"{old}={node[field]}", f"{new}={value}", where)
        rest = {name: item for name, item in node.items() if name != field}
        addition = {**addition, group: {new.rpartition(".")[2]: value, **rest}}
    return addition


@cache
def _print_new_name(old: str, new: str, where: str) -> None:
    """Print a notice once per process and place."""
    print(f"memo-dist: {where}: {old} is called {new} now", file=sys.stderr)


def _plain(value: Any, key: str = "") -> Any:
    """Text as it is: ``${NAME}`` is the shell's (launch.setup), never OmegaConf's reference.

    Where yes and no are among a key's choices, YAML's true and false are meant as these.
    """
    if isinstance(value, dict):
        return {k: _plain(item, f"{key}.{k}" if key else str(k)) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) and "yes" in choices(key):
        return "yes" if value else "no"
    if isinstance(value, PathLike):
        return fspath(value)
    # https://github.com/omry/omegaconf/issues/885
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _check_keys(addition: dict[str, Any], where: str) -> None:
    known = known_keys()
    groups = _prefixes(known)
    for key in flatten(addition):
        if key not in known and key not in groups:
            raise UsageError(
                f"{where}: unknown key '{key}'{suggest(key, known)};"
                " `memo-dist config` prints every key"
            )


def _check_shapes(addition: dict[str, Any], where: str) -> None:
    """Refuse what OmegaConf would convert quietly or describe badly.

    YAML reads ``on`` as true, and a text field would then hold 'True'; a group given a plain
    value is reported without its key.
    """
    # https://github.com/omry/omegaconf/issues/459
    defaults = _defaults()
    for key, value in flatten(addition).items():
        if key not in defaults:
            raise UsageError(f"{where}: '{key}' is a group of keys, not a value ({value!r})")
        if isinstance(defaults[key], str) and not isinstance(value, str):
            raise UsageError(f"{where}: {key}={value!r} must be text; put it in quotes")
        if isinstance(defaults[key], list) and not isinstance(value, list):
            raise UsageError(
                f"{where}: {key}={value!r} has the wrong type: write a list, as {key}=[a,b]"
            )
        if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
            raise UsageError(
                f"{where}: {key}={value!r} has the wrong type: items are plain values, as"
                f" {key}=[a,b]"
            )


def _prefixes(keys: Sequence[str]) -> set[str]:
    return {prefix for key in keys for prefix in _parents(key)}


def _parents(key: str) -> Iterator[str]:
    parts = key.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])
