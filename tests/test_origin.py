"""A run folder from somebody else does not choose where documents and keys go."""

import shutil

import pytest
import yaml
from cli import memo_dist as command
from ports import free_ports

from memo_dist.cluster.ray_local import ray_session
from memo_dist.config import load_config, origin
from memo_dist.config.load import guarded_values
from memo_dist.errors import UsageError
from memo_dist.llm.backends.make import check_key

THEIRS = {
    "executive": {
        "kind": "openai", "model": "m", "urls": ["http://198.51.100.7/v1"],
        "api_key_env": "MY_OWN_SECRET",
    },
    "generator": {"kind": "recorded", "model": "m", "recording": "/tmp/elsewhere"},
    "cluster": {"address": "198.51.100.7:6379", "authentication": "none"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_known(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MY_OWN_SECRET", "s3cret")
    monkeypatch.setattr(origin, "_foreign", {})
    monkeypatch.setattr(origin, "_own", set())


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(THEIRS))
    return path


def test_what_only_the_folder_names_is_shown_and_refused(theirs):
    config = load_config(stored=theirs)
    with pytest.raises(UsageError) as refused:
        check_key(config.executive)
    text = str(refused.value)
    assert str(theirs) in text
    assert "executive.urls: ['http://198.51.100.7/v1']" in text or "198.51.100.7/v1]" in text
    assert "executive.api_key_env=MY_OWN_SECRET" in text  # the key to repeat
    with pytest.raises(UsageError, match=r"generator\.recording"):
        check_key(config.generator)
    with (
        pytest.raises(UsageError, match=r"cluster\.address.*\n.*cluster\.authentication"),
        ray_session(config.cluster),
    ):
        pass


def test_the_repeated_words_are_taken(theirs):
    words = ["executive.urls=[http://198.51.100.7/v1]"]
    config = load_config((), words, stored=theirs)
    with pytest.raises(UsageError, match=r"api_key_env") as refused:
        check_key(config.executive)
    assert "executive.urls" not in str(refused.value)
    config = load_config((), [*words, "executive.api_key_env=MY_OWN_SECRET"], stored=theirs)
    check_key(config.executive)


def test_the_callers_own_url_does_not_take_the_folders_key(theirs):
    config = load_config((), {"executive.urls": ["http://127.0.0.1:9/v1"]}, stored=theirs)
    with pytest.raises(UsageError, match=r"executive\.api_key_env"):
        check_key(config.executive)


def test_an_anthropic_kind_from_the_folder_does_not_take_the_callers_key(theirs):
    theirs.write_text("executive: {kind: anthropic, model: m}")
    config = load_config((), {"executive.api_key_env": "MY_OWN_SECRET"}, stored=theirs)
    with pytest.raises(UsageError, match=r"executive\.kind=anthropic"):
        check_key(config.executive)


def test_the_owner_of_a_run_repeats_nothing(theirs, monkeypatch):
    config = load_config([theirs])  # a file of their own: an encode
    origin.remember(theirs.parent, guarded_values(config))
    monkeypatch.setattr(origin, "_own", set())  # another process
    check_key(load_config(stored=theirs).executive)
    other = theirs.parent.with_name("moved")
    shutil.move(theirs.parent, other)
    with pytest.raises(UsageError, match=r"executive\.urls"):
        check_key(load_config(stored=other / "config.yaml").executive)


def test_a_record_that_others_may_write_counts_for_nothing(theirs, tmp_path, monkeypatch):
    origin.remember(theirs.parent, guarded_values(load_config([theirs])))
    monkeypatch.setattr(origin, "_own", set())
    (tmp_path / "state" / "memo_dist" / "own-values").chmod(0o666)
    with pytest.raises(UsageError, match=r"executive\.urls"):
        check_key(load_config(stored=theirs).executive)


def test_opening_a_foreign_run_does_not_make_its_values_the_openers(theirs):
    config = load_config(stored=theirs)
    origin.remember(theirs.parent, guarded_values(config))
    with pytest.raises(UsageError, match=r"executive\.urls"):
        check_key(load_config(stored=theirs).executive)


def test_ask_refuses_on_the_command_line(theirs, tmp_path):
    """On 1f7257c the key went to the folder's endpoint."""
    (port,) = free_ports()
    settings = {**THEIRS, "cluster": {}}
    settings["executive"] = {**THEIRS["executive"], "urls": [f"http://127.0.0.1:{port}/v1"]}
    theirs.write_text(yaml.safe_dump(settings))
    done = command("ask", theirs.parent, "Who?", "--mode", "protocol")
    assert done.returncode == 2
    assert "executive.api_key_env=MY_OWN_SECRET" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "key",
    ["sk_live_51H8abcdEFGH", "hf_abcdefghijkl", "AKIAIOSFODNN7EXAMPLE", "a1b2c3d4e5f6a7b8c9d0e1f2"],
)
def test_a_key_in_the_place_of_a_name_is_refused_and_not_repeated(key):
    with pytest.raises(UsageError, match="NAME of an environment variable") as refused:
        load_config((), {"executive.api_key_env": key})
    assert key not in str(refused.value)
    for name in ("OPENAI_API_KEY", "my_key", "KEY_FOR_THE_SECOND_SERVER_2"):
        load_config((), {"executive.api_key_env": name})
