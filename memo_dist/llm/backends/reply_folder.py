"""A folder of prompts and replies: requests go out as files, their replies come back as files.

``prompts/<step>-<number>-<short key>.md`` is a prompt to paste into a chat window, its reply is
``replies/<the same name>.json`` (or ``.txt``, ``.md``). The short key is the beginning of the
request's key, so a changed prompt gets a file of its own and never an old reply.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memo_dist.io.atomic import TEMP_PREFIX, write_text
from memo_dist.llm.backends.base import Answer, NoReply, RequestRefused
from memo_dist.llm.prompt_files import PromptFiles
from memo_dist.llm.requests import OpenRequest, Request

KEY_DIGITS = 12
"""Digits of a request's key in the name of its files."""
MAX_REPLY_BYTES = 16 * 2**20
GIVE_UP = "SKIP"
"""A reply file with this word alone gives its request up."""
ERROR_SUFFIX = ".error.txt"

_REPLY = re.compile(rf"(?:.*-)?([0-9a-f]{{{KEY_DIGITS}}})\.(?:json|txt|md)", re.DOTALL)
_PROMPT = re.compile(rf"(.+)-(\d+)-([0-9a-f]{{{KEY_DIGITS}}})\.md", re.DOTALL)
_FILES = PromptFiles("memo_dist.llm")


@dataclass(frozen=True, slots=True)
class Opened:
    """What was written for requests without a valid reply.

    Attributes:
        names: of their prompt files, without the suffix.
        new: how many of them had no file before.
        faults: what is wrong with each reply that cannot be used.
        strange: files among the replies whose names name no prompt.
    """

    names: tuple[str, ...]
    new: int
    faults: tuple[str, ...]
    strange: tuple[str, ...]


class ReplyFolder:
    """The folder; replies are looked for once, when the first one is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prompts = path / "prompts"
        self.replies = path / "replies"

    @property
    def open_list(self) -> Path:
        """The names of all prompts without a valid reply, one a line."""
        return self.path / "open.txt"

    def answer(self, key: str) -> Answer:
        """The reply to the request of this key.

        Raises:
            NoReply: there is none, or it is not text (the message says why).
            RequestRefused: the reply gives the request up.
        """
        paths = self._found.get(key[:KEY_DIGITS], [])
        if not paths:
            raise NoReply("")
        if len(paths) > 1:
            raise NoReply(f"{', '.join(path.name for path in paths)}: keep one of them")
        text = _text(paths[0])
        if text.strip() == GIVE_UP:
            raise RequestRefused(f"given up: its reply file says {GIVE_UP}")
        return Answer(text, "stop", source=paths[0].name)

    def leave_open(self, step: str, requests: Sequence[OpenRequest]) -> Opened:
        """Write a prompt file for each request, the faults of replies, and the list of both.

        A file that is there stays as it is.

        Args:
            step: begins the names of new files.
            requests: all that wait for a reply, in the order of their numbers.

        Raises:
            OSError: the folder cannot be written; every file is whole.
        """
        self.replies.mkdir(parents=True, exist_ok=True)
        self.prompts.mkdir(exist_ok=True)
        names, number = self._names(step)
        opened: dict[str, OpenRequest] = {}
        new = 0
        for item in requests:
            short = item.request.key[:KEY_DIGITS]
            if short not in names:
                number, new = number + 1, new + 1
                names[short] = f"{step}-{number:03d}-{short}"
                text = _prompt_text(names[short], item.request)
                write_text(self.prompts / f"{names[short]}.md", text)
            opened[names[short]] = item
        self._note(opened)
        return Opened(
            names=tuple(opened),
            new=new,
            faults=tuple(item.reason for item in requests if item.reason),
            strange=tuple(sorted(self._strange(names))),
        )

    def settle(self) -> None:
        """Nothing is open any more; a folder that says so already may be read-only."""
        if self.open_list.exists() and self.open_list.stat().st_size:
            self._note({})

    def _note(self, opened: dict[str, OpenRequest]) -> None:
        """Put each fault beside its prompt, and the names of the open prompts into their list."""
        notes = {f"{name}{ERROR_SUFFIX}": item.reason for name, item in opened.items()}
        for path in self.prompts.glob(f"*{ERROR_SUFFIX}"):
            if not notes.get(path.name):
                path.unlink()
        for name, reason in notes.items():
            if reason:
                write_text(self.prompts / name, f"{reason}\n")
        write_text(self.open_list, "".join(f"{name}\n" for name in opened))

    def _names(self, step: str) -> tuple[dict[str, str], int]:
        """Short key -> name of the prompts that are there, and the step's highest number."""
        names, highest = {}, 0
        for path in self.prompts.iterdir():
            match = _PROMPT.fullmatch(path.name)
            if match:
                names[match[3]] = path.stem
                highest = max(highest, int(match[2])) if match[1] == step else highest
        return names, highest

    def _strange(self, names: Iterable[str]) -> Iterator[str]:
        known = set(names)
        for path in self.replies.iterdir():
            match = _REPLY.fullmatch(path.name)
            if not path.name.startswith(".") and not (match and match[1] in known):
                yield path.name

    @cached_property
    def _found(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        if self.replies.is_dir():
            for path in sorted(self.replies.iterdir()):
                match = _REPLY.fullmatch(path.name)
                if match and not path.name.startswith(TEMP_PREFIX):
                    found.setdefault(match[1], []).append(path)
        return found


def _text(path: Path) -> str:
    """The text of a reply file; whatever else stands under its name is no reply."""
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            raise NoReply(f"{path.name}: not a regular file")
        if about.st_size > MAX_REPLY_BYTES:
            raise NoReply(f"{path.name}: {about.st_size} bytes, at most {MAX_REPLY_BYTES}")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoReply(f"{path.name}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise NoReply(f"{path.name}: {error.strerror}") from None


def _prompt_text(name: str, request: Request) -> str:
    instructions = [turn.content for turn in request.messages if turn.role == "system"]
    turns = [turn for turn in request.messages if turn.role != "system"]
    return _FILES.render(
        "prompt_file",
        file_name=name,
        key=request.key,
        instructions=instructions,
        examples=turns[:-1],
        task=turns[-1].content,
        schema=request.schema,
    )
