"""60 kinds of bad input: what is given, with which code the command ends, and what it says.

``docs/bad-input.md`` is made of them (``python tests/bad_inputs.py``), so that it stays true.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "bad-input.md"


@dataclass(frozen=True)
class Case:
    """One kind.

    Attributes:
        what: of the table.
        message: a part of what the command says.
        code: its exit code.
        files: name -> content of what is given to it.
        arguments: of the command; ``{}`` is the folder of the files.
    """

    what: str
    message: str
    files: dict[str, bytes]
    arguments: tuple[str, ...]
    code: int = 2


def _archive(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, data)
    return out.getvalue()


def _row(**changes: object) -> bytes:
    row = {"id": "a", "title": "T", "text": "Some text.", **changes}
    return (json.dumps(row) + "\n").encode()


DRY = ("encode", "{}/source", "--run", "{}/run", "--dry-run", "memory.base=scratch")


def document(what: str, name: str, data: bytes, message: str, *settings: str) -> Case:
    """A corpus of one document that cannot be read."""
    return Case(what, message, {f"source/{name}": data}, (*DRY, *settings))


def setting(what: str, value: str, message: str) -> Case:
    return Case(what, message, {}, ("config", value))


def file(what: str, data: bytes, message: str) -> Case:
    """A configuration file."""
    return Case(what, message, {"a.yaml": data}, ("config", "--config", "{}/a.yaml"))


def folder(what: str, files: dict[str, bytes], message: str, *arguments: str) -> Case:
    return Case(what, message, files, arguments)


_PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
_LOOP = _PDF + b"2 0 obj<</Type/Pages/Kids[2 0 R]/Count 1>>endobj\ntrailer<</Root 1 0 R>>\n"
_GOOD = b"The pump in the hall runs at 40 bar.\n"
QUESTION = b'{"id": "1", "question": "Who?", "answer": "Ada"}\n'

CASES = (
    document("an empty text file", "a.txt", b"", "empty: no text"),
    document("white space only", "a.txt", b" \n\t\n", "empty: no text"),
    document("invisible characters only", "a.txt", "\u200b\u00ad".encode(), "empty: no text"),
    document("a binary file with a text's suffix", "a.txt", b"\x7fELF\0\1", "binary: NUL byte"),
    document(
        "bytes that are not UTF-8", "a.txt", b"caf\xe9 bar", "not_utf8: byte 0xe9 at offset 3"
    ),
    document("half a UTF-16 character", "a.txt", b"\xff\xfea", "not_utf8: UTF-16"),
    document(
        "a file over the size limit",
        "a.txt",
        _GOOD * 40_000,
        "too_large",
        "corpus.max_document_mb=0.5",
    ),
    document(
        "a compressed file that unpacks to more than the limit",
        "a.txt.gz",
        gzip.compress(_GOOD * 40_000, mtime=0),
        "too_large",
        "corpus.max_document_mb=0.5",
    ),
    document(
        "damaged compression", "a.txt.gz", gzip.compress(_GOOD, mtime=0)[:20], "broken_compression"
    ),
    document("Markdown with front matter only", "a.md", b"---\ntitle: x\n---\n", "empty"),
    document("a page of scripts only", "a.html", b"<script>f()</script>", "empty"),
    document("a PDF that was cut off", "a.pdf", b"%PDF-1.4 cut", "broken_pdf"),
    document("a PDF whose pages hold themselves", "a.pdf", _LOOP, "broken_pdf"),
    document("something else with a PDF's suffix", "a.pdf", b"no pdf", "broken_pdf"),
    document("a Word file that is no archive", "a.docx", b"PK no", "broken_docx"),
    document("an archive that is no Word file", "a.docx", _archive("a.txt", b"x"), "broken_docx"),
    document(
        "a Word file that unpacks to far more",
        "a.docx",
        _archive("word/document.xml", b"<w:p/>" * 10**6),
        "too_large",
    ),
    document("a table without rows", "a.csv", b"\n\n", "empty"),
    document("a table with an endless cell", "a.csv", b'a\n"' + b"x" * 200_000, "broken_csv"),
    document("a line that is not JSON", "a.jsonl", b"{'id': 1}\n", "malformed_json"),
    document("a JSON line that is no object", "a.jsonl", b"[1]\n", "malformed_json: not an object"),
    document("JSON that nests without end", "a.jsonl", b"[" * 10**5, "malformed_json"),
    document(
        "a number of 5,000 digits", "a.jsonl", b'{"id": ' + b"1" * 5000 + b"}", "malformed_json"
    ),
    document(
        "a row without text", "a.jsonl", b'{"id": "a", "title": "T"}', "field 'text' is missing"
    ),
    document(
        "a row whose text is a number", "a.jsonl", _row(text=5), "field 'text' is not text: 5"
    ),
    document("a row whose text is null", "a.jsonl", _row(text=None), "field 'text' is missing"),
    document("a row with an empty id", "a.jsonl", _row(id=" "), "field 'id' is empty"),
    document("a row whose id has a line break", "a.jsonl", _row(id="a\nb"), "field 'id'"),
    document("a NUL inside of a row", "a.jsonl", _row(text="a\0b"), "binary: NUL character"),
    document(
        "half a surrogate pair in a row",
        "a.jsonl",
        b'{"id":"a","title":"T","text":"\\ud83d"}',
        "not_utf8: half a surrogate pair",
    ),
    document(
        "two rows of one id with different texts",
        "a.jsonl",
        _row() + _row(text="Other text."),
        "two documents have the id 'a'",
    ),
    document("a damaged Parquet file", "a.parquet", b"PAR1 no", "broken_parquet"),
    document(
        "a Parquet file that declares a huge footer",
        "a.parquet",
        b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "broken_parquet",
    ),
    document("a folder of unread kinds only", "a.png", b"\x89PNG", "holds no readable file"),
    document("a corpus inside of hidden folders only", ".git/a.txt", _GOOD, "hidden 1"),
    document(
        "more shards than documents", "a.txt", _GOOD, "shards without a document", "corpus.shards=5"
    ),
    document(
        "a language that is not kept",
        "a.txt",
        "Der Zug fährt um acht Uhr nach Berlin ab und kommt am Abend wieder zurück.".encode(),
        "no document is in a language",
    ),
    folder("a corpus that is not there", {}, "does not exist", *DRY),
    folder(
        "a run folder inside of the corpus",
        {"source/a.txt": _GOOD},
        "lies inside the corpus",
        "encode",
        "{}/source",
        "--run",
        "{}/source/run",
        "memory.base=scratch",
    ),
    folder(
        "a run folder with other files",
        {"source/a.txt": _GOOD, "run/mine.txt": b"x"},
        "not a run",
        "encode",
        "{}/source",
        "--run",
        "{}/run",
        "memory.base=scratch",
    ),
    folder(
        "a run folder that is a file",
        {"source/a.txt": _GOOD, "run": b"x"},
        "is a file",
        "encode",
        "{}/source",
        "--run",
        "{}/run",
        "memory.base=scratch",
    ),
    setting("an unknown key", "train.epoch=3", "did you mean 'train.epochs'?"),
    setting("a value of the wrong type", "train.lr=fast", "train.lr='fast' has the wrong type"),
    setting("a number out of bounds", "train.epochs=-1", "must be at least 0"),
    setting("a word that is no choice", "train.schedule=const", "must be one of constant"),
    setting("a list that is none", "synthesis.steps=direct", "has the wrong type: write a list"),
    setting(
        "a list of more than plain values",
        "generator.urls=[{http: x}]",
        "has the wrong type: items are plain values",
    ),
    setting("a group instead of a key", "train=3", "is a group of keys"),
    setting("no number at all", "train.lr=.nan", "train.lr"),
    setting("an infinite number", "train.max_minutes=.inf", "train.max_minutes"),
    setting("an argument without a value", "train.epochs", "train.epochs"),
    setting("YAML that does not parse", "train.epochs=[", "train.epochs"),
    setting(
        "an API key instead of its variable",
        "generator.api_key_env=sk-live-1234",
        "generator.api_key_env",
    ),
    setting("a URL of another kind", "generator.urls=[ftp://host]", "generator.urls"),
    file("a configuration that is not YAML", b"train: [\n", "a.yaml"),
    file("a configuration that is a list", b"- a\n- b\n", "a.yaml"),
    file("a configuration that is not UTF-8", b"run: \xe9\n", "a.yaml"),
    file("a configuration with an unknown group", b"trian: {}\n", "trian"),
    file(
        "a configuration that builds objects",
        b"run: !!python/object/apply:os.system [id]\n",
        "a.yaml",
    ),
    file(
        "a configuration of aliases that grow",
        b"a: &a [x,x]\nb: &b [*a,*a]\nrun: {seed: *b}\n",
        "a.yaml",
    ),
    folder("a folder that is no run", {"run/a": b""}, "is not a run folder", "status", "{}/run"),
    folder(
        "a question for a folder that is no run", {}, "is not a run folder", "ask", "{}", "Who?"
    ),
    folder("a verb that does not exist", {}, "did you mean 'encode'?", "encod"),
    folder("an option that does not exist", {}, "--runn", "encode", "x", "--runn", "y"),
)

_HEAD = """# Bad input

What happens to input that cannot be used: {count} kinds, each with words of the message and the
exit code of the command (2: usage or configuration). Nothing is half-written: the run's folder is
as it was before. `tests/test_bad_inputs.py` tries each line; `python tests/bad_inputs.py` writes
this table from the cases.

A document that cannot be read costs itself only: it is quarantined with its reason, and the others
go on, up to `corpus.max_quarantined_fraction`. The table shows corpora that hold nothing else. A
document that takes its reader longer than `corpus.seconds_per_document`, needs more memory than
`corpus.megabytes_per_document`, or ends its reader, is quarantined as `time_limit`, `memory_limit`
or `reader_died` ([corpus.md](corpus.md)). `benchmarks/fuzz.py` tries inputs that nobody thought of.

| given | message has | exit code |
|---|---|---|
"""


def table() -> str:
    """The documentation page."""
    rows = [f"| {case.what} | {case.message} | {case.code} |" for case in CASES]
    return _HEAD.format(count=len(CASES)) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
