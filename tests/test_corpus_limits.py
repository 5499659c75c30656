"""Documents that would stall, bloat or kill their reader: linear work, limits, isolation."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli import memo_dist

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus import reader_process
from memo_dist.corpus.build import read_documents
from memo_dist.corpus.listing import list_source
from memo_dist.corpus.types import Document

LIST = "".join(f"{number}. item {number} of it\n" for number in range(1, 4000))


def read(source: Path, **settings):
    return list(read_documents(list_source(source), CorpusConfig(**settings)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", LIST),
        ("a.html", "<div>" * 10_000 + "x"),
        ("a.html", "<table>" + "<tr><td rowspan=50 colspan=50>x</td>" * 500 + "</table>"),
        ("a.html", "<table><tr>" + "<th rowspan=50 colspan=50>x</th>" * 500 + "</table>"),
        ("a.html", "x<a <a" * 15_000),
        ("a.html", "x<!--" * 15_000),
        ("a.html", "<ul><li>x" * 6000),
        ("a.html", "<ol><li>x" * 6000),
        ("a.html", "<table><tr><td>x" * 4000),
        ("a.txt", "Home > " * 10_000),
        ("a.md", "{{< " * 15_000),
        ("a.adoc", "link:" * 12_000),
        ("a.rst", ":a:`b " * 10_000),
    ],
)
def test_reading_is_linear(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    read(tmp_path / name)  # imports what the format needs
    (item,) = read(tmp_path / name, seconds_per_document=20.0)
    assert getattr(item, "reason", "") in ("", "empty")


def test_the_least_memory_is_enough_for_a_plain_document(tmp_path):
    (tmp_path / "a.txt").write_text("The pump in the hall was repaired by the technician. " * 50)
    (document,) = read(tmp_path / "a.txt", megabytes_per_document=64)
    assert document.language == "en"


def test_a_table_of_spans_stays_small(tmp_path):
    (tmp_path / "a.html").write_text("<table>" + "<tr><th rowspan=50 colspan=50>x" * 500)
    (document,) = read(tmp_path / "a.html")
    assert len(document.text) < 20_000


def write_three(folder: Path) -> Path:
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(f"The text of {name} is short.")
    return folder


@pytest.mark.parametrize(
    ("what", "settings", "reason", "detail"),
    [
        ("time.sleep(60)", {"seconds_per_document": 0.5}, "time_limit", "seconds_per_document=0.5"),
        ("bytearray(10**9)", {"megabytes_per_document": 100}, "memory_limit", "document=100"),
        ("os.kill(os.getpid(), 11)", {}, "reader_died", "SIGSEGV"),
        ("{}['key']", {}, "reader_error", "KeyError: 'key'"),
    ],
)
def test_a_document_that_breaks_its_reader_is_quarantined(
    tmp_path, monkeypatch, what, settings, reason, detail
):
    corpus = write_three(tmp_path / "c")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'memo_dist.corpus.reader_process' in sys.orig_argv:\n"
        "    from memo_dist.corpus import readers\n"
        "    real = readers._read_whole\n"
        "    def broken(file, limit):\n"
        f"        if file.origin == 'b.txt': {what}\n"
        "        return real(file, limit)\n"
        "    readers._read_whole = broken\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    reader_process._reader.close()
    try:
        first, bad, last = read(corpus, **settings)
    finally:
        reader_process._reader.close()
    assert (first.id, last.id) == ("a", "c")
    assert (bad.origin, bad.reason) == ("b.txt", reason)
    assert detail in bad.detail


def test_a_packed_table_is_refused_by_its_real_size(tmp_path):
    source = tmp_path / "bomb.parquet"
    rows = 300
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows), ["word " * 200_000])
    names = pa.array(map(str, range(rows)))
    pq.write_table(pa.table({"id": names, "title": names, "text": text}), source)
    assert source.stat().st_size < 500_000
    items = read(source, megabytes_per_document=64, max_document_mb=2.0)
    assert items[-1].reason == "memory_limit"
    assert "megabytes_per_document=64" in items[-1].detail


@pytest.mark.parametrize("megabytes", [64, 1024, 1100, 2048])
def test_a_small_table_is_read_at_any_limit(tmp_path, megabytes):
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a"], "title": ["T"], "text": ["One thing."]}), source)
    (document,) = read(source, megabytes_per_document=megabytes)
    assert document.text == "One thing."


def test_one_process_reads_many_files_and_ends_with_its_parent(tmp_path):
    read(write_three(tmp_path / "c"))
    before = reader_process._reader._process.pid
    read(tmp_path / "c")
    assert reader_process._reader._process.pid == before
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from memo_dist.config.schema import CorpusConfig\n"
        "from memo_dist.corpus.build import read_documents\n"
        "from memo_dist.corpus.listing import list_source\n"
        "from memo_dist.corpus import reader_process\n"
        f"list(read_documents(list_source(Path({str(tmp_path / 'c')!r})), CorpusConfig()))\n"
        "print(reader_process._reader._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{child}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_a_folder_that_cannot_be_read_is_quarantined(tmp_path, monkeypatch):
    corpus = write_three(tmp_path / "c")
    (corpus / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    items = read(corpus)
    assert [item.id for item in items if isinstance(item, Document)] == ["a", "b", "c"]
    (entry,) = [item for item in items if not isinstance(item, Document)]
    assert (entry.origin, entry.reason) == ("closed", "unreadable")
    assert "Permission denied" in entry.detail


def test_arguments_that_are_no_text_are_a_usage_error(tmp_path):
    done = memo_dist("ask", tmp_path, os.fsdecode(b"caf\xe9?"), new=True)
    assert done.returncode == 2
    assert "argument 3 is not valid UTF-8: 'caf\\xe9?'" in done.stderr
