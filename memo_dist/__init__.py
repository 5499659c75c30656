"""memo_dist: documents become a memory model that a frozen LLM can question or be fused with.

The public API is ``encode``, ``Bank`` and ``Answer`` (:mod:`memo_dist.api`), imported on first
use: ``import memo_dist`` alone needs no torch.
"""

from typing import TYPE_CHECKING, Any

from memo_dist.version import VERSION

if TYPE_CHECKING:
    from memo_dist.answers.answer import Answer
    from memo_dist.api import Bank, encode

__version__ = VERSION

__all__ = ["Answer", "Bank", "__version__", "encode"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used (PEP 562)."""
    if name in ("Answer", "Bank", "encode"):
        from memo_dist import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
