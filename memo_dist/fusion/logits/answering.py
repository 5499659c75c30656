"""``ask --mode logits``: a run's bank and a frozen backbone answering together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from memo_dist.config.fusion_schema import FusionConfig
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.fusion import ops
from memo_dist.fusion.backbone import BACKBONE_KEY, Backbone, Prompt, find_backbone, folder_name
from memo_dist.fusion.bank_beliefs import fused_answers, requests_of
from memo_dist.fusion.logits.familiarity import Familiarity, Reader
from memo_dist.fusion.logits.gates import (
    CALIBRATION,
    GATE_FILE,
    ConstantGate,
    EntropyGate,
    Gate,
    LearnedGate,
)
from memo_dist.fusion.logits.mixture import LogitFusion
from memo_dist.fusion.logits.source import BASE_ROWS, CachedModel, Source
from memo_dist.fusion.logits.token_map import TokenMap
from memo_dist.fusion.streaming import Pieces, written_apart
from memo_dist.fusion.types import Fused, FusedText, Request, Settings
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.calibration import calibrations_hash
from memo_dist.memory.manifest import BankManifest, load_manifest
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import BaseModel


class FusedBank:
    """Answers from the mixture of a backbone and the shards that do not abstain.

    The bank is asked first, as in direct mode: a shard that abstains has no say, the others'
    answers are drafts, and their calibrated confidence is one of the things a gate sees.
    Threads may share it: its models run under the bank's lock.

    Attributes:
        fusion: writes the text.
        settings: how text is written.
        identity: hash of backbone, gate and settings.
    """

    def __init__(  # noqa: PLR0913
        self,
        bank: Bank,
        fusion: LogitFusion,
        familiarity: Familiarity | None,
        settings: Settings,
        max_lost: float,
        identity: str,
    ) -> None:
        """Join a loaded bank with what mixes it; see :meth:`load`."""
        self.fusion, self.identity = fusion, identity
        self._familiarity = familiarity
        self.settings = settings
        self._bank, self._max_lost = bank, max_lost

    @classmethod
    def load(
        cls, run: RunFolder, config: Config, bank: Bank, gate: Gate | None = None
    ) -> FusedBank:
        """Load the backbone of ``fusion.backbone`` beside a loaded bank.

        Args:
            run: the bank's run.
            config: ``fusion``, ``memory.max_answer_tokens`` and ``run.seed`` are used.
            bank: its memories must all be loaded.
            gate: instead of the one that ``fusion.gate`` names, to fit one: requests then have
                all that a learned gate sees.

        Raises:
            UsageError: no backbone, too little memory, no gate for it, or more memories than mix.
        """
        settings = config.fusion
        check_mixes(run)
        manifest = load_manifest(run.memory)
        base = find_backbone(config, run.memory)
        one = base.vocabulary_hash == manifest.base.vocabulary_hash
        if not one and settings.order == "sequential":
            raise UsageError(
                f"fusion.order=sequential needs one vocabulary, and '{base.name}' has another one"
                " than this memory: use fusion.order=parallel"
            )
        used = gate or _gate(run, settings, base, manifest)
        backbone = _backbone(manifest, base, bank)
        fusion = _fusion(settings, one, backbone, bank, used)
        fitting = gate is not None
        seen = fitting or isinstance(used, LearnedGate)
        familiarity = _familiarity(backbone, bank, fitting) if seen else None
        how = Settings(
            config.memory.max_answer_tokens,
            settings.sample,
            config.run.seed,
            settings.order,
            settings.draft_tokens,
        )
        path = run.fusion(folder_name(base)) / GATE_FILE
        fitted = hash_file(path) if path.exists() else ""
        parts = [base.weights_hash, fitted, asdict(settings), asdict(how)]
        return cls(bank, fusion, familiarity, how, settings.max_lost, short_hash(parts))

    def answer(self, questions: Sequence[str], batch_size: int = 16) -> list[Fused]:
        """Answer every question, in the given order.

        Raises:
            UsageError: a question is too long, or the vocabularies have too little in common.
        """
        with self._bank.lock:
            votes = self._bank.votes(questions, batch_size)
            asked = requests_of(self._bank, questions, votes)
            requests, reading = self._complete(asked, batch_size)
            texts = self.fusion.generate(requests, self.settings, batch_size)
        self._check_lost(texts)
        return [
            Fused(replace(answer, seconds=answer.seconds + reading), text)
            for answer, text in fused_answers(questions, votes, texts)
        ]

    def requests(self, questions: Sequence[str], batch_size: int = 16) -> list[Request]:
        """What the bank believes of each question."""
        with self._bank.lock:
            votes = self._bank.votes(questions, batch_size)
            return self._complete(requests_of(self._bank, questions, votes), batch_size)[0]

    def _complete(self, requests: list[Request], batch_size: int) -> tuple[list[Request], float]:
        """What a learned gate sees beside, and the seconds that it took a question."""
        if self._familiarity is None:
            return requests, 0.0
        for request in requests:
            self.fusion.check(request, self.settings)
        start = time.perf_counter()
        found = self._familiarity.complete(requests, batch_size)
        return found, (time.perf_counter() - start) / max(len(requests), 1)

    def stream(self, question: str) -> Iterator[str]:
        """The answer's text piece by piece; the bank is locked until the text ends."""
        return written_apart(lambda: self._pieces(question))

    def _pieces(self, question: str) -> Pieces:
        with self._bank.lock:
            (request,) = self.requests([question])
            yield from self.fusion.stream(request, self.settings)

    def _check_lost(self, texts: Sequence[FusedText]) -> None:
        lost = sum(text.lost for text in texts) / max(len(texts), 1)
        if lost > self._max_lost:
            raise UsageError(
                f"the memory loses {lost:.0%} of its probability in the backbone's vocabulary"
                f" (fusion.max_lost={self._max_lost:g}): choose a backbone of the memory's own"
                " family, or join them by hidden states (memo-dist fuse, ask --mode latent)"
            )


