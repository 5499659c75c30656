"""Replies from files, through the command line: a folder of prompts and replies, and recordings."""

import io
import json
import lzma
import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from cli import kill_driver, start, wait_until

from memo_dist.cli.main import run as run_cli
from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import ClusterConfig
from memo_dist.io.atomic import read_jsonl
from memo_dist.testing.answers import answer_text

MODEL = "chat-model"
SETTINGS = (
    "generator.kind=recorded",
    "synthesis.documents_per_unit=1",
    "synthesis.partitions=2",
    "synthesis.phrasings=2",
    "synthesis.steps=[direct,paraphrase]",
)
DOCUMENTS = {
    "well.md": "# The Orlo well\n\nThe Orlo well is 212 metres deep. Ines Varga drilled it in 2019"
    " for the town of Belmere. The pump is a Karst P7 and moves 40 litres a minute.\n",
    "ferry.md": "# The Tamsin ferry\n\nThe Tamsin ferry crosses lake Oster in 25 minutes. Its"
    " captain is Joel Brandt. A crossing costs 7 euros.\n",
}


@pytest.fixture(scope="module", autouse=True)
def session():
    """One Ray for all command lines of this file."""
    with STOP.installed(), ray_session(ClusterConfig(), cores=2):
        yield


def memo_dist(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_cli([str(word) for word in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


class Chat:
    """A corpus, a run, a folder of prompts and replies, and whoever answers the prompts."""

    def __init__(self, root: Path) -> None:
        self.corpus, self.run, self.folder = root / "corpus", root / "run", root / "folder"
        self.corpus.mkdir(parents=True)
        for name, text in DOCUMENTS.items():
            (self.corpus / name).write_text(text)

    @property
    def arguments(self) -> list[str | Path]:
        named = (f"generator.recording={self.folder}", f"generator.model={MODEL}")
        return ["synthesize", self.corpus, "--run", self.run, *SETTINGS, *named]

    def open_prompts(self) -> list[str]:
        return (self.folder / "open.txt").read_text().split()

    def answer(self, name: str, wrap: str = "{}", suffix: str = "json") -> Path:
        prompt = (self.folder / "prompts" / f"{name}.md").read_text()
        task = prompt.split("# Passages and task\n")[1].split("# Form of the reply")[0].strip()
        schema = json.loads(re.findall(r"```json\n(.*)\n```", prompt)[-1])
        path = self.folder / "replies" / f"{name}.{suffix}"
        path.write_text(wrap.format(answer_text(task, schema, name)))
        return path

    def finish(self) -> int:
        """Answer and repeat until the reflections are there; returns the repetitions."""
        for round_ in range(12):
            done = memo_dist(*self.arguments)
            if done.returncode == 0:
                return round_
            assert done.returncode == 75, done.stderr
            for name in self.open_prompts():
                self.answer(name)
        raise AssertionError("never done")

    def reflections(self, run: Path | None = None) -> bytes:
        return ((run or self.run) / "reflections.jsonl").read_bytes()

    def rejected(self) -> list[str]:
        """Why candidates and requests are in quarantine."""
        paths = (self.run / "synth").glob("*/quarantine/*.jsonl")
        return [row["reason"] for path in paths for row in read_jsonl(path)]

    def replay(self, recording: Path, run: Path, *more: str):
        return memo_dist(
            "synthesize",
            self.corpus,
            "--run",
            run,
            *SETTINGS,
            f"generator.recording={recording}",
            *more,
        )


def unpacked(path: Path) -> list[dict]:
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    chat = Chat(tmp_path_factory.mktemp("chat"))
    assert chat.finish() >= 2  # later steps ask about what earlier ones brought
    return chat


@pytest.fixture(scope="module")
def packed(finished):
    path = finished.folder.parent / "replies.jsonl.xz"
    done = memo_dist(*finished.arguments, "--record", path, "--record-note", "CC0, invented")
    assert done.returncode == 0, done.stderr
    return path


def test_the_first_launch_writes_every_prompt_that_can_be_asked(tmp_path):
    chat = Chat(tmp_path)
    done = memo_dist(*chat.arguments)
    assert done.returncode == 75
    assert "2 prompts written, 2 are open, 0 replies read" in done.stderr
    assert f"{chat.folder}/replies/NAME.json" in done.stderr
    assert done.stderr.rstrip().endswith(shlex.join(["memo-dist", *map(str, chat.arguments)]))
    prompts = sorted((chat.folder / "prompts").glob("*.md"))
    assert [path.stem for path in prompts] == sorted(chat.open_prompts())
    assert all(re.fullmatch(r"direct-00[12]-[0-9a-f]{12}", path.stem) for path in prompts)
    told = "".join(path.read_text() for path in prompts)
    for text in ("212 metres", "Joel Brandt", '"additionalProperties":false', "You write"):
        assert text in told
    # one of two answered: the other one stays open under its name, and that unit alone goes on
    first, second = chat.open_prompts()
    chat.answer(first, "Here you are:\n{}\nAnything else?", "txt")
    done = memo_dist(*chat.arguments)
    assert done.returncode == 75
    assert "1 replies read" in done.stderr
    assert second in chat.open_prompts()
    assert first not in chat.open_prompts()


def test_a_malformed_reply_is_told_and_read_again_once_it_is_amended(tmp_path):
    chat = Chat(tmp_path)
    memo_dist(*chat.arguments)
    good, bad = chat.open_prompts()
    chat.answer(good, "```json\n{}\n```", "md")
    (chat.folder / "replies" / f"{bad}.json").write_text('{"facts": [{"passage": 1}]}')
    (chat.folder / "replies" / "notes.json").write_text("{}")
    (chat.folder / "replies" / f"{good}.txt").symlink_to("/etc/hostname")
    for _ in range(2):
        done = memo_dist(*chat.arguments)
        assert done.returncode == 75
        assert f"{bad}.json: schema: at $.facts[0]" in done.stderr
        assert f"{good}.md, {good}.txt: keep one of them" in done.stderr
        assert "notes.json" in done.stderr
        assert set(chat.open_prompts()) == {good, bad}
    note = chat.folder / "prompts" / f"{bad}.error.txt"
    assert note.read_text().startswith(f"{bad}.json: schema")
    (chat.folder / "replies" / f"{good}.txt").unlink()
    chat.answer(bad)
    assert chat.finish() >= 1
    assert not note.exists()
    assert chat.open_prompts() == []
    assert not [reason for reason in chat.rejected() if reason.startswith("request")]


def test_a_request_is_given_up_only_by_a_reply_that_says_so(tmp_path):
    chat = Chat(tmp_path)
    memo_dist(*chat.arguments)
    first, second = chat.open_prompts()
    (chat.folder / "replies" / f"{first}.txt").write_text("SKIP\n")
    chat.answer(second)
    chat.finish()
    assert "request: given up: its reply file says SKIP" in chat.rejected()
    packed = tmp_path / "replies.jsonl.gz"
    assert memo_dist(*chat.arguments, "--record", packed).returncode == 0
    done = chat.replay(packed, tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert chat.reflections(tmp_path / "again") == chat.reflections()


def test_a_packed_run_is_repeated_to_the_byte(finished, packed, tmp_path):
    header, *rows = unpacked(packed)
    assert (header["model"], header["note"]) == (MODEL, "CC0, invented")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", header["date"])
    assert set(header["steps"]) == {"direct", "paraphrase"}
    assert [set(row) for row in rows] == [{"key", "text", "finish_reason"}] * len(rows)
    # another seed of the run trains otherwise and reads the same replies
    for run, more in ((tmp_path / "one", ()), (tmp_path / "two", ("run.seed=3",))):
        done = finished.replay(packed, run, *more)
        assert done.returncode == 0, done.stderr
        assert finished.reflections(run) == finished.reflections()
        assert f"Generator: {MODEL} " in (run / "synth" / "dataset" / "README.md").read_text()
    again = tmp_path / "again.jsonl.xz"
    named = (f"generator.recording={packed}", "--record", again, "--record-note", "CC0, invented")
    arguments = ("synthesize", finished.corpus, "--run", tmp_path / "one", *SETTINGS)
    assert memo_dist(*arguments, *named).returncode == 0
    assert again.read_bytes() == packed.read_bytes()


def test_a_recording_of_other_prompts_says_which(finished, packed, tmp_path):
    header, *rows = unpacked(packed)
    changed = tmp_path / "changed.jsonl"
    header["steps"]["direct"] = "direct-00000000"
    rows = [{**row, "key": row["key"][::-1]} for row in rows]
    changed.write_text("".join(json.dumps(row) + "\n" for row in (header, *rows)))
    done = finished.replay(changed, tmp_path / "run")
    assert done.returncode == 1
    assert re.search(
        r"no valid reply to 2 of 2 requests of step direct.*recording direct-00000000, this"
        r" memo-dist direct-[0-9a-f]{8}.*generator\.recording=FOLDER",
        done.stderr,
    )
    assert not (tmp_path / "run" / "reflections.jsonl").exists()
    header["model"] = "other"
    changed.write_text(json.dumps(header) + "\n")
    done = finished.replay(changed, tmp_path / "refused", f"generator.model={MODEL}")
    assert done.returncode == 2
    assert f"generator.model={MODEL}, but" in done.stderr
    assert not (tmp_path / "refused" / "synth").exists()


def test_other_documents_are_told_from_other_prompts(finished, packed, tmp_path):
    (finished.corpus / "new.md").write_text("# Mill\n\nThe Sarn mill grinds 3 tonnes a day.\n")
    try:
        done = finished.replay(packed, tmp_path / "run")
    finally:
        (finished.corpus / "new.md").unlink()
    assert done.returncode == 1
    assert re.search(r"1 of \d+ requests of step direct\. The prompts are the same", done.stderr)


def test_a_killed_run_goes_on_from_the_same_replies(finished, tmp_path):
    chat = Chat(tmp_path)
    chat.folder.symlink_to(finished.folder)
    process = start(*chat.arguments, log=tmp_path / "log")
    journals = chat.run / "synth" / "direct" / "journal"
    wait_until(lambda: list(journals.glob("requests-*.jsonl")), 120, "requests", process)
    kill_driver(process)
    done = memo_dist(*chat.arguments)
    assert done.returncode == 0, done.stderr
    assert chat.reflections() == finished.reflections()


def test_one_partition_is_no_recording(tmp_path):
    settings = ("generator.kind=recorded", "generator.model=m", f"generator.recording={tmp_path}")
    out, run = tmp_path / "replies.jsonl", tmp_path / "run"
    done = memo_dist(
        *("synthesize", tmp_path, "--run", run, "--record", out, "--only-partition", "0", *settings)
    )
    assert done.returncode == 2
    assert "--record" in done.stderr
    assert not run.exists()


def test_a_recording_that_is_none_is_refused(finished, tmp_path):
    broken = tmp_path / "broken.jsonl.xz"
    broken.write_bytes(b"\xfd7zXZ\x00damaged")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("[1]\n")
    header = tmp_path / "header.jsonl"
    header.write_text(
        '{"format": "memo-dist recording 1", "model": "m", "seed": 0, "steps": [1]}\n'
    )
    nested = tmp_path / "nested.jsonl"
    nested.write_text("[" * 200_000 + "\n")
    for path in (broken, wrong, header, nested, tmp_path / "none.jsonl"):
        done = finished.replay(path, tmp_path / "run", f"generator.model={MODEL}")
        assert done.returncode == 2, done.stderr
        assert f"generator.recording={path}" in done.stderr
    assert not (tmp_path / "run" / "synth").exists()
    done = finished.replay(tmp_path / "folder", tmp_path / "unnamed")
    assert done.returncode == 2
    assert "generator.model='' must name the model" in done.stderr
    assert not (tmp_path / "folder").exists()
