"""Identity of each stage: a hash over exactly the keys that can change its result.

A schema says of each key whether it can (``identity``, :mod:`memo_dist.config.keys`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from memo_dist.config.keys import key_specs
from memo_dist.config.knowledge_schema import OFF_BY_DEFAULT, SWITCHES
from memo_dist.config.load import flatten
from memo_dist.config.model_schema import BUILT_IN
from memo_dist.config.rules import lookup
from memo_dist.config.schema import Config, CorpusConfig
from memo_dist.io.hashing import hash_value
from memo_dist.stages import records

# Identity only where questions are trained or a base is built: elsewhere nothing reads them.
_QUESTION_WEIGHT = "train.question_weight"
_TOKENIZER = "memory.scratch.tokenizer"


def trains_questions(config: Config) -> bool:
    """Whether the tokens of questions are trained too (``train.question_loss``)."""
    chosen = config.train.question_loss
    wanted = config.corpus.shards > 1 if chosen == "auto" else chosen == "yes"
    return wanted and config.train.source == "reflections"


def corpus_settings(config: Config) -> CorpusConfig:
    """The corpus group with the languages that the generator reads."""
    if config.corpus.languages or config.generator.kind not in BUILT_IN:
        return config.corpus
    return replace(config.corpus, languages=["en"])


def _builds_base(config: Config) -> bool:
    return config.memory.base == "scratch"


def stage_keys(config: Config, stage: str) -> dict[str, Any]:
    """The dotted keys and values that identify a stage's result."""
    tree = asdict(config)
    flat = flatten({group: tree[group] for group in records.stage(stage).groups})
    specs = key_specs(Config)
    read = {_QUESTION_WEIGHT: trains_questions(config), _TOKENIZER: _builds_base(config)}
    read |= {key: bool(lookup(config, switch)) for key, switch in SWITCHES.items()}
    without = [key for key, is_read in read.items() if not is_read]
    return {key: value for key, value in flat.items() if specs[key].identity and key not in without}


def stage_hash(config: Config, stage: str) -> str:
    """SHA-256 over :func:`stage_keys`; what is switched off counts as if there were no switch."""
    off = [key for key in OFF_BY_DEFAULT if not lookup(config, key)]
    keys = stage_keys(config, stage)
    return hash_value({key: value for key, value in keys.items() if key not in off})


def changed_keys(old: Config, new: Config, stage: str) -> dict[str, tuple[Any, Any]]:
    """Keys of a stage whose values differ: {key: (old value, new value)}."""
    before, after = stage_keys(old, stage), stage_keys(new, stage)
    both = before.keys() & after.keys()
    return {
        key: (before[key], after[key]) for key in after if key in both and before[key] != after[key]
    }
