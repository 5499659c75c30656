"""One way to draw a picture with matplotlib: PNG and SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from memo_dist.errors import UsageError, install_hint
from memo_dist.io import atomic

COLOURS = ("#1b6ca8", "#c8553d", "#4f8a3d", "#8a5aa8", "#b8860b", "#3d8a86", "#7a7a7a")
_SIZE = (7.6, 4.2)


def write_picture(folder: Path, name: str, draw: Callable[[Any], None], extra: str) -> None:
    """Draw into ``folder/name.png`` and ``.svg``.

    Args:
        folder, name: of the files.
        draw: gets the matplotlib axes.
        extra: optional dependency that brings matplotlib.

    Raises:
        UsageError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise UsageError(f"plots need matplotlib: {install_hint(extra)}") from None
    from matplotlib.figure import Figure

    # A fixed salt and no date: the same results, the same SVG.
    settings = {"svg.hashsalt": name, "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context({**settings, "axes.spines.right": False}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.add_subplot())
        for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
            save = partial(figure.savefig, format=suffix, dpi=150, metadata=metadata)
            atomic.write_with(folder / f"{name}.{suffix}", save)
