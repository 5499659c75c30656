"""How an op of ``torch.ops.memo`` comes to be: schema, reference and fake kernel in Python.

A compiled library only adds a kernel for a dispatch key (CPU, CUDA), which then takes
precedence. So every op exists, traces and has its gradients with or without a compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memo_dist.fusion.ops.loading import load

LIBRARY = torch.library.Library("memo", "DEF")


def define(
    name: str,
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> None:
    """Define ``torch.ops.memo.<name>``.

    Args:
        name: the op's name.
        schema: arguments and results in torch's schema language, without the name.
        reference: eager PyTorch: the definition of the op, and its fallback.
        fake: shapes and dtypes of the results (for ``torch.compile`` and export).
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, _first_call(name, reference), "CompositeExplicitAutograd")
    torch.library.register_fake(f"memo::{name}", fake, lib=LIBRARY)


def _first_call(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of last resort: reached only while the device has no compiled one.

    It loads the library and dispatches again, here rather than in the public functions, so
    that a first call out of a ``torch.compile`` graph finds the compiled kernel too.
    """

    def kernel(*args: Any) -> Any:
        key = _device_of(args).upper()
        if load(key.lower()) and torch._C._dispatch_has_kernel_for_dispatch_key(
            f"memo::{name}", key
        ):
            return getattr(torch.ops.memo, name).default(*args)
        return reference(*args)

    return kernel


def _device_of(args: tuple[Any, ...]) -> str:
    first = args[0]
    tensor: torch.Tensor = first if isinstance(first, torch.Tensor) else first[0]
    return tensor.device.type
