"""Rules of the group ``scale`` that span keys."""

from __future__ import annotations

from collections.abc import Iterator

from memo_dist.config.scale_schema import (
    ARMS,
    PRECISIONS,
    SOURCES,
    GridConfig,
    ReflectionStudyConfig,
    ScaleConfig,
)

SMALLEST_BPE = 259
REFLECTION_TOKENS = 256
"""Of the longest reflection that a study teaches."""


def scale_rules(scale: ScaleConfig) -> Iterator[str]:
    """A message for each broken rule."""
    yield from _distinct("scale.sources", scale.sources, SOURCES)
    yield from _distinct("scale.precisions", scale.precisions, PRECISIONS)
    yield from _distinct("scale.biographies.arms", scale.biographies.arms, ARMS)
    for name in SOURCES:
        yield from _grid(f"scale.{name}", getattr(scale, name))
    yield from _reflections(scale.reflections)
    if "reflections" in scale.sources and not scale.reflections.run:
        yield "scale.reflections.run='' must name a run folder with finished synthesis"


def _distinct(key: str, values: list[str], known: tuple[str, ...]) -> Iterator[str]:
    if len(set(values)) != len(values):
        yield f"{key}={values} names something twice"
    if not values:
        yield f"{key}=[] leaves nothing to do; name one of {', '.join(known)}"


def _grid(key: str, grid: GridConfig) -> Iterator[str]:
    for name in ("sizes", "loads", "exposures", "seeds"):
        values = getattr(grid, name)
        if not values or len(set(values)) != len(values):
            yield f"{key}.{name}={values} must name different values, at least one"
    if grid.predict and min(grid.predict) <= max(grid.sizes, default=0):
        yield f"{key}.predict={grid.predict} must be larger than every one of {key}.sizes"


def _reflections(study: ReflectionStudyConfig) -> Iterator[str]:
    if study.predict:
        yield (
            f"scale.reflections.predict={study.predict} must be empty: the volume of reflections is"
            " unknown, and without it no size can be predicted"
        )
    if study.batch_tokens % REFLECTION_TOKENS or not study.batch_tokens:
        yield (
            f"scale.reflections.batch_tokens={study.batch_tokens} must be a multiple of"
            f" {REFLECTION_TOKENS}, the tokens of the longest reflection"
        )
    documents = study.documents
    if not documents or min(documents) < 1 or len(set(documents)) != len(documents):
        yield f"scale.reflections.documents={documents} must name different numbers above 0"
    if study.vocabulary < SMALLEST_BPE:
        yield (
            f"scale.reflections.vocabulary={study.vocabulary} must be at least {SMALLEST_BPE}:"
            " every byte needs a token"
        )
