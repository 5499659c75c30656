"""Rules of the group ``scale``."""

from __future__ import annotations

from collections.abc import Iterator

from memo_dist.config.scale_schema import (
    ARMS,
    PRECISIONS,
    SOURCES,
    BiographyStudyConfig,
    GridConfig,
    ReflectionStudyConfig,
    ScaleConfig,
)
from memo_dist.errors import suggest

MAX_SYMBOLS = 1 << 20
SMALLEST_BPE = 259
REFLECTION_TOKENS = 256
"""Of the longest reflection that a study teaches."""


def scale_rules(scale: ScaleConfig) -> Iterator[str]:
    """A message for each broken rule."""
    yield from _names("scale.sources", scale.sources, SOURCES)
    yield from _names("scale.precisions", scale.precisions, PRECISIONS)
    yield from _names("scale.biographies.arms", scale.biographies.arms, ARMS)
    for name in SOURCES:
        yield from _grid(f"scale.{name}", getattr(scale, name))
    yield from _reflections(scale.reflections)
    if not 2 <= scale.random.vocabulary <= MAX_SYMBOLS:
        yield f"scale.random.vocabulary={scale.random.vocabulary} must be from 2 to {MAX_SYMBOLS}"
    if scale.random.length < 1:
        yield f"scale.random.length={scale.random.length} must be at least 1"
    yield from _biographies(scale.biographies)
    if "reflections" in scale.sources and not scale.reflections.run:
        yield "scale.reflections.run='' must name a run folder with finished synthesis"
    if scale.checkpoint_minutes <= 0:
        yield f"scale.checkpoint_minutes={scale.checkpoint_minutes} must be above 0"


def _names(key: str, values: list[str], known: tuple[str, ...]) -> Iterator[str]:
    for name in values:
        if name not in known:
            names = ", ".join(known)
            yield f"{key}: unknown name '{name}'{suggest(name, known)}; names are {names}"
    if len(set(values)) != len(values):
        yield f"{key}={values} names something twice"
    if not values:
        yield f"{key}=[] leaves nothing to do; name one of {', '.join(known)}"


def _grid(key: str, grid: GridConfig) -> Iterator[str]:
    for name in ("sizes", "loads", "exposures", "seeds"):
        values = getattr(grid, name)
        if not values or len(set(values)) != len(values):
            yield f"{key}.{name}={values} must name different values, at least one"
    for name in ("sizes", "predict", "loads", "predict_loads", "exposures", "lr_check"):
        if any(value <= 0 for value in getattr(grid, name)):
            yield f"{key}.{name}={getattr(grid, name)} must be above 0"
    if grid.predict and min(grid.predict) <= max(grid.sizes, default=0):
        yield f"{key}.predict={grid.predict} must be larger than every one of {key}.sizes"
    if grid.lr <= 0:
        yield f"{key}.lr={grid.lr} must be above 0"
    if grid.least_layers < 1:
        yield f"{key}.least_layers={grid.least_layers} must be at least 1"
    if grid.batch_tokens < 1:
        yield f"{key}.batch_tokens={grid.batch_tokens} must be at least 1"


def _biographies(study: BiographyStudyConfig) -> Iterator[str]:
    if not 2 <= study.templates <= 5:
        yield f"scale.biographies.templates={study.templates} must be from 2 to 5"
    if study.junk < 0:
        yield f"scale.biographies.junk={study.junk} must be at least 0"


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
