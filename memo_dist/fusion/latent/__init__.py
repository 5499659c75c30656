"""Fusion by hidden states (F2): a frozen backbone attends to what a memory keeps as hidden states.

See docs/fusion-latent.md.
"""

from memo_dist.fusion.latent.attachment import Attachment
from memo_dist.fusion.latent.connector import Connector, ConnectorShape, attached_layers
from memo_dist.fusion.latent.slots import Slots, join_slots

__all__ = [
    "Attachment",
    "Connector",
    "ConnectorShape",
    "Slots",
    "attached_layers",
    "join_slots",
]
