"""Locks, list of packages and advisories."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "launchers" / "supply_chain.py"


@pytest.fixture(scope="module")
def supply_chain():
    spec = importlib.util.spec_from_file_location("supply_chain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def item(name, *needs):
    metadata = {"name": name, "version": "1.0", "requires_dist": list(needs)}
    return {"metadata": metadata, "download_info": {"archive_info": {"hashes": {"sha256": "ab"}}}}


def test_a_lock_has_all_that_an_extra_needs_and_nothing_else(supply_chain, tmp_path, monkeypatch):
    items = [
        item("memo-dist", "Torch>=2", "plots; extra == 'scale'", "old; python_version < '3'"),
        item("torch", "num_py[fast]"),
        item("num-py", "c; extra == 'fast'", "slow; extra == 'slow'"),
        *map(item, ("c", "plots", "old", "slow")),
    ]
    monkeypatch.setattr(supply_chain, "FOLDER", tmp_path)
    base = supply_chain.lock(items, "base").read_text().splitlines()
    lines = [f"{name}==1.0 --hash=sha256:ab" for name in ("c", "num-py", "torch")]
    assert base[1:] == lines
    assert supply_chain.lock(items, "scale").read_text().splitlines()[1:] == [
        *lines[:2], "plots==1.0 --hash=sha256:ab", lines[2],
    ]  # fmt: skip


def test_locked_versions_are_those_of_the_constraints():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    wanted = {re.sub(r"[-_.]+", "-", name).lower(): value for name, value in pinned.items()}
    for path in (ROOT / "launchers" / "requirements").glob("*.txt"):
        lines = path.read_text().splitlines()[1:]
        assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
        found = dict(line.split(" ")[0].split("==") for line in lines)
        for name in wanted.keys() & found.keys():
            assert found[name].split("+")[0] == wanted[name], (path.name, name)


def test_every_extra_has_a_lock_that_names_what_it_asks_for(supply_chain):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in supply_chain.extras():
        path = ROOT / "launchers" / "requirements" / f"{extra}.txt"
        assert path.exists(), f"python launchers/supply_chain.py lock ({extra})"
        locked = dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M))
        needs = [*project["dependencies"], *project["optional-dependencies"].get(extra, ())]
        for need in map(Requirement, needs):
            version = locked.get(canonicalize_name(need.name), "")
            assert need.specifier.contains(version.split("+")[0]), (extra, str(need), version)


def test_a_resolver_has_nothing_to_choose(supply_chain):
    """Versions that constraints.txt leaves open are those of this environment."""
    named = {canonicalize_name(name) for name in supply_chain.held()}
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert not named & {canonicalize_name(name) for name in pinned}
    assert {"jsonschema-specifications", "multidict"} <= named
    assert "memo-dist" not in named


def test_the_list_of_packages_has_versions_and_licences(supply_chain):
    bom = supply_chain.sbom()
    rows = {row["name"]: row for row in bom["components"]}
    assert rows["torch"]["version"] == version("torch")
    assert rows["hanta"]["licenses"] == [{"expression": "LGPL-3.0-or-later"}]
    assert "Mozilla" in json.dumps(rows["certifi"]["licenses"])
    assert bom["specVersion"] == "1.6"


def test_the_audit_says_why_it_is_skipped(tmp_path):
    (tmp_path / "pip_audit.py").write_text(
        "import sys\nsys.exit('ConnectionError: Max retries exceeded with url: /pypi')\n"
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, "audit"], capture_output=True, text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "no database can be reached" in done.stdout
