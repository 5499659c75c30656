"""The end of a training: whole weights, adapter, tokenizer, and logits for the export's check."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.weight_files import StoredWeights, WeightWriter, add_weights
from memo_dist.training.adapters import ADAPTER, save_adapter
from memo_dist.training.deepspeed_seam import Engine
from memo_dist.training.job import TrainJob
from memo_dist.training.model import RankModel
from memo_dist.training.verify import PROBE, PROBE_DTYPE


def write_memory(
    job: TrainJob, model: RankModel, engine: Engine, folder: Path, first: bool
) -> None:
    """Write a trained memory into an empty folder; collective, rank 0 (``first``) writes.

    Weights are gathered one at a time and written in files of a limited size; what was cut off
    as frozen is copied from the base. Of adapters only they are written, as a PEFT folder.
    """
    probe = probe_logits(job, model, engine)
    adapted = job.train.method == "lora"
    weights = engine.weights(trained_only=adapted)
    if not first:
        for _ in weights:
            pass
        return
    if adapted:
        settings = model.rows.model.peft_config[ADAPTER]
        values = {name: value.to("cpu", copy=True) for name, value in weights}
        save_adapter(folder, settings, values, job.base)
    else:
        _write_whole(job, model, weights, folder)
    _write_description(job, folder)
    name = str(model.dtype).removeprefix("torch.")
    save_file(probe, folder / PROBE, {PROBE_DTYPE: name})


def _write_whole(
    job: TrainJob, model: RankModel, weights: Iterable[tuple[str, torch.Tensor]], folder: Path
) -> None:
    writer = WeightWriter(folder)
    written = add_weights(writer, model.rows.model, weights)
    if model.frozen is not None:
        for name, value in StoredWeights(Path(job.base)):
            if name not in written:
                writer.add(name, value.to(model.dtype))
    writer.close()
    config: Any = AutoConfig.from_pretrained(job.base)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)


def probe_logits(job: TrainJob, model: RankModel, engine: Engine) -> dict[str, torch.Tensor]:
    """Last-position logits of each probe prompt, fp32 [vocabulary]; collective."""
    engine.module.eval()
    probe = {}
    with torch.no_grad():
        for index, ids in enumerate(job.probe):
            tokens = torch.tensor([ids], device=engine.device)
            positions = torch.arange(len(ids), device=engine.device)[None]
            frozen, lengths = model.frozen, [len(ids)]
            inputs = tokens if frozen is None else frozen.run(tokens, positions, lengths)
            last = torch.tensor([len(ids) - 1], device=engine.device)
            logits = engine.module(inputs, positions, lengths, last, last, want="logits")
            probe[f"ids.{index}"] = tokens[0].cpu()
            probe[f"logits.{index}"] = logits[0].float().cpu().contiguous()
    return probe


def _write_description(job: TrainJob, folder: Path) -> None:
    if (Path(job.base) / "generation_config.json").exists():
        GenerationConfig.from_pretrained(job.base).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    ChatFormat.from_tokenizer(tokenizer).install(tokenizer)
    tokenizer.save_pretrained(folder)
