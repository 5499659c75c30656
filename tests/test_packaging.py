"""What is declared is what is used, and the built wheel holds what a user needs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Needed without an import of ours: transformers reads the built-in base with gguf and
# accelerate; datasets is part of the framework's fixed set of libraries.
WITHOUT_IMPORT = {"gguf", "accelerate", "datasets"}
# Libraries of extras, imported only where they are installed or asked for.
OPTIONAL_MODULES = {
    "wandb",
    "mlflow",
    "flash_attn",
    "fsspec",
    "liger_kernel",
    "llguidance",
    "scipy",
    "matplotlib",
    "model2vec",
    "sentence_transformers",
    "mergekit",
    "agent",
    "fastapi",
    "h11",
    "httpx",
    "langgraph",
    "mcp",
    "prometheus_client",
    "pydantic",
    "starlette",
    "uvicorn",
}
SHELL_FILES = (
    "launchers/quickstart.sh",
    "launchers/local.sh",
    "launchers/torchrun.sh",
    "launchers/ray.sh",
    "launchers/slurm.sh",
    "tests/slurm/start.sh",
    "tests/slurm/stop.sh",
    "tests/slurm/node.sh",
    "launchers/lib/bootstrap.sh",
    "tests/run.sh",
    ".ci/run",
    "slurm/chain.sh",
    "benchmarks/gpu.sh",
)


def normal(name):
    """The canonical form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements):
    return {normal(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in requirements}


def imported_modules(folder):
    """Top-level modules that the files below a folder import, at any depth of their code."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"memo_dist"}


def distributions(modules):
    known = packages_distributions()
    return {module: {normal(name) for name in known.get(module, ())} for module in modules}


def test_imports_are_declared_and_declared_is_imported():
    wanted = declared(PROJECT["dependencies"])
    used = distributions(imported_modules(ROOT / "memo_dist") - OPTIONAL_MODULES)
    undeclared = {module for module, names in used.items() if not names & wanted}
    assert not undeclared
    assert wanted - set().union(*used.values()) == WITHOUT_IMPORT


def test_the_tests_need_only_the_test_extra():
    extra = declared(PROJECT["optional-dependencies"]["test"])
    wanted = extra | declared(PROJECT["dependencies"])
    own = (ROOT / "tests", ROOT / "examples")
    helpers = {file.stem for folder in own for file in folder.rglob("*.py")}
    used = distributions(imported_modules(ROOT / "tests") - helpers)
    assert not {module for module, names in used.items() if not names & wanted}


def test_constraints_pin_every_declared_distribution():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    assert {normal(name) for name in pins} == declared([*PROJECT["dependencies"], *extras])
    assert pins["torch"] == "2.13.0"


def test_shell_scripts_parse_and_end_on_errors():
    for name in SHELL_FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        subprocess.run(["bash", "-n", str(ROOT / name)], check=True)
        assert "set -euo pipefail" in text or name.endswith("bootstrap.sh")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built with the environment's own hatchling: nothing is downloaded."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--disable-pip-version-check", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("memo_dist-*.whl")
    return file


def below(folder, prefix):
    """The files that the wheel must hold of a source folder."""
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {f"{prefix}/{p.relative_to(folder).as_posix()}" for p in files}


def test_the_wheel_holds_code_data_configs_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = below(ROOT / "memo_dist", "memo_dist")
    expected |= below(ROOT / "configs", "memo_dist/_configs")
    expected |= below(ROOT / "kernels", "memo_dist/_kernels")
    assert "memo_dist/py.typed" in expected
    assert any(name.endswith(".html.j2") for name in expected)
    assert "memo_dist/demo/data/questions.jsonl" in expected
    assert any("synthesis/rules/data/" in name for name in expected)
    assert expected == {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_wheel_runs(wheel, tmp_path):
    """From a folder of its own, with the configuration files found inside the package."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; from memo_dist.cli.main import run;"
        "from memo_dist.config.shipped import configs_folder;"
        "print(configs_folder()); sys.exit(run(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    shown = run("--help")
    assert shown.returncode == 0, shown.stderr
    assert str(tmp_path / "site" / "memo_dist" / "_configs") in shown.stdout
    assert "encode" in shown.stdout
    found = run("config", "train.epochs=9")
    assert found.returncode == 0, found.stderr
    assert "epochs: 9" in found.stdout
