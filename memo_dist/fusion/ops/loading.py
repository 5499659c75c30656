"""Whether the built kernels serve a device, decided once per process at an op's first call.

Without a compiler the ops run their eager PyTorch reference; that is said once, as a warning,
and in ``memo-dist doctor``. Environment switches:

``MEMO_DIST_REQUIRE_KERNELS=1``
    A missing or broken build is an error (for jobs that count on the speed, and for CI).
``MEMO_DIST_EAGER_OPS=1``
    Always the reference; nothing is built.
"""

from __future__ import annotations

import os
import warnings
from functools import cache

import torch

from memo_dist.errors import RunError
from memo_dist.fusion.ops import build

REQUIRE_ENV = "MEMO_DIST_REQUIRE_KERNELS"
EAGER_ENV = "MEMO_DIST_EAGER_OPS"


def target_of(device_type: str) -> build.Target | None:
    """The library that serves a device type on this machine; None if there is none."""
    if device_type == "cpu":
        return build.CPU
    if device_type == "cuda":
        devices = range(torch.cuda.device_count())
        found = {torch.cuda.get_device_capability(device) for device in devices}
        # "a" and "f" variants promise nothing to later chips; this build is for these very ones.
        return build.cuda_target([f"{major}{minor}" for major, minor in sorted(found)])
    return None


def _is_set(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


@cache
def load(device_type: str) -> bool:
    """Build or find the kernels of a device type and register them with torch.

    Returns:
        False where the eager reference has to serve the device.

    Raises:
        RunError: the kernels are required by ``MEMO_DIST_REQUIRE_KERNELS`` and missing.
    """
    target = target_of(device_type)
    if target is None or _is_set(EAGER_ENV):
        return False
    try:
        torch.ops.load_library(str(build.build(target)))
    except (build.BuildError, OSError) as error:
        if _is_set(REQUIRE_ENV):
            raise RunError(
                f"the {device_type} kernels are not there and {REQUIRE_ENV} is set: {error}"
            ) from error
        reason = str(error).strip().splitlines()[0]
        warnings.warn(
            f"no compiled {device_type} kernels, torch.ops.memo runs eager PyTorch: {reason}",
            stacklevel=2,
        )
        return False
    return True


def describe(device_type: str) -> tuple[bool, str]:
    """Say for ``doctor`` whether kernels serve the device, without building anything.

    Returns:
        Whether compiled kernels are or can be had, and a sentence about it.
    """
    target = target_of(device_type)
    if target is None or _is_set(EAGER_ENV):
        return False, f"{device_type}: {EAGER_ENV} is set, eager PyTorch"
    try:
        path = build.library_path(target)
    except build.BuildError as error:
        reason = str(error).splitlines()[0]
        return False, f"{device_type}: {reason}; until then eager PyTorch, slower"
    if path.exists():
        return True, f"{device_type}: built, {path}"
    return True, f"{device_type}: not built yet, the first use compiles for about half a minute"
