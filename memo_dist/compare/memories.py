"""The run's memory as a compared method: its modes, and with BM25 as second source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from memo_dist import answering
from memo_dist.answering import Options
from memo_dist.answering.modes import EXECUTIVE_IDENTITY
from memo_dist.answers.answer import Answer
from memo_dist.compare import retrieval
from memo_dist.compare.forgetting import untouched
from memo_dist.compare.method import (
    Corpus,
    Cost,
    Make,
    Method,
    NotRunError,
    Reply,
    Setting,
)
from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.errors import UsageError
from memo_dist.evaluation.methods import memory_identity
from memo_dist.evaluation.report_stages import training_section
from memo_dist.evaluation.scoring import calls
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.hashing import short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.backends.make import LOCAL_KINDS
from memo_dist.llm.spending import Spending
from memo_dist.memory.manifest import load_manifest

_ENDPOINTS = ("openai", "anthropic")


class MemoryMethod:
    """A mode of answering of the run's memory.

    Attributes:
        name: of the row.
        identity: see :class:`memo_dist.compare.method.Method`.
    """

    def __init__(self, name: str, mode: str, setting: Setting) -> None:
        self.name = name
        self._mode = mode
        self._setting = setting
        config = setting.config
        self.identity = short_hash(
            [
                name,
                memory_identity(setting.run.memory),
                config.memory.max_answer_tokens,
                *_decided(mode, setting),
            ]
        )

    def prepare(self, corpus: Corpus) -> Cost:
        """Open the memory; the cost is that of the run's own synthesis and training."""
        from memo_dist.memory.bank import Bank
        from memo_dist.models.loading import load_memory_tokenizer

        config, run = self._setting.config, self._setting.run
        first, *_ = load_manifest(run.memory).shards
        self._tokenizer = load_memory_tokenizer(run.memory_shard(first.id))
        options = Options(
            Bank.of_run(run, config),
            config.evaluate.batch_size,
            transcripts=corpus.folder / "transcripts",
            should_stop=self._setting.should_stop,
        )
        try:
            self._answerer = answering.open_answerer(run, config, self._mode, options)
        except UsageError as error:
            raise NotRunError(str(error)) from error
        cost = memory_cost(run, config.generator)
        return replace(cost, forgetting=untouched(self._setting))

    def answer(self, questions: Sequence[str]) -> list[Reply]:
        """See :meth:`memo_dist.compare.method.Method.answer`."""
        return [self._reply(one.answer, one.details) for one in self._answerer.answer(questions)]

    def _reply(self, answer: Answer, details: Any) -> Reply:
        """Of the memory's own tokens, the written ones are counted again from its text.

        An answer that rests on a failed call of the executive is missing, and asked again.
        """
        failed = details.get("failed_calls", 0)
        billed_in, billed_out = details.get("executive_tokens", (0, 0))
        written = self._written(answer) + billed_out
        billed = self._setting.config.executive.kind in _ENDPOINTS
        return Reply(
            text="" if answer.abstained else answer.text,
            confidence=answer.confidence,
            sources=answer.sources,
            tokens_in=max(0, answer.tokens - written),
            tokens_out=min(written, answer.tokens),
            tokens_priced_in=billed_in if billed else 0,
            tokens_priced_out=billed_out if billed else 0,
            calls=calls(answer),
            seconds=answer.seconds,
            failed=f"{failed} call(s) of the executive failed" if failed else "",
        )

    def _written(self, answer: Answer) -> int:
        text = answer.text or answer.refused
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


class MemoryWithSearch:
    """The memory's answer where its calibrated confidence lets it answer, else BM25 and reader.

    The threshold is the memory's own, calibrated at its export; nothing is fitted here.

    Attributes:
        name: of the row.
        identity: see :class:`memo_dist.compare.method.Method`.
    """

    name = "memory_bm25"

    def __init__(self, setting: Setting) -> None:
        self._memory = MemoryMethod("memory", "direct", setting)
        self._search = retrieval.bm25(setting)
        self.identity = short_hash([self.name, self._memory.identity, self._search.identity])

    def prepare(self, corpus: Corpus) -> Cost:
        """Open both."""
        memory, search = self._memory.prepare(corpus), self._search.prepare(corpus)
        return replace(memory, stored_bytes=memory.stored_bytes + search.stored_bytes)

    def answer(self, questions: Sequence[str]) -> list[Reply]:
        """See :meth:`memo_dist.compare.method.Method.answer`."""
        first = self._memory.answer(questions)
        rest = [place for place, reply in enumerate(first) if not reply.text]
        second = self._search.answer([questions[place] for place in rest]) if rest else []
        joined = list(first)
        for place, reply in zip(rest, second, strict=True):
            joined[place] = _joined(first[place], reply)
        return joined


def _joined(memory: Reply, search: Reply) -> Reply:
    """The search's answer with the cost of both."""
    counted = ("tokens_in", "tokens_out", "calls", "seconds")
    return replace(
        search, **{name: getattr(memory, name) + getattr(search, name) for name in counted}
    )


def memory_cost(run: RunFolder, generator: GeneratorConfig) -> Cost:
    """What the run's own records tell of its making.

    Training seconds and trained tokens of all shards, tokens and calls of the synthesis. The
    seconds of a synthesis by rules and of the export are not recorded and not counted. Recorded
    replies have no tokens: what their model was paid is then not known.
    """
    training = training_section(run)
    shards = training.shards if training else []
    spent = Spending()
    for path in sorted(run.synth.glob("*/journal/requests-*.jsonl")):
        for row in LineTail(path).new_rows():
            spent.add_row(row)
    stored = sum(f.stat().st_size for f in run.memory.glob("shard-*/**/*") if f.is_file())
    entries = load_manifest(run.memory).shards
    return Cost(
        seconds=sum(shard.seconds for shard in shards),
        tokens_in=spent.prompt,
        tokens_out=spent.completion,
        calls=spent.attempts,
        trained_tokens=sum(shard.trained_tokens for shard in shards),
        stored_bytes=stored,
        priced_model="" if generator.kind in LOCAL_KINDS else generator.model or generator.kind,
        update_share=1.0 / max(1, len(entries)),
        details={"shards": len(entries), "training known": bool(shards)},
    )


def _decided(mode: str, setting: Setting) -> list[Any]:
    """What decides a mode's answers beside the memory: known without opening it."""
    config = setting.config
    if mode == "direct":
        return []
    if mode.startswith("protocol"):
        executive = [getattr(config.executive, name) for name in EXECUTIVE_IDENTITY]
        return [asdict(config.protocol), executive, config.run.seed]
    folder = setting.run.root / "fusion"
    fitted = sorted(p for p in folder.rglob("*.safetensors") if "training" not in str(p))
    marks = [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in fitted]
    return [asdict(config.fusion), marks]


def _make(name: str, mode: str, setting: Setting) -> Method:
    return MemoryMethod(name, mode, setting)


direct: Make = partial(_make, "memory", "direct")
protocol: Make = partial(_make, "memory_protocol", "protocol")
logits: Make = partial(_make, "memory_logits", "logits")
latent: Make = partial(_make, "memory_latent", "latent")
with_bm25: Callable[[Setting], Method] = MemoryWithSearch
