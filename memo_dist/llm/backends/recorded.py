"""Answers from files: a recording, or a folder of prompts and replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.errors import UsageError
from memo_dist.llm.backends.base import Answer, NoReply, RequestRefused
from memo_dist.llm.backends.reply_folder import ReplyFolder
from memo_dist.llm.recordings import SUFFIXES, Header, read_header, read_replies
from memo_dist.llm.requests import Request, Usage


class _Replies(Protocol):
    def answer(self, key: str) -> Answer:
        """The reply to the request of this key."""
        ...


class RecordedBackend:
    """Looks replies up; a request is known by the key that its first attempt has.

    Args of the constructor:
        path: a recording, or a folder of prompts and replies.
        group: the configuration's group, for messages.
        waits: a missing reply is still to come (:class:`NoReply`); else it never will
            (:class:`RequestRefused`).
    """

    name = "recorded"

    def __init__(self, path: Path, group: str = "generator", waits: bool = True) -> None:
        self._replies: _Replies = ReplyFolder(path) if is_folder(path) else _Recording(path, group)
        self._waits = waits

    async def complete(self, request: Request, tag: str) -> Answer:
        """The recorded answer to the request that ``tag`` names."""
        key = tag.rpartition("-")[0]
        try:
            answer = self._replies.answer(key)
            return answer if self._waits else replace(answer, source="")
        except NoReply as why:
            if self._waits:
                raise
            raise RequestRefused(str(why) or f"no recorded reply to request {key}") from None

    async def close(self) -> None:
        """Nothing to release."""


class _Recording:
    """The replies of a recording. Of equal keys the last holds."""

    def __init__(self, path: Path, group: str) -> None:
        self._rows: dict[str, Answer | str] = {}
        with readable(path, group):
            for row in read_replies(path):
                if row.get("final", True):
                    self._rows[row["key"]] = _outcome(row)

    def answer(self, key: str) -> Answer:
        found = self._rows.get(key)
        if found is None:
            raise NoReply("")
        if isinstance(found, str):
            raise RequestRefused(found)
        return found


def _outcome(row: dict[str, Any]) -> Answer | str:
    """What a row settled: an answer, or why there is none."""
    if row.get("outcome", "ok") != "ok":
        return str(row["reason"])
    text = row["text"]
    if not isinstance(text, str):
        raise ValueError(f"the text of request {row['key']} is {type(text).__name__}")
    usage = Usage(*row.get("usage", ()))
    return Answer(text, row.get("finish_reason", "stop"), usage, f"request {row['key']}")


def is_folder(path: Path) -> bool:
    """Whether a path names a folder of prompts and replies, which need not exist yet."""
    return path.is_dir() or not (path.exists() or path.name.endswith(SUFFIXES))


@contextmanager
def readable(path: Path, group: str) -> Iterator[None]:
    """Turn what reading a recording raises into a :class:`UsageError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{group}.recording={path}: {type(error).__name__}: {error}") from None


def recorded_header(config: EndpointConfig) -> Header | None:
    """The header of the recording that ``config`` names; None for a folder, or without one.

    Raises:
        UsageError: the recording cannot be read.
    """
    path = Path(config.recording)
    if is_folder(path):
        return None
    with readable(path, config.group):
        return read_header(path)


def recorded_origin(config: EndpointConfig, seed: int) -> tuple[str, int]:
    """Model and seed of the requests that ``config.recording`` has the replies to.

    Replies in a folder, which people place there, do not change with the seed of a run.

    Args:
        config: an endpoint of kind ``recorded``.
        seed: of the run; for recordings that do not say theirs.

    Raises:
        UsageError: the recording cannot be read, or the name of its model is missing or another.
    """
    path = Path(config.recording)
    header = recorded_header(config)
    if header is None and not config.model:
        raise UsageError(
            f"{config.group}.model='' must name the model that writes the replies in {path}"
        )
    if header is None:
        return config.model, 0 if is_folder(path) else seed
    if config.model not in ("", header.model):
        raise UsageError(
            f"{config.group}.model={config.model}, but {path} holds replies of {header.model}:"
            f" leave {config.group}.model empty"
        )
    return header.model, header.seed
