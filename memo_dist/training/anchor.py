"""The untrained base's states on replayed text, near which a memory is held.

A penalty beta KL(p_base || p_memory) on other text keeps what the base can do while it learns
facts (in the spirit of learning without forgetting, arXiv 1606.09282). The base's distributions
follow from the states that its output layer gets, [tokens, width] instead of [tokens, vocabulary]:
they are computed once, before the first step, and kept in ``anchor.npy``.
"""

from __future__ import annotations

import numpy as np
import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.training.examples import Examples
from memo_dist.training.job import TrainJob
from memo_dist.training.model import RankModel
from memo_dist.training.states import empty, kept_states

FILE = "anchor.npy"


def base_states(job: TrainJob, model: RankModel, replayed: Examples, ranks: Ranks) -> np.ndarray:
    """What the output layer of the untrained model gets at each replayed token; collective.

    Args:
        job: the training's.
        model: before its first step and before a checkpoint is read; it adds the anchor's loss
            from here on. On GPUs it must fit into one as a whole.
        replayed: the examples.
        ranks: this rank's place.

    Returns:
        [tokens, width], fp32 or the bits of bf16 (int16), a read-only map of a file.

    Raises:
        UsageError: the model's logits are no plain product of its states.
    """
    model.rows.hold_to_base(job.train.anchor_kl)
    device = ranks.device
    rows = model.rows.to(device).eval()
    frozen = model.frozen
    if frozen is not None:
        frozen.decoder.to(device)

    def run(ids: torch.Tensor, positions: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        inputs = ids if frozen is None else frozen.run(ids, positions, lengths)
        return rows.base_states(inputs, positions, lengths)

    like = empty(rows.decoder if frozen is None else frozen.decoder, 0)
    states = kept_states(
        job.path / FILE, like, run, replayed, job.train.micro_batch_tokens, ranks, device,
        job.identity, lambda part: True,
    )  # fmt: skip
    rows.train()
    return states
