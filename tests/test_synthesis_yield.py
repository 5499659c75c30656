"""A synthesis that yields nothing or little: an error or a note with names and what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from request_toy import factory, make_config, make_run, server

from memo_dist.cluster.ray_local import ray_session
from memo_dist.config import load_config
from memo_dist.config.schema import ClusterConfig
from memo_dist.corpus.build import build_corpus
from memo_dist.errors import RunError
from memo_dist.io.atomic import read_jsonl
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.status import read_status
from memo_dist.synthesis.engine import synthesize
from memo_dist.synthesis.generators import generator_factory

HERE = Path(__file__).parent
REFUSAL = "Unsupported parameter: 'max_tokens' is not supported with this model."


@pytest.fixture(scope="module", autouse=True)
def session():
    with ray_session(ClusterConfig(), cores=2, env={"PYTHONPATH": str(HERE)}) as resources:
        yield resources


class _Refusing(BaseHTTPRequestHandler):
    """Answers 400 to every request, as a server that does not know a parameter."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"error": {"message": REFUSAL, "type": "invalid_request_error"}}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def refusing_server() -> Iterator[str]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{found.server_port}/v1"
    finally:
        found.shutdown()
        found.server_close()


def attempts(run: RunFolder) -> list[dict]:
    paths = sorted(run.synth.glob("*/journal/requests-*.jsonl"))
    return [row for path in paths for row in LineTail(path).new_rows()]


def test_a_server_that_refuses_everything_is_quoted_and_asked_again_once_it_is_mended(tmp_path):
    with refusing_server() as url:
        run = make_run(tmp_path, make_config(url), documents=6)
        with pytest.raises(RunError) as failure:
            synthesize(run, make_config(url), factory(1))
    assert failure.value.exit_code == 1
    message = str(failure.value)
    assert "none of the 6 documents yielded a fact" in message
    assert REFUSAL in message
    assert "the failed requests are asked again" in message
    assert read_status(run.synth)["state"] == "failed"
    refused = len(attempts(run))
    assert refused
    with server() as url:
        summary = synthesize(run, make_config(url), factory(1))
    assert summary.reflections
    assert summary.rejected == {}
    assert summary.without_reflections == []
    assert len(attempts(run)) >= 2 * refused  # the refused attempts stay on record


def test_a_command_that_goes_on_after_a_success_asks_nothing_again(tmp_path):
    with server() as url:
        config = make_config(url)
        run = make_run(tmp_path, config, documents=6)
        synthesize(run, config, factory(1))
        before = len(attempts(run))
        synthesize(run, config, factory(1))
    assert len(attempts(run)) == before


def by_rules(root: Path, texts: dict[str, str], *overrides: str):
    config = load_config(overrides=["generator.kind=rules", "synthesis.partitions=2", *overrides])
    source = root / "source"
    source.mkdir()
    for name, text in texts.items():
        (source / name).write_text(text, encoding="utf-8")
    run = RunFolder(root / "run")
    build_corpus(source, run.corpus, config.corpus)
    return run, lambda: synthesize(run, config, generator_factory(config))


GERMAN = "Das Gerät wiegt zwei Kilogramm. Der Akku wird mit dem Kabel geladen und ist fest verbaut."
ENGLISH = "The Norra gateway was installed in May 2011 in Brenfeld. It weighs 2 kilograms."
MENU = "Bolts and nuts"


def test_a_corpus_that_the_rules_cannot_read_is_an_error_with_the_reason(tmp_path):
    run, work = by_rules(tmp_path, {"eins.txt": GERMAN, "zwei.txt": GERMAN.replace("zwei", "drei")})
    with pytest.raises(RunError, match=r"none of the 2 documents.*\n.*not English") as failure:
        work()
    assert "use a language model" in str(failure.value)
    assert not (run.synth / "manifest.json").exists()
    with pytest.raises(RunError, match="not English"):  # and it stays one
        work()


def test_documents_without_reflections_are_told_by_name_and_the_others_go_on(tmp_path, caplog):
    run, work = by_rules(tmp_path, {"gateway.txt": ENGLISH, "netz.txt": GERMAN, "menu.txt": MENU})
    summary = work()
    assert summary.documents["gateway"] > 0
    assert len(summary.without_reflections) == 2
    told = " ".join(summary.notes)
    assert "documents that are not English yield nothing (1 of 3): netz;" in told
    assert "documents without a reflection (1 of 3): menu;" in told
    assert all(note in caplog.text for note in summary.notes)
    rows = [r for p in run.synth.glob("direct/quarantine/*.jsonl") for r in read_jsonl(p)]
    assert {r["sources"][0] for r in rows if r["reason"].startswith("not English")} == {"netz"}


def test_a_shard_that_yields_nothing_is_named(tmp_path):
    texts = {f"netz{n}.txt": GERMAN.replace("zwei", str(n)) for n in range(4)}
    _, work = by_rules(tmp_path, {"gateway.txt": ENGLISH, **texts}, "corpus.shards=2")
    with pytest.raises(RunError, match=r"no reflections for \d of \d shards: shard \d \(netz"):
        work()
