"""The configuration of fusion: group ``fusion``."""

from __future__ import annotations

from dataclasses import dataclass, field

from memo_dist.config.keys import key


@dataclass
class LatentConfig:
    """Fusion by hidden states: the connector (``fuse --mode latent``, ``ask --mode latent``)."""

    every: int = key(4, at_least=1)
    """Distance between connector layers, in decoder layers of the backbone."""
    heads: int = key(8, at_least=1)
    """Number of heads of the connector's cross-attention."""
    head_width: int = key(64, above=0)
    """Width of each head."""
    memory_layers: list[int] = field(default_factory=lambda: [0, -1])
    """Hidden layers of the memory that are concatenated into a slot (a position that the backbone
    attends to): 0 is the embedding layer, -1 the last layer."""
    drafts: bool = True
    """Append the memory's own answer to the question. This gives more slots, and they include the
    answer."""
    places: str = key("answer", choices=("answer", "all"))
    """Token positions that give slots: ``answer``: from the position that predicts the first token
    of the answer; ``all``: also the tokens of the question, on which the memory was not trained."""
    noise: float = key(0.5, at_least=0)
    """Standard deviation of the noise on slots during training, relative to their root mean square;
    0: no noise."""
    examples: int = key(2000, at_least=1)
    """Number of training questions about facts, chosen by their hashes."""
    outside: float = key(0.25, at_least=0)
    """Number of questions outside the documents per question about a fact. The connector is trained
    not to change the backbone on them."""
    held_out: float = key(0.1, above=0, fraction=True)
    """Fraction of facts held out of training; the card reports the results on them."""
    epochs: int = key(3, at_least=1)
    """Passes over the examples."""
    batch: int = key(16, at_least=1)
    """Examples per optimizer step, over all ranks."""
    micro_batch: int = key(4, at_least=1)
    """Examples per forward pass."""
    lr: float = key(0.001, above=0)
    """Peak learning rate; the group ``train`` sets the rest of the optimizer and ZeRO."""
    distill: float = key(1.0, at_least=0)
    """Loss weight of the divergence from the backbone that has the passage of the fact in its
    context."""
    locality: float = key(1.0, at_least=0)
    """Loss weight of the divergence from the unchanged backbone, on questions outside the
    documents."""


@dataclass
class FusionConfig:
    """A frozen backbone joined to the memory (``ask --mode logits`` and ``--mode latent``)."""

    backbone: str = ""
    """Frozen language model: a local folder, a hub id, or ``smollm2-135m``; empty: the base of the
    memory."""
    instruction: str = "Answer in a few words."
    """System turn before the question; empty: none."""
    gate: str = key("auto", choices=("auto", "constant", "entropy", "learned"))
    """How memory and backbone are weighted per token: ``constant``, ``entropy`` (the model with the
    lower entropy), ``learned`` (by ``memo-dist fuse``), ``auto`` (learned if ``fuse`` ran for this
    backbone, else entropy)."""
    constant: float = key(0.5, fraction=True)
    """Weight of the memories with ``gate=constant``, 0 to 1."""
    entropy_slope: float = key(1.0, at_least=0)
    """With ``gate=entropy``: increase of the memory's log-odds per nat by which its entropy is
    below the backbone's."""
    entropy_bias: float = 0.0
    """With ``gate=entropy``: log-odds of the memory at equal entropies."""
    examples: int = key(128, at_least=8)
    """Maximum number of held-out answers, and of questions outside the documents, to fit a learned
    gate on."""
    order: str = key("parallel", choices=("parallel", "sequential"))
    """``parallel``: all models step together; ``sequential``: the memory drafts its answer and the
    backbone checks it in one forward pass (same vocabulary only). Both write the same text."""
    draft_tokens: int = key(8, at_least=0)
    """With ``order=sequential``: tokens per draft once the text differs from the memory's own
    answer."""
    sample: bool = False
    """Sample tokens instead of taking the most likely one."""
    backbone_temperature: float = key(1.0, above=0)
    """Temperature of the backbone: divides its logits."""
    memory_temperature: float = key(1.0, above=0)
    """Temperature of the memories: divides their logits."""
    max_lost: float = key(0.1, fraction=True)
    """Maximum mean probability that may be lost in translation to a backbone with another
    vocabulary."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """Fusion by hidden states."""
