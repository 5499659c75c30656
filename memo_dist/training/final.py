"""The end of a training: whole weights, adapter, tokenizer, and logits for the export's check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from memo_dist.io import atomic
from memo_dist.memory.identity import weight_files
from memo_dist.training import checkpoint
from memo_dist.training.checkpoint import TrainState
from memo_dist.training.deepspeed_seam import Engine
from memo_dist.training.format import ChatFormat
from memo_dist.training.job import TrainJob
from memo_dist.training.lora import FOLDER, save_adapter
from memo_dist.training.model import Trainee

SHARD_BYTES = 2 * 10**9
"""Largest file of weights, and so the most that writing them holds in memory."""


def write_final(
    job: TrainJob, trainee: Trainee, engine: Engine, state: TrainState, first: bool
) -> None:
    """Write ``final/``; collective, rank 0 (``first``) writes.

    Trained weights are gathered one layer at a time and written in files of ``SHARD_BYTES``;
    weights that were cut off as frozen are copied from the base. With adapters ``final/`` holds
    the folded weights and ``final/adapter/`` the adapter as a PEFT folder.
    """
    probe = probe_logits(job, trainee, engine)
    final, adapter = job.final, {}
    if first:
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir(parents=True)
    writer = _WeightWriter(final) if first else None
    tied = set(getattr(trainee.rows.model, "all_tied_weights_keys", None) or {})
    for name, value in engine.weights():
        if writer is None or name in tied:
            continue
        if ".lora_" in name:
            adapter[name] = value.to("cpu", copy=True)
        else:
            writer.add(name, value)
    if writer is None:
        return
    for name, value in _from_base(Path(job.base), writer.names | tied, trainee.dtype):
        writer.add(name, value)
    writer.close()
    if adapter:
        settings = trainee.rows.model.peft_config["default"]
        save_adapter(final / FOLDER, settings, adapter, job.base)
    _write_description(job, trainee, final)
    save_file(probe, final / "probe.safetensors")
    atomic.write_json(final / checkpoint.STATE, vars(state))
    checkpoint.mark_complete(final)


def probe_logits(job: TrainJob, trainee: Trainee, engine: Engine) -> dict[str, torch.Tensor]:
    """Last-position logits of each probe prompt, fp32 [vocabulary]; collective."""
    engine.module.eval()
    probe = {}
    with torch.no_grad():
        for index, ids in enumerate(job.probe):
            tokens = torch.tensor([ids], device=engine.device)
            positions = torch.arange(len(ids), device=engine.device)[None]
            frozen, lengths = trainee.frozen, [len(ids)]
            inputs = tokens if frozen is None else frozen.run(tokens, positions, lengths)
            last = torch.tensor([len(ids) - 1], device=engine.device)
            logits = engine.module(inputs, positions, lengths, last, last, want="logits")
            probe[f"ids.{index}"] = tokens[0].cpu()
            probe[f"logits.{index}"] = logits[0].float().cpu().contiguous()
    return probe


def _from_base(
    base: Path, written: Iterable[str], dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's weights that training did not write."""
    skip = set(written)
    for file in weight_files(base):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (not a dict)
                if name not in skip:
                    yield name, stream.get_tensor(name).to(dtype)


def _write_description(job: TrainJob, trainee: Trainee, final: Path) -> None:
    config: Any = AutoConfig.from_pretrained(job.base)
    config.dtype = trainee.dtype
    config.architectures = [type(_plain(trainee.rows.model)).__name__]
    config.save_pretrained(final)
    if (Path(job.base) / "generation_config.json").exists():
        GenerationConfig.from_pretrained(job.base).save_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    ChatFormat.from_tokenizer(tokenizer).install(tokenizer)
    tokenizer.save_pretrained(final)


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


class _WeightWriter:
    """Writes Hugging Face weight files, never holding more than one of them.

    Attributes:
        names: weights so far.
    """

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self._folder = folder
        self._open: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self._total = 0
        self._files: list[list[str]] = []

    def add(self, name: str, value: torch.Tensor) -> None:
        size = value.numel() * value.element_size()
        if self._open and self._bytes + size > SHARD_BYTES:
            self._flush()
        self._open[name] = value.to("cpu", copy=True).contiguous()
        self.names.add(name)
        self._bytes += size
        self._total += size

    def close(self) -> None:
        """Write the rest, give the files their final names, and write the index if needed."""
        self._flush()
        count = len(self._files)
        if count == 1:
            self._part(0).replace(self._folder / "model.safetensors")
            return
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        for index, name in enumerate(names):
            self._part(index).replace(self._folder / name)
        weight_map = {key: names[i] for i, keys in enumerate(self._files) for key in keys}
        index_file = self._folder / "model.safetensors.index.json"
        metadata = {"total_size": self._total}
        index_file.write_text(
            json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2)
        )

    def _part(self, index: int) -> Path:
        return self._folder / f".part-{index}.safetensors"

    def _flush(self) -> None:
        save_file(self._open, self._part(len(self._files)), metadata={"format": "pt"})
        self._files.append(list(self._open))
        self._open, self._bytes = {}, 0
