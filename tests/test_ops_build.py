"""The build of the kernels, and what happens where it cannot be had."""

import json
import os
import subprocess
import sys
import textwrap

import ops_cases as cases
import pytest

from memo_dist.fusion.ops import build, loading

PROBE = """
    import json, sys, warnings
    import torch
    import memo_dist.fusion.ops as ops

    def has_kernel():
        return torch._C._dispatch_has_kernel_for_dispatch_key("memo::mix_logits_target", "CPU")

    logits = [torch.randn(4, 64, generator=torch.Generator().manual_seed(0))] * 2
    weights = torch.tensor([0.25, 0.75]).log().expand(4, 2).clone().requires_grad_()
    def loss(w):
        return ops.mix_logits_target(logits, w, torch.arange(4)).sum()

    before = has_kernel()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function = torch.compile(loss, fullgraph=True) if "compile" in sys.argv else loss
        value = function(weights)
        value.backward()
        loss(weights)
    said = [str(w.message) for w in caught if "eager PyTorch" in str(w.message)]
    print(json.dumps([before, has_kernel(), value.item(), weights.grad.sum().item(), said]))
"""


def probe(tmp_path, *arguments, **variables):
    """Run the ops in a fresh process; return its results."""
    environment = {**os.environ, **{k: str(v) for k, v in variables.items()}}
    for name in (loading.REQUIRE_ENV, loading.EAGER_ENV):
        if name not in variables:
            environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROBE), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=300,
    )
    return done


def test_without_a_compiler_the_reference_serves_and_says_so_once(tmp_path):
    done = probe(tmp_path, CXX="/nonexistent/g++", MEMO_DIST_CACHE=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after, value, gradient, said = json.loads(done.stdout)
    assert (before, after) == (False, False)
    assert len(said) == 1
    assert "/nonexistent/g++" in said[0]
    cases.cpu_kernels()
    built = json.loads(probe(tmp_path, **{loading.REQUIRE_ENV: 1}).stdout)
    assert built[:2] == [False, True]
    assert built[2:4] == pytest.approx([value, gradient], rel=1e-5)
    assert built[4] == []


def test_required_kernels_that_are_missing_are_an_error(tmp_path):
    variables = {"CXX": "/nonexistent/g++", loading.REQUIRE_ENV: 1, "MEMO_DIST_CACHE": tmp_path}
    done = probe(tmp_path, **variables)
    assert done.returncode != 0
    assert f"kernels are not there and {loading.REQUIRE_ENV} is set" in done.stderr


def test_a_broken_source_is_reported_with_the_compiler_s_words(tmp_path, monkeypatch):
    cases.cpu_kernels()
    broken = build.Target("broken", "cpu", ("-std=c++20", "-Dnamespace=oops"))
    monkeypatch.setenv("MEMO_DIST_CACHE", str(tmp_path))
    with pytest.raises(build.BuildError, match="oops"):
        build.build(broken)
    assert not list(tmp_path.glob("kernels/*.so"))
    assert not list(tmp_path.glob("kernels/.tmp-*"))


def test_the_first_call_may_come_from_a_compiled_graph(tmp_path):
    cases.cpu_kernels()
    done = probe(tmp_path, "compile", **{loading.REQUIRE_ENV: 1})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[:2] == [False, True]


def test_the_switch_for_eager_ops_builds_nothing(tmp_path):
    done = probe(tmp_path, **{loading.EAGER_ENV: 1, "MEMO_DIST_CACHE": tmp_path})
    assert json.loads(done.stdout)[:2] == [False, False]
    assert not list(tmp_path.rglob("*.so"))


def test_the_library_s_name_follows_what_it_depends_on(monkeypatch):
    cases.cpu_kernels()
    path = build.library_path(build.CPU)
    other = build.Target("cpu", "cpu", (*build.CPU.kernel_flags, "-g"))
    assert build.library_path(build.CPU) == path
    assert build.library_path(other) != path
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    assert build.library_path(build.CPU) != path


def test_two_processes_build_once(tmp_path):
    """The second waits at the lock and finds the first one's library."""
    cases.cpu_kernels()
    code = (
        "from memo_dist.fusion.ops import build;"
        "t = build.Target('tiny', 'none', ());"
        "build._compile = lambda target, path: (print('built'), path.write_bytes(b'x'));"
        "build.build(t)"
    )
    environment = {**os.environ, "MEMO_DIST_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert sorted(p.communicate(timeout=300)[0] for p in running) == ["", "built\n"]
    assert all(p.returncode == 0 for p in running)


def test_doctor_says_what_serves_the_ops(monkeypatch, tmp_path):
    cases.cpu_kernels()
    good, text = loading.describe("cpu")
    assert good
    assert str(build.library_path(build.CPU)) in text
    monkeypatch.setenv("MEMO_DIST_CACHE", str(tmp_path))
    assert "not built yet" in loading.describe("cpu")[1]
    monkeypatch.setattr(build, "cxx", lambda: None)
    good, text = loading.describe("cpu")
    assert not good
    assert "no C++ compiler" in text
