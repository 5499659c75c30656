"""Where ZeRO keeps each trained weight and its optimizer state on this rank.

A *fragment* is a contiguous piece of one flattened parameter: its fp32 weight and its two Adam
moments. Every ZeRO stage cuts parameters differently: stage 0 not at all, 1 and 2 cut one flat
tensor of all parameters into equal parts, 3 cuts every parameter. Written as fragments with
their offsets, a checkpoint of any stage and world size can be read by any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """A piece of one parameter on this rank.

    Attributes:
        name: of the parameter.
        start: offset of the piece in the flattened parameter.
        numel: elements.
        flat: the tensor that the optimizer steps, of which this is a part (fp32).
        offset: of the piece in ``flat``.
    """

    name: str
    start: int
    numel: int
    flat: torch.nn.Parameter
    offset: int

    def view(self, key: str, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """The piece of the weight or of a moment, as a flat view."""
        whole = self.flat.data if key == WEIGHT else optimizer.state[self.flat][key]
        return whole.view(-1).narrow(0, self.offset, self.numel)


def local_fragments(
    engine: Any, stage: int, names: dict[torch.nn.Parameter, str], rank: int
) -> Iterator[Fragment]:
    """This rank's pieces of all trained parameters.

    Args:
        engine: a DeepSpeed engine (0.19).
        stage: its ZeRO stage.
        names: name of each trained parameter.
        rank: this rank; each has everything at stage 0.
    """
    if stage == 0:
        yield from (Fragment(n, 0, p.numel(), p, 0) for p, n in names.items())
    elif stage == 3:
        yield from _of_stage_3(engine.optimizer, names, rank)
    else:
        yield from _of_flat_groups(engine.optimizer, names)


def _of_flat_groups(optimizer: Any, names: dict[torch.nn.Parameter, str]) -> Iterator[Fragment]:
    """Stages 1 and 2, and DeepSpeed's bf16 optimizer."""
    flats = [group["params"][0] for group in optimizer.optimizer.param_groups]
    for parameter, name in names.items():
        found = getattr(parameter, "_hp_mapping", None)
        if found is None:
            continue  # this parameter lies wholly on other ranks
        lp, hp = found.lp_fragment_address, found.hp_fragment_address
        flat = flats[found.param_group_index]
        yield Fragment(name, int(lp.start), int(hp.numel), flat, int(hp.start))


def _of_stage_3(
    optimizer: Any, names: dict[torch.nn.Parameter, str], rank: int
) -> Iterator[Fragment]:
    parameter: Any
    for parameter, name in names.items():
        group, offset, part = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = rank * part
        numel = min(part, parameter.ds_numel - start)  # the last part is padded
        if numel > 0:
            flat = optimizer.fp32_partitioned_groups_flat[group]
            yield Fragment(name, start, int(numel), flat, int(offset))


def prepare_state(optimizer: torch.optim.Optimizer, flat: torch.nn.Parameter, step: int) -> None:
    """Give a tensor the optimizer state that it will have after ``step`` steps, moments zero.

    torch and DeepSpeed make it at the first step only.
    """
    # https://github.com/deepspeedai/DeepSpeed/pull/5263
    state = optimizer.state[flat]
    for key in MOMENTS:
        state[key] = torch.zeros_like(flat.data)
    if isinstance(optimizer, torch.optim.AdamW):
        fused = optimizer.param_groups[0]["fused"]
        state["step"] = torch.tensor(float(step), device=flat.device if fused else "cpu")
    else:
        state["step"] = step
