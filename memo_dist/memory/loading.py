"""From bank.json to memories that answer: loaded, streamed one by one, or adapters on one base."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from memo_dist.cluster.resources import usable_memory
from memo_dist.errors import RunError, UsageError
from memo_dist.memory.answering import RawAnswer, Reading, ShardMemory
from memo_dist.memory.grouping import Item, joined, parted
from memo_dist.memory.manifest import BankManifest
from memo_dist.models.base import resolve_base
from memo_dist.models.identity import hash_weights, weight_files, weights_dtype
from memo_dist.models.loading import answering_device, load_frozen, load_tokenizer, refusing

_ROOM = 0.6
"""Share of a device's memory that shard weights may take where memory.loaded_gb=0; the rest is for
keys and values, logits, and everything else on the machine."""


class Voice(NamedTuple):
    """What writes a shard's answers: a loaded memory and, on a shared base, its adapter."""

    memory: ShardMemory
    adapter: str | None


class Memories(Protocol):
    """One or more shards that answer together."""

    @property
    def shards(self) -> tuple[int, ...]:
        """Ids of the shards, sorted."""
        ...

    @property
    def streams(self) -> bool:
        """Whether weights are read anew for every call."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether several threads may call at once."""
        ...

    def answer(
        self, asked: Mapping[int, Sequence[str]], batch_size: int
    ) -> dict[int, list[RawAnswer]]:
        """The raw answers of each of the shards that are asked, in the order of their questions.

        Args:
            asked: questions by shard.
            batch_size: rows of one batch.
        """
        ...

    def read(self, questions: Sequence[str], batch_size: int) -> dict[int, list[Reading]]:
        """How likely each shard finds each question, in their order."""
        ...

    def voices(self) -> dict[int, Voice]:
        """The models that are loaded, by shard."""
        ...

    def release(self) -> None:
        """End what does not end with the object; it cannot be asked afterwards."""
        ...


class LoadedShard:
    """A full shard that stays in memory."""

    streams = parallel = False

    def __init__(self, shard: int, memory: ShardMemory) -> None:
        self.shards, self._memory = (shard,), memory

    def answer(
        self, asked: Mapping[int, Sequence[str]], batch_size: int
    ) -> dict[int, list[RawAnswer]]:
        """See :class:`Memories`."""
        return {shard: self._memory.answer(asked[shard], batch_size) for shard in asked}

    def read(self, questions: Sequence[str], batch_size: int) -> dict[int, list[Reading]]:
        """See :class:`Memories`."""
        return {self.shards[0]: self._memory.read(questions, batch_size)}

    def voices(self) -> dict[int, Voice]:
        """See :class:`Memories`."""
        return {self.shards[0]: Voice(self._memory, None)}

    def release(self) -> None:
        """See :class:`Memories`."""


class StreamedShard:
    """A full shard that is loaded for each call and dropped after it."""

    streams, parallel = True, False

    def __init__(self, shard: int, folder: Path, max_answer_tokens: int, device: str) -> None:
        self.shards, self._folder = (shard,), folder
        self._max_answer_tokens, self._device = max_answer_tokens, device

    def answer(
        self, asked: Mapping[int, Sequence[str]], batch_size: int
    ) -> dict[int, list[RawAnswer]]:
        """See :class:`Memories`."""
        return self._loaded(lambda memory: memory.answer(asked, batch_size))

    def read(self, questions: Sequence[str], batch_size: int) -> dict[int, list[Reading]]:
        """See :class:`Memories`."""
        return self._loaded(lambda memory: memory.read(questions, batch_size))

    def _loaded(self, use: Callable[[LoadedShard], Item]) -> Item:
        memory = ShardMemory.load(self._folder, self._max_answer_tokens, self._device)
        found = use(LoadedShard(self.shards[0], memory))
        del memory
        gc.collect()  # models hold cycles; the next shard must not wait for the collector
        return found

    def voices(self) -> dict[int, Voice]:
        """None: nothing stays loaded."""
        return {}

    def release(self) -> None:
        """See :class:`Memories`."""


