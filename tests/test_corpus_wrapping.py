"""The content of a document decides, not what stands around it: compression, marks, suffixes."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from test_corpus_formats import read_one

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import read_documents
from memo_dist.corpus.listing import list_source
from memo_dist.corpus.types import Document

MARKDOWN = "# Pump\n\nThe pump runs at 40 bar.\n"
PAGE = "<!DOCTYPE html><html><body><h1>Pump</h1><p>The pump runs at 40 bar.</body></html>"
ROWS = [{"id": str(n), "title": "Pump", "text": f"Pump {n} runs at 40 bar."} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(source: Path, **settings):
    return list(read_documents(list_source(source), CorpusConfig(**settings)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pump.md", MARKDOWN.encode()),
        ("pump.md", b"\xef\xbb\xbf" + MARKDOWN.encode()),
        ("pump.md", MARKDOWN.encode("utf-16")),
        ("pump.md", b"\xfe\xff" + MARKDOWN.encode("utf-16-be")),
        ("pump.md", MARKDOWN.encode("utf-32")),
        ("pump.md", MARKDOWN.replace("\n", "\r\n").encode()),
        ("pump.md", MARKDOWN.replace("\n", "\r").encode()),
        ("pump.md.gz", gzip.compress(MARKDOWN.encode(), mtime=0)),
        ("pump.md.bz2", bz2.compress(MARKDOWN.encode())),
        ("pump.md.xz", lzma.compress(MARKDOWN.encode())),
        ("pump.md", gzip.compress(MARKDOWN.encode(), mtime=0)),
        ("PUMP.MD.GZ", gzip.compress(b"\xef\xbb\xbf" + MARKDOWN.encode(), mtime=0)),
        ("pump.txt", PAGE.encode()),
        ("pump.html", PAGE.encode("utf-16")),
        ("pump.pdf", PAGE.encode()),
    ],
)
def test_one_document_in_many_wrappings(tmp_path, name, data):
    document = read_one(tmp_path, name, data)
    assert (document.id.lower(), document.title) == ("pump", "Pump")
    assert document.text.split("\n")[-1] == "The pump runs at 40 bar."


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", LINES.encode()),
        ("rows.ndjson", LINES.replace("\n", "\r\n").encode()),
        ("rows.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("rows.jsonl", LINES.encode("utf-16")),
        ("rows.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("rows.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("rows.jsonl.xz", lzma.compress(json.dumps(ROWS).encode())),
    ],
)
def test_rows_in_many_wrappings(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert [item.text for item in read(tmp_path / name)] == [row["text"] for row in ROWS]


def test_a_file_that_unpacks_to_more_than_a_document_is_refused_by_its_real_size(tmp_path):
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a " * 10**7, mtime=0))
    (item,) = read(tmp_path, max_document_mb=1.0)
    assert item.reason == "too_large"
    (tmp_path / "bomb.txt.gz").rename(tmp_path / "rows.jsonl.gz")
    (item,) = read(tmp_path, max_document_mb=1.0)
    assert item.reason == "too_large"


def test_damaged_compression_costs_its_file_and_the_others_go_on(tmp_path):
    (tmp_path / "good.md").write_text(MARKDOWN)
    packed = gzip.compress(LINES.encode(), mtime=0)
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "rows.md.xz").write_bytes(lzma.compress(b"x" * 999)[:40])
    items = read(tmp_path)
    assert [item.id for item in items if isinstance(item, Document)] == ["good"]
    bad = [item for item in items if not isinstance(item, Document)]
    assert {item.reason for item in bad} == {"broken_compression"}
