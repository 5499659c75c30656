"""Readers: what each kind of file becomes, and why a file is refused."""

import io
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pypdf import PdfReader, PdfWriter

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import read_documents
from memo_dist.corpus.listing import list_source
from memo_dist.corpus.pdf import join_lines, without_margins
from memo_dist.corpus.types import Document, Quarantined
from memo_dist.errors import UsageError


def read(source: Path, max_mb: float = 1.0):
    items = list(read_documents(list_source(source), CorpusConfig(max_document_mb=max_mb)))
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Quarantined)]


def read_one(tmp_path: Path, name: str, content: str | bytes) -> Document:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(data)
    documents, refused = read(tmp_path / name)
    assert refused == []
    return documents[0]


def refuse_one(tmp_path: Path, name: str, data: bytes, max_mb: float = 1.0) -> Quarantined:
    (tmp_path / name).write_bytes(data)
    documents, refused = read(tmp_path / name, max_mb)
    assert documents == []
    return refused[0]


def make_pdf(lines: list[str], title: str = "", cmap: str = "") -> bytes:
    """A one-page PDF written by hand, so that no PDF-making library is needed."""
    shown = "".join(f"({line}) Tj T* " for line in lines)
    stream = f"BT /F1 12 Tf 14 TL 50 750 Td {shown}ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica%s >>"
        % (b" /ToUnicode 7 0 R" if cmap else b""),
        b"<< /Title (%s) >>" % title.encode(),
    ]
    if cmap:
        table = (
            "/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <00> <FF>"
            f" endcodespacerange {cmap.count(chr(10))} beginbfchar\n{cmap}endbfchar endcmap end"
        ).encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(table), table))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R /Info 6 0 R >>\n" % (len(objects) + 1)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


MARKDOWN = """---
title: Valve manual
date: 2031-03-14
tags: [a, b]
---
# Valves

See [the policy](policy.md) and **open**
the valve.

- first item
- second item
  with more

3. third step
4. fourth step

| Part | Price |
|------|------:|
| Seal | 4 |
| Body | 118 |

```
run --now
  indented
```
"""


def test_markdown_becomes_readable_lines(tmp_path):
    document = read_one(tmp_path, "m.md", MARKDOWN)
    assert (document.id, document.title, document.date) == ("m", "Valve manual", "2031-03-14")
    assert document.text == (
        "Valves\n\nSee the policy and open the valve.\n\n"
        "first item\nsecond item with more\n\n3. third step\n4. fourth step\n\n"
        "Part: Seal; Price: 4\nPart: Body; Price: 118\n\n```\nrun --now\n  indented\n```"
    )


def test_markdown_title_from_heading_then_from_name(tmp_path):
    assert read_one(tmp_path, "a.md", "Intro.\n\n# The *real* title\n").title == "The real title"
    assert read_one(tmp_path, "b.md", "Only prose here.").title == "b"


def test_rulers_around_prose_are_not_front_matter(tmp_path):
    document = read_one(tmp_path, "a.md", "---\nJust prose.\n---\nMore prose.")
    assert "Just prose." in document.text
    assert "More prose." in document.text


def test_hostile_front_matter_is_left_in_the_text(tmp_path):
    nested = "---\ntitle: " + "[" * 5000 + "\n---\nBody."
    assert read_one(tmp_path, "n.md", nested).title == "n"
    bomb = "---\na: &a [x, x]\nb: &b [*a, *a]\ntitle: [*b, *b]\n---\nBody."
    assert read_one(tmp_path, "b.md", bomb).title == "b"


def test_html_drops_scripts_and_keeps_structure(tmp_path):
    page = """<!DOCTYPE html><html><head><title>Fees &amp; rules</title>
    <meta name="date" content="2030-06-14"><style>p {color: red}</style></head><body>
    <nav><a href="/">Home</a></nav><script>var hidden = 1;</script><!-- note -->
    <h1>Fees</h1><p>H<sub>2</sub>O costs   <b>4</b>\n orrins.<br>Second line.</p>
    <ul><li><p>One.</p></li><li>Two.<ul><li>Nested.</li></ul></li></ul>
    <ol start="5"><li>Five.</li></ol></body></html>"""
    document = read_one(tmp_path, "p.html", page)
    assert (document.title, document.date) == ("Fees & rules", "2030-06-14")
    assert document.text == (
        "Fees\n\nH2O costs 4 orrins.\nSecond line.\n\nOne.\nTwo.\nNested.\n\n5. Five."
    )


