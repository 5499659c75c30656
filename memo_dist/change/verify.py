"""``verify``: what receipts claim, computed again from the run's files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memo_dist import pipeline
from memo_dist.change.difference import bank_documents, corpus_documents
from memo_dist.change.merged import refuse_merged
from memo_dist.change.receipt import FOLDER, Receipt
from memo_dist.change.staying import residue
from memo_dist.config.model_schema import BUILT_IN
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import MANIFEST
from memo_dist.errors import MemoDistError
from memo_dist.io import atomic
from memo_dist.io.generations import link_file, link_folder
from memo_dist.io.hashing import hash_file
from memo_dist.io.marker import HASHES
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.memory.tombstones import forgotten, load_tombstones
from memo_dist.models.identity import hash_weights
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import damaged_files, require
from memo_dist.synthesis.finish import check_reflections
from memo_dist.synthesis.shard_files import shards_folder
from memo_dist.training.bank_work import BankWork
from memo_dist.training.start import train_by_ray


@dataclass(frozen=True, slots=True)
class Check:
    """One claim: what it says, and what is wrong with it (empty: it holds)."""

    claim: str
    fault: str = ""


def receipts_of(run: RunFolder) -> list[Path]:
    """The receipts in a run, the oldest first."""
    return sorted((run.generations / FOLDER).glob("*.json"))


def verify(run: RunFolder, config: Config, receipts: Sequence[Receipt]) -> Iterator[Check]:
    """Check a run against itself and against receipts; it is only read.

    Raises:
        UsageError: the run has no bank.
        RunError: the pending buffer of a server cannot be read.
    """
    require(run, EXPORT)
    refuse_merged(run)
    run = run.pin()
    yield _consistent(run)
    claim = "every file has the SHA-256 that its marker names"
    yield Check(claim, "\n       ".join(damaged_files(run, kind=HASHES)))
    manifest = load_manifest(run.memory)
    bank, corpus = bank_documents(manifest), corpus_documents(run.corpus)
    other = [name for name, digest in bank.items() if corpus.get(name) != digest]
    yield Check("the bank knows the documents of the corpus only", ", ".join(sorted(other)[:5]))
    stones = load_tombstones(run.generations)
    back = forgotten(stones, bank) + forgotten(stones, corpus)
    yield Check("no forgotten document is in the bank or the corpus", ", ".join(back[:5]))
    for receipt in receipts:
        yield from _receipt(run, receipt, {str(e.id): e.weights_hash for e in manifest.shards})


def _consistent(run: RunFolder) -> Check:
    claim = "weights and reflections have the hashes that the bank and the synthesis name"
    try:
        load_manifest(run.memory, verify=True)
        check_reflections(run)
    except MemoDistError as error:
        return Check(claim, str(error))
    return Check(claim)


def _receipt(run: RunFolder, receipt: Receipt, weights: dict[str, str]) -> Iterator[Check]:
    name = f"receipt of {receipt.time}"
    if receipt.generation == run.pinned:
        differ = [k for k, v in receipt.weights_after.items() if weights.get(k) != v]
        yield Check(f"{name}: the bank has its weights", _named("shard", differ))
        same = hash_file(run.trained_reflections) == receipt.reflections
        yield Check(f"{name}: the bank has its reflections", "" if same else "they are others")
    old = set(receipt.weights_before.values()) - set(receipt.weights_after.values())
    kept = [
        path.relative_to(run.root).as_posix()
        for path in sorted(_models(run.root))
        if hash_weights(path) in old
    ]
    yield Check(f"{name}: no weights from before are left", ", ".join(kept))
    gone = [one.id for one in receipt.documents]
    found, opened = residue(run, gone, receipt.fingerprints)
    yield Check(f"{name}: no word run of the texts is in any of {opened} files", ", ".join(found))


def _models(root: Path) -> set[Path]:
    """Folders of models and adapters."""
    names = ("model*.safetensors", "adapter_model.safetensors")
    return {path.parent for name in names for path in root.rglob(name)}


def _named(what: str, items: Sequence[str]) -> str:
    return f"{what} {', '.join(items)} differs" if items else ""


def never_saw(run: RunFolder, config: Config, receipt: Receipt) -> Iterator[Check]:
    """Train the receipt's shards in a run that never saw the documents, and compare bytes.

    With ``generator.kind=rules`` the reflections are made anew too; replies of a model are not
    asked again, the run's reflections are taken.

    Raises:
        UsageError, RunError: the training cannot be done.
    """
    shards = [int(shard) for shard in receipt.shards]
    with never_saw_run(run, config, shards) as other:
        same = hash_file(other.reflections) == hash_file(run.reflections)
        yield Check("reflections equal those of a run that never saw it", "" if same else "differ")
        for shard in shards:
            now, there = (hash_weights(one.train(shard) / "final") for one in (run, other))
            fault = "" if now == there else f"{now[:16]} here, {there[:16]} there"
            if fault and config.train.max_minutes:
                fault += f" (train.max_minutes={config.train.max_minutes:g} ends by the clock)"
            yield Check(f"weights of shard {shard} equal those of a run that never saw it", fault)


@contextmanager
def never_saw_run(run: RunFolder, config: Config, shards: Sequence[int]) -> Iterator[RunFolder]:
    """A run with the corpus of ``run``, in which ``shards`` are trained, while the block lasts.

    Raises:
        UsageError, RunError: the training cannot be done.
    """
    with tempfile.TemporaryDirectory(prefix=".tmp-never-saw-", dir=run.root) as name:
        other = RunFolder(Path(name) / "run")
        _prepare(run, other, config)
        train_by_ray(_Only(shards), other, config)
        yield other


def _prepare(run: RunFolder, other: RunFolder, config: Config) -> None:
    other.root.mkdir()
    link_folder(run.corpus, other.corpus)
    path = other.corpus / MANIFEST
    manifest = atomic.read_json(path)
    atomic.write_json(path, {**manifest, "revision": 0})
    link_file(str(run.config), str(other.config))
    if config.generator.kind in BUILT_IN:
        pipeline.run_synthesis(other, config)
        return
    other.synth.mkdir()
    for source, target in (
        (run.synth / "manifest.json", other.synth / "manifest.json"),
        (run.reflections, other.reflections),
    ):
        link_file(str(source), str(target))
    if shards_folder(run).exists():
        link_folder(shards_folder(run), shards_folder(other))


class _Only(BankWork):
    """The trainings of some shards."""

    def __init__(self, shards: Sequence[int]) -> None:
        super().__init__()
        self._shards = shards

    def pending(self, run: RunFolder, config: Config) -> list[int]:
        """Those of the shards that are not trained."""
        return [shard for shard in super().pending(run, config) if shard in self._shards]
