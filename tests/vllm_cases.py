"""Where vLLM is on this machine, and small banks for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from protocol_cases import FACTS, OUTSIDE
from trained_bank import adapter_entry, train_shards

from memo_dist.config import load_config, to_yaml
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import FEATURES
from memo_dist.memory.calibration import Calibration
from memo_dist.memory.manifest import (
    QUESTION_LIKELIHOOD,
    BankManifest,
    BaseRef,
    ShardEntry,
)
from memo_dist.models.identity import identify
from memo_dist.models.loading import load_frozen, load_tokenizer

COMMAND = os.environ.get("MEMO_TESTS_VLLM") or shutil.which("vllm") or ""
"""The environment variable names another one than that of the PATH."""
needs_vllm = pytest.mark.skipif(
    not COMMAND, reason="no vLLM: put `vllm` on the PATH, or name it in MEMO_TESTS_VLLM"
)
SETTINGS = ("serve.engine=vllm", f"serve.vllm_command={COMMAND}", "serve.vllm_cache_gb=0.25",
            "serve.vllm_start_seconds=900")  # fmt: skip
TURNS = ("{}", "Please: {}", "I ask: {}", "{} Thank you.", "Well, {}")
QUESTIONS = [
    turn.format(question)
    for turn in TURNS
    for question in (*FACTS[0], *FACTS[1], *OUTSIDE)
]  # fmt: skip
"""What was taught, and wordings that were not: answers of all degrees of certainty."""


def adapter_run(root: Path) -> RunFolder:
    """A run whose bank has two adapters on one base, chosen by the question's likelihood, with
    calibrations that use every number of an answer."""
    train_shards(root / "models", FACTS[:1], OUTSIDE, one_base=True)
    run = RunFolder(root / "run")
    base = shutil.copytree(root / "models" / "shard-0", run.memory / "base")
    entries = [_adapter(base, run.memory, shard) for shard in (0, 1)]
    reference = BaseRef.of(identify("tiny", base), "base")
    BankManifest(reference, tuple(entries), QUESTION_LIKELIHOOD).save(run.memory)
    settings = ["memory.max_answer_tokens=12", "train.method=lora", "export.adapter=kept"]
    run.config.write_text(to_yaml(load_config((), settings)))
    return run


def _adapter(base: Path, memory: Path, shard: int) -> ShardEntry:
    torch.manual_seed(shard)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    folder = memory / f"shard-{shard}"
    get_peft_model(load_frozen(base, "cpu"), lora).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    count = len(FEATURES)
    ones, weights = (1.0,) * count, tuple(0.1 * (number + 1) for number in range(count))
    Calibration(FEATURES, weights, (0.0,) * count, ones, 0.5, 0.01, True, wordings=2).save(folder)
    return adapter_entry(shard, folder)
