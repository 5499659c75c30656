"""vLLM as the engine of a server: real processes of vLLM where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from cli import memo_dist, wait_until
from ports import free_ports
from served import ANSWER, KNOWN, begin, eventually, make_run, serving, write_generation
from vllm_cases import COMMAND, QUESTIONS, SETTINGS, adapter_run, needs_vllm

from memo_dist.config import load_config, origin
from memo_dist.errors import UsageError
from memo_dist.io.generations import switch
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.manifest import load_manifest
from memo_dist.serve.vllm import keeper
from memo_dist.serve.vllm.bank import opener, serve_words

TOLERANCE = 1e-4
SLOW = 900.0
"""Seconds for a start: vLLM imports for a minute, longer on a busy machine."""
SECRET = "a-secret-of-the-caller"
KEYS = f"test:{SECRET}:all"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def ask(url, question, key=SECRET):
    headers = {"Authorization": f"Bearer {key}"}
    body = {"question": question}
    reply = httpx.post(f"{url}/v1/ask", json=body, headers=headers, timeout=600)
    assert reply.status_code == 200, reply.text
    return reply.json()


def processes(server):
    return psutil.Process(server.process.pid).children(recursive=True)


def socket_of(process):
    words = process.cmdline()
    return Path(words[words.index("--uds") + 1])


def compare(run, url):
    """Answers, confidences and sources of the server are those of models in a process."""
    config = load_config((), [], stored=run.config)
    expected = Bank.of_run(run, config).answer(QUESTIONS)
    for question, alone in zip(QUESTIONS, expected, strict=True):
        reply = ask(url, question)
        assert (reply["answer"], reply["abstained"]) == (alone.text, alone.abstained)
        assert reply["confidence"] == pytest.approx(alone.confidence, abs=TOLERANCE)
        assert reply["sources"] == list(alone.sources)
        assert reply["shards"] == list(alone.shards)
    return expected


@needs_vllm
def test_a_bank_of_full_shards(run, tmp_path):
    """Equal answers; a new generation; deaths; nothing to reach or read beside the server."""
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    log = copy.root / "serve" / "vllm.log"
    settings = (*SETTINGS, "serve.answer_seconds=600", "executive.api_key_env=THEIR_KEY")
    keys = {"MEMO_DIST_SERVE_KEYS": KEYS, "THEIR_KEY": SECRET}
    with serving(copy, tmp_path / "log", *settings, start_seconds=SLOW, **keys) as server:
        assert not all(answer.abstained for answer in compare(copy, server.url))
        started = processes(server)
        serves = [one for one in started if "--uds" in one.cmdline()]
        _closed_to_others(server, started, serves)
        assert not any(word in log.read_text() for word in ("Tarn", "Oderfeld", SECRET))

        next(one for one in started if "EngineCore" in " ".join(one.cmdline())).kill()
        assert ask(server.url, KNOWN)["answer"] == ANSWER, "it was started again"
        assert "is started again" in server.lines()

        before = {socket_of(one) for one in processes(server) if "--uds" in one.cmdline()}
        write_generation(copy)
        switch(copy.generations, 1)
        until = time.monotonic() + SLOW
        while _generation(server.url) != 1:
            assert ask(server.url, KNOWN)["answer"] == ANSWER
            assert time.monotonic() < until, server.lines()
        assert ask(server.url, KNOWN)["answer"] == ANSWER
        eventually(lambda: not any(path.exists() for path in before), 60)
        rest = processes(server)
    psutil.wait_procs(rest, timeout=30)
    assert not any(one.is_running() for one in rest)


def _generation(url):
    headers = {"Authorization": f"Bearer {SECRET}"}
    text = httpx.get(f"{url}/metrics", headers=headers, timeout=60).text
    return float(re.search(r"^memo_dist_generation (\S+)", text, re.MULTILINE)[1])


def _closed_to_others(server, started, serves):
    """Sockets in folders of mode 0700; ports of the loopback alone; no secret in a process."""
    for one in serves:
        assert stat.S_IMODE(socket_of(one).parent.stat().st_mode) == 0o700
    for one in started:
        for place in one.net_connections("tcp"):
            if place.status == psutil.CONN_LISTEN:
                assert place.laddr.ip.removeprefix("::ffff:") in ("127.0.0.1", "::1")
        held = Path(f"/proc/{one.pid}/environ").read_bytes()
        held += Path(f"/proc/{one.pid}/cmdline").read_bytes()
        assert SECRET.encode() not in held


@needs_vllm
def test_adapters_and_a_killed_server(tmp_path):
    """Question likelihood, two wordings, every feature; vLLM ends with a server that is killed."""
    run = adapter_run(tmp_path)
    settings = (*SETTINGS, "serve.answer_seconds=600")
    server = begin(run, tmp_path / "log", *settings, start_seconds=SLOW)
    try:
        compare(run, server.url)
        rest = processes(server)
        assert len([one for one in rest if "--uds" in one.cmdline()]) == 2, "vLLM and its keeper"
    finally:
        server.process.kill()
    _, alive = psutil.wait_procs(rest, timeout=60)
    assert not alive


@needs_vllm
def test_servers_at_urls(run, tmp_path):
    """They are named by the weights: the refusal has the command, and after it all is equal."""
    (port,) = free_ports()
    url = f"http://127.0.0.1:{port}/v1"
    settings = ("serve.engine=vllm", "serve.vllm_api_key_env=VLLM_KEY", "serve.answer_seconds=600")
    one = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    done = memo_dist("serve", one.root, *settings, f"serve.vllm_urls=[{url}]", VLLM_KEY=SECRET)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    words = serve_words(load_manifest(one.memory), one.memory)
    env = {**os.environ, "VLLM_API_KEY": SECRET, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    more = ["--dtype=float32", "--enforce-eager", "--host=127.0.0.1",
            "--kv-cache-memory-bytes=268435456"]  # fmt: skip
    others = free_ports(len(words))
    log = tmp_path / "vllm"
    with log.open("wb") as out:
        started = [
            subprocess.Popen(
                [COMMAND, "serve", *line, *more, f"--port={other}"],
                stdout=out, stderr=out, env=env, start_new_session=True,
            )
            for line, other in zip(words, others, strict=True)
        ]  # fmt: skip
    try:
        urls = [f"http://127.0.0.1:{other}/v1" for other in others]
        headers = {"Authorization": f"Bearer {SECRET}"}
        for place, process in zip(urls, started, strict=True):
            wait_until(lambda place=place: _answers(place, headers), SLOW, "vLLM answers", process)
        first = f"serve.vllm_urls=[{urls[0]}]"
        half = memo_dist("serve", one.root, *settings, first, VLLM_KEY=SECRET)
        assert half.returncode == 2
        assert "vllm serve" in half.stderr
        assert SECRET not in half.stderr
        with serving(one, tmp_path / "log", *settings, f"serve.vllm_urls=[{','.join(urls)}]",
                     VLLM_KEY=SECRET) as server:  # fmt: skip
            compare(one, server.url)
            assert not processes(server)
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url, headers):
    try:
        return httpx.get(f"{url}/models", headers=headers, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_the_keeper_ends_the_whole_group(tmp_path, how):
    """However the owner ends; the command's own children end too."""
    pids = tmp_path / "pids"
    command = f"sleep 600 & echo $$ $! > {pids}; wait"
    owner = f"""
import subprocess, sys, time
held = subprocess.Popen([sys.executable, "-IS", {keeper.__file__!r}, "sh", "-c", {command!r}],
                        stdin=subprocess.PIPE)
sys.stdin.read()
held.stdin.close()
sys.exit(held.wait())
"""
    process = subprocess.Popen([sys.executable, "-c", owner], stdin=subprocess.PIPE)
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    ended = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    process.stdin.close() if how == "closed" else process.kill()
    process.wait(60)
    _, alive = psutil.wait_procs(ended, timeout=30)
    assert not alive


