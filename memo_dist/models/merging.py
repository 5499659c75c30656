"""Several fine-tuned models of one base become one: methods of the literature on model merging.

mergekit has ``linear``, ``slerp``, ``task``, ``ties`` and ``dare``; the other three are few lines
each here. W_k are the models' weights, W_0 the base's, tau_k = W_k - W_0.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memo_dist.errors import UsageError, install_hint
from memo_dist.models.identity import hash_vocabulary, quiet_loading
from memo_dist.models.loading import load_frozen
from memo_dist.models.weight_files import StoredWeights, WeightWriter

Rule = Callable[[torch.Tensor, list[torch.Tensor], float], torch.Tensor]
"""(W_0, every tau_k, scale) -> the merged weight, all float32 of one shape."""
_DENSITY = {"ties": 0.2, "dare": 0.5}
_MERGEKIT = {
    "linear": "linear",
    "slerp": "multislerp",
    "task": "task_arithmetic",
    "ties": "ties",
    "dare": "dare_linear",
}
"""Our names, and mergekit's: weight averaging (2203.05482), barycentre on the sphere, task
arithmetic (2212.04089), TIES (2306.01708), DARE (2311.03099)."""
_OWN = ("iso_c", "tsv", "regmean")
METHODS = (*_MERGEKIT, *_OWN)
_SHRINK = 0.9
"""RegMean's factor of the off-diagonal elements of Gram matrices."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte")


@dataclass(frozen=True)
class Merging:
    """How models become one.

    Attributes:
        method: one of :data:`METHODS`.
        scale: factor of the merged task vector; ``linear``, ``slerp`` and ``regmean`` have none.
        seed: of the weights that ``dare`` drops.
    """

    method: str
    scale: float = 1.0
    seed: int = 1


def merge_weights(
    merging: Merging,
    base: Path,
    models: Sequence[Path],
    texts: Sequence[Sequence[Sequence[int]]],
    target: Path,
) -> None:
    """Write the weights of the merged model into ``target``, under the names of the first model.

    Args:
        merging: the method.
        base: folder of the base model.
        models: folders of models that were trained from it, at least two, of one vocabulary.
        texts: token ids that each model was trained on, for ``regmean``.
        target: a folder.

    Raises:
        UsageError: vocabularies differ, or mergekit is needed and not installed.
    """
    if len({hash_vocabulary(folder) for folder in models}) > 1:
        raise UsageError("models of different vocabularies have no common weights to merge")
    if merging.method in _MERGEKIT:
        _by_mergekit(merging, base, models, target)
        return
    stored, first = [StoredWeights(folder) for folder in models], StoredWeights(base)
    grams = _grams(models, texts) if merging.method == "regmean" else []
    writer = WeightWriter(target)
    for name in stored[0].names:
        origin = first[name].float()
        taus = [weights[name].float() - origin for weights in stored]
        module = name.removesuffix(".weight")
        if grams and module in grams[0]:
            merged = origin + _regmean([gram[module] for gram in grams], taus)
        elif grams or origin.dim() != 2 or any(part in name for part in _EMBEDDINGS):
            merged = origin + torch.stack(taus).mean(0)
        else:
            merged = _RULES[merging.method](origin, taus, merging.scale)
        writer.add(name, merged.to(stored[0][name].dtype))
    writer.close()


def _iso_c(origin: torch.Tensor, taus: list[torch.Tensor], scale: float) -> torch.Tensor:
    """Iso-C (2502.04959): the summed task vector with all singular values their mean."""
    u, s, vh = torch.linalg.svd(torch.stack(taus).sum(0), full_matrices=False)
    merged: torch.Tensor = origin + scale * s.mean() * (u @ vh)
    return merged


def _tsv(origin: torch.Tensor, taus: list[torch.Tensor], scale: float) -> torch.Tensor:
    """TSV-Merge (2412.00081): each task's first singular vectors, made orthogonal to others'."""
    rank = max(1, min(origin.shape) // len(taus))
    parts = [torch.linalg.svd(tau, full_matrices=False) for tau in taus]
    left = _orthogonal(torch.cat([u[:, :rank] for u, _, _ in parts], 1))
    right = _orthogonal(torch.cat([vh[:rank] for _, _, vh in parts], 0))
    values = torch.cat([s[:rank] for _, s, _ in parts])
    return origin + scale * (left * values) @ right


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns or rows (Procrustes)."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    nearest: torch.Tensor = u @ vh
    return nearest


_RULES: dict[str, Rule] = {"iso_c": _iso_c, "tsv": _tsv}


def _regmean(grams: Sequence[torch.Tensor], taus: Sequence[torch.Tensor]) -> torch.Tensor:
    """RegMean (2212.09849): least squares over the inputs of every model's layer, closed form."""
    shrunk = [_SHRINK * gram + (1 - _SHRINK) * gram.diag().diag() for gram in grams]
    whole = torch.stack(shrunk).sum(0)
    whole += 1e-6 * whole.diag().mean() * torch.eye(len(whole))
    mixed = torch.stack([gram @ tau.T for gram, tau in zip(shrunk, taus, strict=True)]).sum(0)
    solved: torch.Tensor = torch.linalg.solve(whole, mixed)
    return solved.T


def _grams(
    models: Sequence[Path], texts: Sequence[Sequence[Sequence[int]]]
) -> list[dict[str, torch.Tensor]]:
    return [_gram(folder, rows) for folder, rows in zip(models, texts, strict=True)]


@torch.inference_mode()
def _gram(folder: Path, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """{linear layer: X^T X, float32 [inputs, inputs]} over a model's own texts."""
    model: Any = load_frozen(folder, "cpu")
    found: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).float()
            found[name] = found.get(name, 0) + x.T @ x

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(_EMBEDDINGS):
            module.register_forward_pre_hook(hook(name))
    for row in rows:
        model(torch.tensor([list(row)]))
    return found


def _by_mergekit(merging: Merging, base: Path, models: Sequence[Path], target: Path) -> None:
    try:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import MergeOptions, run_merge
    except ImportError as error:
        raise UsageError(
            f"--method {merging.method} needs mergekit ({error}): {install_hint('merge')}"
        ) from error
    name = _MERGEKIT[merging.method]
    weight = {"weight": 1.0 / len(models) if name == "linear" else 1.0}
    density = {"density": _DENSITY[merging.method]} if merging.method in _DENSITY else {}
    rows = [{"model": str(path.absolute()), "parameters": {**weight, **density}} for path in models]
    recipe: dict[str, Any] = {"merge_method": name, "models": rows, "dtype": "float32"}
    if name not in ("linear", "multislerp"):
        recipe["base_model"] = str(base.absolute())
        summed = {"lambda": merging.scale, "normalize": merging.method == "ties"}
        recipe["parameters"] = summed
    first = StoredWeights(models[0])
    with tempfile.TemporaryDirectory(prefix="memo-merge-") as made, quiet_loading():
        options = MergeOptions(quiet=True, random_seed=merging.seed, copy_tokenizer=False)
        run_merge(MergeConfiguration.model_validate(recipe), made, options)
        merged, writer = StoredWeights(Path(made)), WeightWriter(target)
        for tensor in first.names:
            writer.add(tensor, merged[tensor].to(first[tensor].dtype))
        writer.close()