def check_mixes(run: RunFolder) -> None:
    """Refuse a bank of more memories than can be mixed, before anything of it is loaded.

    Raises:
        UsageError: it is one.
    """
    shards, most = len(load_manifest(run.memory).shards), ops.MAX_SOURCES - 1
    if shards > most:
        raise UsageError(
            f"{run.root} has a bank of {shards} shards, and a backbone mixes with at most {most}"
            f" memories: spread the documents over fewer (`memo-dist rebalance {run.root} --shards"
            f" {most}`), or use --mode direct, hybrid or latent"
        )


def gate_identity(base: BaseModel, manifest: BankManifest, memory: Path) -> dict[str, str]:
    """What a learned gate is fitted for: backbone and memories by their weights, and calibration.

    Args:
        base: the backbone.
        manifest: of the bank.
        memory: the bank's folder.
    """
    shards = [entry.weights_hash for entry in manifest.shards]
    return {
        "backbone": base.weights_hash,
        "memory": short_hash(shards),
        CALIBRATION: calibrations_hash(manifest.shard_folders(memory)),
    }


def _gate(run: RunFolder, settings: FusionConfig, base: BaseModel, manifest: BankManifest) -> Gate:
    folder = run.fusion(folder_name(base))
    wanted = settings.gate
    if wanted == "auto":
        wanted = "learned" if (folder / GATE_FILE).exists() else "entropy"
    if wanted == "constant":
        return ConstantGate(settings.constant)
    if wanted == "entropy":
        return EntropyGate(settings.entropy_slope, settings.entropy_bias)
    return LearnedGate.load(folder, gate_identity(base, manifest, run.memory))


class _Loaded(NamedTuple):
    """A loaded backbone; ``rows`` names its rows where it shares the model of the adapters."""

    backbone: Backbone
    rows: str | None


def _backbone(manifest: BankManifest, base: BaseModel, bank: Bank) -> _Loaded:
    kept = [voice.memory for voice in bank.voices().values() if voice.adapter is not None]
    if kept and base.weights_hash == manifest.base.weights_hash:
        # The adapters' own base is the backbone: it is loaded, and its rows join theirs.
        return _Loaded(Backbone(base, kept[0].model, kept[0].tokenizer), BASE_ROWS)
    return _Loaded(Backbone.load(base), None)


def _fusion(
    settings: FusionConfig, one_vocabulary: bool, loaded: _Loaded, bank: Bank, gate: Gate
) -> LogitFusion:
    backbone, rows = loaded
    chat = ChatFormat.from_tokenizer(backbone.tokenizer, BACKBONE_KEY)
    models = {id(backbone.model): CachedModel(backbone.model, chat.pad_id)}
    first = Source(models[id(backbone.model)], Prompt(backbone, settings.instruction), rows)
    memories = []
    for memory, adapter in bank.voices().values():
        model = models.setdefault(id(memory.model), CachedModel(memory.model, memory.chat.pad_id))
        tokens = (
            None if one_vocabulary else TokenMap(memory.tokenizer, backbone.tokenizer, model.width)
        )
        memories.append(Source(model, memory.chat.prompt_ids, adapter, tokens))
    heat = (settings.backbone_temperature, settings.memory_temperature)
    return LogitFusion(first, memories, gate, backbone.tokenizer, heat, backbone.stop_ids())


def _familiarity(loaded: _Loaded, bank: Bank, silent_too: bool) -> Familiarity:
    backbone, rows = loaded
    own = Reader(backbone.model, ChatFormat.from_tokenizer(backbone.tokenizer), rows)
    memories = [Reader(m.model, m.chat, adapter) for m, adapter in bank.voices().values()]
    return Familiarity(own, memories, silent_too)
