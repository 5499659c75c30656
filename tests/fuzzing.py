"""Fuzzing of everything that is read from others: documents, configurations, journals, banks,
questions, replies. Shared by ``test_fuzz.py`` (500 cases) and ``benchmarks/fuzz.py``."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from test_corpus_formats import make_docx
from test_corpus_readers import make_pdf

from memo_dist.config import load_config
from memo_dist.corpus.chunking import chunk_document
from memo_dist.corpus.listing import SourceFile
from memo_dist.corpus.reader_process import Limits, read_files
from memo_dist.corpus.readers import read_file
from memo_dist.corpus.types import Document, Quarantined
from memo_dist.errors import MemoDistError
from memo_dist.evaluation.questions import load_questions
from memo_dist.io.checked_lines import to_line
from memo_dist.llm.json_text import values
from memo_dist.llm.records import Attempt, RequestJournal
from memo_dist.memory.manifest import load_manifest
from memo_dist.synthesis.journal import Journal, JournalTail, Record

SECONDS = 20.0
"""Longest case, generously: the machine may be busy."""
_LIMITS = Limits(max_bytes=2**20, seconds=SECONDS, megabytes=1024)
_NATIVE = (".parquet",)
_HASH = "0" * 64
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink")


def _parquet() -> bytes:
    out = io.BytesIO()
    rows = {"id": ["a", "b"], "title": ["T", "U"], "text": ["One thing.", "Two things."]}
    pq.write_table(pa.table({**rows, "date": ["2031-01-01", None]}), out)
    return out.getvalue()


_ROW = {"id": "a", "title": "T", "text": "The pump runs at 40 bar.", "date": "2031-03-14"}
DOCUMENTS = {
    ".txt": b"Pump\n\nThe pump, e.g. Mr. Hall's, runs at 40 bar (see 2.1). Caf\xc3\xa9 \xe2\x80\x8b.\n",
    ".md": b"---\ntitle: Pump\ndate: 2031-03-14\n---\n# Pump {#a}\n\n- a\n  1. b\n\n|x|y|\n|-|-|\n|1|2|\n\n"
    b"```yaml\na: 1\n```\n> [!NOTE]\n> b [l](u) `c` {{< d >}}\n",
    ".mdx": b"import A from 'a'\n\n# Pump\n\n<A b={1}>text</A> {/* no */}\n",
    ".html": b"<html><head><title>P</title><meta name=date content=2031-03-14></head><body><nav>n</nav>"
    b"<h1>P</h1><ol start=3><li>a<ul><li>b</ol><table><tr><th rowspan=2>x<td>y<tr><td>z</table>"
    b"<pre><code class=language-c>int a;</code></pre>&amp;&#x41;</body></html>",
    ".rst": b"Pump\n====\n\n.. note:: a\n\n* b\n\n+---+---+\n| a | b |\n+---+---+\n\n:ref:`x` |s|_\n",
    ".adoc": b"= Pump\n:a: b\n\n== Part\n\n* a\n** b\n\n|===\n|a |b\n|===\n\nlink:u[t] ifdef::a[]\n",
    ".csv": b'name;bar\n"The ""pump""";40\nhall;\n',
    ".docx": make_docx("<w:p><w:r><w:t>The pump runs at 40 bar.</w:t></w:r></w:p>"),
    ".pdf": make_pdf(["The pump runs at 40 bar.", "It is in the hall."], "Pump"),
    ".jsonl": b"".join(json.dumps({**_ROW, "id": str(n)}).encode() + b"\n" for n in range(3)),
    ".parquet": _parquet(),
}
CONFIG = (
    b"run: {seed: 3}\ncorpus:\n  shards: 2\n  languages: [en]\ntrain:\n  lr: 1e-3\n  betas: [0.9, 0.95]"
    b"\ngenerator: {kind: openai, model: m, urls: ['http://a/v1']}\nsynthesis: {steps: [direct]}\n"
)
QUESTIONS = (
    b'{"id": "1", "question": "Who?", "answer": "Ada", "aliases": ["A. Pell"]}\n'
    b'{"id": "2", "question": "Why?", "answer": "", "answerable": false}\n'
)
BANK = json.dumps(
    {
        "schema_version": 1,
        "composition": "confidence",
        "base": {"id": "b", "weights_hash": _HASH, "vocabulary_hash": _HASH, "path": "../base"},
        "shards": [{"id": 0, "path": "shard-0", "kind": "full", "documents": []}],
    }
).encode()
REQUESTS = b"".join(
    to_line(Attempt(_HASH, n, "ok" if n else "invalid", bool(n), text="{}").to_row())
    for n in range(2)
)
UNITS = to_line(Record("u", "k", False, [], []).to_row())
REPLY = (
    b'<think>a {b</think> Sure:\n```json\n{"facts": [{"answer": "40", "questions": ["a"]}]}\n```'
)


def _document(folder: Path, data: bytes, suffix: str) -> None:
    path = folder / f"a{suffix}"
    path.write_bytes(data)
    for item in read_file(SourceFile(path, path.name, suffix, "a"), 2**20):
        if isinstance(item, Document):
            item.to_json()
            item.text.encode()
            chunk_document(item, 200, 1)


