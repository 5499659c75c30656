"""What is installed: locked with hashes, listed with licences, checked for advisories.

    python launchers/supply_chain.py lock [EXTRA ...]   renew launchers/requirements/*.txt
    python launchers/supply_chain.py sbom [FILE]        a CycloneDX list of this environment
    python launchers/supply_chain.py audit              pip-audit over launchers/requirements

``lock`` asks pip once what it would install, for this Python and platform, and writes a file for
each extra. Versions are those of constraints.txt; of what that does not name, those of this
environment, or else of the files before, so that pip has nothing to search; ``lock --newest``
leaves these open. With the files nothing but what has these hashes is installed:

    python -m pip install --require-hashes -r launchers/requirements/base.txt
    python -m pip install --no-deps .

``audit`` exits with 1 where a version has a published advisory. Where pip-audit is not installed,
or no database can be reached, it says so and exits with 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from uuid import uuid4

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "launchers" / "requirements"
BASE, PROJECT = "base", "memo-dist"
_PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
_CONSTRAINTS = ROOT / "constraints.txt"
_UNREACHABLE = re.compile(
    r"ConnectionError|Max retries|Failed to (?:establish|connect)|timed out|Name or service"
    r"|SSLError|ServiceError|Proxy|Temporary failure|getaddrinfo|403|502|503",
)
_AUDIT_SECONDS = 300


def extras() -> list[str]:
    """``base`` and every extra of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [BASE, *sorted(project["optional-dependencies"])]


def held() -> dict[str, str]:
    """{package: version} here, or in the locks, of what constraints.txt leaves open.

    A resolver that may choose among all versions of 200 packages can take hours.
    """
    locks = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.txt"))
    here = {dist.metadata["Name"]: dist.version for dist in distributions()}
    found = {canonicalize_name(name): v for name, v in re.findall(_PIN, locks)}
    found |= {canonicalize_name(name): v for name, v in here.items()}
    named = re.findall(_PIN, _CONSTRAINTS.read_text(encoding="utf-8"))
    taken = {PROJECT, *(canonicalize_name(name) for name, _ in named)}
    return {name: found[name] for name in sorted(found.keys() - taken)}


def resolve(names: list[str], versions: dict[str, str]) -> list[dict[str, Any]]:
    """What pip would install for some extras together: the entries of its report.

    Args:
        names: of the extras.
        versions: see :func:`held`.

    Raises:
        CalledProcessError: pip finds no solution.
    """
    chosen = [name for name in names if name != BASE]
    project = f"{ROOT}[{','.join(chosen)}]" if chosen else str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder) / "report.json", Path(folder) / "versions.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), "-c", str(_CONSTRAINTS)]
        command += ["-c", str(pins), project]
        subprocess.run(command, check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return found


def closure(items: list[dict[str, Any]], extra: str) -> list[dict[str, Any]]:
    """The entries that the project needs with one extra, without the project itself."""
    by_name = {canonicalize_name(item["metadata"]["name"]): item for item in items}
    seen: set[tuple[str, str]] = set()
    todo = [(PROJECT, ""), (PROJECT, "" if extra == BASE else extra)]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen or name not in by_name:
            continue
        seen.add((name, wanted))
        for text in by_name[name]["metadata"].get("requires_dist", ()):
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": wanted}):
                target = canonicalize_name(need.name)
                todo += [(target, more) for more in ("", *need.extras)]
    return [by_name[name] for name in sorted({name for name, _ in seen} - {PROJECT})]


def lock(items: list[dict[str, Any]], extra: str) -> Path:
    """Write the file of one extra."""
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}, {sys.platform}"
    head = f"# {version}; by `python launchers/supply_chain.py lock`\n"
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{extra}.txt"
    path.write_text(head + "".join(map(requirement, closure(items, extra))), encoding="utf-8")
    return path


