"""The memory estimate against the measured peak (resident set) of one training rank on a CPU.

    python benchmarks/memory_need.py [--out benchmarks/results/memory-need.json]

Two sizes (a scratch memory, SmolLM2-135M) in several settings; two optimizer steps each, full
rows of which every token is trained. About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.io import atomic
from memo_dist.models.base import resolve_base
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.runs import library_versions
from memo_dist.training.examples import Examples
from memo_dist.training.job import TrainJob
from memo_dist.training.memory_need import GIB, ModelShape, training_need

SCRATCH = ScratchConfig(4096, hidden_size=256, layers=4, heads=4, intermediate_size=704)
CASES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("scratch", "full", {"micro_batch_tokens": 1024}),
    ("scratch", "full, rows of 2048", {"micro_batch_tokens": 2048}),
    ("smollm2-135m", "full", {"micro_batch_tokens": 512}),
    ("smollm2-135m", "full, ZeRO 1", {"micro_batch_tokens": 512, "zero_stage": 1}),
    ("smollm2-135m", "upper 15 layers", {"micro_batch_tokens": 512, "trained_layers": 15}),
    (
        "smollm2-135m",
        "full, checkpointing",
        {"micro_batch_tokens": 512, "gradient_checkpointing": True},
    ),
)


def main() -> None:
    """Measure every case and print estimate, peak and error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-need-") as name:
        bases = {"scratch": _scratch(Path(name)), "smollm2-135m": resolve_base("smollm2-135m").path}
        rows = [
            _case(Path(name) / f"case-{i}", bases[base], base, label, train)
            for i, (base, label, train) in enumerate(CASES)
        ]
    report = {"cases": rows, "machine": platform.machine(), "versions": library_versions()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def _scratch(folder: Path) -> Path:
    texts = [f"fact {i * 7919 % 10007} of {i}" for i in range(3000)]
    size = train_tokenizer(texts, SCRATCH.vocabulary, folder / "base")
    model = new_scratch_model(scratch_model_config(SCRATCH, size), seed=1)
    model.save_pretrained(folder / "base")
    return folder / "base"


def _case(
    folder: Path, base: Path, name: str, label: str, settings: dict[str, object]
) -> dict[str, object]:
    tokens = int(str(settings["micro_batch_tokens"]))
    train = TrainConfig(
        **{"batch_tokens": tokens, "max_steps": 2, "epochs": 2, "checkpoint_minutes": 0, **settings}
    )
    shape = ModelShape.of_folder(base)
    need = training_need(shape, train, 1, bf16=False, gpu=False)
    peak = _peak(_job(folder, base, train, tokens))
    return {
        "base": name,
        "setting": label,
        "parameters": shape.parameters,
        "estimate_gib": round(need.device_bytes / GIB, 3),
        "measured_gib": round(peak / GIB, 3),
        "error": round(need.device_bytes / peak - 1, 3),
        "parts": {key: round(value / GIB, 3) for key, value in need.device.items()},
    }


def _job(folder: Path, base: Path, train: TrainConfig, tokens: int) -> TrainJob:
    """Full rows: each example is a row, one prompt token, the rest trained."""
    folder.mkdir()
    ids = np.random.default_rng(1).integers(10, 250, 4 * tokens).astype(np.int32)
    starts = np.arange(0, 4 * tokens + 1, tokens, dtype=np.int64)
    first = np.ones(4, np.int32)
    Examples(ids, starts, first, first).save(folder / "examples.safetensors")
    job = TrainJob(
        folder=str(folder),
        base=str(base),
        examples=str(folder / "examples.safetensors"),
        probe=((5, 6),),
        train=train,
        seed=1,
        identity="benchmark",
        threads=1,
    )
    atomic.write_json(folder / "job.json", job.to_json())
    return job


def _peak(job: TrainJob) -> int:
    """Largest resident set of the rank, in bytes."""
    env = {
        **os.environ,
        **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"},
        **{"MASTER_PORT": "29517", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    }
    command = [sys.executable, "-m", "memo_dist.training.worker", str(job.path / "job.json")]
    rank = subprocess.Popen(command, env=env, stdout=sys.stderr, stderr=sys.stderr)
    _, status, usage = os.wait4(rank.pid, 0)
    if status:
        raise SystemExit(f"the training of {job.folder} failed: {status}")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
