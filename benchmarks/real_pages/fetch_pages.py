"""Bring the ten real pages of ``pages.jsonl`` into a corpus folder, byte for byte.

    python benchmarks/real_pages/fetch_pages.py OUT --clones FOLDER
    python benchmarks/real_pages/fetch_pages.py OUT --raw https://raw.githubusercontent.com

``--clones`` reads git clones, bare ones too: ``FOLDER/OWNER/NAME`` or ``FOLDER/NAME``, with
``.git`` or without. ``--raw`` downloads ``URL/OWNER/NAME/COMMIT/PATH``. Each page is taken at the
commit of ``pages.jsonl`` and compared with its SHA-256. OUT appears whole or not at all. Exit
codes are those of memo-dist: 0 done, 1 failed (network, deadline, a changed page), 2 wrong use.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from time import monotonic

from memo_dist.errors import MemoDistError, RunError, UsageError
from memo_dist.io.atomic import TEMP_PREFIX, fsync_folder, read_jsonl, write_bytes

PAGES = Path(__file__).with_name("pages.jsonl")
MAX_BYTES = 1 << 20
"""Largest page that is read: the pages have less than 20,000 bytes."""
DEADLINE = 120.0
"""Seconds for all pages together."""


@dataclass(frozen=True)
class Page:
    """One line of ``pages.jsonl``; ``sha256`` is of the file's bytes, in lower-case hex."""

    id: str
    repository: str
    commit: str
    path: str
    sha256: str

    @property
    def file(self) -> str:
        """Name in the corpus folder; its stem is the document's id."""
        return self.id + Path(self.path).suffix

    @property
    def origin(self) -> str:
        return f"{self.path} of {self.repository} at commit {self.commit}"


Reader = Callable[[Page, float], bytes]
"""Bytes of a page, read within so many seconds."""


def load_pages(path: Path = PAGES) -> list[Page]:
    return [
        Page(row["id"], row["repository"], row["commit"], row["path"], row["sha256"])
        for row in read_jsonl(path)
    ]


def fetch(pages: Sequence[Page], out: Path, read: Reader, deadline: float = DEADLINE) -> bool:
    """Write the pages to the new folder ``out``; False if they are all there already.

    Raises:
        UsageError: ``out`` holds anything else, or a clone is missing.
        RunError: a page cannot be read, has changed, or the deadline passed.
    """
    if _is_complete(pages, out):
        return False
    end = monotonic() + deadline
    contents = {page.file: _checked(page, read, end) for page in pages}
    stage = out.parent / f"{TEMP_PREFIX}{out.name}-{os.getpid()}"
    try:
        for name, content in contents.items():
            write_bytes(stage / name, content)
        stage.replace(out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    fsync_folder(out.parent)
    return True


def _is_complete(pages: Sequence[Page], out: Path) -> bool:
    """Whether ``out`` holds exactly the pages; False for an empty or missing folder."""
    try:
        found = {file.name: file for file in out.iterdir()}
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(f"cannot use {out} as the folder: {error.strerror}") from error
    expected = {page.file: page.sha256 for page in pages}
    for name, file in found.items():
        if not file.is_file() or expected.get(name) != _digest(file.read_bytes()):
            raise UsageError(
                f"{file} is not a page of the set: figures hold only for the unchanged pages"
                " alone; name a folder that is new or empty"
            )
    if found and len(found) < len(expected):
        raise UsageError(
            f"{out} holds {len(found)} of {len(expected)} pages; name a folder that is new or empty"
        )
    return bool(found)


def _checked(page: Page, read: Reader, end: float) -> bytes:
    left = end - monotonic()
    if left <= 0:
        raise _late(page)
    content = read(page, left)
    if _digest(content) != page.sha256:
        raise RunError(
            f"{page.origin} has SHA-256 {_digest(content)}, not {page.sha256} as in {PAGES.name}:"
            " the page has changed; nothing was written"
        )
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _late(page: Page) -> RunError:
    return RunError(f"the deadline passed at {page.origin}: raise --deadline; nothing was written")


def from_clones(folder: Path) -> Reader:
    """A reader of local git clones below ``folder``."""

    def read(page: Page, seconds: float) -> bytes:
        command = ["git", "-C", str(_clone(folder, page)), "cat-file", "blob"]
        command.append(f"{page.commit}:{page.path}")
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )
        except subprocess.TimeoutExpired as error:
            raise _late(page) from error
        except OSError as error:
            raise UsageError(f"cannot run git ({error.strerror}): install it") from error
        if done.returncode:
            reason = done.stderr.decode("utf-8", "replace").strip()
            raise RunError(f"git has no {page.origin}: fetch that commit. git says: {reason}")
        return done.stdout

    return read


def _clone(folder: Path, page: Page) -> Path:
    name = page.repository.rpartition("/")[2]
    for relative in (page.repository, f"{page.repository}.git", name, f"{name}.git"):
        if (folder / relative).is_dir():
            return folder / relative
    raise UsageError(f"no clone of {page.repository}: clone it to {folder / page.repository}")


def from_url(base: str) -> Reader:
    """A reader of ``base/OWNER/NAME/COMMIT/PATH`` over HTTP.

    Raises:
        UsageError: the URL is not one of HTTP.
    """
    parts = urllib.parse.urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--raw is {base!r}: write a URL that begins with https://")

    def read(page: Page, seconds: float) -> bytes:
        place = urllib.parse.quote(f"{page.repository}/{page.commit}/{page.path}")
        url = f"{base.rstrip('/')}/{place}"
        try:
            return _download(url, page, monotonic() + seconds)
        except TimeoutError as error:
            raise _late(page) from error
        except (OSError, HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _late(page) from error
            raise RunError(f"cannot download {url}: {error}; nothing was written") from error

    return read


def _download(url: str, page: Page, end: float) -> bytes:
    """The body; a socket's timeout holds for one read, so the time is looked at after each."""
    content = b""
    with urllib.request.urlopen(url, timeout=max(0.1, end - monotonic())) as reply:
        while part := reply.read1(1 << 16):
            content += part
            if len(content) > MAX_BYTES:
                raise RunError(f"{url} has more than {MAX_BYTES} bytes: not the page")
            if monotonic() > end:
                raise _late(page)
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring the ten real pages into a corpus folder.")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the pages")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clones", type=Path, metavar="FOLDER", help="folder of git clones")
    source.add_argument("--raw", metavar="URL", help="base URL of raw files")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds for all pages")
    options = parser.parse_args(arguments)
    try:
        pages = load_pages()
        read = from_clones(options.clones) if options.clones else from_url(options.raw)
        written = fetch(pages, options.out, read, options.deadline)
    except MemoDistError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(pages)} pages {'written to' if written else 'were already in'} {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