def test_table_spans_and_row_headers(tmp_path):
    page = """<table><caption>Prices</caption><tr><th>Model</th><th>Year</th><th>Price</th></tr>
    <tr><td rowspan=2>T40</td><td>2030</td><td>110</td></tr>
    <tr><td>2031</td><td>118</td></tr><tr><td>T80</td><td colspan=2>on request</td></tr></table>
    <table><tr><th>Director</th><td>I. Thornvale</td></tr></table>"""
    assert read_one(tmp_path, "t.html", page).text.split("\n") == [
        *("Prices", "Model: T40; Year: 2030; Price: 110", "Model: T40; Year: 2031; Price: 118"),
        *("Model: T80; Year: on request", "", "Director: I. Thornvale"),
    ]


def test_deeply_nested_html_is_read(tmp_path):
    depth = sys.getrecursionlimit() * 3
    page = "<div>" * depth + "deep text" + "</div>" * depth
    assert read_one(tmp_path, "d.html", page).text == "deep text"


def test_html_in_its_declared_encoding(tmp_path):
    page = '<meta charset="iso-8859-1"><p>Zürich</p>'.encode("latin-1")
    assert read_one(tmp_path, "l.html", page).text == "Zürich"


def test_text_with_mark_title_line_and_hard_wraps(tmp_path):
    wrapped = (
        "The board met for the first time at the new laboratory and heard the\n"
        "report on the flood, which had come in the night of the thirtieth of\n"
        "August. It was long."
    )
    text = f"﻿Minutes of the board\r\n12 September 2031\r\n\r\n\r\n{wrapped}\n\nOne.\nTwo.\n"
    document = read_one(tmp_path, "minutes.txt", text)
    assert document.title == "Minutes of the board"
    assert document.text == (
        "Minutes of the board\n12 September 2031\n\n"
        + wrapped.replace("\n", " ")
        + "\n\nOne.\nTwo."
    )
    assert read_one(tmp_path, "plain.txt", "One sentence only.\nAnother.").title == "plain"


def test_pdf_text_and_title(tmp_path):
    document = read_one(tmp_path, "p.pdf", make_pdf(["The seal costs 4 orrins."], "Price list"))
    assert (document.title, document.text) == ("Price list", "The seal costs 4 orrins.")


def test_pdf_lines_are_joined_to_sentences():
    lines = "Chapter 1\nThe meter was ap-\nproved in 2030 by\nthe board.\nA new line is it."
    assert join_lines(lines) == (
        "Chapter 1\nThe meter was approved in 2030 by the board.\nA new line is it."
    )


def test_pdf_with_an_empty_password_is_read(tmp_path):
    for algorithm in ("AES-128", "AES-256", "RC4-128"):
        data = encrypted_pdf("", algorithm, "The gate is blue.")
        assert read_one(tmp_path, "e.pdf", data).text == "The gate is blue."


def test_one_bad_glyph_never_costs_a_pdf(tmp_path):
    codes = {"a": "D800", "b": "0000", "f": "FB01"}
    pairs = "".join(f"<{ord(code):02X}> <{value}>\n" for code, value in codes.items())
    same = "".join(f"<{code:02X}> <{code:04X}>\n" for code in range(32, 91))
    document = read_one(tmp_path, "g.pdf", make_pdf(["THE aOFbFICE HAS A fLE."], cmap=same + pairs))
    assert document.text == "THE OFFICE HAS A fiLE."


def test_words_of_tightly_set_lines_are_apart(tmp_path):
    words = ["The", "harbour", "pump", "delivers", "four", "hundred", "litres"]
    shown = " -110 ".join(f"({word})" for word in words)
    data = make_pdf([]).replace(b"50 750 Td ET", f"50 750 Td [{shown}] TJ ET".encode())
    data = data.replace(b"/Length 35", f"/Length {35 + len(shown) + 6}".encode())
    assert read_one(tmp_path, "w.pdf", data).text == " ".join(words)