def _native_document(folder: Path, data: bytes, suffix: str) -> None:
    """As the product reads it, in a process of its own: compiled readers end theirs (SIGABRT)."""
    path = folder / f"a{suffix}"
    path.write_bytes(data)
    for item in read_files([SourceFile(path, path.name, suffix, "a")], _LIMITS):
        if isinstance(item, Quarantined) and "exit code" in item.detail:
            raise RuntimeError(item.detail)  # what is left of an exception that was not foreseen


def _config(folder: Path, data: bytes, _: str) -> None:
    (folder / "a.yaml").write_bytes(data)
    load_config([folder / "a.yaml"], [])
    load_config([], [data.decode("utf-8", "replace").split("\n")[0]])


def _questions(folder: Path, data: bytes, _: str) -> None:
    (folder / "q.jsonl").write_bytes(data)
    load_questions(folder / "q.jsonl")


def _bank(folder: Path, data: bytes, _: str) -> None:
    (folder / "bank.json").write_bytes(data)
    load_manifest(folder)


def _journal(folder: Path, data: bytes, _: str) -> None:
    for name in ("requests.jsonl", "units.jsonl"):
        (folder / name).write_bytes(data)
    journal = RequestJournal(folder / "requests.jsonl")
    journal.history(_HASH)
    journal.close()
    with Journal(folder / "units.jsonl") as units:
        units.get("u", "k")
    list(JournalTail(folder / "units.jsonl").new_records())


def _reply(folder: Path, data: bytes, _: str) -> None:
    values(data.decode("utf-8", "surrogateescape"))


Target = tuple[Callable[[Path, bytes, str], None], bytes, str]
TARGETS: dict[str, list[Target]] = {
    "documents": [
        (_native_document if suffix in _NATIVE else _document, seed, suffix)
        for suffix, seed in DOCUMENTS.items()
    ],
    "config": [(_config, CONFIG, "")],
    "questions": [(_questions, QUESTIONS, "")],
    "bank": [(_bank, BANK, "")],
    "journals": [(_journal, REQUESTS, ""), (_journal, UNITS, "")],
    "replies": [(_reply, REPLY, "")],
}
_PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\xed\xa0\xbd",
        b"\n",
        b"\r",
        b'"',
        b"\\",
        b"{",
        b"[",
    ),
    *(
        b"<",
        b">",
        b"&#0;",
        b"---\n",
        b"```",
        b"|",
        b"!!python/object:os.system",
        b"&a",
        b"*a",
        b"null",
    ),
    *(b"1e999", b"-1", b"9" * 400, b"NaN", b"\\ud800", b"../" * 9, b"/etc/passwd", b"\x1b]0;x\x07"),
    *(
        b"<a <a",
        b"<td rowspan=99999>",
        b"%PDF-",
        b"endobj",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"\xe2\x80\xae",
    ),
)


def mutate(seed: bytes, random_: random.Random) -> bytes:
    """A few changes: bytes flipped, pieces put in, cut out, repeated or swapped."""
    data = bytearray(seed)
    for _ in range(random_.choice((1, 1, 2, 3, 5, 9))):
        at = random_.randrange(len(data) + 1)
        to = min(len(data), at + random_.choice((1, 2, 8, 40)))
        kind = random_.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = random_.randrange(256)
        elif kind == 1:
            data[at:at] = random_.choice(_PIECES) * random_.choice((1, 1, 1, 40))
        elif kind == 2:
            del data[at:to]
        elif kind == 3:
            data[at:at] = data[at:to] * random_.choice((1, 3, 60))
        elif kind == 4:
            data = data[:at]
        else:
            data[at:at] = random_.randbytes(random_.choice((1, 4, 16)))
    return bytes(data)


class Hang(BaseException):
    """A case took too long; no handler of the package catches it."""


def _hang(*_: object) -> None:
    raise Hang(f"no end within {SECONDS} s")


class Watch:
    """Notes what is written outside of a folder, by Python's audit events (which cannot be ended)."""

    def __init__(self) -> None:
        self.folder = ""
        self.outside: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.folder:
            return
        path = arguments[0] if arguments else None
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if (writes or event in _CHANGES) and isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if not name.startswith(self.folder) and name != os.devnull:
                self.outside.append(f"{event} {name}")

    @contextmanager
    def inside(self, folder: Path) -> Iterator[None]:
        """Watch until the block ends."""
        self.folder = os.fspath(folder)
        try:
            yield
        finally:
            self.folder = ""


def run_case(target: Target, data: bytes, watch: Watch) -> str:
    """One case: "" where it ended as it should, else what went wrong.

    Errors for people (:class:`MemoDistError`) are what should come, and lack of memory is what the
    limits of a reader's process are for.
    """
    call, _, suffix = target
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with watch.inside(folder):
                call(folder, data, suffix)
        except (MemoDistError, MemoryError):
            pass
        except Hang as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    found, watch.outside = watch.outside, []
    return f"writes outside of its folder: {found[:3]}" if found else ""


def cases(names: list[str], count: int, seed: int) -> Iterator[tuple[str, Target, bytes]]:
    """``count`` cases, spread over the kinds; the same seed, the same cases."""
    random_ = random.Random(seed)
    for number in range(count):
        name = names[number % len(names)]
        target = random_.choice(TARGETS[name])
        yield name, target, mutate(target[1], random_)


@contextmanager
def alarms() -> Iterator[None]:
    """Hangs end with :class:`Hang` inside of the block."""
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
