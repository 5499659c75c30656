"""One document of 500 comes, goes or changes: what a generator is asked again, by its server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from request_toy import server
from revisions import REVISIONS, STEPS, AskedRun, people

from memo_dist.cli.main import run as run_command
from memo_dist.cluster.ray_local import ray_session
from memo_dist.config import load_config
from memo_dist.config.schema import ClusterConfig
from memo_dist.io.atomic import read_json, read_jsonl, write_json
from memo_dist.io.marker import HASHES, hashes
from memo_dist.io.runfolder import RunFolder
from memo_dist.pipeline import run_synthesis

MOST = 0.03
QUICK = ("synthesis.partitions=2", "cluster.synthesis_workers=1")
MIDDLE = 250


@pytest.fixture(scope="module", autouse=True)
def session():
    with ray_session(ClusterConfig(), cores=2) as resources:
        yield resources


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(run, url) of a synthesis of 500 documents, and a server that goes on listening."""
    root = tmp_path_factory.mktemp("base")
    with server("--log", str(root / "log")) as url:
        asked = AskedRun(root, url, root / "log")
        asked.write(people())
        succeed(asked.arguments(*QUICK))
        yield asked


def succeed(arguments: list[str]) -> None:
    assert run_command(arguments) == 0


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run_command(arguments) == 2
    return capsys.readouterr().err


def copy_of(base: AskedRun, root: Path) -> AskedRun:
    shutil.copytree(base.run, root / "run")
    shutil.copyfile(base.corpus, root / "people.jsonl")
    return AskedRun(root, base.url, base.log)


@pytest.mark.parametrize("change", REVISIONS)
def test_a_revision_asks_for_what_changed_and_for_nothing_twice(base, tmp_path, change):
    asked = copy_of(base, tmp_path)
    first = asked.asked()
    before = requests_of(base)
    assert len(before) > 500
    asked.write(REVISIONS[change](people(), MIDDLE))
    succeed(asked.arguments("--revise", *QUICK))
    new = asked.asked()[len(first) :]
    assert 0 < len(set(new)) <= MOST * len(before)
    assert not set(new) & before
    assert len(new) == len(set(new))
    rows = list(read_jsonl(asked.run / "reflections.jsonl"))
    assert {source for row in rows for source in row["sources"]} <= {
        row["id"] for row in read_jsonl(asked.corpus)
    }
    unaffected = {row["id"] for row in rows} & {
        row["id"] for row in read_jsonl(base.run / "reflections.jsonl")
    }
    assert len(unaffected) > 0.9 * len(rows)


def requests_of(base: AskedRun) -> set[str]:
    run = RunFolder(base.run)
    paths = [path for step in STEPS for path in run.step(step).glob("journal/requests-*.jsonl")]
    return {row["key"] for path in paths for row in read_jsonl(path)}


def test_a_revision_gives_what_a_new_run_would(base, tmp_path):
    revised = copy_of(base, tmp_path)
    revised.write(REVISIONS["insert"](people(), MIDDLE))
    succeed(revised.arguments("--revise", *QUICK))
    fresh = AskedRun(tmp_path / "fresh", base.url, base.log)
    fresh.root.mkdir()
    fresh.write(REVISIONS["insert"](people(), MIDDLE))
    succeed(fresh.arguments(*QUICK))
    assert (revised.run / "reflections.jsonl").read_bytes() == (
        fresh.run / "reflections.jsonl"
    ).read_bytes()


def test_a_changed_corpus_is_refused_without_the_option(base, tmp_path, capsys):
    asked = copy_of(base, tmp_path)
    asked.write(REVISIONS["remove"](people(), MIDDLE))
    message = refusal(asked.arguments(*QUICK), capsys)
    assert "the corpus changed since" in message
    assert "--revise" in message


def test_other_partitions_of_a_revised_corpus_find_all_answers(base, tmp_path):
    asked = copy_of(base, tmp_path)
    run = RunFolder(asked.run)
    manifest = read_json(run.corpus / "manifest.json")
    documents = (run.corpus / "documents.jsonl").read_text().splitlines(keepends=True)
    moved = documents[0].replace('people.jsonl:1"', 'people.jsonl:9"')
    (run.corpus / "documents.jsonl").write_text("".join([moved, *documents[1:]]))
    # The corpus as a revision that changed nothing but its number would leave it.
    noted = {"revision": 1, HASHES: hashes(run.corpus, manifest[HASHES])}
    write_json(run.corpus / "manifest.json", {**manifest, **noted})
    first = asked.asked()
    config = load_config([run.config], ["synthesis.partitions=5"])
    run_synthesis(run, config)
    assert asked.asked() == first
    assert run.reflections.read_bytes() == (base.run / "reflections.jsonl").read_bytes()


def test_an_older_synthesis_is_used_if_complete_and_else_refused(base, tmp_path, capsys):
    asked = copy_of(base, tmp_path)
    run = RunFolder(asked.run)
    for path in run.synth.glob("**/manifest.json"):
        manifest = read_json(path)
        manifest["settings"].pop("units")  # as planned by windows over the sorted documents
        write_json(path, manifest)
    first = asked.asked()
    succeed(asked.arguments(*QUICK))
    assert asked.asked() == first
    revising = refusal(asked.arguments("--revise", *QUICK), capsys)
    assert "planned by an older memo-dist" in revising
    (run.synth / "manifest.json").unlink()
    assert "start again in another --run" in refusal(asked.arguments(*QUICK), capsys)
    assert asked.asked() == first
