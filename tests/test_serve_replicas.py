"""A memory that answers by replicas of Ray Serve: right answers, whatever happens to a replica."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import forks
import httpx
import psutil
import pytest
import ray
from protocol_cases import FACTS, OUTSIDE
from ray import serve
from ray.serve.exceptions import RayServeException
from served import ANSWER, KNOWN, begin, end, eventually, make_run, serving
from test_meeting import open_ports, own_ports

from memo_dist.answering import Answered
from memo_dist.answers.answer import Answer
from memo_dist.cli.main import run as run_cli
from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.resources import Resources
from memo_dist.config import load_config
from memo_dist.config.schema import ClusterConfig
from memo_dist.config.serve_schema import ServeConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.io.generations import switch
from memo_dist.io.locks import file_lock
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.serve.batching import Batcher
from memo_dist.serve.keys import VARIABLE
from memo_dist.serve.replica import Heard
from memo_dist.serve.replicas import Replicas, check_room, deployment_options

ASKED = [*FACTS[0], *FACTS[1], *OUTSIDE]
SECRET = "a-secret-of-the-server"


def ask(client, question):
    reply = client.post("/v1/ask", json={"question": question})
    assert reply.status_code == 200, reply.text
    return reply.json()


def expected_of(run):
    """{question: answer, whether it abstains, sources} of the run's memory in this process."""
    answers = Bank.of_run(run, load_config((), [], stored=run.config)).answer(ASKED)
    rows = [(one.text, one.abstained, list(one.sources)) for one in answers]
    return dict(zip(ASKED, rows, strict=True))


def processes(pid, name):
    """Pids of the processes of Ray below ``pid`` that work for ``name``."""
    found = set()
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            title = "".join(child.cmdline()).lower().replace("_", "")
            found |= {child.pid} if title.startswith(f"ray::{name}") else set()
    return found


def replicas(server):
    return processes(server.process.pid, "servereplica")


def generation(client):
    rows = client.get("/metrics").text.splitlines()
    return next(line.split()[1] for line in rows if line.startswith("memo_dist_generation "))


@pytest.fixture
def real_processes(monkeypatch):
    """Ray's workers as they are: forks have another parent, and titles of their own."""
    monkeypatch.setattr(forks, "available", lambda: False)


@pytest.mark.alone
@pytest.mark.usefixtures("real_processes")
def test_replicas_answer_as_one_process_does_through_switch_kill_and_deletion(tmp_path):
    """One server for all: Ray and two processes that load torch take most of the time."""
    run = make_run(tmp_path)
    expected = expected_of(run)
    following = run.generations / "gen-1"
    for shard in ("shard-0", "shard-1"):
        shutil.copytree(run.memory / shard, following / shard)
    shutil.copyfile(run.memory / "bank.json", following / "bank.json")
    shutil.copyfile(run.reflections, following / "reflections.jsonl")
    keys = {VARIABLE: f"admin:{SECRET}:all"}
    words = ["serve.replicas=2", "serve.replica_cpus=0.5", "serve.batch_size=2"]
    server = begin(run, tmp_path / "log", *words, **keys)
    head = {"X-API-Key": SECRET}
    try:
        with httpx.Client(base_url=server.url, timeout=60, headers=head) as http:
            pids = replicas(server)
            assert len(pids) == 2
            closed_to_others(server)
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda q: (q, ask(http, q)), ASKED * 4))
            for question, reply in found:
                assert (reply["answer"], reply["abstained"], reply["sources"]) == expected[question]
            with asking(http, expected) as asked:
                switch(run.generations, 1)
                eventually(lambda: generation(http) == "1.0", 120)
            assert asked
            with asking(http, expected) as asked:
                victim = min(pids)
                psutil.Process(victim).send_signal(signal.SIGKILL)
                eventually(lambda: len(replicas(server) - {victim}) == 2, 120)
                before = len(asked)
                eventually(lambda: len(asked) > before + 20, 60)
            deleted_is_silent(http, run)
        descendants = psutil.Process(server.process.pid).children(recursive=True)
        assert end(server) == 0, server.lines()
        assert not [one for one in psutil.wait_procs(descendants, 20)[1] if one.is_running()]
        assert SECRET not in server.lines()
        assert "Tarn" not in server.lines()
    finally:
        server.process.kill()


