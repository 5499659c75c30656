"""What a benchmark's result was measured on."""

from __future__ import annotations

import os
import platform
from typing import Any

from memo_dist.runs import library_versions


def machine() -> dict[str, Any]:
    """Processor architecture, usable cores, and versions of the libraries that matter."""
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": library_versions(),
    }
