"""Keys of a training that teach facts rather than strings; all are off by default."""

from __future__ import annotations

from dataclasses import dataclass

from memo_dist.config.keys import key


@dataclass
class KnowledgeConfig:
    """Replay, an anchor at the base, a teacher's soft labels, people's questions held out."""

    replay: float = key(0.0, fraction=True)
    """Fraction of the trained tokens that is other text, so that the base's language stays; below
    1. 0: none. 0.1 is usual."""
    replay_text: str = ""
    """UTF-8 text file for ``train.replay``; empty: text that the untrained base writes itself, with
    ``run.seed``."""
    anchor_kl: float = key(0.0, at_least=0)
    """Weight of the divergence KL(base || memory) at the tokens of ``train.replay``; 0: none."""
    teacher: str = ""
    """Model that reads each reflection's passage and labels its answer with probabilities: a name
    as in ``memory.base``, with the same tokenizer. Empty: none."""
    teacher_top: int = key(20, at_least=1)
    """Number of most probable tokens kept at each token of an answer."""
    teacher_weight: float = key(0.5, above=0, fraction=True)
    """Fraction m of the loss (1 - m) CE + m KL(teacher || memory) at tokens of an answer; above
    0."""
    held_out_questions: str = ""
    """JSONL file of questions (``question``, ``answer``), as people ask them. ``train.select`` and
    ``train.eval_patience`` then go by their recall instead of that of held-out wordings."""


SWITCHES = {
    "train.replay_text": "train.replay",
    "train.teacher_top": "train.teacher",
    "train.teacher_weight": "train.teacher",
}
"""{key: the key that switches it on}: without that nothing reads it."""
OFF_BY_DEFAULT = ("train.replay", "train.anchor_kl", "train.teacher", "train.held_out_questions")
"""Keys that decide nothing while they are empty or 0, as in versions that did not know them."""
