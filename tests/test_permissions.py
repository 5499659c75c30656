"""Who may read a run: its owner, or a group where it says so; never everybody."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from memo_dist.config import load_config
from memo_dist.io import atomic, permissions
from memo_dist.io.checked_lines import LineFile
from memo_dist.runs import open_run

NOBODY = 65534
DOCUMENT = {"id": "a", "text": "The budget of the north bridge is 12 million."}


def modes(root: Path) -> dict[str, int]:
    paths = [root, *root.rglob("*")]
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in paths}


def write_run(root: Path, **settings: bool) -> None:
    config = load_config((), {"memory.base": "scratch", **settings})
    with open_run(root, config, "auto") as run:
        atomic.write_jsonl(run.corpus / "documents.jsonl", [DOCUMENT])
        with LineFile(run.synth / "direct" / "journal" / "0.jsonl") as journal:
            journal.append({"text": "x"})
        weights = run.train(0) / "final" / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.touch(0o600)  # as safetensors makes its files


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_run_is_its_owners(tmp_path):
    """On 1f7257c: documents and journals 0644, weights 0600."""
    write_run(tmp_path / "runs" / "one")
    assert set(modes(tmp_path / "runs" / "one").values()) == {0o700, 0o600}
    assert modes(tmp_path / "runs")["."] == 0o755  # the user's own folder stays as it was
    assert os.umask(0o022) == 0o022


def test_a_group_may_read_where_the_run_says_so(tmp_path):
    write_run(tmp_path / "run")
    write_run_again = {"run.group_readable": True}
    config = load_config((), {"memory.base": "scratch", **write_run_again})
    with open_run(tmp_path / "run", config, "auto"):
        pass
    assert set(modes(tmp_path / "run").values()) == {0o750, 0o640}  # the weights too


def test_a_run_of_an_earlier_version_is_closed(tmp_path):
    root = tmp_path / "run"
    write_run(root)
    root.chmod(0o2755)
    (root / "corpus" / "documents.jsonl").chmod(0o644)
    with open_run(root, load_config((), {"memory.base": "scratch"}), "auto"):
        assert modes(root)["corpus/documents.jsonl"] == 0o600
        assert modes(root)["."] == 0o2700  # the group of new files stays the folder's


def test_a_file_gets_the_modes_of_the_umask_without_a_change_of_it(tmp_path, monkeypatch):
    """On 9d1f21f the umask was 0 for a moment; two threads could leave it so."""
    os.umask(0o027)

    def refuse(mask):
        raise AssertionError("other threads would see another umask")

    with monkeypatch.context() as patch:
        patch.setattr(os, "umask", refuse)
        atomic.write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_links_to_a_base_model_that_others_use_stay_as_they_are(tmp_path):
    cached = tmp_path / "cache.safetensors"
    cached.touch()
    cached.chmod(0o644)
    base = tmp_path / "run" / "memory" / "base"
    base.mkdir(parents=True)
    os.link(cached, base / "model.safetensors")
    permissions.settle(tmp_path / "run", group_readable=False)
    assert stat.S_IMODE(cached.stat().st_mode) == 0o644


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_reads_nothing(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder) != "/" and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    write_run(tmp_path / "run")
    document = tmp_path / "run" / "corpus" / "documents.jsonl"
    script = f"import os; os.setgid({NOBODY}); os.setuid({NOBODY}); open({str(document)!r})"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
    assert "PermissionError" in done.stderr