class SharedBases:
    """Bases in memory under the adapters of several banks; each base is loaded once.

    Not safe for threads: whoever shares it runs one call of these banks at a time.
    """

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._banks = 0

    def prefix(self) -> str:
        """A prefix for adapter names that no other bank has."""
        self._banks += 1
        return f"bank-{self._banks}-"

    def holds(self, weights_hash: str) -> bool:
        """Whether the base with these weights is loaded."""
        return weights_hash in self._models

    def attach(self, weights_hash: str, adapters: Mapping[str, Path], fresh: Any | None) -> Any:
        """The PEFT model of a base, with further adapters (folder by name) on it.

        Args:
            weights_hash: of the base.
            adapters: at least one.
            fresh: the loaded base; None: :meth:`holds` it.
        """
        model = self._models.get(weights_hash) if fresh is None else fresh
        found = _with_adapters(model, adapters)
        self._models[weights_hash] = found
        return found

    def detach(self, weights_hash: str, names: Sequence[str]) -> None:
        """Remove adapters; the last one takes the base along."""
        model = self._models[weights_hash]
        if set(model.peft_config) <= set(names):
            del self._models[weights_hash]
            return
        with warnings.catch_warnings():  # PEFT tells which adapter is active now: rows name theirs
            warnings.simplefilter("ignore", UserWarning)
            for name in names:
                model.delete_adapter(name)


def _with_adapters(model: Any, adapters: Mapping[str, Path]) -> Any:
    """A base, or a PEFT model, with adapters (folder by name) added."""
    from peft import PeftModel

    for name, folder in adapters.items():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
    return model


class AdapterShards:
    """Shards of kind adapter on one base: questions to all adapters in the same batches.

    PEFT applies to each row its own adapter (``adapter_names``), so the base is in memory once
    and runs once a batch, however many adapters there are.
    """

    streams = parallel = False

    def __init__(
        self, memory: ShardMemory, names: Mapping[int, str], release: Callable[[], None]
    ) -> None:
        """``memory`` holds a PEFT model with an adapter of the given name for each shard;
        ``release`` takes these off a base that others use."""
        self._memory, self._names, self._release = memory, dict(names), release
        self.shards = tuple(names)

    @classmethod
    def load(  # noqa: PLR0913
        cls,
        base: Path | None,
        folders: Mapping[int, Path],
        max_answer_tokens: int,
        device: str = "auto",
        weights_hash: str = "",
        bases: SharedBases | None = None,
    ) -> AdapterShards:
        """Load the base once and every adapter onto it.

        Args:
            base: folder of the base model; None: ``bases`` holds it.
            folders: PEFT folder (safetensors) by shard, at least one.
            max_answer_tokens: longest generated answer.
            device: a torch device, or ``auto``.
            weights_hash: of the base.
            bases: to share the base with other banks; None: this bank has one of its own.

        Raises:
            UsageError: the base or an adapter cannot be loaded.
        """
        shared = bases or SharedBases()
        prefix = shared.prefix() if bases else ""
        names = {shard: prefix + adapter_name(shard) for shard in sorted(folders)}
        adapters = {names[shard]: folders[shard] for shard in names}
        every = ", ".join(map(str, folders.values()))
        failure = f"the adapters {every} cannot be loaded on '{base or 'the loaded base'}'"
        with refusing(failure, "export them again"):
            tokenizer = load_tokenizer(folders[next(iter(names))])
            fresh = None if base is None else load_frozen(base, device)
            model = shared.attach(weights_hash, adapters, fresh)

        def release() -> None:
            shared.detach(weights_hash, list(adapters))

        return cls(ShardMemory(model, tokenizer, max_answer_tokens), names, release)

    def answer(
        self, asked: Mapping[int, Sequence[str]], batch_size: int
    ) -> dict[int, list[RawAnswer]]:
        """See :class:`Memories`; the rows of a batch are of any adapter."""
        return self._by_adapter(self._memory.answer, asked, batch_size)

    def read(self, questions: Sequence[str], batch_size: int) -> dict[int, list[Reading]]:
        """See :class:`Memories`; the rows of a batch are of any adapter."""
        return self._by_adapter(
            self._memory.read, dict.fromkeys(self.shards, questions), batch_size
        )

    def voices(self) -> dict[int, Voice]:
        """See :class:`Memories`."""
        return {shard: Voice(self._memory, name) for shard, name in self._names.items()}

    def release(self) -> None:
        """Take the adapters off their base, see :class:`Memories`."""
        self._release()

    def _by_adapter(
        self,
        ask: Callable[[list[str], int, list[str]], list[Item]],
        asked: Mapping[int, Sequence[str]],
        batch_size: int,
    ) -> dict[int, list[Item]]:
        """All shards' questions in one call, each with the name of its adapter."""
        lengths = [len(questions) for questions in asked.values()]
        names = joined([self._names[shard]] * len(rows) for shard, rows in asked.items())
        replies = ask(joined(asked.values()), batch_size, names)
        return dict(zip(asked, parted(replies, lengths), strict=True))


