"""The configuration of the scaling study: group ``scale``."""

from __future__ import annotations

from dataclasses import dataclass, field

from memo_dist.config.keys import key

MAX_SYMBOLS = 1 << 20
SOURCES = ("random", "biographies", "reflections")
"""Names for ``scale.sources``."""
PRECISIONS = ("fp32", "bf16", "int8", "int4")
"""Names for ``scale.precisions``."""
TEXTS = ("biography", "statements")
"""Values of ``scale.biographies.text``."""
ARMS = ("plain", "junk", "source_token")
"""Names for ``scale.biographies.arms``."""


@dataclass
class GridConfig:
    """The cells of one source: sizes x loads x exposures x seeds, and additional checks."""

    sizes: list[int] = key([6000, 12000, 24000, 48000], above=0)
    """Sizes of the memories in the fit, in parameters (tied embeddings count once)."""
    predict: list[int] = key([], above=0)
    """Larger sizes outside the fit: first predicted, then trained."""
    loads: list[float] = key([0.5, 1.0, 2.0, 4.0, 8.0], above=0)
    """Amounts of knowledge to train on, in bits per parameter, high enough for each size to reach
    saturation."""
    predict_loads: list[float] = key([], above=0)
    """Loads of the predicted sizes; empty: all of them."""
    exposures: list[int] = key([400], above=0)
    """Number of repetitions of each piece of knowledge in training."""
    least_layers: int = key(2, at_least=1)
    """Minimum number of layers of a memory; one-layer models store knowledge differently from
    deeper ones."""
    seeds: list[int] = field(default_factory=lambda: [1, 2])
    """Random seeds; each draws its own knowledge, initial weights and order."""
    lr: float = key(0.025, above=0)
    """Peak learning rate of a memory of 10,000 parameters."""
    lr_exponent: float = 0.75
    """The peak learning rate is proportional to parameters to the power of minus this exponent (see
    docs/scaling.md)."""
    lr_check: list[float] = key([0.5, 2.0], above=0)
    """Factors by which the learning rate is varied to check its rule, for every size at the
    second-to-last load."""
    batch_tokens: int = key(512, at_least=1)
    """Tokens per optimizer step; fewer if all the knowledge has fewer tokens."""


@dataclass
class RandomStudyConfig(GridConfig):
    """Uniform random sequences: raw storage."""

    vocabulary: int = key(64, between=(2, MAX_SYMBOLS))
    """Number of symbols; a sequence holds length x log2(vocabulary) bits."""
    length: int = key(64, at_least=1)
    """Symbols per sequence."""


@dataclass
class BiographyStudyConfig(GridConfig):
    """Invented people with an exactly known number of bits."""

    exposures: list[int] = key([100], above=0)
    """Number of repetitions of each biography in training."""
    loads: list[float] = key([0.5, 1.0, 2.0], above=0)
    """Amounts of knowledge to train on, in bits per parameter."""
    text: str = key("biography", choices=TEXTS)
    """``biography``: the sentences about a person in one row, mostly with a pronoun;
    ``statements``: each sentence in a row of its own with the full name, like reflections."""
    templates: int = key(5, between=(2, 5))
    """Number of wordings per statement; one per person is held out and tested at the end."""
    asked_fraction: float = key(0.5, fraction=True)
    """Fraction of people with questions and answers in training; the others are for testing."""
    arms: list[str] = key(["plain"], names=ARMS)
    """Variants of the training data: ``plain``; ``junk``: mixed with texts about other people, each
    shown once; ``source_token``: like ``junk``, and each useful text begins with a token of its
    source."""
    junk: float = key(7.0, at_least=0)
    """Number of junk texts per useful text, in the arms with junk."""


@dataclass
class ReflectionStudyConfig(GridConfig):
    """The reflections of a run: real knowledge, compared with the untrained memory."""

    run: str = ""
    """Run folder with finished synthesis."""
    documents: list[int] = field(default_factory=lambda: [8, 32, 128])
    """Numbers of documents to train on, chosen by the hashes of their ids; ``loads`` is not
    used."""
    vocabulary: int = 1024
    """BPE vocabulary size of the memories, learned from the reflections."""
    exposures: list[int] = key([20], above=0)
    """Number of passes over the reflections."""


@dataclass
class ScaleConfig:
    """The scaling study: how much knowledge a memory of a given size can store."""

    sources: list[str] = key(["random"], names=SOURCES)
    """Kinds of knowledge to measure: ``random``, ``biographies``, ``reflections``."""
    random: RandomStudyConfig = field(default_factory=RandomStudyConfig)
    """Uniform sequences."""
    biographies: BiographyStudyConfig = field(default_factory=BiographyStudyConfig)
    """Invented people."""
    reflections: ReflectionStudyConfig = field(default_factory=ReflectionStudyConfig)
    """A real corpus."""
    precision: str = key("auto", choices=("auto", "fp32", "bf16"))
    """Training precision: ``fp32``, ``bf16``, or ``auto`` (bf16 on GPUs that support it)."""
    precisions: list[str] = key(list(PRECISIONS), names=PRECISIONS)
    """Precisions to which the trained weights are rounded for measurement."""
    warmup_fraction: float = key(0.02, fraction=True)
    """Fraction of the steps over which the learning rate rises; then it decays as a cosine."""
    full: float = key(0.995, fraction=True)
    """Fraction of its knowledge that a cell (one training) memorises before it ends early; 0: no
    early end."""
    saturated: float = key(0.0, fraction=True)
    """A load is skipped if the memorised bits at the two previous loads differ by less than this
    fraction; 0: no load is skipped."""
    measurements: int = key(16, at_least=1)
    """Number of measurements per cell during training, evenly spread over its steps."""
    checkpoint_minutes: float = key(1.0, above=0)
    """Minutes between checkpoints of a cell."""
    cell_threads: int = key(1, at_least=1)
    """Cores per cell on a CPU."""
    cell_gpu: float = key(0.0, fraction=True)
    """Fraction of a GPU per cell; 0: derived from its size."""
    partitions: int = key(4, at_least=1)
    """Number of array tasks for the cells (``scale run --only-partition``)."""
    max_failures: int = key(2, at_least=0)
    """Maximum number of restarts per launch of a cell whose worker failed."""
    bootstrap: int = key(500, at_least=20)
    """Bootstrap resamples of the fits."""
