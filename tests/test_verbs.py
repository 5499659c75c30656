"""The table of verbs agrees with the commands, the launchers and README, and is their only list."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from memo_dist import cli
from memo_dist.cli.main import run as run_cli
from memo_dist.launch.requeue import main as guard_requeue
from memo_dist.launch.verbs import parse_verb
from memo_dist.verbs import VERBS, Verb

ROOT = Path(__file__).parent.parent
LAUNCHED = [verb for verb in VERBS.values() if verb.launches]
TOY = '''"""A verb of a test."""

import click

from memo_dist.cli.options import config_options, run_argument


@click.command("toy")
@run_argument
@click.option("--size", type=int)
@config_options
def command(run_folder, size, config_files, overrides):
    """Do nothing."""
    click.echo(f"{run_folder} of size {size}")
'''


def definition(verb):
    """The click command of a verb; of the scaling study, the one that can be launched."""
    command = importlib.import_module(f"memo_dist.cli.{verb.name}").command
    return command.commands["run"] if verb.first == "study" else command


@pytest.mark.parametrize("verb", LAUNCHED, ids=lambda verb: verb.name)
def test_the_table_agrees_with_the_definitions(verb):
    command = definition(verb)
    arguments = [p.name for p in command.params if isinstance(p, click.Argument)]
    first = {"run": "run_folder", "": "overrides"}.get(verb.first, verb.first)
    assert arguments[0] == first
    valued = {
        name
        for p in command.params
        if isinstance(p, click.Option) and not p.is_flag
        for name in p.opts
    }
    assert valued == set(verb.value_options)


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_verbs_that_save_poll_for_a_stop_request(verb):
    """The command line handles the signals of exactly the verbs that read them."""
    module = importlib.import_module(f"memo_dist.cli.{verb.name}")
    assert hasattr(module, "STOP") == verb.saves


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_a_verb_is_called_as_the_table_says(verb):
    module = importlib.import_module(f"memo_dist.cli.{verb.name}")
    assert module.command.name == verb.name
    assert verb.summary.endswith(".")


def test_a_launched_verb_reads_the_stored_configuration_where_the_verb_does(tmp_path):
    (tmp_path / "config.yaml").write_text("train: {epochs: 11}\n")
    for verb in LAUNCHED:
        if verb.first == "study":
            continue
        first = [] if not verb.first else [str(tmp_path if verb.first == "run" else "docs")]
        run = ["--run", str(tmp_path)] if "--run" in verb.value_options else []
        epochs = parse_verb([verb.name, *first, *run]).config().train.epochs
        assert epochs == (11 if verb.reads_stored else 0), verb.name


def test_the_table_needs_no_import():
    """Login nodes and batch scripts read it."""
    code = (
        "import json, sys, memo_dist.verbs, memo_dist.launch.verbs;"
        "print(json.dumps(sorted(set(sys.modules) & {'torch', 'ray', 'transformers', 'click'})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_readme_names_the_verbs():
    """Its tables of verbs: each verb stands in one of them, and nothing else begins a row."""
    rows = list(_rows_of_verb_tables((ROOT / "README.md").read_text()))
    named = {word for row in rows for word in _first_words(row)}
    begins = {word for row in rows for word in _first_words(row.split(" | ")[0])}
    assert set(VERBS) <= named
    assert begins <= set(VERBS)


def _rows_of_verb_tables(text):
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = table.splitlines()
        if head.strip("| ").startswith("verb"):
            yield from rows


def _first_words(row):
    return re.findall(r"`(?:memo-dist )?([\w-]+)[^`]*`", row)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A verb that exists only as a record of the table and a module of its own."""
    (tmp_path / "toy.py").write_text(TOY)
    verb = Verb(
        "toy", "Do nothing.", first="run", launches=True, value_options=("--config", "--size")
    )
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    monkeypatch.setitem(VERBS, "toy", verb)
    yield verb
    sys.modules.pop("memo_dist.cli.toy", None)


def test_a_verb_needs_a_record_and_a_module(toy, capsys, tmp_path):
    assert run_cli(["--help"]) == 0
    assert re.search(r"toy +Do nothing\.", capsys.readouterr().out)
    assert run_cli(["toy", "R", "--size", "3"]) == 0
    assert capsys.readouterr().out == "R of size 3\n"
    assert run_cli(["tou"]) == 2
    assert "did you mean 'toy'?" in capsys.readouterr().err
    call = parse_verb(["toy", "R", "--size", "3", "train.epochs=2"])
    assert (call.run, call.overrides) == (Path("R"), ("train.epochs=2",))
    assert run_cli(["launch", "local", "--dry-run", "--", "toy", "R", "--size", "3"]) == 0
    assert "toy R --size 3" in capsys.readouterr().out
    guard = ["--job", "7", "--life", "0", "--max-stalled", "1", "--", "toy", str(tmp_path)]
    assert guard_requeue(guard) == 0
    assert "job 7: life 0 ends" in capsys.readouterr().out
