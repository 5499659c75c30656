"""The configuration of fusion: group ``fusion``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LatentConfig:
    """Fusion by hidden states: the connector (``fuse --mode latent``, ``ask --mode latent``)."""

    every: int = 4
    """The connector follows every n-th decoder layer of the backbone."""
    heads: int = 8
    """Heads of its cross-attention."""
    head_width: int = 64
    """Width of a head."""
    memory_layers: list[int] = field(default_factory=lambda: [0, -1])
    """Hidden layers of the memory that a slot holds side by side: 0 its embeddings (which token it
    is), -1 its last layer (what comes next)."""
    drafts: bool = True
    """The memory reads its own answer behind the question: more slots, and what it would say."""
    places: str = "answer"
    """Where the memory gives slots: ``answer``: from the place on where it says its answer's first
    token; ``all``: the question's tokens too, on which it was never trained."""
    noise: float = 0.5
    """Standard deviation of the noise on slots in training, in their root mean square; 0: none."""
    examples: int = 2000
    """Questions about facts that the connector is trained on, the first ones by their hashes."""
    outside: float = 0.25
    """Questions from outside, per question about a fact; the backbone is to stay as it is there."""
    held_out: float = 0.1
    """Fraction of the facts that nothing is learned from: the card tells the results on them."""
    epochs: int = 3
    """Passes over the examples."""
    batch: int = 16
    """Examples of an optimizer step, over all ranks."""
    micro_batch: int = 4
    """Examples of one forward."""
    lr: float = 0.001
    """Peak learning rate; the rest of the optimizer and ZeRO are those of the group ``train``."""
    distill: float = 1.0
    """Weight of the divergence from the backbone that reads the fact's passage."""
    locality: float = 1.0
    """Weight of the divergence from the backbone alone, on questions from outside."""


@dataclass
class FusionConfig:
    """A frozen backbone that reads the memory (``ask --mode logits`` and ``--mode latent``)."""

    backbone: str = ""
    """Frozen language model: a local folder, a hub id, or ``smollm2-135m``; empty: the base that
    the memory was trained from."""
    instruction: str = "Answer in a few words."
    """System turn that the backbone reads before the question; empty: none."""
    gate: str = "auto"
    """Who decides a token: ``constant``, ``entropy`` (the surer one), ``learned`` (by
    ``memo-dist fuse``), ``auto`` (learned where there is one for this backbone, else entropy)."""
    constant: float = 0.5
    """Fraction of a token that the memories decide under the constant gate, 0 to 1."""
    entropy_slope: float = 1.0
    """Log-odds for the memory per nat that its entropy is lower than the backbone's."""
    entropy_bias: float = 0.0
    """Log-odds for the memory at equal entropies."""
    examples: int = 128
    """Held-out answers, and questions from outside, of each at most, that a learned gate is fitted
    on."""
    order: str = "parallel"
    """``parallel``: all models step together; ``sequential``: the memory drafts its answer and the
    backbone reads it in one forward (one vocabulary only). Both write the same text."""
    draft_tokens: int = 8
    """Tokens of a sequential draft after the memory's own answer was left."""
    sample: bool = False
    """Draw tokens instead of taking the likeliest."""
    backbone_temperature: float = 1.0
    """Divides the backbone's logits."""
    memory_temperature: float = 1.0
    """Divides the memories' logits."""
    max_lost: float = 0.1
    """Largest mean probability that memories may lose to a backbone of another vocabulary."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """Fusion by hidden states."""
