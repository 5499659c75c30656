"""Hidden states of examples, computed once in a training and kept in a file.

Packed examples do not see each other, so what a fixed module makes of an example is the same in
every epoch. Ranks share the rows, which have a fixed order: equal bytes whoever computes them and
whenever. A marker that rank 0 writes last tells a later start that the file is whole.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.errors import StoppedError
from memo_dist.io import atomic
from memo_dist.io.marker import both_hashes, damage
from memo_dist.training.batch import pack_row
from memo_dist.training.examples import Examples
from memo_dist.training.packing import rows_in_order

Run = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]
"""From (token ids [1, tokens], positions [1, tokens], lengths) to states [1, tokens, width]."""

_log = logging.getLogger(__name__)


def kept_states(  # noqa: PLR0913
    file: Path, like: np.ndarray, run: Run, examples: Examples, row_tokens: int, ranks: Ranks,
    device: torch.device, identity: str, on_row: Callable[[float], bool],
) -> np.ndarray:  # fmt: skip
    """States of all examples as a read-only map of a file; collective.

    Args:
        file: ``.npy``; its marker is the ``.json`` beside it.
        like: [0, width], of the dtype that is kept (int16: the bits of bf16).
        run: the module.
        examples: whose tokens it gets.
        row_tokens: most tokens in a row.
        ranks: this rank's place.
        device: to compute on.
        identity: of the training; a file of another one is replaced.
        on_row: called after each row with the fraction that is done; False ends the work.

    Raises:
        StoppedError: ``on_row`` ended it on some rank; the next launch begins again.
    """
    marker = file.with_suffix(".json")
    if not _is_whole(marker, identity, ranks, device):
        ranks.barrier()  # every rank has looked before rank 0 begins
        if ranks.is_first:
            marker.unlink(missing_ok=True)
            shape = (len(examples.ids), like.shape[1])
            np.lib.format.open_memmap(file, "w+", like.dtype, shape).flush()
        ranks.barrier()
        rows = rows_in_order(examples.lengths, row_tokens)
        mine, done = rows[ranks.rank :: ranks.world], 0
        goes_on = True
        first = np.load(file, mmap_mode="r").offset
        # Not through a map: on NFS a written page replaces what another node wrote into it.
        with file.open("r+b") as out:
            while goes_on and done < len(mine):
                states = _states(run, examples, mine[done], device)
                out.seek(first + int(examples.starts[mine[done].start]) * states[0].nbytes)
                out.write(states.tobytes())
                done += 1
                goes_on = on_row(done * ranks.world / len(rows))
            out.flush()
            os.fsync(out.fileno())
        stopped = done < len(mine)
        if ranks.any([stopped], device)[0]:
            raise StoppedError("stopped before the states of all examples were computed")
        ranks.barrier()
        if ranks.is_first:
            values = {"job": identity, "tokens": len(examples.ids)}
            atomic.write_json(marker, {**values, **both_hashes(file.parent, [file.name])})
    ranks.barrier()
    kept: np.ndarray = np.load(file, mmap_mode="r").view(np.ndarray)
    return kept


def fill(
    out: np.ndarray, run: Run, examples: Examples, indices: range, device: torch.device
) -> None:
    """Write the states of a row of examples to their places."""
    start, stop = examples.starts[indices.start], examples.starts[indices.stop]
    out[start:stop] = _states(run, examples, indices, device)


@torch.no_grad()
def _states(run: Run, examples: Examples, indices: range, device: torch.device) -> np.ndarray:
    """[tokens, width], of the dtype that is kept, of a row of examples."""
    row = pack_row(examples, indices).to(device)
    hidden = run(row.inputs, row.position_ids, row.lengths)[0].cpu()
    bits = hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden
    found: np.ndarray = bits.numpy()
    return found


def empty(decoder: Any, tokens: int) -> np.ndarray:
    """Room for the states of ``tokens`` tokens of a decoder."""
    weight = decoder.get_input_embeddings().weight
    kind = np.int16 if weight.dtype == torch.bfloat16 else np.float32
    return np.empty((tokens, decoder.config.hidden_size), kind)


def _is_whole(marker: Path, identity: str, ranks: Ranks, device: torch.device) -> bool:
    """Whether there are undamaged states of this training; collective."""
    lost = not marker.exists() or atomic.read_json(marker).get("job") != identity
    if not lost and ranks.is_first:
        lines = damage(marker)
        if lines:
            _log.warning("%s; they are computed again", "; ".join(lines))
        lost = bool(lines)
    return not ranks.any([lost], device)[0]
