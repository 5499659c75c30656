"""From a run to the examples and the job of its connector's training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import CHUNKS, load_chunks
from memo_dist.errors import RunError
from memo_dist.fusion.backbone import Backbone, Prompt, folder_name
from memo_dist.fusion.bank_beliefs import requests_of
from memo_dist.fusion.latent.connector import Connector, ConnectorShape
from memo_dist.fusion.latent.examples import ConnectorExample, write_examples
from memo_dist.fusion.latent.fusion import LatentFusion
from memo_dist.fusion.latent.job import HELD_OUT, TRAINED, TRAINING_FOLDER, ConnectorJob
from memo_dist.fusion.latent.store import FORMAT, connector_identity
from memo_dist.fusion.types import Request, Settings
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, short_hash, stable_modulo
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.calibration import calibrations_hash
from memo_dist.memory.manifest import load_manifest
from memo_dist.memory.provenance import check_same_reflections
from memo_dist.models.identity import BaseModel
from memo_dist.models.loading import release_gpu
from memo_dist.observability.progress import progress
from memo_dist.synthesis.rules.abstain import outside_questions
from memo_dist.synthesis.types import Reflection

PREPARED = "prepared.json"
"""Beside the examples: what they were made from, and how many there are; written last."""
_MEASURED = 64
"""Examples of a kind that are only measured, at most."""
_PARTS = 1000
_TRAIN_KEYS = ("betas", "weight_decay", "clip", "schedule", "warmup_fraction", "precision")
"""Keys of ``train`` that decide the weights."""


class _Asked(NamedTuple):
    """A question, the passages it rests on, and its answer; None: from outside."""

    question: str
    passages: tuple[str, ...]
    answer: str | None


def connector_job(run: RunFolder, config: Config, base: BaseModel, threads: int) -> ConnectorJob:
    """The job, without its examples; see :func:`prepare_examples`.

    Raises:
        UsageError: the run holds other reflections than its memory was trained on.
    """
    manifest = load_manifest(run.memory)
    check_same_reflections(manifest, run.reflections)
    latent = config.fusion.latent
    train = replace(config.train, lr=latent.lr, method="full", trained_layers=0, max_minutes=0.0)
    deciding = [asdict(latent), [getattr(train, key) for key in _TRAIN_KEYS]]
    return ConnectorJob(
        folder=str(run.fusion(folder_name(base)) / TRAINING_FOLDER),
        backbone=str(base.path),
        memory=str(run.memory),
        train=train,
        latent=latent,
        card={
            "backbone_name": base.name,
            "memory_base": manifest.base.id,
            "memories": [entry.weights_hash for entry in manifest.shards],
            **connector_identity(base, manifest),
        },
        seed=config.run.seed,
        identity=short_hash([FORMAT, _made_from(run, config, base), *deciding]),
        threads=threads,
        earlier=short_hash([FORMAT, short_hash(_earlier_inputs(run, config, base)), *deciding]),
    )


def prepare_examples(
    run: RunFolder, config: Config, base: BaseModel, job: ConnectorJob
) -> ConnectorJob:
    """Write the examples where they are not there yet; returns the job with its counts.

    Asks the memory every question (what it would say is among the things that the backbone will
    read), and the backbone those from outside.

    Raises:
        RunError: the run has no facts left to learn from.
        UsageError: see :meth:`LatentFusion`; not all shards fit into memory at once.
    """
    made_from = _made_from(run, config, base)
    marker = job.path / PREPARED
    told = atomic.read_json(marker) if marker.exists() else {}
    if told.get("made_from") != made_from:
        marker.unlink(missing_ok=True)
        told = {"made_from": made_from, "examples": _write(run, config, base, job)}
        atomic.write_json(marker, told)
        release_gpu()
    return replace(job, card={**job.card, "examples": told["examples"]})


def _made_from(run: RunFolder, config: Config, base: BaseModel) -> str:
    calibrations = calibrations_hash(load_manifest(run.memory).shard_folders(run.memory))
    passages = hash_file(run.corpus / CHUNKS)
    return short_hash([*_earlier_inputs(run, config, base), calibrations, passages])


def _earlier_inputs(run: RunFolder, config: Config, base: BaseModel) -> list[Any]:
    """What earlier versions took for all that the examples are made from."""
    latent, manifest = config.fusion.latent, load_manifest(run.memory)
    return [
        connector_identity(base, manifest),
        [entry.weights_hash for entry in manifest.shards],
        hash_file(run.reflections),
        [latent.drafts, latent.places, latent.examples, latent.outside, latent.held_out],
        [config.fusion.instruction, config.memory.max_answer_tokens, config.run.seed],
    ]


def _write(run: RunFolder, config: Config, base: BaseModel, job: ConnectorJob) -> dict[str, int]:
    maker = _Maker(run, config, base)
    inside, outside = choose_questions(run, config)
    rows = {
        "inside": inside[0],
        "outside": outside[0],
        "held_out_inside": inside[1],
        "held_out_outside": outside[1],
    }
    total = sum(map(len, rows.values()))
    with progress(total, "ask memory and backbone", unit="questions") as report:
        made = {}
        for name, asked in rows.items():
            made[name] = list(maker.examples(asked))
            report.advance(len(asked))
    write_examples(job.path / TRAINED, made["inside"] + made["outside"])
    write_examples(job.path / HELD_OUT, made["held_out_inside"] + made["held_out_outside"])
    return {name: len(examples) for name, examples in made.items()}


def choose_questions(
    run: RunFolder, config: Config
) -> tuple[tuple[list[_Asked], list[_Asked]], tuple[list[_Asked], list[_Asked]]]:
    """((facts to learn from, facts to measure), (the same of questions from outside)).

    A fact's wordings are all on one side, so what is measured was never learned from.

    Raises:
        RunError: nothing is left to learn from.
    """
    latent = config.fusion.latent
    passages = {chunk.id: chunk.text for chunk in load_chunks(run.corpus)}
    rows = [Reflection.from_json(row) for row in atomic.read_jsonl(run.reflections)]
    rows.sort(key=lambda row: short_hash(row.id))
    facts = [row for row in rows if row.kind != "abstain"]
    held = [row for row in facts if _is_held(row.fact, latent.held_out)][:_MEASURED]
    learned = [row for row in facts if not _is_held(row.fact, latent.held_out)]
    learned = learned[: latent.examples]
    if not learned or not held:
        raise RunError(
            f"of {len(facts)} reflections {len(learned)} are to learn from and {len(held)} to"
            " measure, both must be there: change fusion.latent.held_out"
        )
    inside = [[_asked(row, passages) for row in part] for part in (learned, held)]
    texts = [row.question for row in rows if row.kind == "abstain"] + [*outside_questions()]
    texts = sorted(dict.fromkeys(texts), key=short_hash)
    measured = min(_MEASURED, len(texts) // 5)
    wanted = round(latent.outside * len(learned))
    outside = [
        [_Asked(text, (), None) for text in part]
        for part in (texts[measured:][:wanted], texts[:measured])
    ]
    return (inside[0], inside[1]), (outside[0], outside[1])


def _is_held(fact: str, fraction: float) -> bool:
    return stable_modulo(f"connector:{fact}", _PARTS) < fraction * _PARTS


def _asked(row: Reflection, passages: Mapping[str, str]) -> _Asked:
    texts = tuple(passages[chunk] for chunk in row.chunks if chunk in passages)
    return _Asked(row.question, texts, row.answer)


class _Maker:
    """Turns questions into examples."""

    def __init__(self, run: RunFolder, config: Config, base: BaseModel) -> None:
        self._config = config
        self._bank = Bank.of_run(run, config, sources=False)
        voices = list(self._bank.voices().values())
        backbone = Backbone.load(base)
        self._prompt = Prompt(backbone, config.fusion.instruction)
        width = int(backbone.model.config.hidden_size)
        memory = int(voices[0].memory.model.config.hidden_size)
        shape = ConnectorShape((0,), width, memory, 1, 1, (-1,))
        latent = config.fusion.latent
        closed = Connector(shape).to(backbone.model.device)
        self._fusion = LatentFusion(
            backbone, self._prompt, closed, voices, latent.drafts, latent.places
        )
        self._room = int(getattr(backbone.model.config, "max_position_embeddings", 2048))

    def examples(self, asked: Sequence[_Asked]) -> Iterator[ConnectorExample]:
        """One example each, in order; batches are the evaluation's."""
        size = self._config.evaluate.batch_size
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            questions = [item.question for item in part]
            votes = self._bank.votes(questions, size)
            requests = requests_of(self._bank, questions, votes)
            own = iter(self._own_texts([r for r, i in zip(requests, part, strict=True)
                                        if i.answer is None]))  # fmt: skip
            for item, request in zip(part, requests, strict=True):
                target = next(own) if item.answer is None else self._target(item.answer)
                yield self._example(item, request, target)

    def _own_texts(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        settings = Settings(self._config.memory.max_answer_tokens)
        size = self._config.evaluate.batch_size
        silent = [request.silenced() for request in requests]
        return [text.tokens for text in self._fusion.generate(silent, settings, size)]

    def _target(self, answer: str) -> tuple[int, ...]:
        return tuple(self._fusion.chat.answer_ids(answer))

    def _example(self, item: _Asked, request: Request, target: tuple[int, ...]) -> ConnectorExample:
        prompt = tuple(self._prompt(item.question))
        # Nobody is silent here: what to do about a memory that should be is to be learned too.
        spoken = request.spoken()
        return ConnectorExample(
            prompt=prompt,
            target=target,
            taught=self._taught(item, len(target)) or prompt,
            memories=tuple(texts[0] for texts in self._fusion.memory_texts([spoken])),
            inside=item.answer is not None,
        )

    def _taught(self, item: _Asked, room: int) -> tuple[int, ...]:
        """The prompt with as many passages before the question as the backbone can read."""
        for count in range(len(item.passages), 0, -1):
            text = "\n\n".join([*item.passages[:count], item.question])
            ids = tuple(self._prompt(text))
            if len(ids) + room <= self._room:
                return ids
        return ()
