"""Questions with steps for the scripted executive, a memory of a table, and a driver of flows."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from memo_dist.answers.answer import Answer
from memo_dist.config import load_config
from memo_dist.config.schema import Config
from memo_dist.testing.executive import ScriptedExecutive
from memo_dist.testing.faults import FaultPlan
from memo_dist.testing.server import Behaviour, DummyServer

FACTS = [
    {
        "Who founded Tarn Works?": "Ida Brandt",
        "Where was Ida Brandt born?": "Oderfeld",
        "Who wrote The Salt Road?": "Jo Falk",
        "By whom was Tarn Works founded?": "Ida Brandt",
    },
    {
        "Which river flows through Oderfeld?": "the Lissa",
        "What does Jo Falk collect?": "clocks",
        "In which town is the Moss Hall?": "Oderfeld",
    },
]
OUTSIDE = ["Who led the Hallam choir?", "What is the price of tea?"]
KNOWN = {question: answer for shard in FACTS for question, answer in shard.items()}
RIVER = "Which river flows through the birthplace of the founder of Tarn Works?"
CLOCKS = "What does the author of The Salt Road collect?"
CHOIR = "Where was the leader of the Hallam choir born?"
ALIKE = "Were Tarn Works and The Salt Road made by the same person?"
SCRIPT = [
    {
        "question": RIVER,
        "steps": [
            {
                "question": "Who founded Tarn Works?",
                "wordings": ["By whom was Tarn Works founded?", "What is the price of tea?"],
            },
            {"question": "Where was #1 born?"},
            {"question": "Which river flows through #2?"},
        ],
    },
    {
        "question": CLOCKS,
        "steps": [
            {"question": "Who wrote The Salt Road?"},
            {"question": "What does #1 collect?"},
        ],
    },
    {
        "question": CHOIR,
        "steps": [{"question": "Who led the Hallam choir?"}, {"question": "Where was #1 born?"}],
    },
]


class TableMemory:
    """Answers from a table, abstains on the rest, and keeps what each call asked."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known
        self.calls: list[list[str]] = []

    def __call__(self, questions: Sequence[str]) -> list[Answer]:
        self.calls.append(list(questions))
        return [self._one(self.known.get(question)) for question in questions]

    def _one(self, text: str | None) -> Answer:
        if text is None:
            return Answer("", 0.1, True, (), (0,), 0.01, 5)
        return Answer(text, 0.9, False, (f"doc {text}",), (0,), 0.01, 7)


def write_script(path: Path, rows: Sequence[Mapping] = SCRIPT) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextmanager
def executive(
    folder: Path,
    *faults: str,
    rows: Sequence[Mapping] = SCRIPT,
    log: Path | None = None,
    **behaviour,
) -> Iterator[str]:
    """A scripted executive on the loopback, in a thread; yields its base URL."""
    script = ScriptedExecutive(write_script(folder / "script.jsonl", rows))
    plan = FaultPlan.parse(list(faults))
    with serving(Behaviour(faults=plan, executive=script, **behaviour), log) as url:
        yield url


@contextmanager
def serving(played: Behaviour, log: Path | None = None) -> Iterator[str]:
    """A server of ours on the loopback, in a thread; yields its base URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = web.AppRunner(DummyServer(played, log).app(), access_log=None, shutdown_timeout=0.1)

    async def listen() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1]

    port = asyncio.run_coroutine_threadsafe(listen(), loop).result(20)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def settings(url: str, *overrides: str) -> Config:
    """A configuration whose executive listens at ``url``."""
    given = ["executive.kind=openai", "executive.model=scripted", f"executive.urls=['{url}']"]
    return load_config((), [*given, *overrides])


def implied(
    steps: Sequence[Mapping], known: Callable[[str], str | None]
) -> tuple[list[str], str | None]:
    """The questions of a chain of steps and the answer that the memory's own answers imply."""
    answers: list[str | None] = []
    asked: list[str] = []
    for step in steps:
        needed = [int(n) - 1 for n in re.findall(r"#(\d+)", step["question"])]
        if any(answers[n] is None for n in needed):
            answers.append(None)
            continue
        question = re.sub(r"#(\d+)", lambda m: str(answers[int(m.group(1)) - 1]), step["question"])
        question = " ".join(question.split())
        asked.append(question)
        answers.append(known(question))
    return asked, answers[-1]
