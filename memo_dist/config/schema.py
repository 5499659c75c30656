"""The configuration: a tree of dataclasses; the docstring under a field is its help text.

A field's bounds, choices and part in a stage's identity stand in its ``key(...)``.
Groups that change a stage's result enter that stage's hash (see ``memo_dist.config.stages``);
``cluster``, ``launch`` and ``track`` never do: the same run may move to another machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memo_dist.config.compare_schema import CompareConfig
from memo_dist.config.fusion_schema import FusionConfig
from memo_dist.config.keys import key
from memo_dist.config.knowledge_schema import KnowledgeConfig
from memo_dist.config.model_schema import ExecutiveConfig, GeneratorConfig, ProtocolConfig
from memo_dist.config.scale_schema import ScaleConfig
from memo_dist.config.serve_schema import ServeConfig

BASELINES = ("lookup", "closed_book", "bm25", "oracle")
"""Names for ``evaluate.baselines``."""
TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Names for ``track.to``."""
RECIPES = ("auto", "single-node", "multi-node", "ray", "array", "chain")
"""Values of ``launch.recipe``."""


@dataclass
class RunConfig:
    """The run as a whole."""

    seed: int = 17
    """Random seed of base initialisation, data order, calibration split and bootstrap."""
    group_readable: bool = key(False, identity=False)
    """Let the group of the run folder read it. Otherwise only its owner can (mode 0700)."""


@dataclass
class CorpusConfig:
    """How documents are read and cut into chunks."""

    shards: int = key(1, at_least=1)
    """Number of bank shards K; a document's shard is sha256(id) mod K."""
    chunk_chars: int = key(2000, at_least=200)
    """Maximum chunk size, in characters; chunks end at sentence boundaries."""
    overlap_sentences: int = key(1, at_least=0)
    """Number of sentences that a chunk repeats from the end of the previous chunk."""
    max_document_mb: float = key(20.0, above=0)
    """Maximum file size in MiB; larger files are quarantined."""
    max_quarantined_fraction: float = key(0.5, fraction=True, identity=False)
    """Maximum fraction of unreadable files; above it the corpus stage fails."""
    max_documents: int = key(0, at_least=0)
    """Read only the first N documents in id order; 0 reads all."""
    seconds_per_document: float = key(300.0, above=0, identity=False)
    """Longest time to read one document, in seconds; a document that takes longer is
    quarantined."""
    megabytes_per_document: int = key(2048, at_least=64, identity=False)
    """Most memory to read one document, in MiB, beyond what the reader needs itself; a document
    that needs more is quarantined."""
    trusted: bool = key(True, identity=False)  # its manifest identifies a corpus by it
    """Whether the documents are your own. ``false`` for texts that others wrote or can change: a
    call of a language model reads one document (no step ``cross``), control tokens and borders in
    texts are broken up, and all names, numbers and answer words of a pair must stand in the
    documents that it cites."""
    languages: list[str] = key([], identity=False)  # its manifest identifies a corpus by them
    """ISO 639-1 codes of the languages to keep; a document that is surely in another one is
    quarantined. Empty: ``en`` for ``generator.kind=rules``, which reads English only; all languages
    for other generators."""


