"""Eager PyTorch definitions of the mix_logits family; the fallback without compiled kernels.

Shapes: ``logits`` is S tensors [rows, vocabulary]; ``log_weights`` [rows, S]; temperatures S
numbers. Sums run in float32, or float64 where ``log_weights`` is. Rules that a plain composition
does not have: a source of weight ``-inf`` is not read (its NaNs do not count, its gradient is 0);
a token that no source can emit has log-prob ``-inf`` and gradient 0.
https://github.com/pytorch/pytorch/issues/49724
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memo_dist.fusion.ops import noise

Logits = Sequence[Tensor]


def _log_probs_of(logits: Tensor, temperature: float, real: torch.dtype) -> Tensor:
    return torch.log_softmax(logits.to(real) / temperature, dim=-1)


def _log_shares(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float], source: int
) -> Tensor:
    """``log_weight + log_softmax`` of one source, ``-inf`` where it has no weight."""
    weight = log_weights[:, source : source + 1]
    shares = weight + _log_probs_of(logits[source], temperatures[source], log_weights.dtype)
    return torch.where(weight == -torch.inf, -torch.inf, shares)


def _mixed(logits: Logits, log_weights: Tensor, temperatures: Sequence[float]) -> Tensor:
    total = _log_shares(logits, log_weights, temperatures, 0)
    for source in range(1, len(logits)):
        total = torch.logaddexp(total, _log_shares(logits, log_weights, temperatures, source))
    return total


def _normalisers(logits: Logits, log_weights: Tensor, temperatures: Sequence[float]) -> Tensor:
    """[rows, S, 2]: largest logit, and log2 of the sum of exponentials relative to it."""
    parts = []
    for source, temperature in enumerate(temperatures):
        values = logits[source].to(log_weights.dtype)
        largest = values.amax(-1) if values.shape[1] else values.new_zeros(len(values))
        total = ((values - largest[:, None]) / temperature).exp().sum(-1).log2()
        both = torch.stack([largest, total], dim=-1)
        unread = log_weights[:, source, None] == -torch.inf
        parts.append(torch.where(unread, torch.zeros_like(both), both))
    return torch.stack(parts, dim=1)


def mix_logits(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mixed log-probs [rows, vocabulary], and the normalisers that the backward pass reads."""
    mixed = _mixed(logits, log_weights, temperatures).to(dtype)
    return mixed, _normalisers(logits, log_weights, temperatures)


def mix_logits_target(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float], targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of the targets [rows], the sources' shares in it [rows, S], the normalisers."""
    exists = ((targets >= 0) & (targets < logits[0].shape[1]))[:, None]
    index = targets[:, None].where(exists, 0)
    shares = torch.cat(
        [
            _log_shares(logits, log_weights, temperatures, source).gather(1, index)
            for source in range(len(logits))
        ],
        dim=1,
    ).where(exists, -torch.inf)
    total = torch.logsumexp(shares, dim=1)
    posterior = (shares - total[:, None].nan_to_num(nan=torch.nan, neginf=0.0)).exp()
    log_probs = total.where(exists[:, 0], 0.0)
    return log_probs, posterior, _normalisers(logits, log_weights, temperatures)


def mix_logits_topk(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float], k: int
) -> tuple[Tensor, Tensor]:
    """Log-probs and tokens [rows, k], largest first, then by token; token -1 in rows with NaN."""
    mixed = _mixed(logits, log_weights, temperatures)
    if k == 1:
        values, tokens = mixed.max(dim=-1, keepdim=True)
    else:
        values, tokens = (x[:, :k] for x in mixed.sort(dim=-1, descending=True, stable=True))
    return _without_nan(mixed, values, tokens)


