"""Keys of ``compare``; none is part of a stage's identity."""

from __future__ import annotations

from dataclasses import dataclass

from memo_dist.config.keys import key


@dataclass
class CompareConfig:
    """Comparison of a memory with other methods."""

    embedder: str = key("", identity=False)
    """Embedding model of the methods ``dense``, ``hybrid`` and ``graph``: a local folder or hub id
    of a model2vec or sentence-transformers model."""
    fused_passages: int = key(30, at_least=1, identity=False)
    """Number of passages per search that ``hybrid`` ranks again by reciprocal rank."""
    prices: str = key("", identity=False)
    """YAML file with prices of models and machines; empty: ``configs/prices.yaml``."""
    machine: str = key("cpu", identity=False)
    """Machine in the price file whose hours a local method costs."""
    judge: str = key("none", choices=("none", "executive"), identity=False)
    """Judge of the answers, in addition to the exact metrics: ``executive`` (the model of that
    group), or ``none``."""
    lora_hypernetwork: str = key("", identity=False)
    """Hypernetwork of the method ``doc_to_lora``: the name of an entry point of the group
    ``memo_dist.hypernetworks``; empty: none, and the method is not run."""
