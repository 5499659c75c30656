"""The package's plan: imports run downwards, no circles, heavy libraries where they belong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LINT = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"


def _lint(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _LINT, "--no-cache", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_contracts_of_pyproject_are_kept():
    done = _lint()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 kept, 0 broken" in done.stdout


def test_an_upward_import_breaks_the_contract(tmp_path):
    """The contracts see what they should: a copy of the package with one upward import fails."""
    package = tmp_path / "memo_dist"
    for name, text in {
        "__init__.py": "",
        "io/__init__.py": "",
        "config/__init__.py": "",
        "io/low.py": "def f():\n    from memo_dist.config import high\n",
        "config/high.py": "",
    }.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "memo_dist"\n'
        '[[tool.importlinter.contracts]]\nname = "x"\ntype = "layers"\n'
        'containers = ["memo_dist"]\nlayers = ["config", "io"]\n'
    )
    command = [sys.executable, "-c", _LINT, "--no-cache"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "memo_dist.io is not allowed to import memo_dist.config" in done.stdout