def test_headers_footers_and_contents_of_a_pdf_are_left_out():
    pages = [
        f"Marl Works\nPump {n} has {n} valves.\nFans . . . . . . 4\nPage {n}" for n in range(4)
    ]
    assert without_margins(pages) == [f"Pump {n} has {n} valves." for n in range(4)]


def encrypted_pdf(
    password: str = "password", algorithm: str = "RC4-128", line: str = "secret"
) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(make_pdf([line]))))
    writer.encrypt(password, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason", "detail"),
    [
        ("a.txt", b"good\xff\xfebad", "not_utf8", "0xff at offset 4"),
        ("a.txt", b"\xff\xfeodd", "not_utf8", "UTF-16"),
        ("a.txt.gz", b"\x1f\x8b\x08broken", "broken_compression", ""),
        ("a.txt", b"\x7fELF\x02\x00\x00", "binary", "offset 5"),
        ("a.txt", b" \n\n\t", "empty", "no text"),
        ("a.md", b"---\ntitle: x\n---\n", "empty", "no text"),
        ("a.md", b"---\ntitle: x\n---\n<style>p</style>", "empty", ""),
        ("a.html", b"<script>only()</script>", "empty", "no text"),
        ("a.pdf", b"%PDF-1.4 cut short", "broken_pdf", ""),
        ("a.pdf", b"not a pdf", "broken_pdf", ""),
        ("a.pdf", make_pdf([]), "no_text", "1 pages"),
        ("a.pdf", encrypted_pdf(), "encrypted_pdf", "password"),
        ("a.txt", b"x" * 2_000_000, "too_large", "corpus.max_document_mb=1"),
        ("a.parquet", b"PAR1 nonsense", "broken_parquet", ""),
    ],
)
def test_unreadable_files_are_quarantined(tmp_path, name, data, reason, detail):
    entry = refuse_one(tmp_path, name, data)
    assert (entry.origin, entry.reason) == (name, reason)
    assert detail in entry.detail


ROW = {"id": "a", "title": "T", "text": "Some text."}


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ('{"id": "a", "text": "no title"}', "missing_field", "'title'"),
        ('{"id": "a", "title": "T", "text": null}', "missing_field", "'text'"),
        ('{"id": "a", ', "malformed_json", "column"),
        ("[1]", "malformed_json", "list"),
        ("[" * 100_000, "malformed_json", ""),
        ('{"id": ' + "1" * 5000 + "}", "malformed_json", ""),
        (json.dumps({**ROW, "text": 5}), "bad_field", "'text' is not text: 5"),
        (json.dumps({**ROW, "id": " "}), "bad_field", "'id'"),
        (json.dumps({**ROW, "id": "a\nb"}), "bad_field", "'id'"),
        (json.dumps({**ROW, "text": "nul\0"}), "binary", "offset 3"),
        (json.dumps({**ROW, "text": "half \ud800"}), "not_utf8", "surrogate"),
        (json.dumps({**ROW, "text": "  "}), "empty", "no text"),
        (json.dumps({**ROW, "text": "x" * 1_100_000}), "too_large", "max_document_mb"),
        (json.dumps({**ROW, "text": "x" * 9_000_000}), "too_large", "max_document_mb"),
    ],
)
def test_a_wrong_line_is_quarantined_with_its_number(tmp_path, line, reason, detail):
    source = tmp_path / "c.jsonl"
    good = json.dumps({"id": "z", "title": "Z", "text": "Good."})
    source.write_text(f"{good}\n\n{line}\n{good.replace('z', 'y')}\n")
    documents, refused = read(source)
    assert [document.id for document in documents] == ["z", "y"]
    assert [(entry.origin, entry.reason) for entry in refused] == [("c.jsonl:3", reason)]
    assert detail in refused[0].detail