@dataclass
class SynthesisConfig:
    """How chunks become reflections."""

    partitions: int = key(4, at_least=1)
    """Number of partitions (units of parallel work), fixed in the manifest of each step."""
    documents_per_unit: int = key(8, at_least=1)
    """Maximum number of documents per journal entry; a crash can lose the entry in progress. The
    hashes of the document ids decide which documents share an entry."""
    steps: list[str] = field(
        default_factory=lambda: ["direct", "indirect", "paraphrase", "abstain"]
    )
    """Steps to run, in this order."""
    phrasings: int = key(8, at_least=1)
    """Number of wordings per question, including the original. A call of a language model writes at
    most 8 of them; the step ``paraphrase`` adds the rest."""
    abstain_fraction: float = key(0.15, at_least=0)
    """Number of abstention examples as a fraction of the other facts."""
    abstain_per_1000_words: float = key(20.0, at_least=0)
    """Minimum number of abstention examples per 1,000 words of a document, for language models; the
    larger of this and ``abstain_fraction`` counts."""
    max_rejected_fraction: float = key(0.6, fraction=True, identity=False)
    """Maximum fraction of failed units; above it a step fails. Rejected candidates are only
    counted."""
    extraction: str = key("facts", choices=("facts", "anchored"))
    """How a language model extracts facts: ``facts`` (answers and questions in one call) or
    ``anchored`` (questions for answers taken from the text; for small models)."""
    call_chars: int = key(8000, at_least=200)
    """Maximum number of characters of document text per call (a longer chunk has its own call); a
    call reads one document."""
    facts_per_call: int = key(32, at_least=1)
    """Maximum number of facts per reply; a call is about as much text as has so many."""
    pairs_per_call: int = key(40, at_least=1)
    """Number of question-answer pairs per call, in the steps that merge, verify, reword or answer
    pairs."""
    reader_model: str = ""
    """Model that answers the questions of the step ``roundtrip``, at the generator's endpoints;
    empty: the generator's model."""
    max_reply_tokens: int = key(8192, at_least=64)
    """Maximum length of a reply of the language model, in tokens."""
    anchors: int = key(0, at_least=0)
    """Maximum number of answers per chunk that ``extraction=anchored`` takes from the text; 0:
    all."""
    anchors_per_call: int = key(1, at_least=1)
    """Number of answers per call with ``extraction=anchored``."""
    coverage: float = key(0.8, fraction=True)
    """Target fraction of sentences that reflections cover. Below it, ``direct`` repeats the call
    for the other sentences."""
    coverage_rounds: int = key(1, at_least=0)
    """Maximum number of repeated calls of ``direct``; 0: none."""
    group_documents: int = key(6, at_least=2)
    """Maximum number of documents per cross-document group; small groups share a call."""
    group_frequency: int = key(12, at_least=2)
    """Maximum number of documents of a shard that contain a name; a more frequent name forms no
    group."""
    groups_per_document: int = key(2, at_least=1)
    """Maximum number of cross-document groups per document, for each way of finding groups."""
    near_duplicate: float = key(0.8, fraction=True)
    """Minimum word similarity (Jaccard) at which the later of two questions with the same answer,
    names and numbers is dropped; 1 drops only equal questions."""
    max_question_chars: int = key(500, at_least=1)
    """Maximum length of a question in characters; longer ones are dropped."""
    max_answer_chars: int = key(800, at_least=1)
    """Maximum length of an answer in characters; longer ones are dropped."""


@dataclass
class ScratchConfig:
    """The model that ``memory.base=scratch`` builds: a Llama with its own BPE tokenizer."""

    vocabulary: int = key(4096, at_least=300)
    """BPE vocabulary size, including special tokens."""
    tokenizer: str = key("corpus", choices=("corpus", "general"))
    """What the vocabulary is learned from: the run's ``corpus``, or a list of ``general`` English
    words. With ``corpus`` any changed document changes the base, so that ``update`` and ``forget``
    train every shard again."""
    hidden_size: int = 256
    """Width of the residual stream."""
    layers: int = key(4, at_least=1)
    """Number of decoder layers."""
    heads: int = 4
    """Number of attention heads; must divide hidden_size."""
    intermediate_size: int = 704
    """Width of the MLP."""


