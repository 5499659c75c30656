"""Identity of each stage: a hash over exactly the keys that can change its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memo_dist.config.load import flatten
from memo_dist.config.schema import Config
from memo_dist.io.hashing import hash_value
from memo_dist.stages import records

# How often to save and how stubbornly to retry changes when a run ends, never what it computes;
# neither does where a model is served, how fast, and for how much.
# The calibration happens after training, but its held-out wordings are left out of training,
# so memory.calibration_facts stays in.
_NOT_IDENTITY = frozenset(
    {
        "corpus.max_quarantined_fraction",
        "generator.urls",
        "generator.api_key_env",
        "generator.recording",
        "generator.max_in_flight",
        "generator.requests_per_minute",
        "generator.tokens_per_minute",
        "generator.request_timeout",
        "generator.connect_timeout",
        "generator.retries",
        "generator.patience",
        "generator.hedge_after",
        "generator.hedge_fraction",
        "generator.max_failed_fraction",
        "generator.price_prompt",
        "generator.price_cached",
        "generator.price_completion",
        "generator.budget_tokens",
        "generator.budget_money",
        "generator.drain_seconds",
        "synthesis.max_rejected_fraction",
        "memory.loaded_gb",
        "train.checkpoint_minutes",
        "train.checkpoint_steps",
        "train.async_checkpoint",
        "train.max_stalled_starts",
        "train.dry_batch",
        # Where weights and activations lie; a checkpoint moves between them.
        "train.zero_stage",
        "train.deepspeed",
        "train.gradient_checkpointing",
        "train.compile",
        "train.keep_checkpoints",
        "train.max_failures",
    }
)
# Identity only where questions are trained: elsewhere nothing reads it.
_QUESTION_WEIGHT = "train.question_weight"


def trains_questions(config: Config) -> bool:
    """Whether the tokens of questions are trained too (``train.question_loss``)."""
    chosen = config.train.question_loss
    wanted = config.corpus.shards > 1 if chosen == "auto" else chosen == "yes"
    return wanted and config.train.source == "reflections"


def stage_keys(config: Config, stage: str) -> dict[str, Any]:
    """The dotted keys and values that identify a stage's result."""
    tree = asdict(config)
    flat = flatten({group: tree[group] for group in records.stage(stage).groups})
    without = _NOT_IDENTITY if trains_questions(config) else {*_NOT_IDENTITY, _QUESTION_WEIGHT}
    return {key: value for key, value in flat.items() if key not in without}


def stage_hash(config: Config, stage: str) -> str:
    """SHA-256 over :func:`stage_keys`."""
    return hash_value(stage_keys(config, stage))


def changed_keys(old: Config, new: Config, stage: str) -> dict[str, tuple[Any, Any]]:
    """Keys of a stage whose values differ: {key: (old value, new value)}."""
    before, after = stage_keys(old, stage), stage_keys(new, stage)
    both = before.keys() & after.keys()
    return {
        key: (before[key], after[key]) for key in after if key in both and before[key] != after[key]
    }
