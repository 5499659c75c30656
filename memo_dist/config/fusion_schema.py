"""The configuration of fusion: group ``fusion``."""

from __future__ import annotations

from dataclasses import dataclass, field

from memo_dist.config.keys import key


@dataclass
class LatentConfig:
    """Fusion by hidden states: the connector (``fuse --mode latent``, ``ask --mode latent``)."""

    every: int = key(4, at_least=1)
    """The connector follows every n-th decoder layer of the backbone."""
    heads: int = key(8, at_least=1)
    """Heads of its cross-attention."""
    head_width: int = key(64, above=0)
    """Width of a head."""
    memory_layers: list[int] = field(default_factory=lambda: [0, -1])
    """Hidden layers of the memory that a slot holds side by side: 0 its embeddings (which token it
    is), -1 its last layer (what comes next)."""
    drafts: bool = True
    """The memory reads its own answer behind the question: more slots, and what it would say."""
    places: str = key("answer", choices=("answer", "all"))
    """Where the memory gives slots: ``answer``: from the place on where it says its answer's first
    token; ``all``: the question's tokens too, on which it was never trained."""
    noise: float = key(0.5, at_least=0)
    """Standard deviation of the noise on slots in training, in their root mean square; 0: none."""
    examples: int = key(2000, at_least=1)
    """Questions about facts that the connector is trained on, the first ones by their hashes."""
    outside: float = key(0.25, at_least=0)
    """Questions from outside, per question about a fact; the backbone is to stay as it is there."""
    held_out: float = key(0.1, above=0, fraction=True)
    """Fraction of the facts that nothing is learned from: the card tells the results on them."""
    epochs: int = key(3, at_least=1)
    """Passes over the examples."""
    batch: int = key(16, at_least=1)
    """Examples of an optimizer step, over all ranks."""
    micro_batch: int = key(4, at_least=1)
    """Examples of one forward."""
    lr: float = key(0.001, above=0)
    """Peak learning rate; the rest of the optimizer and ZeRO are those of the group ``train``."""
    distill: float = key(1.0, at_least=0)
    """Weight of the divergence from the backbone that reads the fact's passage."""
    locality: float = key(1.0, at_least=0)
    """Weight of the divergence from the backbone alone, on questions from outside."""


@dataclass
class FusionConfig:
    """A frozen backbone that reads the memory (``ask --mode logits`` and ``--mode latent``)."""

    backbone: str = ""
    """Frozen language model: a local folder, a hub id, or ``smollm2-135m``; empty: the base that
    the memory was trained from."""
    instruction: str = "Answer in a few words."
    """System turn that the backbone reads before the question; empty: none."""
    gate: str = key("auto", choices=("auto", "constant", "entropy", "learned"))
    """Who decides a token: ``constant``, ``entropy`` (the surer one), ``learned`` (by
    ``memo-dist fuse``), ``auto`` (learned where there is one for this backbone, else entropy)."""
    constant: float = key(0.5, fraction=True)
    """Fraction of a token that the memories decide under the constant gate, 0 to 1."""
    entropy_slope: float = key(1.0, at_least=0)
    """Log-odds for the memory per nat that its entropy is lower than the backbone's."""
    entropy_bias: float = 0.0
    """Log-odds for the memory at equal entropies."""
    examples: int = key(128, at_least=8)
    """Held-out answers, and questions from outside, of each at most, that a learned gate is fitted
    on."""
    order: str = key("parallel", choices=("parallel", "sequential"))
    """``parallel``: all models step together; ``sequential``: the memory drafts its answer and the
    backbone reads it in one forward (one vocabulary only). Both write the same text."""
    draft_tokens: int = key(8, at_least=0)
    """Tokens of a sequential draft after the memory's own answer was left."""
    sample: bool = False
    """Draw tokens instead of taking the likeliest."""
    backbone_temperature: float = key(1.0, above=0)
    """Divides the backbone's logits."""
    memory_temperature: float = key(1.0, above=0)
    """Divides the memories' logits."""
    max_lost: float = key(0.1, fraction=True)
    """Largest mean probability that memories may lose to a backbone of another vocabulary."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """Fusion by hidden states."""