def mix_logits_sample(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float], seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-prob and token [rows] of a two-level Gumbel-max sample (kernels/.../random.h)."""
    mixed = _mixed(logits, log_weights, temperatures)
    rows, vocabulary = mixed.shape
    tiles = -(-vocabulary // noise.TILE)
    padding = tiles * noise.TILE - vocabulary
    padded = torch.nn.functional.pad(mixed, (0, padding), value=-torch.inf)
    by_tile = padded.view(rows, tiles, noise.TILE)
    tile_index = torch.arange(tiles, device=mixed.device)
    tile_noise = noise.gumbel(seeds[:, None], tile_index, noise.TILE_STREAM)
    tile = (torch.logsumexp(by_tile, dim=-1) + tile_noise).argmax(dim=-1)
    index = tile[:, None] * noise.TILE + torch.arange(noise.TILE, device=mixed.device)
    scores = padded.gather(1, index) + noise.gumbel(seeds[:, None], index, noise.TOKEN_STREAM)
    tokens = index.gather(1, scores.argmax(dim=-1, keepdim=True))
    values, tokens = _without_nan(mixed, padded.gather(1, tokens), tokens)
    return values[:, 0], tokens[:, 0]


def _without_nan(mixed: Tensor, values: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """A row with NaN has no token: value NaN, token -1."""
    bad = mixed.isnan().any(dim=-1, keepdim=True)
    return values.where(~bad, torch.nan), tokens.where(~bad, -1)


def mix_logits_features(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entropies, largest log-probs and argmaxes [rows, S], and the divergence [rows], in nats."""
    read = log_weights > -torch.inf
    mixed = _mixed(logits, log_weights, temperatures)
    entropies, largest, argmaxes = [], [], []
    divergence = mixed.new_zeros(len(mixed))
    for source, temperature in enumerate(temperatures):
        log_probs = _log_probs_of(logits[source], temperature, log_weights.dtype)
        entropies.append(-_expectation(log_probs, log_probs))
        value, token = _without_nan(log_probs, *log_probs.max(dim=-1, keepdim=True))
        largest.append(value[:, 0].where(read[:, source], torch.nan))
        argmaxes.append(token[:, 0].where(read[:, source], -1))
        weight = log_weights[:, source].exp()
        part = weight * _expectation(log_probs, log_probs - mixed)
        divergence = divergence + part.where(read[:, source], 0.0)
    entropy = torch.stack(entropies, dim=1).where(read, torch.nan)
    found = divergence.clamp(min=0.0).where(~mixed.isnan().any(dim=-1), torch.nan)
    return entropy, torch.stack(largest, dim=1), torch.stack(argmaxes, dim=1), found


def _expectation(log_probs: Tensor, values: Tensor) -> Tensor:
    """Sum of ``exp(log_probs) * values``; a token of probability 0 adds 0, NaN stays."""
    probs = log_probs.exp()
    return torch.where(probs == 0, 0.0, probs * values).sum(dim=-1)


def _posterior(
    logits: Logits, log_weights: Tensor, temperatures: Sequence[float], source: int, mixed: Tensor
) -> Tensor:
    """Share of a source in every token's probability; 0 where the token has none."""
    shares = _log_shares(logits, log_weights, temperatures, source)
    return torch.where(mixed == -torch.inf, 0.0, (shares - mixed).exp())


def mix_logits_grad_weights(
    grad: Tensor,
    logits: Logits,
    log_weights: Tensor,
    temperatures: Sequence[float],
    normalisers: Tensor,
) -> Tensor:
    """Gradient of the log weights [rows, S]: sum over tokens of gradient times posterior."""
    mixed = _mixed(logits, log_weights, temperatures)
    real = grad.to(log_weights.dtype)
    totals = [
        (real * _posterior(logits, log_weights, temperatures, source, mixed)).sum(dim=-1)
        for source in range(len(logits))
    ]
    return torch.stack(totals, dim=1)


def mix_logits_grad_source(
    grad: Tensor,
    grad_weights: Tensor,
    logits: Logits,
    log_weights: Tensor,
    temperatures: Sequence[float],
    normalisers: Tensor,
    source: int,
) -> Tensor:
    """Gradient of one source's logits [rows, vocabulary], in their dtype."""
    mixed = _mixed(logits, log_weights, temperatures)
    posterior = _posterior(logits, log_weights, temperatures, source, mixed)
    pushed = grad.to(log_weights.dtype) * posterior
    return _through_softmax(pushed, grad_weights, logits, log_weights, temperatures[source], source)


def mix_logits_target_grad_source(
    grad_weights: Tensor,
    logits: Logits,
    log_weights: Tensor,
    temperatures: Sequence[float],
    targets: Tensor,
    normalisers: Tensor,
    source: int,
) -> Tensor:
    """The same where the gradient arrives at one token of each row."""
    exists = ((targets >= 0) & (targets < logits[0].shape[1]))[:, None]
    pushed = torch.zeros_like(logits[source], dtype=log_weights.dtype)
    total = grad_weights[:, source : source + 1].where(exists, 0.0)
    pushed.scatter_(1, targets[:, None].where(exists, 0), total)
    return _through_softmax(pushed, grad_weights, logits, log_weights, temperatures[source], source)


def _through_softmax(
    pushed: Tensor,
    grad_weights: Tensor,
    logits: Logits,
    log_weights: Tensor,
    temperature: float,
    source: int,
) -> Tensor:
    """``(pushed - p * total) / temperature``, 0 in rows where the source has no weight."""
    probs = _log_probs_of(logits[source], temperature, log_weights.dtype).exp()
    grad = (pushed - probs * grad_weights[:, source : source + 1]) / temperature
    unread = log_weights[:, source : source + 1] == -torch.inf
    return torch.where(unread, 0.0, grad).to(logits[source].dtype)
