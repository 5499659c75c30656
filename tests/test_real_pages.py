"""The standing set of real questions, and the script that brings its pages."""

import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from memo_dist.answers.text import normalise
from memo_dist.errors import RunError, UsageError
from memo_dist.evaluation.questions import load_questions

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "real_pages"
SCRIPT = FOLDER / "fetch_pages.py"
COUNTS = {
    "direct": 40,
    "reworded": 20,
    "howto": 15,
    "number": 10,
    "reverse": 10,
    "multi": 5,
    "unanswerable": 35,
}
TEXT = b"# Bells\r\nThe bell weighs 40 stone.\n"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("fetch_pages")


def page_rows():
    return [json.loads(line) for line in (FOLDER / "pages.jsonl").read_text().splitlines()]


def test_questions_are_well_formed():
    questions = load_questions(FOLDER / "questions.jsonl")
    known = {row["id"] for row in page_rows()}
    assert Counter(q.type for q in questions) == COUNTS
    assert len({" ".join(normalise(q.question)) for q in questions}) == len(questions)
    for q in questions:
        assert q.answerable == (q.type != "unanswerable"), q.id
        pages = {"multi": 2, "unanswerable": 0}.get(q.type, 1)
        assert len(set(q.supporting_ids)) == pages, q.id
        assert set(q.supporting_ids) <= known, q.id
        assert len(q.answer.split()) <= 6, q.id
        if q.answerable:
            forms = [tuple(normalise(gold)) for gold in q.golds]
            assert len(set(forms)) == len(forms), f"{q.id}: an alias that scores like another"
    asked = Counter(page for q in questions for page in q.supporting_ids)
    assert all(asked[page] >= 8 for page in known), asked


def test_pages_are_ten_of_different_projects():
    rows = page_rows()
    assert len(rows) == len({row["id"] for row in rows}) == 10
    assert len({row["repository"] for row in rows}) == 10
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"]), row["id"]
        assert re.fullmatch(r"[0-9a-f]{64}", row["sha256"]), row["id"]
        assert row["title"], row["id"]
        assert row["licence"], row["id"]


@pytest.fixture
def clones(tmp_path):
    """A folder with one clone, and the commit of its page ``docs/bell.md``."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    home = tmp_path / "clones" / "towers" / "bells"
    (home / "docs").mkdir(parents=True)
    (home / "docs" / "bell.md").write_bytes(TEXT)

    def git(*words):
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "core.autocrlf=false"]
        done = subprocess.run([*command, "-C", str(home), *words], capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Bells")
    return tmp_path / "clones", git("rev-parse", "HEAD")


def bell(script, commit, text=TEXT):
    digest = hashlib.sha256(text).hexdigest()
    return script.Page("bell", "towers/bells", commit, "docs/bell.md", digest)


def test_a_page_comes_out_of_a_clone_byte_for_byte(script, clones, tmp_path):
    folder, commit = clones
    out, pages = tmp_path / "new" / "out", [bell(script, commit)]
    assert script.fetch(pages, out, script.from_clones(folder))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {"bell.md": TEXT}
    assert not script.fetch(pages, out, script.from_clones(folder))  # all there
    (out / "other.md").write_text("More.")
    with pytest.raises(UsageError, match=r"other\.md is not a page of the set"):
        script.fetch(pages, out, script.from_clones(folder))


def test_a_changed_page_is_refused_and_nothing_is_written(script, clones, tmp_path):
    folder, commit = clones
    pages = [bell(script, commit), bell(script, commit, b"The bell weighs 41 stone.")]
    with pytest.raises(RunError, match="the page has changed"):
        script.fetch(pages, tmp_path / "out", script.from_clones(folder))
    assert [file.name for file in tmp_path.iterdir()] == ["clones"]


def test_what_a_clone_lacks_is_named(script, clones, tmp_path):
    folder, commit = clones
    with pytest.raises(UsageError, match="no clone of towers/bells: clone it to"):
        script.fetch([bell(script, commit)], tmp_path / "out", script.from_clones(tmp_path))
    with pytest.raises(RunError, match="fetch that commit"):
        script.fetch([bell(script, "0" * 40)], tmp_path / "out", script.from_clones(folder))


@contextmanager
def server(delay=0.0):
    """Serves the same text at every path, after a delay; gives its URL."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            stop.wait(delay)
            self.send_response(200)
            self.send_header("Content-Length", str(len(TEXT)))
            self.end_headers()
            self.wfile.write(TEXT)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        stop.set()
        http.shutdown()
        http.server_close()


def run(*words):
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_refuses_other_bytes_a_late_server_and_wrong_urls(tmp_path):
    out = tmp_path / "out"
    with server() as url:
        changed = run(out, "--raw", url)
    assert (changed.returncode, changed.stdout) == (1, "")
    assert changed.stderr.startswith("error: ")
    assert hashlib.sha256(TEXT).hexdigest() in changed.stderr
    with server(delay=30) as url:
        late = run(out, "--raw", url, "--deadline", "0.5")
    assert late.returncode == 1
    assert "raise --deadline" in late.stderr
    wrong = run(out, "--raw", "file:///etc")
    assert wrong.returncode == 2
    assert "--raw is 'file:///etc'" in wrong.stderr
    assert not list(tmp_path.iterdir())


def test_a_download_is_written(script, tmp_path):
    with server() as url:
        assert script.fetch([bell(script, "0" * 40)], tmp_path / "out", script.from_url(url))
    assert (tmp_path / "out" / "bell.md").read_bytes() == TEXT
