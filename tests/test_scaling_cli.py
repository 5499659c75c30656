"""A tiny study through the real command line: run, killed, resumed, fitted, drawn."""

from __future__ import annotations

import csv
import json
import re
import time

import pytest
from cli import kill_driver, memo_dist, start

pytest.importorskip("matplotlib")

from memo_dist.cli.main import run as run_cli
from memo_dist.io.atomic import read_json

STUDY = """
scale:
  sources: [random]
  bootstrap: 20
  measurements: 4
  random:
    vocabulary: 16
    length: 16
    least_layers: 1
    sizes: [4000, 8000]
    predict: [16000]
    loads: [0.25, 0.5]
    predict_loads: [0.5]
    exposures: [60]
    seeds: [1]
    lr_check: [0.5]
    batch_tokens: 256
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(YAML file, study folder, output) of a study that ran to its end."""
    folder = tmp_path_factory.mktemp("scale")
    file = folder / "tiny.yaml"
    file.write_text(STUDY)
    done = memo_dist("scale", "run", file, "--run", folder / "study")
    assert done.returncode == 0, done.stderr
    return file, folder / "study", done.stdout


def results(root):
    found = {}
    for path in sorted(root.glob("cells/*/result.json")):
        result = read_json(path)
        kept = {key: result[key] for key in ("measured", "curve", "outcome", "steps")}
        found[path.parent.name] = kept
    return found


def test_everything_is_there(study):
    _, root, output = study
    assert len(results(root)) == 2 * 2 + 2 + 1
    assert "size exponent" in output
    fit = read_json(root / "fit.json")
    (law,) = fit["laws"]
    assert 0.3 < law["capacity"]["exponent"][0] < 2
    assert len(law["sizes"]) == 2
    rows = list(csv.DictReader((root / "results.csv").open()))
    assert len(rows) == 7 * 4
    assert all(float(row["flops_per_second"]) > 0 for row in rows)
    assert not any(row["share_of_peak"] for row in rows)  # no peak is known of a CPU
    assert re.search(
        r"7 cells on cpu, 1 thread\(s\): \S+ FLOPs in .* of cells, .* by the clock: \S+ FLOP/s\n",
        output,
    )
    for name in ("capacity-random", "residuals-random", "recall-random"):
        assert (root / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (root / "plots" / f"{name}.svg").read_text()
    page = (root / "report.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r"(src|href)=.https?:", page)
    # Both volumes were held: what the memories could hold is not claimed.
    assert "no volume came near what it can hold" in output
    assert "no volume came near what it can hold" in page


def test_a_held_out_size_was_predicted_before_it_ran(study):
    _, root, _ = study
    told = read_json(root / "predictions" / "random.json")["cells"]
    ((name, prediction),) = told.items()
    assert "p16000" in name
    written = time.mktime(time.strptime(prediction["written"], "%Y-%m-%dT%H:%M:%SZ"))
    written -= time.timezone
    assert written <= (root / "cells" / name / "result.json").stat().st_mtime
    (row,) = read_json(root / "fit.json")["held_out"]
    measured = read_json(root / "cells" / name / "result.json")["measured"]["fp32"]["bits"]
    assert row["measured"] == measured
    assert row["error"] == pytest.approx(prediction["bits"][0] / measured - 1)


def test_running_again_runs_nothing_and_keeps_predictions(study):
    file, root, output = study
    before = {path: path.stat().st_mtime_ns for path in root.glob("cells/*/*")}
    told = (root / "predictions" / "random.json").read_bytes()
    done = memo_dist("scale", "run", file, "--run", root, new=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == output
    assert {path: path.stat().st_mtime_ns for path in root.glob("cells/*/*")} == before
    assert (root / "predictions" / "random.json").read_bytes() == told


def test_killed_study_goes_on_with_the_same_numbers(study, tmp_path):
    file, root, _ = study
    other = tmp_path / "study"
    driver = start("scale", "run", file, "--run", other, log=tmp_path / "log")
    deadline = time.monotonic() + 600
    while not list(other.glob("cells/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    kill_driver(driver)
    finished = {path: path.stat().st_mtime_ns for path in other.glob("cells/*/result.json")}
    assert 0 < len(finished) < 7
    done = memo_dist("scale", "run", file, "--run", other)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert results(other) == results(root)
    laws = [read_json(folder / "fit.json")["laws"] for folder in (root, other)]
    assert laws[0] == laws[1]


def test_plan_and_status(study, tmp_path, capsys):
    file, root, _ = study
    words = ["scale", "plan", str(file), "--run", str(tmp_path / "s"), "--json"]
    planned = json.loads(told(capsys, *words))
    assert planned["cells"] == planned["cells_left"] == 7
    assert [row["size"] for row in planned["rows"]] == [4000, 8000, 16000]
    assert planned["rows"][2]["held_out"]
    assert not (tmp_path / "s").exists()
    assert "0 of 7 cells" in told(capsys, "scale", "plan", str(root))
    state = json.loads(told(capsys, "scale", "status", str(root), "--json"))
    assert sum(sum(row["outcomes"].values()) for row in state["sizes"]) == 7
    assert state["failed"] == state["begun"] == []


def told(capsys, *words):
    assert run_cli(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run NONE.yaml", "neither a YAML file nor a study's folder"),
        ("status FILE --run NEW", "does not exist yet"),
        ("run FILE --run NEW scale.random.sizes=[300]", "300 parameters"),
        ("run FILE --run NEW --only-partition 4", "with scale.partitions=4 the last is 3"),
        ("plan FILE scale.sources=[randm]", "unknown name 'randm'"),
        ("plan FILE scale.random.predict=[5000]", "must be larger than every one"),
        ("plan FILE scale.sources=[reflections]", "scale.reflections.run=''"),
    ],
)
def test_users_errors(words, message, study, tmp_path, capsys):
    names = {"FILE": str(study[0]), "NEW": str(tmp_path / "new")}
    assert run_cli(["scale", *(names.get(word, word) for word in words.split())]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