def closed_to_others(server):
    """Nothing of Ray listens for other machines, and no process but the server has its keys."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    ports = set()
    for process in family:
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # Ray ends helpers at any time
            ports |= own_ports(process.pid)
            assert SECRET not in str(process.environ())
    assert len(ports) > 4
    assert not ports & open_ports()


@contextmanager
def asking(http, expected):
    """Questions of four clients while the block lasts; every answer must be the right one."""
    done, replies = threading.Event(), []

    def hammer(number):
        while not done.is_set():
            question = ASKED[number % len(ASKED)]
            replies.append(ask(http, question))
            assert replies[-1]["answer"] == expected[question][0]
            number += 1

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(hammer, number) for number in range(4)]
        try:
            yield replies
        finally:
            done.set()
    for one in running:
        one.result()


def deleted_is_silent(http, run):
    """From the call's return on, on all replicas; the lock keeps `forget` from helping."""
    with file_lock(run.root / "serve" / ".lock", 10, RuntimeError):
        assert ask(http, KNOWN)["sources"] == ["doc-0"]
        assert http.delete("/v1/documents/doc-0").json()["state"] == "PENDING"
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda q: ask(http, q), [KNOWN, *ASKED] * 3))
        assert not [reply for reply in replies if "doc-0" in reply["sources"]]
        assert ANSWER not in {reply["answer"] for reply in replies}


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.usefixtures("real_processes")
def test_a_killed_server_leaves_no_replica_on_a_cluster(tmp_path):
    run = make_run(tmp_path)
    with ray_session(ClusterConfig(), cores=1):  # the cluster; its other user is this test
        words = [
            "serve.replicas=1", "serve.replica_cpus=0.5",
            f"cluster.address={ray.get_runtime_context().gcs_address}",
        ]  # fmt: skip
        for kills in (True, False):
            server = begin(run, tmp_path / f"log-{kills}", *words)
            try:
                with httpx.Client(base_url=server.url, timeout=60) as http:
                    assert ask(http, KNOWN)["answer"] == ANSWER
                assert processes(os.getpid(), "servereplica")
                if kills:
                    server.process.kill()
                    eventually(lambda: not serve.status().applications, 60)
                else:
                    assert end(server) == 0, server.lines()
                eventually(lambda: not processes(os.getpid(), "servereplica"), 60)
            finally:
                server.process.kill()
        eventually(lambda: not processes(os.getpid(), "servecontroller"), 60)


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.usefixtures("real_processes")
def test_replicas_come_and_go_with_the_load(tmp_path):
    run = make_run(tmp_path)
    words = [
        "serve.replicas=1", "serve.max_replicas=2", "serve.replica_cpus=0.5", "serve.batch_size=1",
        "serve.scale_up_seconds=1", "serve.scale_down_seconds=3",
    ]  # fmt: skip
    with (
        serving(run, tmp_path / "log", *words) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert len(replicas(server)) == 1
        with asking(http, expected_of(run)):
            eventually(lambda: len(replicas(server)) == 2, 120)
        eventually(lambda: len(replicas(server)) == 1, 120)


# -- without Ray -----------------------------------------------------------------------------------


def settings(**values):
    return ServeConfig(**values)


def test_what_ray_serve_is_asked_for():
    options = deployment_options(settings(replicas=3, replica_cpus=2, replica_gpus=0.25))
    assert options["num_replicas"] == 3
    assert options["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.25}
    assert "autoscaling_config" not in options
    options = deployment_options(settings(replicas=1, max_replicas=4, target_batches=1.5))
    assert "num_replicas" not in options
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 4)
    assert scaling["target_ongoing_requests"] == 1.5
    assert options["max_ongoing_requests"] == 7, "all batches in progress, and a refresh"
    few = deployment_options(settings(replicas=1, max_replicas=4, target_batches=0.25))
    assert few["max_ongoing_requests"] == 5, "a batch for each replica"


def test_replicas_that_would_wait_for_ever_are_refused():
    offered = Resources(cores=2, gpus=1, memory_bytes=0)
    check_room(settings(replicas=4, replica_cpus=0.5, replica_gpus=0.25), offered)
    with pytest.raises(UsageError, match=r"3 replicas .* need 3 cores and 0 GPUs, this machine"):
        check_room(settings(replicas=1, max_replicas=3), offered)
    with pytest.raises(UsageError, match=r"need 2 cores and 1.2 GPUs"):
        check_room(settings(replicas=2, replica_gpus=0.6), offered)
    two = Resources(cores=8, gpus=2, memory_bytes=0)
    check_room(settings(replicas=2, replica_gpus=0.6), two)
    with pytest.raises(UsageError, match=r"need 3 cores and 1.8 GPUs"):  # each lies on one GPU
        check_room(settings(replicas=3, replica_gpus=0.6), two)


def test_the_missing_package_is_named(tmp_path, monkeypatch, capsys):
    without = {"grpc_reflection": None}
    monkeypatch.setattr("memo_dist.cli.options.find_spec", lambda name: without.get(name, name))
    monkeypatch.setattr(
        "memo_dist.cli.serve.existing_run", lambda folder: (RunFolder(folder), None)
    )
    assert run_cli(["serve", str(tmp_path), "serve.replicas=2"]) == 2
    said = capsys.readouterr().err
    assert "grpc_reflection is not installed: in the clone run" in said


class Deployment:
    """A handle of Ray Serve whose answers are what a test says."""

    def __init__(self, *results):
        self.asked, self._results, self.answer = [], list(results), self

    def remote(self, *arguments):
        self.asked.append(arguments)
        return self

    def result(self, timeout_s):
        found = self._results.pop(0)
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found

    def broadcast(self, method):
        found = self._results.pop(0)
        if isinstance(found, Exception):
            raise found
        self._heard = found
        return self

    def results(self, timeout_s, return_exceptions):
        return self._heard


def of_replicas(tmp_path, hides, *results):
    config = load_config((), ["serve.replicas=2"])
    made = Replicas(RunFolder(tmp_path), config, hides)
    made._handle = Deployment(*results)
    return made, made._handle


def heard(*rows):
    answers = [
        Answered(Answer(text, 0.9, not text, sources, (0,), 0.0, 1)) for text, sources in rows
    ]
    return Heard(0, tuple(answers))


def test_an_answer_from_what_was_deleted_meanwhile_is_asked_for_again(tmp_path):
    hidden = {}

    def while_it_is_deleted():
        hidden["doc-0"] = ""
        return heard(("old", ("doc-0",)), ("other", ("doc-1",)), ("", ()))

    made, handle = of_replicas(tmp_path, lambda: hidden, while_it_is_deleted, heard(("", ())))
    texts = [one.answer.text for one in made.answer("direct", ["a", "b", "c"])]
    assert texts == ["", "other", ""]
    assert [(row[1], row[2]) for row in handle.asked] == [
        (["a", "b", "c"], {}),
        (["a"], {"doc-0": ""}),
    ]


def test_a_dead_replica_is_replaced_and_a_deadly_question_ends(tmp_path):
    died = ray.exceptions.ActorDiedError()
    made, _ = of_replicas(tmp_path, dict, died, died, heard(("here", ("doc-1",))))
    assert made.answer("direct", ["a"])[0].answer.text == "here"
    made, _ = of_replicas(tmp_path, dict, died, died, died)
    with pytest.raises(RunError, match="no replica answers in 3 tries"):
        made.answer("direct", ["a"])
    refused = Heard(0, error=UsageError("the question is too long"))
    made, _ = of_replicas(tmp_path, dict, refused)
    with pytest.raises(UsageError, match="too long"):
        made.answer("direct", ["a"])


def test_a_replica_that_is_behind_gives_no_answer(tmp_path):
    behind, there = heard(("old", ("doc-1",))), Heard(1, heard(("new", ("doc-1",))).answers)
    made, _ = of_replicas(tmp_path, dict, behind, there)
    made._known = SimpleNamespace(number=1)
    assert made.answer("direct", ["a"])[0].answer.text == "new"
    made, _ = of_replicas(tmp_path, dict, behind, behind, behind)
    made._known = SimpleNamespace(number=1)
    with pytest.raises(RunError, match="they ended, or are behind"):
        made.answer("direct", ["a"])


def test_a_switch_waits_for_replicas_that_died_meanwhile(tmp_path):
    died, gone = ray.exceptions.ActorDiedError(), RayServeException("no replica is running")
    made, handle = of_replicas(tmp_path, dict, [died], gone, [Heard(0)], [Heard(1), Heard(1)])
    made._switch(1, time.monotonic() + 60)
    assert not handle._results
    made, _ = of_replicas(tmp_path, dict, gone)
    with pytest.raises(RunError, match=r"not all replicas .*replica_start_seconds"):
        made._switch(1, time.monotonic() - 1)


def test_as_many_batches_run_as_there_are_replicas():
    running, most, lock = 0, 0, threading.Lock()

    def answer(questions):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return list(questions)

    async def ask_all():
        batcher = Batcher(answer, 2, 0.001, at_once=3)
        found = await asyncio.gather(*(batcher.ask(n) for n in range(24)))
        await batcher.close()
        return found

    assert asyncio.run(ask_all()) == list(range(24))
    assert most == 3