def test_rows_keep_their_fields(tmp_path):
    source = tmp_path / "c.jsonl"
    rows = [{**ROW, "date": "2031-03-14T10:00:00", "extra": [1]}, {**ROW, "id": 7, "title": ""}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, refused = read(source)
    assert refused == []
    assert documents[0] == Document("a", "T", "Some text.", "2031-03-14", "c.jsonl:1")
    assert (documents[1].id, documents[1].title) == ("7", "7")


def test_parquet_rows_stream_by_row_group(tmp_path):
    source = tmp_path / "c.parquet"
    rows = [{**ROW, "id": str(n), "date": date(2031, 3, 14), "x": n} for n in range(600)]
    rows[500]["text"] = None
    pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=100)
    documents, refused = read(source)
    assert len(documents) == 599
    assert (documents[0].date, documents[0].origin) == ("2031-03-14", "c.parquet:1")
    assert [(entry.origin, entry.reason) for entry in refused] == [
        ("c.parquet:501", "missing_field")
    ]


def test_parquet_without_a_column(tmp_path):
    source = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": ["a"], "body": ["text"]}), source)
    entry = read(source)[1][0]
    assert entry.reason == "missing_field"
    assert entry.detail == "column 'title' is missing; there are: id, body"


def test_folder_names_links_and_skipped_files(tmp_path):
    root, outside = tmp_path / "corpus", tmp_path / "secret.txt"
    outside.write_text("Not part of the corpus.")
    for name in (
        "b/one.txt",
        "a/one.txt",
        "a/two.md",
        "a/two.txt",
        "three.HTM",
        "x.png",
        "y.PNG",
        "LICENCE",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"Text of {name}.")
    (root / ".git").mkdir()
    (root / ".git" / "inside.txt").write_text("hidden")
    (root / ".hidden.txt").write_text("hidden")
    (root / "leaves.txt").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    (root / "loop").symlink_to(root)
    (root / "dangling.txt").symlink_to(root / "missing.txt")
    (root / "inside.txt").symlink_to(root / "three.HTM")
    os.mkfifo(root / "pipe.txt")
    listing = list_source(root)
    assert {file.origin: file.document_id for file in listing.files} == {
        **{"a/one.txt": "a/one", "b/one.txt": "b/one"},
        **{"a/two.md": "a/two.md", "a/two.txt": "a/two.txt"},
        **{"three.HTM": "three", "inside.txt": "inside"},
    }
    assert [file.origin for file in listing.files] == sorted(f.origin for f in listing.files)
    assert {entry.origin: entry.reason for entry in listing.quarantined} == {
        **{"leaves.txt": "outside_link", "folder": "outside_link"},
        **{"dangling.txt": "broken_link", "pipe.txt": "not_a_file"},
    }
    assert listing.skipped == {"hidden": 2, ".png": 2, "no known suffix": 1}


def test_a_name_that_is_not_utf8_is_quarantined(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    try:
        Path(os.fsdecode(path)).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    entry = read(tmp_path)[1][0]
    assert (entry.origin, entry.reason) == ("caf\\xe9.txt", "bad_name")


def test_names_are_utf8_in_every_locale(tmp_path):
    (tmp_path / "b\u00fccher").mkdir()
    (tmp_path / "b\u00fccher" / "\u00fc.md").write_text("The hall has 40 rooms.")
    code = (
        "import pathlib, sys; from memo_dist.corpus.listing import list_source;"
        "print(ascii([file.origin for file in list_source(pathlib.Path(sys.argv[1])).files]))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60,
        env={**os.environ, **ascii_only},
    )  # fmt: skip
    assert done.stdout.strip() == ascii(["b\u00fccher/\u00fc.md"]), done.stderr


@pytest.mark.parametrize("kind", ["missing", "empty", "unsupported"])
def test_a_corpus_without_readable_files_is_refused(tmp_path, kind):
    source = tmp_path / "corpus"
    if kind != "missing":
        source.mkdir()
    if kind == "unsupported":
        (source / "a.png").write_text("x")
    expected = {"missing": "does not exist", "empty": "it is empty", "unsupported": r"\.png 1"}
    with pytest.raises(UsageError, match=expected[kind]):
        list_source(source)
