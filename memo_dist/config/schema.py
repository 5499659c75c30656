"""The configuration: a tree of dataclasses; the docstring under a field is its help text.

Groups that change a stage's result enter that stage's hash (see ``memo_dist.config.stages``);
``cluster`` and ``track`` never do: the same run may move to another machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BASELINES = ("closed_book", "bm25", "oracle")
"""What ``evaluate.baselines`` may name."""
TRACKERS = ("tensorboard", "wandb", "mlflow")
"""What ``track.to`` may name."""


@dataclass
class RunConfig:
    """The run as a whole."""

    seed: int = 17
    """Seed of everything random: base initialisation, data order, calibration split, bootstrap."""


@dataclass
class CorpusConfig:
    """How documents are read and cut."""

    shards: int = 1
    """Number of bank shards K; a document's shard is sha256(id) mod K."""
    chunk_chars: int = 2000
    """Largest chunk, in characters; chunks end on sentence borders."""
    overlap_sentences: int = 1
    """Sentences that a chunk repeats from the one before."""
    max_document_mb: float = 20.0
    """Larger files are quarantined as enormous (MiB)."""
    max_quarantined_fraction: float = 0.5
    """The corpus stage fails when a larger fraction of files was unreadable."""
    max_documents: int = 0
    """Read only the first N documents in id order; 0 reads all."""


@dataclass
class GeneratorConfig:
    """What writes the reflections."""

    kind: str = "embedded"
    """``embedded``: rules and NLP parts inside the package, no service needed."""


@dataclass
class SynthesisConfig:
    """The steps from chunks to reflections."""

    partitions: int = 4
    """Units of parallel work, fixed in each step's manifest."""
    documents_per_unit: int = 8
    """Documents journaled together: what a crash can lose."""
    steps: list[str] = field(
        default_factory=lambda: ["direct", "indirect", "paraphrase", "abstain"]
    )
    """Steps to run, in this order."""
    phrasings: int = 4
    """Wordings of each fact's question, the original included."""
    abstain_fraction: float = 0.15
    """Abstention examples as a fraction of the other facts."""
    max_rejected_fraction: float = 0.6
    """A step fails when a larger fraction of its units failed (rejected candidates only count)."""
    max_question_chars: int = 500
    """Longer questions are dropped, in characters."""
    max_answer_chars: int = 800
    """Longer answers are dropped, in characters."""


@dataclass
class ScratchConfig:
    """The model that ``memory.base=scratch`` builds (a Llama with its own BPE)."""

    vocabulary: int = 4096
    """BPE vocabulary size, special tokens included."""
    hidden_size: int = 256
    """Width of the residual stream."""
    layers: int = 4
    """Number of decoder layers."""
    heads: int = 4
    """Attention heads; must divide hidden_size."""
    intermediate_size: int = 704
    """Width of the MLP."""


@dataclass
class MemoryConfig:
    """The model that remembers."""

    base: str = "smollm2-135m"
    """``smollm2-135m`` (embedded), ``scratch``, a local folder, or a hub id."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    """Shape of the scratch model."""
    max_answer_tokens: int = 48
    """Longest generated answer, in tokens."""
    calibration_facts: int = 96
    """Facts whose one wording is held out of training to calibrate the confidence."""
    loaded_gb: float = 0.0
    """GiB of shard weights kept loaded while answering; the bank's other full shards are loaded
    one after the other for each call; 0: what the device has room for."""


@dataclass
class TrainConfig:
    """Training a shard memory."""

    source: str = "reflections"
    """``reflections``, or ``documents``: their raw text, loss on every token (for comparison)."""
    epochs: int = 3
    """Passes over the shard's reflections."""
    max_minutes: float = 0.0
    """Training stops after this many minutes of stepping, restarts counted in; 0: no limit."""
    max_steps: int = 0
    """Training stops after this many optimizer steps; 0: no limit."""
    lr: float = 2e-5
    """Peak learning rate."""
    schedule: str = "constant"
    """``constant``, ``linear`` or ``cosine`` after the warm-up."""
    warmup_fraction: float = 0.05
    """Fraction of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW betas."""
    clip: float = 1.0
    """Gradient norm limit; 0: none."""
    batch_tokens: int = 4096
    """Tokens in an optimizer step, over all ranks and micro-batches."""
    micro_batch_tokens: int = 1024
    """Tokens packed into one row of one rank's forward pass."""
    trained_layers: int = 0
    """Train only the last N decoder layers (and final norm); 0: train everything."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    deepspeed: str = ""
    """DeepSpeed JSON file merged over the generated one; empty: none."""
    precision: str = "auto"
    """``fp32``, ``bf16`` or ``auto`` (bf16 on GPUs that have it, else fp32)."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; 0: none by time."""
    checkpoint_steps: int = 0
    """Optimizer steps between checkpoints; 0: none by steps."""
    keep_checkpoints: int = 1
    """Complete checkpoints kept."""
    max_failures: int = 3
    """Worker deaths that one launch survives."""


@dataclass
class ExportConfig:
    """The exported memory."""

    dtype: str = "auto"
    """``float32``, ``bfloat16`` or ``auto`` (the training precision)."""
    adapter: str = "folded"
    """A LoRA training's export: ``folded`` into the base's weights (a full model), or ``kept`` as a
    PEFT adapter; the adapters of a bank share one base in memory."""


@dataclass
class EvaluateConfig:
    """Scoring."""

    limit: int = 0
    """Questions scored, the first N; 0: all."""
    baseline_limit: int = 0
    """Questions the bm25 and oracle baselines read, the first N; 0: as many as ``limit``."""
    baselines: list[str] = field(default_factory=lambda: ["closed_book", "bm25"])
    """Baselines beside the memory; empty: none."""
    passages: int = 3
    """Passages that the bm25 baseline reads."""
    bootstrap: int = 2000
    """Bootstrap resamples for the 95 % intervals."""
    batch_size: int = 16
    """Questions answered in one batch."""


@dataclass
class ClusterConfig:
    """Where it runs; never part of a result's identity."""

    address: str = ""
    """Ray address of a running cluster; empty starts one on this machine."""
    workers: int = 0
    """Training ranks a shard; 0: its share of the GPUs there are (all for one shard), or 1 on a
    CPU."""
    shards_at_once: int = 0
    """Shards of a bank that train side by side; 0: as many as there is room for."""
    synthesis_workers: int = 0
    """Ray workers for synthesis; 0: one a core."""
    threads: int = 0
    """Threads a training rank; 0: cores / workers."""
    start_timeout: float = 180.0
    """Seconds to wait for Ray and for placement before giving up with have/want."""


@dataclass
class TrackConfig:
    """Mirrors of a training's ``metrics.jsonl``; they may fail and never stop a run."""

    to: list[str] = field(default_factory=list)
    """``tensorboard``, ``wandb``, ``mlflow`` (each an extra to install); logins come from the
    environment."""
    project: str = "memo-dist"
    """W&B project, MLflow experiment."""


@dataclass
class Config:
    """The whole tree, as ``RUN/config.yaml`` holds it."""

    run: RunConfig = field(default_factory=RunConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
