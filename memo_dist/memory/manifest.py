"""``bank.json``: which shard memories make up a bank, over which base, trained on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from memo_dist.errors import DamagedFileError, RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value
from memo_dist.io.marker import CHECK, COMPLETE, HASHES, check_holds, hashes, require_whole
from memo_dist.models.identity import BaseModel, hash_weights, weight_files

FILE_NAME = "bank.json"
SCHEMA_VERSION = 1
REFLECTIONS = "reflections.jsonl"
"""The bank's own copy of what it was trained on."""
"""Field of bank.json: hash of all others."""
KINDS = ("full", "adapter")
CONFIDENCE, QUESTION_LIKELIHOOD = "confidence", "question_likelihood"
COMPOSITIONS = (CONFIDENCE, QUESTION_LIKELIHOOD, "mixture")


@dataclass(frozen=True, slots=True)
class BaseRef:
    """The base model that every shard started from: named by hashes, never copied.

    Attributes:
        id: ``memory.base`` (a hub id, a path, or a built-in name).
        weights_hash, vocabulary_hash: see memo_dist.models.identity.
        path: folder relative to bank.json, for a base that ``id`` alone does not lead to (one
            that the run itself made); adapters are loaded on it only if its hash is the same.
    """

    id: str
    weights_hash: str
    vocabulary_hash: str
    path: str | None = None

    @classmethod
    def of(cls, base: BaseModel, path: str | None = None) -> BaseRef:
        """The reference to a base model on this machine."""
        return cls(base.name, base.weights_hash, base.vocabulary_hash, path)


@dataclass(frozen=True, slots=True)
class ShardDocument:
    """A document that a shard was trained on: id and ``Document.content_hash``."""

    id: str
    hash: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard memory of the bank.

    Attributes:
        id: the shard's number.
        path: its Hugging Face (``full``) or PEFT (``adapter``) folder, relative to bank.json.
        kind: ``full`` or ``adapter``.
        documents: what it was trained on, sorted by id.
        reflections_hash: hash of its reflections.
        weights_hash: hash of its weights (memo_dist.models.identity.hash_weights).
        recipe_hash: hash of the configuration that trained it.
    """

    id: int
    path: str
    kind: str
    documents: tuple[ShardDocument, ...]
    reflections_hash: str
    weights_hash: str
    recipe_hash: str


@dataclass(frozen=True, slots=True)
class BankManifest:
    """The contents of ``bank.json``.

    Attributes:
        base: the base model.
        shards: the shard memories, sorted by id.
        composition: how they answer together: ``confidence`` (the most confident one),
            ``question_likelihood`` (the one to which the question is likeliest) or ``mixture``
            (inside the fusion op).
    """

    base: BaseRef
    shards: tuple[ShardEntry, ...]
    composition: str = CONFIDENCE

    def save(self, folder: Path) -> None:
        """Check and write ``bank.json`` atomically; the shard folders must be there.

        It names the hash of its reflections, and its own. Its folders have markers of their own,
        which ``weights_hash`` ties to it; what else stands in them (a card names the corpus of
        its training) is not part of what makes two banks equal.

        Raises:
            UsageError: see :func:`load_manifest`.
        """
        _check(self, folder)
        noted = hashes(folder, [REFLECTIONS])
        values = {"schema_version": SCHEMA_VERSION, **asdict(self), HASHES: noted}
        atomic.write_json(folder / FILE_NAME, {**values, CHECK: hash_value(values)})

    def folders(self, folder: Path) -> list[Path]:
        """The folders of the bank: its shard memories, and the base that it carries."""
        carried = [folder / self.base.path] if self.base.path else []
        return [*self.shard_folders(folder), *carried]

    def shard_folders(self, folder: Path) -> list[Path]:
        """The folders of all shard memories, in the order of the shards."""
        return [folder / PurePosixPath(entry.path) for entry in self.shards]

    def shard_folder(self, folder: Path, shard: int) -> Path:
        """The folder of a shard memory inside the bank's ``folder``."""
        entry = next(entry for entry in self.shards if entry.id == shard)
        return folder / PurePosixPath(entry.path)