def requirement(item: dict[str, Any]) -> str:
    """A line with the hash of the file that pip chose.

    Args:
        item: an entry of ``install`` in pip's report.
    """
    name, version = canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={version} --hash=sha256:{digest}\n"


def sbom() -> dict[str, Any]:
    """The packages of this environment as CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json)."""
    found = {dist.metadata["Name"].lower(): dist for dist in distributions()}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {"timestamp": now, "component": {"type": "application", "name": "memo-dist"}},
        "components": [component(found[name]) for name in sorted(found)],
    }


def component(dist: Distribution) -> dict[str, Any]:
    """One package with its licence."""
    name = canonicalize_name(dist.metadata["Name"])
    row: dict[str, Any] = {"type": "library", "name": name, "version": dist.version}
    row["purl"] = f"pkg:pypi/{name}@{dist.version}"
    row["bom-ref"] = row["purl"]
    told = licence(dist)
    if told:
        row["licenses"] = [told]
    return row


def licence(dist: Distribution) -> dict[str, Any]:
    """The licence that the metadata tells: an SPDX expression, a classifier or a short text."""
    expression = dist.metadata.get("License-Expression")
    if expression:
        return {"expression": expression}
    classifiers = dist.metadata.get_all("Classifier") or []
    names = [text.rsplit(" :: ", 1)[-1] for text in classifiers if text.startswith("License ::")]
    text = (dist.metadata.get("License") or "").strip().split("\n")[0][:80]
    name = ", ".join(names) or text
    return {"license": {"name": name}} if name else {}


def audit() -> int:
    """Run pip-audit over all locked files; returns the exit code."""
    files = [word for path in sorted(FOLDER.glob("*.txt")) for word in ("-r", str(path))]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps"]
    command += ["--format", "json", "--progress-spinner", "off", *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_AUDIT_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"advisories: skipped, no answer of a database within {_AUDIT_SECONDS} s")
        return 0
    told = done.stdout + done.stderr
    if "No module named pip_audit" in told:
        print("advisories: skipped, pip-audit is not installed (python -m pip install pip-audit)")
        return 0
    if done.returncode and _UNREACHABLE.search(told) and "Found" not in told:
        print(f"advisories: skipped, no database can be reached: {told.strip().splitlines()[-1]}")
        return 0
    try:
        rows = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(told.strip())
        return int(done.returncode != 0)
    return _tell(rows)


def _tell(rows: list[dict[str, Any]]) -> int:
    """Print what pip-audit found; a database that does not know the packages proves nothing.

    Args:
        rows: ``dependencies`` of its report: with ``vulns``, or with ``skip_reason``.
    """
    known = [row for row in rows if "skip_reason" not in row]
    bad = [(row, found) for row in known for found in row["vulns"]]
    for row, found in bad:
        fixed = ", ".join(found["fix_versions"]) or "no version"
        print(f"advisories: {row['name']} {row['version']}: {found['id']}, fixed in {fixed}")
    if not known:
        print(f"advisories: skipped, the database knows none of the {len(rows)} packages")
        return 0
    print(f"advisories: {len(bad)} for {len(known)} packages; {len(rows) - len(known)} not known")
    return int(bool(bad))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Locks, lists and checks what is installed.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    locking = verbs.add_parser("lock")
    locking.add_argument("extras", nargs="*", help=f"of {', '.join(extras())}")
    locking.add_argument("--newest", action="store_true", help="hold constraints.txt only")
    verbs.add_parser("sbom").add_argument("file", nargs="?", type=Path)
    verbs.add_parser("audit")
    options = parser.parse_args()
    if options.verb == "lock":
        names = options.extras or extras()
        items = resolve(names, {} if options.newest else held())
        for name in names:
            print(lock(items, name))
    elif options.verb == "sbom":
        text = json.dumps(sbom(), indent=1) + "\n"
        if options.file is None:
            print(text, end="")
        else:
            options.file.write_text(text, encoding="utf-8")
    else:
        return audit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
