"""A small generator that asks a language model, for tests and benchmarks of the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from memo_dist.config import load_config
from memo_dist.config.schema import Config
from memo_dist.corpus.build import build_corpus
from memo_dist.corpus.types import Chunk
from memo_dist.io.atomic import write_jsonl
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.requests import Failure, Message, Request
from memo_dist.synthesis.engine import synthesize
from memo_dist.synthesis.types import Dialogue, Group, Reflection, StepResult, Unit

PAIRS = json.dumps(
    {
        "type": "object",
        "properties": {
            "pairs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "question": {"type": "string", "minLength": 1},
                        "answer": {"type": "string", "minLength": 1},
                    },
                    "required": ["question", "answer"],
                    "additionalProperties": False,
                },
                "minItems": 1,
                "maxItems": 2,
            }
        },
        "required": ["pairs"],
        "additionalProperties": False,
    },
    sort_keys=True,
    separators=(",", ":"),
)


def request(text: str, model: str = "toy", **changes) -> Request:
    values = {"model": model, "messages": (Message("user", text),), "schema": PAIRS}
    return Request(**{**values, "max_tokens": 400, **changes})


class AskingStep:
    """One request a chunk, then one about all the answers; ``indirect`` reads first sentences."""

    version = "1"

    def __init__(self, name: str, rounds: int) -> None:
        self.name = name
        self._rounds = rounds

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        replies = yield [request(f"{self.name}: {self._read(chunk)}") for chunk in unit.chunks]
        rows = []
        for chunk, reply in zip(unit.chunks, replies, strict=True):
            rows += self._pairs(unit, reply, (chunk.document,), (chunk.id,))
        if self._rounds > 1:
            told = "\n".join(row.answer for row in rows)
            (reply,) = yield [request(f"{self.name} again: {told} {unit.id}.")]
            sources = tuple(document.id for document in unit.documents)
            rows += self._pairs(unit, reply, sources, ())
        return StepResult(rows)

    def _read(self, chunk: Chunk) -> str:
        return chunk.text.split(". ")[0] + "." if self.name == "indirect" else chunk.text

    def _pairs(self, unit, reply, sources, chunks) -> list[Reflection]:
        if isinstance(reply, Failure):
            return []
        made = (sources, chunks, unit.shard, "toy 1", self.version, reply.key)
        return [
            Reflection(f"{pair['question']} ({'+'.join(sources)})", pair["answer"], "direct", *made)
            for pair in reply.value["pairs"]
        ]


class GroupStep:
    """Pairs of documents whose reflections begin alike."""

    name = "cross"
    version = "1"

    def groups(self, shard: int, reflections: Iterable[Reflection]) -> list[Group]:
        rows = sorted(reflections, key=lambda row: (row.sources[0], row.id))
        first = {row.sources[0]: row for row in reversed(rows)}
        names = sorted(first)
        pairs = zip(names[::2], names[1::2], strict=False)
        return [Group((a, b), (first[a].id, first[b].id)) for a, b in pairs]

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        assert len(inputs) == len(unit.documents) == 2
        told = "\n".join(row.answer for row in inputs)
        (reply,) = yield [request(f"cross: {told}")]
        if isinstance(reply, Failure):
            return StepResult()
        sources = tuple(document.id for document in unit.documents)
        pair = reply.value["pairs"][0]
        question = f"{pair['question']} ({'+'.join(sources)})"
        made = (sources, (), unit.shard, "toy 1", self.version, reply.key)
        return StepResult([Reflection(question, pair["answer"], "cross", *made)])


class AskingGenerator:
    name = "asking-toy"
    version = "1"

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def steps(self) -> dict:
        return {
            "direct": AskingStep("direct", self._rounds),
            "cross": GroupStep(),
            "indirect": AskingStep("indirect", 1),
        }

    def limits(self) -> list[str]:
        return []


def factory(rounds: int = 2):
    return partial(AskingGenerator, rounds)


def make_config(url: str, *overrides: str) -> Config:
    return load_config(
        overrides=[
            "generator.kind=openai",
            "generator.model=toy",
            f"generator.urls=[{url}]",
            "corpus.shards=2",
            "synthesis.partitions=3",
            "synthesis.documents_per_unit=2",
            "synthesis.steps=[direct, cross, indirect]",
            "cluster.synthesis_workers=2",
            *overrides,
        ]
    )


def make_run(root: Path, config: Config, documents: int = 24, sentences: int = 3) -> RunFolder:
    """A run folder with a corpus of short documents; every two begin with the same sentence."""
    source = root / "source"
    source.mkdir(parents=True)
    write_jsonl(source / "corpus.jsonl", _documents(documents, sentences))
    run = RunFolder(root / "run")
    build_corpus(source, run.corpus, config.corpus)
    return run


def _documents(count: int, sentences: int) -> Iterator[dict]:
    for index in range(count):
        facts = [f"The thing of number {index // 2} is known"]
        facts += [f"Thing {index} has {n} parts of kind {index * n}" for n in range(sentences)]
        name = f"doc{index:05}"
        yield {"id": name, "title": name, "text": ". ".join(facts) + "."}


@contextmanager
def server(*arguments: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """A dummy server in a process of its own; yields its base URL."""
    process = start_server(*arguments, env=env)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def start_server(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "memo_dist.testing.server", *arguments]
    environment = {**os.environ, **(env or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def log_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(root: str, rounds: str, *overrides: str) -> None:
    """A driver of its own, to be killed."""
    synthesize(RunFolder(Path(root)), make_config(*overrides), factory(int(rounds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
