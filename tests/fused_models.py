"""A tiny backbone and two memories of its vocabulary, and what is asked of them together."""

from __future__ import annotations

from pathlib import Path

import torch
from protocol_cases import FACTS, OUTSIDE
from trained_bank import train_shards
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.fusion.logits import (
    Belief,
    CachedModel,
    ConstantGate,
    EntropyGate,
    LearnedGate,
    LogitFusion,
    Request,
    Source,
)
from memo_dist.fusion.logits.gates import FEATURES
from memo_dist.models.chat_format import ChatFormat

QUESTIONS = [*list(FACTS[0])[:2], *list(FACTS[1])[:2], *OUTSIDE[:2]]
GATES = {
    "constant": ConstantGate(0.4),
    "entropy": EntropyGate(1.5, 0.2),
    "learned": LearnedGate(torch.linspace(-0.3, 0.4, len(FEATURES)), 0.1),
}

Folders = tuple[Path, list[Path], Path]


def train_models(root: Path) -> Folders:
    """Two shard memories, and a backbone of the same vocabulary that was trained for longer.

    Returns:
        ``root``, the memories' folders, the backbone's.
    """
    shards = train_shards(root, FACTS, OUTSIDE)
    backbone = root / "backbone"
    model = AutoModelForCausalLM.from_pretrained(shards[0])
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(backbone)
    AutoTokenizer.from_pretrained(shards[0]).save_pretrained(backbone)
    return root, shards, backbone


def models(folders):
    _, shards, backbone = folders
    return [AutoModelForCausalLM.from_pretrained(path).eval() for path in (backbone, *shards)]


def sources(loaded, tokenizer):
    chat = ChatFormat.from_tokenizer(tokenizer)
    return [Source(CachedModel(model, chat.pad_id), chat.prompt_ids) for model in loaded]


def fusion(folders, tokenizer, gate, count=2):
    first, *rest = sources(models(folders), tokenizer)
    return LogitFusion(first, rest[:count], gate, tokenizer)


def request(question, count=2, drafts=("", ""), silent=(False, False)):
    beliefs = [Belief(question, 0.6 + 0.1 * i, silent[i], drafts[i]) for i in range(count)]
    return Request(question, tuple(beliefs))
