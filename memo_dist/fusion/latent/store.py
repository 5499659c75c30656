"""A connector on disk: ``connector.safetensors``, ``connector.json``, ``README.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.errors import UsageError
from memo_dist.fusion.latent.connector import Connector, ConnectorShape
from memo_dist.io import atomic
from memo_dist.io.marker import COMPLETE, require_whole
from memo_dist.memory.manifest import BankManifest
from memo_dist.models.identity import BaseModel

CARD = "connector.json"
WEIGHTS = "connector.safetensors"
FORMAT = 2
"""Of the connector's weights; 1: values read the last of a slot's layers."""
_AGAIN = "run memo-dist fuse RUN --mode latent"


def connector_identity(base: BaseModel, manifest: BankManifest) -> dict[str, str]:
    """What a connector is for: a backbone, and the family of memories of one base."""
    return {
        "backbone": base.weights_hash,
        "memory_family": manifest.base.weights_hash,
        "memory_vocabulary": manifest.base.vocabulary_hash,
    }


def save_card(
    folder: Path,
    card: Mapping[str, Any],
    shape: ConnectorShape,
    settings: LatentConfig,
    nats: Mapping[str, Any],
) -> None:
    """Write the card for machines and the one for people.

    Args:
        folder: of the connector.
        card: names, hashes (:func:`connector_identity`) and numbers of examples.
        shape: of the connector.
        settings: it was trained with.
        nats: {before, after: {inside, outside: {arm: nats a token}}} on held-out examples.
    """
    values = {
        "schema_version": FORMAT,
        **card,
        "shape": shape.to_json(),
        "settings": asdict(settings),
        "nats_per_token": nats,
    }
    atomic.write_json(folder / CARD, values)
    atomic.write_text(folder / "README.md", _text(values))


def load_connector(folder: Path, wanted: Mapping[str, str]) -> tuple[Connector, dict[str, Any]]:
    """Read a connector and its card.

    Args:
        folder: holds it.
        wanted: :func:`connector_identity` of what it is to join.

    Raises:
        UsageError: there is none, it is broken, or it is for others.
        RunError: one of its files is damaged.
    """
    from safetensors.torch import load_file

    path = folder / CARD
    if not path.is_file():
        raise UsageError(f"there is no connector: '{path}' is missing; {_AGAIN}")
    require_whole([folder / COMPLETE], _AGAIN)
    card = atomic.read_json(path)
    if card.get("schema_version") != FORMAT:
        raise UsageError(
            f"'{folder}' is of format {card.get('schema_version')}, not {FORMAT}; {_AGAIN}"
        )
    for key, value in wanted.items():
        if card.get(key) != value:
            raise UsageError(
                f"'{folder}' joins {key} {str(card.get(key))[:16]}, this is {value[:16]}; {_AGAIN}"
            )
    try:
        connector = Connector(ConnectorShape.from_json(card["shape"]))
        connector.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # safetensors raises its own SafetensorError, not exported typed
        # https://github.com/safetensors/safetensors/issues/523
        raise UsageError(f"'{folder}' is not a connector: {error}; {_AGAIN}") from error
    return connector.eval().requires_grad_(False), card


def _text(card: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| {when}, {where} | {arms['backbone']:.3f} | {arms['fused']:.3f} | {arms['taught']:.3f} |"
        for when, found in card["nats_per_token"].items()
        for where, arms in found.items()
    )
    shape, examples = card["shape"], card["examples"]
    layers = ", ".join(str(layer) for layer in shape["layers"])
    return f"""# Connector

Joins the frozen backbone `{card["backbone_name"]}` (weights `{card["backbone"][:16]}`)
to memories of the base `{card["memory_base"]}` (weights `{card["memory_family"][:16]}`,
vocabulary `{card["memory_vocabulary"][:16]}`) by gated cross-attention behind layers
{layers}: {shape["heads"]} heads of {shape["head_width"]}.

Trained on {examples["inside"]} questions about facts and {examples["outside"]} from outside,
measured on {examples["held_out_inside"]} and {examples["held_out_outside"]} others (of facts
that nothing was learned from). Mean negative log-prob of what should be written, nats a token;
`taught` is the backbone with the passage before it:

| | backbone | fused | taught |
|---|---|---|---|
{rows}

It can have learned facts of the corpus that it was trained on. Judge it on a memory and a corpus
that it has never seen.
"""