def test_a_command_that_is_not_there(run):
    done = memo_dist("serve", run.root, "serve.engine=vllm", "serve.vllm_command=no-such-vllm")
    assert done.returncode == 2
    assert "serve.vllm_command='no-such-vllm' is no command here" in done.stderr
    assert "serve.vllm_urls" in done.stderr


def test_a_command_that_fails_is_told_with_its_log(run, tmp_path):
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    broken = tmp_path / "vllm"
    broken.write_text("#!/bin/sh\necho 'RuntimeError: no such device' >&2\nexit 3\n")
    broken.chmod(0o755)
    done = memo_dist("serve", copy.root, "serve.engine=vllm", f"serve.vllm_command={broken}")
    assert done.returncode == 1
    assert "vLLM ended with code 3 at its start: RuntimeError: no such device" in done.stderr
    assert "vllm.log" in done.stderr


def test_a_command_that_never_answers_has_a_deadline(run, tmp_path):
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    slow, pid = tmp_path / "vllm", tmp_path / "pid"
    slow.write_text(f"#!/bin/sh\necho $$ >> {pid}\nexec sleep 600\n")
    slow.chmod(0o755)
    began = time.monotonic()
    done = memo_dist("serve", copy.root, "serve.engine=vllm", f"serve.vllm_command={slow}",
                     "serve.vllm_start_seconds=3")  # fmt: skip
    assert done.returncode == 1
    assert "did not answer within 3 s (serve.vllm_start_seconds)" in done.stderr
    assert time.monotonic() - began < 300
    assert not any(psutil.pid_exists(int(one)) for one in pid.read_text().split())


