"""F1: a frozen backbone and its memories mixed in the space of next-token distributions."""

from memo_dist.fusion.logits.familiarity import Familiarity, Reader
from memo_dist.fusion.logits.gates import ConstantGate, EntropyGate, Gate, LearnedGate
from memo_dist.fusion.logits.mixture import LogitFusion
from memo_dist.fusion.logits.source import CachedModel, Source
from memo_dist.fusion.logits.token_map import TokenMap
from memo_dist.fusion.types import Belief, FusedText, Request, Settings

__all__ = [
    "Belief",
    "CachedModel",
    "ConstantGate",
    "EntropyGate",
    "Familiarity",
    "FusedText",
    "Gate",
    "LearnedGate",
    "LogitFusion",
    "Reader",
    "Request",
    "Settings",
    "Source",
    "TokenMap",
]
