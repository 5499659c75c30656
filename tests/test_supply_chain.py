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
        for need in map(supply_chain.Requirement, needs):
            version = locked.get(supply_chain.canonicalize_name(need.name), "")
            assert need.specifier.contains(version.split("+")[0]), (extra, str(need), version)


def test_a_resolver_has_nothing_to_choose(supply_chain):
    """Versions that constraints.txt leaves open are those of this environment."""
    named = supply_chain.held().keys()
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert not named & set(map(supply_chain.canonicalize_name, pinned))
    assert {"jsonschema-specifications", "multidict"} <= named
    assert "memo-dist" not in named


def test_the_list_of_packages_has_versions_and_licences(supply_chain):
    bom = supply_chain.sbom()
    rows = {row["name"]: row for row in bom["components"]}
    assert rows["torch"]["version"] == version("torch")
    assert rows["hanta"]["licenses"] == [{"expression": "LGPL-3.0-or-later"}]
    assert "Mozilla" in json.dumps(rows["certifi"]["licenses"])
    assert bom["specVersion"] == "1.6"


def audited(folder, source):
    """The audit with another pip-audit."""
    (folder / "pip_audit.py").write_text(source)
    env = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, SCRIPT, "audit"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    return done.returncode, done.stdout


def test_the_audit_says_why_it_is_skipped(tmp_path):
    unreachable = "import sys\nsys.exit('ConnectionError: Max retries exceeded with url: /pypi')\n"
    code, told = audited(tmp_path, unreachable)
    assert code == 0
    assert "no database can be reached" in told


VULNERABLE = {"id": "CVE-1", "fix_versions": ["2.0"]}
UNKNOWN = {"name": "b", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("rows", "code", "told"),
    [
        ([UNKNOWN], 0, "skipped, the database knows none of"),
        ([{"name": "a", "version": "1", "vulns": []}], 0, "0 for 1 packages; 0 not known"),
        (
            [
                {"name": "a", "version": "1", "vulns": [VULNERABLE]},
                {"name": "b", "skip_reason": ""},
            ],
            1,
            "a 1: CVE-1, fixed in 2.0\nadvisories: 1 for 1 packages; 1 not known",
        ),
    ],
)
def test_the_audit_counts_what_the_database_knows(tmp_path, rows, code, told):
    report = json.dumps({"dependencies": rows})
    source = f"import sys\nprint({report!r})\nprint('No known vulnerabilities', file=sys.stderr)\n"
    found = audited(tmp_path, f"{source}sys.exit({code})\n")
    assert found[0] == code
    assert told in found[1]