def test_modes_that_need_the_model_are_refused(run):
    words = ["serve.engine=vllm", "serve.modes=[direct,latent]"]
    config = load_config((), words, stored=run.config)
    with pytest.raises(UsageError, match=r"latent reads .* serve\.engine=transformers"):
        opener(run, config)


def test_replicas_and_a_key_in_place_of_its_name_are_refused():
    with pytest.raises(UsageError, match=r"serve\.replicas=2 needs serve\.engine=transformers"):
        load_config((), ["serve.engine=vllm", "serve.replicas=2"])
    with pytest.raises(UsageError, match=r"serve\.vllm_api_key_env must be the NAME"):
        load_config((), ["serve.vllm_api_key_env=sk-0123456789abcdef"])


@pytest.mark.parametrize("key", ["two\nlines", "\u043a\u043b\u044e\u0447"])
def test_a_key_that_no_header_can_hold_is_refused_without_it(key, run, monkeypatch):
    monkeypatch.setenv("MY_KEY", key)
    words = ["serve.engine=vllm", "serve.vllm_urls=[http://127.0.0.1:9/v1]"]
    words.append("serve.vllm_api_key_env=MY_KEY")
    config = load_config((), words, stored=run.config)
    with pytest.raises(UsageError, match="environment variable MY_KEY is no API key") as caught:
        opener(run, config)
    assert key not in str(caught.value)


def test_a_run_of_somebody_else_chooses_neither_command_nor_url(run, tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "_foreign", {})
    monkeypatch.setattr(origin, "_own", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    theirs = tmp_path / "run" / "config.yaml"
    theirs.parent.mkdir()
    theirs.write_text(
        "serve: {engine: vllm, vllm_command: /tmp/x, vllm_args: [--y],"
        " vllm_urls: ['http://198.51.100.7/v1'], vllm_api_key_env: MY_KEY}"
    )
    with pytest.raises(UsageError) as refused:
        opener(run, load_config(stored=theirs))
    for key in ("command", "args", "urls", "api_key_env"):
        assert f"serve.vllm_{key}: " in str(refused.value)