def adapter_name(shard: int) -> str:
    """A shard's name among the adapters of a loaded base."""
    return f"shard-{shard}"


def load_memories(  # noqa: PLR0913
    manifest: BankManifest,
    folder: Path,
    max_answer_tokens: int,
    device: str,
    loaded_gb: float,
    bases: SharedBases | None = None,
) -> list[Memories]:
    """What answers for each shard of the bank in ``folder``; see ``Bank.load`` for the rest."""
    paths = {entry.id: manifest.shard_folder(folder, entry.id) for entry in manifest.shards}
    kinds = {entry.id: entry.kind for entry in manifest.shards}
    adapters = {shard: path for shard, path in paths.items() if kinds[shard] == "adapter"}
    full = {shard: path for shard, path in paths.items() if kinds[shard] == "full"}
    memories: list[Memories] = []
    if adapters:
        known = manifest.base.weights_hash
        base = None if bases and bases.holds(known) else base_folder(manifest, folder)
        memories.append(AdapterShards.load(base, adapters, max_answer_tokens, device, known, bases))
    where = answering_device(device)
    sizes = {shard: loaded_bytes(path, where) for shard, path in full.items()}
    kept = choose_loaded(sizes, int(loaded_gb * 2**30) or _room(where))
    for shard, path in full.items():
        if shard in kept:
            memory = ShardMemory.load(path, max_answer_tokens, device)
            memories.append(LoadedShard(shard, memory))
        else:
            memories.append(StreamedShard(shard, path, max_answer_tokens, device))
    return memories


def choose_loaded(sizes: Mapping[int, int], budget: int) -> set[int]:
    """The shards to keep loaded: all if they fit, else as many as leave room to stream the rest.

    Args:
        sizes: bytes by shard.
        budget: bytes.
    """
    if sum(sizes.values()) <= budget:
        return set(sizes)
    kept: set[int] = set()
    left = budget - max(sizes.values())
    for shard in sorted(sizes):
        if sizes[shard] <= left:
            kept.add(shard)
            left -= sizes[shard]
    return kept


def loaded_bytes(folder: Path, device: torch.device) -> int:
    """Bytes of a model folder's weights once loaded (float32 on a CPU)."""
    stored = sum(path.stat().st_size for path in weight_files(folder))
    widened = device.type == "cpu" and weights_dtype(folder) in ("float16", "bfloat16")
    return 2 * stored if widened else stored


def base_folder(manifest: BankManifest, folder: Path) -> Path:
    """The folder of the base that the bank's adapters belong to.

    Raises:
        UsageError: it is not on this machine and cannot be fetched.
        RunError: its weights are not those that bank.json names.
    """
    base = manifest.base
    if base.path is None:
        found = resolve_base(base.id)
        path, weights = found.path, found.weights_hash
    else:
        path = folder / base.path
        if not path.is_dir():
            raise UsageError(f"the base of this bank's adapters is missing: '{path}'")
        weights = hash_weights(path)
    if weights != base.weights_hash:
        raise RunError(
            f"the base '{base.id}' in '{path}' has weights {weights[:16]}, this bank's adapters"
            f" were trained on {base.weights_hash[:16]}: bring that base back"
        )
    return path


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(_ROOM * free)
    return int(_ROOM * usable_memory())