@dataclass
class MemoryConfig:
    """The memory model."""

    base: str = "smollm2-135m"
    """Base model: ``smollm2-135m`` (built in), ``scratch``, a local folder, or a hub id."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    """Shape of the scratch model."""
    max_answer_tokens: int = key(48, at_least=1)
    """Maximum length of a generated answer, in tokens."""
    calibration_facts: int = key(96, at_least=0)
    """Number of facts of which one wording is held out of training to calibrate the confidence."""
    # Calibration happens after training, but it decides what training leaves out: identity.
    keep_generations: int = key(2, at_least=1, identity=False)
    """Number of generations of the bank to keep, the one that answers included."""
    loaded_gb: float = key(0.0, at_least=0, identity=False)
    """GiB of shard weights that stay loaded while answering; 0: as much as fits on the device. Each
    call loads the bank's other full shards one after the other."""
    hashed_gb: float = key(0.0, at_least=0, identity=False)
    """Size in GiB of the largest file of a memory whose SHA-256 is compared when it is read; larger
    ones are not hashed, and a warning says so. 0: every file. `memo-dist verify` hashes all."""


@dataclass
class TrainConfig(KnowledgeConfig):
    """Training a shard memory."""

    source: str = key("reflections", choices=("reflections", "documents"))
    """Training data: ``reflections``, or ``documents`` (raw text with loss on every token, for
    comparison)."""
    question_loss: str = key("auto", choices=("auto", "yes", "no"))
    """Whether the loss includes question tokens, so that a bank can select the shard in which a
    question is most likely: ``yes``, ``no``, or ``auto`` (with several shards)."""
    question_weight: float = key(0.1, above=0)
    """Loss weight of a question token, relative to 1 for an answer token; above 0."""
    epochs: int = key(0, at_least=0)
    """Passes over the reflections of a shard; 0: 3, or 40 for a scratch base."""
    max_minutes: float = key(0.0, at_least=0)
    """Minutes of training, including those before a restart; 0: no limit. If not all steps fit, a
    linear or cosine schedule decays with the time instead of the steps."""
    max_steps: int = key(0, at_least=0)
    """Maximum number of optimizer steps; 0: no limit."""
    lr: float = key(0.0, at_least=0)
    """Peak learning rate; 0: derived from the number of parameters (3e-4 for 135 M, 2e-3 for 5 M,
    7e-5 for 1.5 B), times ten for adapters."""
    schedule: str = key("constant", choices=("constant", "linear", "cosine"))
    """Learning rate after the warm-up: ``constant``, ``linear`` or ``cosine``."""
    warmup_fraction: float = key(0.05, fraction=True)
    """Fraction of the steps over which the learning rate rises."""
    weight_decay: float = key(0.01, at_least=0)
    """AdamW weight decay."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW betas."""
    clip: float = key(1.0, at_least=0)
    """Gradient norm limit; 0: no clipping."""
    batch_tokens: int = 4096
    """Tokens per optimizer step, over all ranks and micro-batches."""
    micro_batch_tokens: int = key(1024, at_least=32)
    """Tokens packed into one row of a forward pass, per rank."""
    trained_layers: int = key(0, at_least=0)
    """Train only the last N decoder layers; 0: all layers."""
    keep_activations_gb: float = key(4.0, at_least=0)
    """Maximum size in GB of frozen layers' activations on disk. Stored activations let these layers
    run only once; 0: the layers run in every epoch."""
    method: str = key("full", choices=("full", "lora"))
    """``full`` fine-tuning, or ``lora`` (adapters, with about ten times the learning rate)."""
    lora_rank: int = key(16, at_least=1)
    """Rank of the adapters."""
    lora_alpha: int = key(32, at_least=1)
    """Adapter scale: lora_alpha / lora_rank."""
    lora_targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers with adapters; ``all-linear``: all except the output layer."""
    zero_stage: int = key(0, identity=False)
    """DeepSpeed ZeRO stage, 0 to 3."""
    gradient_checkpointing: bool = key(False, identity=False)
    """Recompute activations in the backward pass: less GPU memory, about a third more time."""
    compile: bool = key(False, identity=False)
    """Compile each decoder layer with torch.compile: slower start (one minute), faster on GPUs."""
    dry_batch: str = key("auto", choices=("auto", "always", "never"), identity=False)
    """Run one row of full length before training, so that an out-of-memory error appears in the
    first minute: ``always``, ``never`` or ``auto`` (on GPUs)."""
    deepspeed: str = key("", identity=False)
    """DeepSpeed JSON file that is merged over the generated configuration; empty: none."""
    precision: str = key("auto", choices=("auto", "fp32", "bf16"))
    """``fp32``, ``bf16`` or ``auto``: bf16 on GPUs that support it and, for models of width 512
    and more, on CPUs that multiply it themselves (AVX512-BF16, AMX), else fp32."""
    checkpoint_minutes: float = key(10.0, at_least=0, identity=False)
    """Minutes between checkpoints; 0: no checkpoints by time."""
    checkpoint_steps: int = key(0, at_least=0, identity=False)
    """Optimizer steps between checkpoints; 0: no checkpoints by steps."""
    keep_checkpoints: int = key(2, at_least=1, identity=False)
    """Number of complete checkpoints to keep; where the newest is damaged, the one before it is
    used."""
    async_checkpoint: bool = key(True, identity=False)
    """Write checkpoints from a copy in host memory while training continues."""
    max_failures: int = key(3, at_least=0, identity=False)
    """Maximum number of worker failures per launch from which training recovers."""
    max_stalled_starts: int = key(10, at_least=0, identity=False)
    """Number of consecutive starts without a new checkpoint after which a start is refused; 0:
    never."""
    eval_steps: int = key(0, at_least=0)
    """Optimizer steps between measurements of exact recall; 0: no measurements by steps."""
    eval_minutes: float = key(0.0, at_least=0)
    """Minutes of training between measurements of exact recall; 0: no measurements by time."""
    eval_sample: int = key(128, at_least=1)
    """Number of trained reflections, and of held-out wordings, per measurement."""
    eval_patience: int = key(0, at_least=0)
    """Number of measurements without better recall of held-out wordings after which training ends;
    0: never."""
    eval_target: float = key(0.0, fraction=True)
    """Recall of trained reflections, as a fraction, at which training ends; 0: never."""
    select: str = key("last", choices=("last", "recall"))
    """Weights to export: ``last``, or ``recall`` (best recall of held-out wordings)."""


@dataclass
class ExportConfig:
    """The exported memory."""

    dtype: str = key("auto", choices=("auto", "float32", "bfloat16"))
    """Precision of the exported weights: ``float32``, ``bfloat16`` or ``auto`` (the training
    precision; of an adapter folded into its base, the base's)."""
    adapter: str = key("folded", choices=("folded", "kept"))
    """Export of LoRA training: ``folded`` into the base weights (a full model), or ``kept`` as a
    PEFT adapter. The adapters of a bank share one base in memory."""
    wordings: int = key(2, between=(1, 7))
    """Number of wordings in which the memory gets each question, from 1 to 7. The answer that
    most of them give, by summed probability, counts. More wordings raise recall and multiply the
    work. Set it before ``export``, because the calibration depends on it."""
    familiarity: bool = True
    """Store hashes of the words of each trained question (about 40 bytes a question, no text), so
    that the confidence falls for questions unlike them. Whoever has the memory can then test
    which words a trained question has."""
    refusal: float = key(0.8, fraction=True)
    """Target fraction of held-out abstention questions below the confidence threshold. A higher
    value gives fewer wrong answers to questions outside the documents, and fewer answers
    overall."""


@dataclass
class EvaluateConfig:
    """Evaluation of a memory."""

    limit: int = key(0, at_least=0)
    """Score only the first N questions; 0: all."""
    baseline_limit: int = key(0, at_least=0)
    """Score the bm25 and oracle baselines on the first N questions; 0: the same as ``limit``."""
    baselines: list[str] = key(["lookup", "closed_book", "bm25"], names=BASELINES)
    """Baselines to score: ``lookup`` (no model: the answer of the nearest trained question),
    ``closed_book``, ``bm25``, ``oracle``; empty: none."""
    trained_sample: int = key(50, at_least=0)
    """Size of a sample of trained questions that the memory answers in their trained wording, for
    comparison with the questions of the file; each costs as much as one of them. 0: none."""
    passages: int = key(3, at_least=1)
    """Number of passages in the bm25 baseline's context."""
    bootstrap: int = key(2000, at_least=100)
    """Bootstrap resamples for the 95 % confidence intervals."""
    batch_size: int = key(16, at_least=1)
    """Questions per batch."""


@dataclass
class UpdateConfig:
    """How ``update`` brings a shard to the state of a changed corpus."""

    policy: str = key("retrain", choices=("retrain", "continue"), identity=False)
    """``retrain``: from the base, equal to one encode of the final corpus. ``continue``: the old
    weights are trained on new reflections and a sample of the others; faster, not exact: what was
    removed or replaced may still be answered."""
    replay: float = key(0.25, fraction=True, identity=False)
    """Fraction of a shard's earlier reflections that ``continue`` trains again."""


@dataclass
class PlanConfig:
    """Assumptions of ``memo-dist plan``; never part of a result's identity."""

    sample_documents: int = key(20, at_least=1)
    """Number of documents in the sample for the rules generator, chosen by the hash of their id;
    all if there are fewer."""
    recall: float = key(0.9, above=0, fraction=True)
    """Target recall on unseen wordings, above 0 and below 1."""
    law: str = ""
    """JSON file of a recall law; empty: the shipped law for ``memory.base``, or a published
    capacity if there is none."""
    characters: int = key(0, at_least=0)
    """Scale the plan to a corpus of this many characters; 0: the size of the corpus."""
    bits_per_character: float = key(1.0, above=0)
    """Assumed bits per character of an answer; the plan's range is 0.6 to 1.3 times this value."""
    utilization: float = key(0.2, above=0, fraction=True)
    """Assumed fraction of a GPU's dense bf16 peak performance that training reaches."""
    ranks: int = key(8, at_least=1)
    """Ranks per shard, for the plan's estimates with ZeRO."""
    batch: int = key(16, at_least=1)
    """Questions per batch, for the GPU memory of inference."""
    context: int = key(2048, at_least=1)
    """Context tokens per question, for the GPU memory of inference."""
    backbone_parameters: float = key(7e9, above=0)
    """Number of parameters of the backbone if ``fusion.backbone`` is not a model on this machine.
    The plan then assumes 32 layers and 8 key-value heads of width 128."""
    bootstrap: int = key(1000, at_least=100)
    """Bootstrap resamples of documents for the confidence intervals."""


@dataclass
class ClusterConfig:
    """Machines and processes; never part of a result's identity."""

    address: str = ""
    """Address of a running Ray cluster; empty: start one on this machine."""
    authentication: str = key("token", choices=("token", "none"))
    """``token``: Ray requires its token from everybody, and a cluster that does not is refused.
    ``none``: whoever reaches Ray's ports can run code as you; for a network of your own."""
    launcher: str = key("auto", choices=("auto", "ray", "ranks", "process"))
    """How training ranks are started: ``ray``: by Ray; ``ranks``: by torchrun, deepspeed or srun,
    and this process is one of them; ``process``: one rank in this process; ``auto``: ``ranks`` if
    the rank environment variables are set, else ``ray``."""
    workers: int = key(0, at_least=0)
    """Training ranks per shard; 0: the GPUs divided among the shards that train in parallel, or 1
    on a CPU."""
    shards_at_once: int = key(0, at_least=0)
    """Number of shards of a bank that train in parallel; 0: as many as fit."""
    synthesis_workers: int = key(0, at_least=0)
    """Ray workers for synthesis; 0: one per core."""
    threads: int = key(0, at_least=0)
    """Threads per training rank; 0: the cores divided among all ranks that run in parallel."""
    nodes: int = key(0, at_least=0)
    """Ray nodes that must join before work begins; 0: use the nodes that have joined."""
    start_timeout: float = key(180.0, above=0)
    """Seconds to wait for Ray, its nodes, the ranks and their resources. Then the run fails with a
    message that names what is missing."""


@dataclass
class LaunchConfig:
    """Resources that ``memo-dist launch`` requests from a scheduler; the verbs do not read it."""

    recipe: str = key("auto", choices=RECIPES)
    """Slurm script: ``single-node``; ``multi-node`` (training ranks started by Slurm); ``ray`` (Ray
    over all nodes of the job); ``array`` (one task per partition); ``chain`` (encode as dependent
    jobs); ``auto``: chosen by verb and nodes."""
    job_name: str = ""
    """Job name; empty: ``memo-`` followed by the recipe."""
    nodes: int = key(1, at_least=1)
    """Number of nodes per job."""
    tasks_per_node: int = key(0, at_least=0)
    """Ranks per node of multi-node training; 0: one per GPU, or one without GPUs."""
    gpus_per_node: int = key(0, at_least=0)
    """GPUs per node; 0: none are requested."""
    cpus: int = key(0, at_least=0)
    """CPUs per task; 0: the scheduler's default."""
    memory: str = ""
    """Memory per node in Slurm's notation (``64G``); empty: the scheduler's default."""
    partition: str = ""
    """Slurm partition; empty: the scheduler's default."""
    account: str = ""
    """Slurm account; empty: the scheduler's default."""
    minutes: int = key(0, at_least=0)
    """Time limit of a job in minutes; 0: the partition's limit. Longer work is requeued."""
    signal_seconds: int = key(300, at_least=10)
    """Seconds before the time limit at which Slurm signals the job to save; the signal may arrive
    up to a minute early."""
    max_stalled: int = key(1, at_least=0)
    """Maximum number of consecutive requeues without progress of the run."""
    retries: int = key(2, at_least=0)
    """Maximum number of restarts of a failed array task."""
    array_at_once: int = key(0, at_least=0)
    """Maximum number of array tasks that run in parallel; 0: no limit."""
    sbatch: list[str] = field(default_factory=list)
    """Further sbatch options, one per item: ``--qos=high``."""
    setup: list[str] = field(default_factory=list)
    """Shell lines that set up the environment in the job: ``module load cuda``."""
    container: str = ""
    """Container image for the verb; empty: none."""
    container_runtime: str = key("pyxis", choices=("pyxis", "apptainer"))
    """Container runtime: ``pyxis`` (Enroot through srun) or ``apptainer``."""
    mounts: list[str] = field(default_factory=list)
    """Folders mounted into the container at the same path, in addition to the submission folder."""
    log_folder: str = ""
    """Folder for job logs; empty: the submission folder."""
    ray_start: str = key("nodes", choices=("nodes", "symmetric"))
    """How the recipe ``ray`` starts Ray: ``nodes`` (several jobs may share a node) or ``symmetric``
    (``ray symmetric-run``: whole nodes only; at its end it stops every Ray process there)."""
    ray_address: str = ""
    """Dashboard URL of the running cluster for ``launch ray``: ``http://HEAD:8265``."""
    rendezvous: str = ""
    """``HOST:PORT`` of the first machine, for ``launch torchrun`` on several nodes."""
    questions: str = ""
    """Questions file that the recipe ``chain`` evaluates at the end; empty: no evaluation."""
    queue_minutes: float = key(1440.0, above=0)
    """Minutes in the queue after which ``--wait`` cancels the job."""


@dataclass
class TrackConfig:
    """Experiment trackers that mirror ``metrics.jsonl``; their failure never stops a run."""

    to: list[str] = key([], names=TRACKERS)
    """Trackers: ``tensorboard``, ``wandb``, ``mlflow`` (each is an optional dependency).
    Credentials come from the environment."""
    project: str = "memo-dist"
    """Name of the W&B project or MLflow experiment."""


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
    executive: ExecutiveConfig = field(default_factory=ExecutiveConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
