"""``ask --mode latent``: a frozen backbone that attends to a run's bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from memo_dist.config.schema import Config
from memo_dist.fusion.backbone import Backbone, Prompt, find_backbone, folder_name
from memo_dist.fusion.bank_beliefs import fused_answers, requests_of
from memo_dist.fusion.latent.fusion import LatentFusion
from memo_dist.fusion.latent.job import CONNECTOR_FOLDER
from memo_dist.fusion.latent.store import CARD, WEIGHTS, connector_identity, load_connector
from memo_dist.fusion.streaming import Pieces, written_apart
from memo_dist.fusion.types import Fused, Settings
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.manifest import load_manifest


class LatentBank:
    """Answers of a backbone that attends to the shards that do not abstain.

    Threads may share it: its models run under the bank's lock.

    Attributes:
        fusion: writes the text.
        settings: how text is written.
        identity: hash of backbone, connector and settings.
    """

    def __init__(self, bank: Bank, fusion: LatentFusion, settings: Settings, identity: str) -> None:
        """Join a loaded bank with what reads it; see :meth:`load`."""
        self.fusion, self.settings, self.identity = fusion, settings, identity
        self._bank = bank

    @classmethod
    def load(cls, run: RunFolder, config: Config, bank: Bank) -> LatentBank:
        """Load the backbone of ``fusion.backbone`` and its connector beside a loaded bank.

        Args:
            run: the bank's run.
            config: ``fusion``, ``memory.max_answer_tokens`` and ``run.seed`` are used.
            bank: its memories must all be loaded.

        Raises:
            UsageError: no backbone, no connector for it and this family of memories, or too
                little memory.
        """
        manifest = load_manifest(run.memory)
        base = find_backbone(config, run.memory)
        folder = run.fusion(folder_name(base)) / CONNECTOR_FOLDER
        connector, card = load_connector(folder, connector_identity(base, manifest))
        backbone = Backbone.load(base)
        fusion = LatentFusion(
            backbone,
            Prompt(backbone, config.fusion.instruction),
            connector.to(backbone.model.device),
            list(bank.voices().values()),
            bool(card["settings"]["drafts"]),
            str(card["settings"]["places"]),
            config.fusion.backbone_temperature,
        )
        settings = Settings(config.memory.max_answer_tokens, config.fusion.sample, config.run.seed)
        files = [hash_file(folder / name) for name in (CARD, WEIGHTS)]
        how = [config.fusion.instruction, config.fusion.backbone_temperature, asdict(settings)]
        parts = [*files, *how]
        return cls(bank, fusion, settings, short_hash(parts))

    def answer(self, questions: Sequence[str], batch_size: int = 16) -> list[Fused]:
        """Answer every question, in the given order.

        Raises:
            UsageError: a question is too long.
        """
        with self._bank.lock:
            votes = self._bank.votes(questions, batch_size)
            requests = requests_of(self._bank, questions, votes)
            texts = self.fusion.generate(requests, self.settings, batch_size)
        return fused_answers(questions, votes, texts)

    def stream(self, question: str) -> Iterator[str]:
        """The answer's text piece by piece; the bank is locked until the text ends."""
        return written_apart(lambda: self._pieces(question))

    def _pieces(self, question: str) -> Pieces:
        with self._bank.lock:
            (request,) = requests_of(self._bank, [question], self._bank.votes([question]))
            yield from self.fusion.stream(request, self.settings)