def load_manifest(folder: Path, verify: bool = False) -> BankManifest:
    """Read and check the bank in ``folder``.

    Args:
        folder: holds ``bank.json``.
        verify: also see :func:`require_bank`.

    Raises:
        UsageError: there is no bank, bank.json is malformed or of another version, a path
            leaves the folder, or a shard's weights are missing.
        RunError: ``verify`` found weights that are not those of bank.json.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UsageError(f"there is no memory in '{folder}' ({FILE_NAME} is missing); encode first")
    try:
        row = atomic.read_json(path)
        manifest = _from_json(row)
    except DamagedFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{path}' is not a bank that this version reads: {error!r}") from error
    _check(manifest, folder)
    if not check_holds(row):
        raise DamagedFileError.of(path, "its contents are not those that memo-dist wrote")
    if verify:
        require_bank(manifest, folder)
    return manifest


def require_bank(manifest: BankManifest, folder: Path, hashed_gb: float = 0.0) -> None:
    """Compare the files of a bank with the hashes that it names.

    Args:
        manifest: of the bank.
        folder: holds ``bank.json``.
        hashed_gb: ``memory.hashed_gb``.

    Raises:
        RunError: names every damaged file.
    """
    markers = [folder / FILE_NAME, *(path / COMPLETE for path in manifest.folders(folder))]
    advice = "bring it back from a copy, or run `memo-dist export` again"
    require_whole(markers, advice, hashed_gb)
    for entry in manifest.shards:
        _verify(entry, manifest.shard_folder(folder, entry.id), folder)


def shard_documents(documents: Sequence[tuple[str, str]]) -> tuple[ShardDocument, ...]:
    """(id, content hash) pairs as ``ShardEntry.documents``, sorted by id."""
    return tuple(ShardDocument(name, digest) for name, digest in sorted(documents))


def _from_json(row: dict[str, Any]) -> BankManifest:
    if row["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {row['schema_version']}, not {SCHEMA_VERSION}")
    shards = []
    for entry in row["shards"]:
        documents = tuple(ShardDocument(**document) for document in entry["documents"])
        shards.append(ShardEntry(**{**entry, "documents": documents}))
    return BankManifest(BaseRef(**row["base"]), tuple(shards), row["composition"])


def _check(manifest: BankManifest, folder: Path) -> None:
    path = folder / FILE_NAME
    if manifest.composition not in COMPOSITIONS:
        raise UsageError(
            f"'{path}': composition '{manifest.composition}' is none of {', '.join(COMPOSITIONS)}"
        )
    if not manifest.shards:
        raise UsageError(f"'{path}' lists no shards")
    if len({entry.id for entry in manifest.shards}) != len(manifest.shards):
        raise UsageError(f"'{path}' lists a shard id twice")
    for entry in manifest.shards:
        _check_entry(path, entry, folder)


def _check_entry(path: Path, entry: ShardEntry, folder: Path) -> None:
    if not isinstance(entry.id, int) or entry.kind not in KINDS:
        raise UsageError(
            f"'{path}': shard {entry.id!r} of kind '{entry.kind}' is unknown; kinds are"
            f" {', '.join(KINDS)}, ids whole numbers"
        )
    names = [document.id for document in entry.documents]  # other shards may list them too: merges
    if len(set(names)) != len(names):
        raise UsageError(f"'{path}': shard {entry.id} lists a document twice")
    target = _inside(path, entry, folder)
    if not target.is_dir():
        raise UsageError(f"'{path}': shard {entry.id} has no folder '{entry.path}'")
    weight_files(target)


def _inside(path: Path, entry: ShardEntry, folder: Path) -> Path:
    """The shard's folder; a bank from elsewhere must not make us read outside of it."""
    relative = PurePosixPath(entry.path)
    foreign = PureWindowsPath(entry.path)
    safe = not (relative.is_absolute() or foreign.drive or foreign.root or "\\" in entry.path)
    target = folder / relative
    if safe and ".." not in relative.parts:
        safe = target.resolve().is_relative_to(folder.resolve())
    else:
        safe = False
    if not safe:
        raise UsageError(
            f"'{path}': the path '{entry.path}' of shard {entry.id} leaves the bank's folder;"
            " paths are relative to bank.json and stay below it"
        )
    return target


def _verify(entry: ShardEntry, memory: Path, folder: Path) -> None:
    marker = memory / COMPLETE
    noted = atomic.read_json(marker).get(HASHES, {}) if marker.exists() else {}
    names = [path.name for path in weight_files(memory)]
    if all(name in noted for name in names):  # compared with the files before
        found = hash_value([[name, noted[name]] for name in names])
    else:  # an earlier version's
        found = hash_weights(memory)
    if found != entry.weights_hash:
        raise RunError(
            f"the weights of shard {entry.id} in '{folder}' have hash {found[:16]}, bank.json"
            f" says {entry.weights_hash[:16]}: the file was changed or damaged; export again"
        )
