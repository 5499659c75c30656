"""The configuration: a tree of dataclasses; the docstring under a field is its help text.

Groups that change a stage's result enter that stage's hash (see ``memo_dist.config.stages``);
``cluster``, ``launch`` and ``track`` never do: the same run may move to another machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from memo_dist.config.fusion_schema import FusionConfig
from memo_dist.config.scale_schema import ScaleConfig

BASELINES = ("closed_book", "bm25", "oracle")
"""What ``evaluate.baselines`` may name."""
TRACKERS = ("tensorboard", "wandb", "mlflow")
"""What ``track.to`` may name."""
RECIPES = ("auto", "single-node", "multi-node", "ray", "array", "chain")
"""What ``launch.recipe`` may be."""


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
class EndpointConfig:
    """A language model that is asked: where it is, how answers are checked, how often to retry."""

    group: ClassVar[str] = ""
    # The name of the group in the configuration: messages name its keys.
    kind: str = ""
    """Which API or place answers."""
    attempts: int = 1
    """Answers that a request may take until one is valid."""
    retries: int = 0
    """Server errors and time-outs that a request survives."""
    patience: float = 600.0
    """Seconds without any answer from any endpoint after which asking ends."""
    model: str = ""
    """Name of the model at its endpoint; for ``transformers`` a folder or hub id."""
    structured: str = "server"
    """``server``: the server holds answers to the JSON schema; ``prompt``: the schema is written
    into the prompt. Both are validated."""
    urls: list[str] = field(default_factory=list)
    """Base URLs of equal endpoints (``http://127.0.0.1:8000/v1``); empty: the kind's own one."""
    api_key_env: str = ""
    """NAME of the environment variable that holds the key; empty: no key is sent."""
    recording: str = ""
    """File of ``kind=recorded``: one JSON object a line with ``key`` and ``text``."""
    max_in_flight: int = 64
    """Most requests in flight over all workers and endpoints; adapts below that."""
    requests_per_minute: float = 0.0
    """Limit over all workers; 0: none."""
    tokens_per_minute: float = 0.0
    """Limit of prompt and answer tokens over all workers; 0: none."""
    request_timeout: float = 300.0
    """Seconds until an answer must be complete."""
    connect_timeout: float = 10.0
    """Seconds until a connection must stand."""
    hedge_after: float = 0.0
    """A request that takes this many times the usual latency is sent once more; 0: never."""
    hedge_fraction: float = 0.02
    """Most requests that are sent once more, as a fraction of all."""


@dataclass
class GeneratorConfig(EndpointConfig):
    """What writes the reflections. Only kind, model, structured and attempts can change them."""

    group: ClassVar[str] = "generator"
    kind: str = "rules"
    """``rules`` (rules inside the package, no service), ``openai`` (any server with that API),
    ``anthropic``, ``transformers`` (a model in this process), ``recorded`` (answers in a file)."""
    attempts: int = 4
    """Answers that a request may take until one is valid, a repair turn included."""
    retries: int = 8
    """Server errors and time-outs that a request survives; rate limits don't count."""
    patience: float = 600.0
    """Seconds without any answer from any endpoint after which the run ends (and can resume)."""
    max_failed_fraction: float = 0.2
    """A step fails when a larger fraction of its requests (50 or more) got no valid answer."""
    price_prompt: float = 0.0
    """Money per million prompt tokens that were not cached."""
    price_cached: float = 0.0
    """Money per million prompt tokens from the server's prefix cache."""
    price_completion: float = 0.0
    """Money per million answer tokens."""
    budget_tokens: int = 0
    """Prompt and answer tokens of the synthesis after which it stops (exit 75); 0: no limit."""
    budget_money: float = 0.0
    """Money for the whole synthesis, in the prices' unit, after which it stops; 0: no limit."""
    drain_seconds: float = 20.0
    """Seconds that a stop waits for the requests in flight."""


@dataclass
class ExecutiveConfig(EndpointConfig):
    """The frozen language model that asks the memory (``ask --mode protocol``)."""

    group: ClassVar[str] = "executive"
    kind: str = "none"
    """``none``, ``openai`` (any server with that API), ``anthropic``, ``transformers`` (a model in
    this process), ``recorded`` (answers in a file)."""
    attempts: int = 2
    """Answers that a call may take until one is valid, a repair turn included; then it counts as
    failed and the protocol goes on without it."""
    retries: int = 4
    """Server errors and time-outs that a call survives; rate limits don't count."""
    patience: float = 120.0
    """Seconds without any answer from any endpoint after which the verb ends."""
    max_reply_tokens: int = 1024
    """Longest reply that is asked of it, in tokens."""
    temperature: float = 0.0
    """Of sampling; 0 is greedy."""


@dataclass
class ProtocolConfig:
    """How the executive asks the memory."""

    variant: str = "full"
    """``full``: grounding, entity identification, answer seeking, synthesis; ``one_turn``: one
    round of questions, then the answer; ``multi_turn``: a plain conversation."""
    wordings: int = 3
    """Wordings of each question that the memory is asked; the majority of its answers counts."""
    questions: int = 6
    """Most questions to the memory in one turn."""
    identify_turns: int = 7
    """Most turns of entity identification."""
    seek_turns: int = 8
    """Most turns of answer seeking."""
    pivots: int = 2
    """Times that answer seeking may turn to another candidate."""
    prune_after: int = 2
    """A candidate is dropped after this many questions about it in a row without an answer."""
    idle_turns: int = 2
    """Turns in a row without a new question (or without a valid reply) that end a phase."""
    max_calls: int = 17
    """Most calls of the executive for one question, the last one (synthesis) included."""
    max_questions: int = 60
    """Most questions to the memory for one question; wordings don't count."""
    max_tokens: int = 0
    """Tokens of executive and memory for one question after which it goes to synthesis; 0: no
    limit."""
    max_seconds: float = 0.0
    """Seconds for one question after which it goes to synthesis; 0: no limit."""


@dataclass
class SynthesisConfig:
    """The steps from chunks to reflections."""

    partitions: int = 4
    """Units of parallel work, fixed in each step's manifest."""
    documents_per_unit: int = 8
    """Most documents journaled together: what a crash can lose. They are chosen by the hashes of
    their ids, so that another document changes few of these units."""
    steps: list[str] = field(
        default_factory=lambda: ["direct", "indirect", "paraphrase", "abstain"]
    )
    """Steps to run, in this order."""
    phrasings: int = 5
    """Wordings of each fact's question, the original included."""
    abstain_fraction: float = 0.15
    """Abstention examples as a fraction of the other facts."""
    max_rejected_fraction: float = 0.6
    """A step fails when a larger fraction of its units failed (rejected candidates only count)."""
    extraction: str = "joint"
    """How a language model is asked for facts: ``joint`` (direct and indirect in one call),
    ``separate``, or ``anchored`` (questions for answers taken from the text: small models)."""
    call_chars: int = 8000
    """Characters of documents that one call reads; short documents of a unit share a call."""
    pairs_per_call: int = 40
    """Pairs that one call merges, verifies, joins or rewords."""
    max_reply_tokens: int = 8192
    """Longest reply that is asked of a language model, in tokens."""
    anchors: int = 10
    """Answers a chunk that ``extraction=anchored`` takes from the text."""
    coverage: float = 0.8
    """Fraction of a reading's sentences below which ``direct`` asks again for the others."""
    coverage_rounds: int = 1
    """Times that ``direct`` asks again; 0: never."""
    group_documents: int = 6
    """Most documents that one shared name or property joins; small groups share a call."""
    group_frequency: int = 12
    """A name in more documents of a shard than this joins none of them."""
    groups_per_document: int = 2
    """Cross-document groups that a document takes part in, for each way of finding them."""
    near_duplicate: float = 0.8
    """Word similarity (Jaccard) of two questions with equal answer, names and numbers from which
    the later one is dropped; 1 keeps all but equal ones."""
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
    """``smollm2-135m`` (built in), ``scratch``, a local folder, or a hub id."""
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
    question_loss: str = "auto"
    """Loss on the tokens of questions too, so that a bank finds the shard that was taught a
    question by how likely it is there: ``yes``, ``no``, or ``auto`` (where there are several
    shards)."""
    question_weight: float = 0.1
    """What a question's token counts in that loss, against 1 of an answer's; above 0."""
    epochs: int = 0
    """Passes over the shard's reflections; 0: 3, or 40 for a scratch base."""
    max_minutes: float = 0.0
    """Training stops after this many minutes of stepping, restarts counted in; 0: no limit. A
    falling schedule falls with the time where the steps will not all fit."""
    max_steps: int = 0
    """Training stops after this many optimizer steps; 0: no limit."""
    lr: float = 0.0
    """Peak learning rate; 0: by the number of parameters (3e-4 for 135 M, 2e-3 for 5 M, 7e-5 for
    1.5 B; see ``peak_lr``), ten times that for adapters."""
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
    """Train only the last N decoder layers; 0: train everything."""
    keep_activations_gb: float = 4.0
    """Frozen layers run once and their activations are kept on disk up to this size (GB); 0: they
    run in every epoch."""
    method: str = "full"
    """``full`` fine-tuning, or ``lora`` (adapters; about ten times the learning rate)."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: int = 32
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get adapters; ``all-linear``: all but the output layer."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile each decoder layer (torch.compile): a minute at the start, then faster on GPUs."""
    dry_batch: str = "auto"
    """A row of full length before the first one, to run out of memory in minute one rather than
    in hour three: ``always``, ``never`` or ``auto`` (on GPUs)."""
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
    async_checkpoint: bool = True
    """Write checkpoints from a copy in host memory while training goes on."""
    max_failures: int = 3
    """Worker deaths that one launch survives."""
    max_stalled_starts: int = 10
    """Refuse to start again after this many starts in a row without a new checkpoint; 0: never."""
    eval_steps: int = 0
    """Optimizer steps between measurements of exact recall; 0: none by steps."""
    eval_minutes: float = 0.0
    """Minutes of stepping between measurements of exact recall; 0: none by time."""
    eval_sample: int = 128
    """Reflections in each measurement: of the trained ones, and of the held-out wordings."""
    eval_patience: int = 0
    """End after this many measurements without better recall of held-out wordings; 0: never."""
    eval_target: float = 0.0
    """End once recall of the trained reflections reaches this fraction; 0: never."""
    select: str = "last"
    """Weights that are exported: ``last``, or ``recall`` (the best on held-out wordings)."""


@dataclass
class ExportConfig:
    """The exported memory."""

    dtype: str = "auto"
    """``float32``, ``bfloat16`` or ``auto`` (the training precision)."""
    adapter: str = "folded"
    """A LoRA training's export: ``folded`` into the base's weights (a full model), or ``kept`` as a
    PEFT adapter; the adapters of a bank share one base in memory."""
    reword: bool = True
    """Ask each question also in search-box words; the more certain answer counts (twice the work,
    more found). Set before export: the memory is calibrated for it."""
    refusal: float = 0.8
    """Fraction of the held-out abstention questions that the confidence threshold refuses: higher
    makes fewer mistakes on what the documents do not tell, and answers less."""


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
class PlanConfig:
    """What ``memo-dist plan`` assumes and asks; never part of a result's identity."""

    sample_documents: int = 20
    """Documents that the rules generator reads, by the hash of their id; all when fewer."""
    recall: float = 0.9
    """Wanted recall on unseen wordings, above 0 and below 1."""
    law: str = ""
    """JSON file of a recall law; empty: the one shipped for ``memory.base``, or else a published
    capacity."""
    characters: int = 0
    """Plan as if the corpus had this many characters of the same kind; 0: as it is."""
    bits_per_character: float = 1.0
    """Bits in a character of an answer; the band around it is 0.6 to 1.3 times this."""
    utilization: float = 0.2
    """Assumed share of a GPU's dense bf16 peak in training."""
    ranks: int = 8
    """Ranks among which the ZeRO rows divide one shard's training."""
    batch: int = 16
    """Questions answered at once, for the memory of inference."""
    context: int = 2048
    """Tokens of each of these questions' contexts."""
    backbone_parameters: float = 7e9
    """Parameters of the backbone where ``fusion.backbone`` names none that is on this machine
    (then of 32 layers, 8 key-value heads of 128)."""
    bootstrap: int = 1000
    """Resamples of documents for the intervals."""


@dataclass
class ClusterConfig:
    """Where it runs; never part of a result's identity."""

    address: str = ""
    """Ray address of a running cluster; empty starts one on this machine."""
    launcher: str = "auto"
    """What starts training ranks: ``ray``; ``ranks``: this process is one of several that
    torchrun, deepspeed or srun started; ``process``: one rank, in this process; ``auto``:
    ``ranks`` where the rank environment says so, else ``ray``."""
    workers: int = 0
    """Training ranks a shard; 0: its share of the GPUs there are (all for one shard), or 1 on a
    CPU."""
    shards_at_once: int = 0
    """Shards of a bank that train side by side; 0: as many as there is room for."""
    synthesis_workers: int = 0
    """Ray workers for synthesis; 0: one a core."""
    threads: int = 0
    """Threads a training rank; 0: cores / workers."""
    nodes: int = 0
    """Ray nodes that must have joined before work begins; 0: takes what is there."""
    start_timeout: float = 180.0
    """Seconds to wait for Ray, its nodes, ranks and placement before giving up with have/want."""


@dataclass
class LaunchConfig:
    """What ``memo-dist launch`` asks a scheduler for; the verbs themselves never read it."""

    recipe: str = "auto"
    """Slurm script: ``single-node``; ``multi-node`` (training with Slurm's own ranks); ``ray``
    (Ray over all nodes of the job); ``array`` (a task a synthesis partition); ``chain`` (encode as
    dependent jobs); ``auto``: by verb and nodes."""
    job_name: str = ""
    """Name of the job; empty: ``memo-`` and the recipe."""
    nodes: int = 1
    """Nodes of a job."""
    tasks_per_node: int = 0
    """Ranks a node of a multi-node training; 0: one a GPU, or one."""
    gpus_per_node: int = 0
    """GPUs of each node; 0: none are asked for."""
    cpus: int = 0
    """CPUs of each task; 0: the scheduler's default."""
    memory: str = ""
    """Memory of each node as Slurm writes it (``64G``); empty: the scheduler's default."""
    partition: str = ""
    """Slurm partition; empty: the default one."""
    account: str = ""
    """Slurm account; empty: the default one."""
    minutes: int = 0
    """Time limit of a job in minutes; 0: the partition's. Longer work is requeued."""
    signal_seconds: int = 300
    """Seconds before the limit at which Slurm asks the job to save (it may come a minute early)."""
    max_stalled: int = 1
    """Requeues in a row without progress of the run that are allowed."""
    retries: int = 2
    """Times that a failed array task is started again."""
    array_at_once: int = 0
    """Array tasks that run side by side; 0: no limit."""
    sbatch: list[str] = field(default_factory=list)
    """Further options of sbatch, one a line: ``--qos=high``."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell that set the environment up in the job: ``module load cuda``."""
    container: str = ""
    """Image that the verb runs in; empty: none."""
    container_runtime: str = "pyxis"
    """What starts the image: ``pyxis`` (Enroot through srun) or ``apptainer``."""
    mounts: list[str] = field(default_factory=list)
    """Folders that the container sees at the same path, beside the one of the submission."""
    log_folder: str = ""
    """Folder of the jobs' logs; empty: the one of the submission."""
    ray_start: str = "nodes"
    """How recipe ``ray`` starts Ray: ``nodes`` (several jobs may share a node) or ``symmetric``
    (``ray symmetric-run``: whole nodes only, its end stops every Ray there)."""
    ray_address: str = ""
    """Dashboard of the running cluster for ``launch ray``: ``http://HEAD:8265``."""
    rendezvous: str = ""
    """``HOST:PORT`` of the first machine, for ``launch torchrun`` with several nodes."""
    questions: str = ""
    """File that recipe ``chain`` evaluates at the end; empty: no evaluation."""
    queue_minutes: float = 1440.0
    """Minutes that ``--wait`` lets a job wait in the queue before it is cancelled."""


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
    executive: ExecutiveConfig = field(default_factory=ExecutiveConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
