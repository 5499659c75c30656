"""Who writes the demo's reflections, and with which configuration."""

from __future__ import annotations

from pathlib import Path

from memo_dist.config.shipped import shipped_config

RECORDED = "recorded"
WRITER = "writer"
RULES = "rules"
REPLIES = Path(__file__).parent / "data" / "replies.jsonl.xz"
"""What a large language model replied to the engine's prompts about the demo's documents."""


def generators(replies: Path = REPLIES) -> tuple[str, ...]:
    """The generators that this installation has, the default first."""
    return (RECORDED, WRITER, RULES) if replies.exists() else (WRITER, RULES)


def configuration(
    full: bool, generator: str, replies: Path = REPLIES
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Shipped configuration files, later ones override, and the overrides that go with them."""
    files = (shipped_config("demo-full" if full else "demo"),)
    if generator != RECORDED:
        return files, (f"generator.kind={generator}",)
    recorded = ("generator.kind=recorded", f"generator.recording={replies}")
    return (*files, shipped_config("demo-recorded")), recorded
