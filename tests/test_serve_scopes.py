"""Weights of scopes: each answers from its own folder, and only the last used ones are loaded."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import httpx
import peft
import pytest
from changing_corpus import SETTINGS, site
from cli import ENCODE_SECONDS
from protocol_cases import OUTSIDE
from served import eventually, make_run, serving
from trained_bank import train_shards, write_bank

from memo_dist.answering import Answered
from memo_dist.answers.answer import Answer
from memo_dist.config import load_config, to_yaml
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.loading import SharedBases
from memo_dist.models.loading import load_frozen
from memo_dist.serve.keys import ANYONE
from memo_dist.serve.scopes import SILENCE, ScopeMemories, most_confident, scope_config
from memo_dist.serve.service import Service

USERS = ("ann", "bob", "eve")
FACTS = {
    "ann": {"Where does Ann keep the spare key?": "Under the blue pot"},
    "bob": {"What is Bob's locker code?": "Seventy three"},
    "eve": {"Which train does Eve take?": "The Norvik express"},
}
QUESTIONS = {user: next(iter(facts)) for user, facts in FACTS.items()}
ANSWERS = {user: facts[QUESTIONS[user]] for user, facts in FACTS.items()}


def scope(user):
    return {"user_id": user}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return dict(zip(USERS, train_shards(root, list(FACTS.values()), OUTSIDE), strict=True))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def memories(tmp_path, models):
    return filled(tmp_path, models, most=2)


def filled(root: Path, models, most: int) -> ScopeMemories:
    config = load_config((), [f"serve.scopes_loaded={most}", "memory.base=scratch"])
    found = ScopeMemories(RunFolder(root), config, dict)
    for user in models:
        place(found, models, user)
    return found


def place(memories: ScopeMemories, models, user: str) -> None:
    run = memories.run(scope(user))
    write_bank(run.memory, [models[user]], [FACTS[user]], [f"doc-of-{user}"])


def texts(memories, *asked):
    answers = memories.answer([(scope(user), QUESTIONS[about]) for user, about in asked])
    return ["" if one.answer.abstained else one.answer.text for one in answers]


def test_a_scope_answers_from_its_own_weights_only(memories):
    every = [(user, about) for user in USERS for about in USERS]
    found = texts(memories, *every)
    assert found == [ANSWERS[user] if user == about else "" for user, about in every]


def test_the_scope_used_longest_ago_makes_room(memories):
    for user in ("ann", "bob", "ann"):
        texts(memories, (user, user))
    assert (memories.loaded, memories.loads) == (2, 2)
    texts(memories, ("eve", "eve"))
    assert (memories.loaded, memories.loads) == (2, 3)
    texts(memories, ("bob", "bob"))
    assert memories.loads == 4


def test_a_removed_scope_is_silent_and_its_files_are_gone(memories, models):
    assert texts(memories, ("ann", "ann")) == [ANSWERS["ann"]]
    memories.remove(scope("ann"))
    assert not memories.run(scope("ann")).root.exists()
    assert memories.answer([(scope("ann"), QUESTIONS["ann"])]) == [SILENCE]
    assert memories.documents(scope("ann")) == {}
    place(memories, models, "ann")
    assert texts(memories, ("ann", "ann"), ("bob", "bob")) == [ANSWERS["ann"], ANSWERS["bob"]]


def test_no_name_of_a_scope_becomes_a_path(memories, tmp_path):
    found = memories.run({"user_id": "../../../etc"}).root
    assert found.parent == tmp_path / "serve" / "scopes"
    assert found.name.isalnum()
    swapped = (
        memories.run({"user_id": "a", "run_id": "b"}),
        memories.run({"user_id": "b", "run_id": "a"}),
    )
    assert swapped[0] != swapped[1]


def test_the_run_of_a_scope_is_one_shard_and_an_adapter_where_there_is_a_base():
    scratch = scope_config(load_config((), ["memory.base=scratch", "corpus.shards=4"]))
    assert (scratch.corpus.shards, scratch.train.method) == (1, "full")
    based = scope_config(load_config((), ["memory.base=smollm2-135m", "serve.modes=[hybrid]"]))
    assert (based.train.method, based.export.adapter) == ("lora", "kept")
    assert based.serve.modes == ["direct"]


def test_adapters_of_several_banks_share_one_base(models, tmp_path):
    folders = {}
    for user in ("ann", "bob"):
        model = peft.get_peft_model(
            load_frozen(models["ann"]), peft.LoraConfig(target_modules="all-linear", r=2)
        )
        model.save_pretrained(tmp_path / user)
        folders[user] = tmp_path / user
    bases = SharedBases()
    base = load_frozen(models["ann"])
    first = bases.attach("hash", {"bank-1-shard-0": folders["ann"]}, base)
    assert bases.holds("hash")
    second = bases.attach("hash", {"bank-2-shard-0": folders["bob"]}, None)
    assert second is first
    bases.detach("hash", ["bank-1-shard-0"])
    assert list(second.peft_config) == ["bank-2-shard-0"]
    bases.detach("hash", ["bank-2-shard-0"])
    assert not bases.holds("hash"), "the last adapter takes the base along"


def test_the_most_confident_one_answers():
    def one(text, confidence, abstained=False):
        return Answered(Answer(text, confidence, abstained, (), (0,), 0.0, 1))

    shared, ann, silent = one("shared", 0.5), one("ann", 0.8), one("", 0.9, True)
    assert most_confident(shared, [ann, silent]) is ann
    assert most_confident(shared, [silent]) is shared
    assert most_confident(silent, [SILENCE]) is silent
    assert most_confident(one("shared", 0.8), [ann]).answer.text == "shared", "equals: shared"


def test_no_user_reads_what_another_wrote_random_trials(shared, models, tmp_path):
    """Weights and pending texts of every user, asked by every other; see benchmarks/serve_scopes.py
    for the many trials."""

    async def trials(service):
        await service.start()
        rng = random.Random(5)
        for user in USERS:
            text = f"The secret word of {user} is Zorvath {user}."
            await service.add(ANYONE, text, scope(user))
        leaks = []
        for _ in range(60):
            asker, owner = rng.choice(USERS), rng.choice(USERS)
            question = rng.choice([QUESTIONS[owner], f"What is the secret word of {owner}?"])
            reply = await service.ask(ANYONE, question, "", scope(asker))
            told = f"{reply.text} {[one.text for one in reply.pending]} {reply.sources}"
            secrets = [ANSWERS[u] for u in USERS if u != asker]
            secrets += [f"Zorvath {u}" for u in USERS if u != asker]
            leaks += [(asker, owner, told) for secret in secrets if secret in told]
            if asker == owner:
                assert not reply.abstained
        await service.stop()
        return leaks

    run = RunFolder(Path(shutil.copytree(shared.root, tmp_path / "run")))
    filled(run.root, models, most=2)
    config = load_config((), ["memory.base=scratch", "memory.max_answer_tokens=12",
                              "serve.scopes_loaded=2"])  # fmt: skip
    assert asyncio.run(trials(Service(run, config))) == []


def test_a_scope_is_trained_for_real_and_deleted_with_its_files(shared, tmp_path):
    run = RunFolder(Path(shutil.copytree(shared.root, tmp_path / "run")))
    run.config.write_text(to_yaml(load_config((), [*SETTINGS, "memory.max_answer_tokens=12"])))
    with (
        serving(run, tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):

        def state(event):
            return http.get(f"/v1/events/{event}").json()["state"]

        def ask(user):
            body = {"question": "When was the Hestvik pumping station opened?", **scope(user)}
            return http.post("/v1/ask", json=body).json()

        added = {"text": site(6), "title": "Hestvik pumping station", **scope("ann")}
        name = http.post("/v1/documents", json=added).json()["document_id"]
        assert ask("ann")["source"] == "pending"
        assert "1907" not in str(ask("bob"))
        night = http.post("/v1/consolidate", json={}).json()["event_id"]
        eventually(lambda: state(night) in ("SUCCEEDED", "FAILED"), ENCODE_SECONDS)
        assert http.get(f"/v1/events/{night}").json()["message"] == ""
        row = http.get(f"/v1/documents/{name}").json()
        assert (row["state"], row["text"].split()[:2]) == ("trained", ["The", "Hestvik"])
        assert ask("ann")["source"] != "pending"
        assert "1907" not in str(ask("bob"))
        assert "memo_dist_scope_loads 1.0" in http.get("/metrics").text
        buffer = run.root / "serve" / "buffer.sqlite"
        assert b"1907" not in buffer.read_bytes()  # the title stays, for lists
        (folder,) = (run.root / "serve" / "scopes").iterdir()
        http.delete("/v1/memories/", params=scope("ann")).raise_for_status()
        assert http.get(f"/v1/documents/{name}").status_code == 404
        eventually(lambda: not folder.exists())
        (gone,) = [e for e in http.get("/v1/events").json()["events"] if e["kind"] == "DELETE"]
        eventually(lambda: state(gone["id"]) == "SUCCEEDED")
        assert "scope" in http.get(f"/v1/events/{gone['id']}/receipt").json()["cleared"]
        assert "1907" not in str(ask("ann"))
        assert b"Hestvik" not in buffer.read_bytes()
