"""Where things live that are made once and can be made again: converted models, built kernels."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_ENV = "MEMO_DIST_CACHE"


def cache_folder() -> Path:
    """Return ``$MEMO_DIST_CACHE``, by default ``~/.cache/memo_dist``."""
    return Path(os.environ.get(CACHE_ENV) or "~/.cache/memo_dist").expanduser().absolute()
