"""The configuration of the scaling study: group ``scale``."""

from __future__ import annotations

from dataclasses import dataclass, field

from memo_dist.config.keys import key

MAX_SYMBOLS = 1 << 20
SOURCES = ("random", "biographies", "reflections")
"""What ``scale.sources`` may name."""
PRECISIONS = ("fp32", "bf16", "int8", "int4")
"""What ``scale.precisions`` may name."""
TEXTS = ("biography", "statements")
"""What ``scale.biographies.text`` may be."""
ARMS = ("plain", "junk", "source_token")
"""What ``scale.biographies.arms`` may name."""


@dataclass
class GridConfig:
    """The cells of one source: sizes x loads x exposures x seeds, and checks beside them."""

    sizes: list[int] = key([6000, 12000, 24000, 48000], above=0)
    """Parameters of the memories that the laws are fitted to (tied embeddings counted once)."""
    predict: list[int] = key([], above=0)
    """Larger sizes, left out of the fit: predicted first, trained afterwards."""
    loads: list[float] = key([0.5, 1.0, 2.0, 4.0, 8.0], above=0)
    """Knowledge offered, in bits per parameter: each size meets its own saturation."""
    predict_loads: list[float] = key([], above=0)
    """Loads of the predicted sizes; empty: all of them."""
    exposures: list[int] = key([400], above=0)
    """Times that each piece of knowledge is read."""
    least_layers: int = key(2, at_least=1)
    """Fewest layers of a memory: small sizes of one layer would store otherwise than the rest."""
    seeds: list[int] = field(default_factory=lambda: [1, 2])
    """Seeds; each draws its own knowledge, first weights and order."""
    lr: float = key(0.025, above=0)
    """Peak learning rate of a memory of 10,000 parameters."""
    lr_exponent: float = 0.75
    """The peak falls with parameters to the power of minus this (see docs/scaling.md)."""
    lr_check: list[float] = key([0.5, 2.0], above=0)
    """The rule is checked at these multiples of it, for every size, at the last load but one."""
    batch_tokens: int = key(512, at_least=1)
    """Tokens that an optimizer step reads; fewer where all knowledge is less."""


@dataclass
class RandomStudyConfig(GridConfig):
    """Uniform random sequences: raw storage."""

    vocabulary: int = key(64, between=(2, MAX_SYMBOLS))
    """Symbols; a sequence holds length x log2(vocabulary) bits."""
    length: int = key(64, at_least=1)
    """Symbols of a sequence."""


@dataclass
class BiographyStudyConfig(GridConfig):
    """Invented people with exactly known bits."""

    exposures: list[int] = key([100], above=0)
    """Times that each person's biography is read."""
    loads: list[float] = key([0.5, 1.0, 2.0], above=0)
    """Knowledge offered, in bits per parameter."""
    text: str = key("biography", choices=TEXTS)
    """``biography``: a person's sentences in one row, mostly with a pronoun; ``statements``: each
    in a row of its own with the full name, as reflections are."""
    templates: int = key(5, between=(2, 5))
    """Wordings of each statement; one is left out for every person and asked at the end."""
    asked_fraction: float = key(0.5, fraction=True)
    """People who are also read as questions and answers, as a fraction; the others are asked."""
    arms: list[str] = key(["plain"], names=ARMS)
    """``plain``; ``junk``: among texts about people who are read once; ``source_token``: the same,
    and each useful text begins with a token of its source."""
    junk: float = key(7.0, at_least=0)
    """Texts of junk a useful one, in the arms that have junk."""


@dataclass
class ReflectionStudyConfig(GridConfig):
    """The reflections of a run: real knowledge, measured against the memory before training."""

    run: str = ""
    """Run folder with finished synthesis."""
    documents: list[int] = field(default_factory=lambda: [8, 32, 128])
    """Documents taught, the first ones in order of their ids' hashes; ``loads`` is not used."""
    vocabulary: int = 1024
    """BPE vocabulary of the memories, made from the reflections."""
    exposures: list[int] = key([20], above=0)
    """Passes over the reflections."""


@dataclass
class ScaleConfig:
    """The scaling study: how large a memory is needed for how much knowledge."""

    sources: list[str] = key(["random"], names=SOURCES)
    """Knowledge that is measured: ``random``, ``biographies``, ``reflections``."""
    random: RandomStudyConfig = field(default_factory=RandomStudyConfig)
    """Uniform sequences."""
    biographies: BiographyStudyConfig = field(default_factory=BiographyStudyConfig)
    """Invented people."""
    reflections: ReflectionStudyConfig = field(default_factory=ReflectionStudyConfig)
    """A real corpus."""
    precision: str = key("auto", choices=("auto", "fp32", "bf16"))
    """Of training: ``fp32``, ``bf16``, or ``auto`` (bf16 on GPUs that have it)."""
    precisions: list[str] = key(list(PRECISIONS), names=PRECISIONS)
    """Precisions that the trained weights are rounded to and measured in."""
    warmup_fraction: float = key(0.02, fraction=True)
    """Fraction of the steps over which the learning rate rises; then it falls as a cosine."""
    full: float = key(0.995, fraction=True)
    """A cell ends early once this fraction of its knowledge is memorised; 0: never."""
    saturated: float = key(0.0, fraction=True)
    """A load is skipped when the two loads below it differ by less than this fraction in bits
    memorised; 0: never."""
    measurements: int = key(16, at_least=1)
    """Measurements while a cell trains, evenly spread over its steps."""
    checkpoint_minutes: float = key(1.0, above=0)
    """Minutes between checkpoints of a cell."""
    cell_threads: int = key(1, at_least=1)
    """Cores of a cell on a CPU."""
    cell_gpu: float = key(0.0, fraction=True)
    """Fraction of a GPU that a cell reserves; 0: by its size."""
    partitions: int = key(4, at_least=1)
    """Array tasks that a scheduler may run the cells in (``scale run --only-partition``)."""
    max_failures: int = key(2, at_least=0)
    """Times that a cell whose worker died is started again in one launch."""
    bootstrap: int = key(500, at_least=20)
    """Bootstrap resamples of the fits."""
