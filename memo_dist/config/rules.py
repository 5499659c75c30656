"""Rules that span fields or bound a value; each has a test that a bad configuration is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args
from urllib.parse import urlsplit

from memo_dist.config.scale_rules import scale_rules
from memo_dist.config.scale_schema import TEXTS
from memo_dist.config.schema import BASELINES, RECIPES, TRACKERS, Config, EndpointConfig
from memo_dist.config.steps import StepName
from memo_dist.errors import UsageError, suggest

Rule = Callable[[Config], Iterator[str]]

_CHOICES: dict[str, tuple[str, ...]] = {
    "generator.kind": ("rules", "openai", "anthropic", "transformers", "recorded"),
    "generator.structured": ("server", "prompt"),
    "executive.kind": ("none", "openai", "anthropic", "transformers", "recorded"),
    "executive.structured": ("server", "prompt"),
    "protocol.variant": ("full", "one_turn", "multi_turn"),
    "synthesis.extraction": ("joint", "separate", "anchored"),
    "train.source": ("reflections", "documents"),
    "train.question_loss": ("auto", "yes", "no"),
    "train.schedule": ("constant", "linear", "cosine"),
    "train.precision": ("auto", "fp32", "bf16"),
    "scale.biographies.text": TEXTS,
    "scale.precision": ("auto", "fp32", "bf16"),
    "train.method": ("full", "lora"),
    "train.dry_batch": ("auto", "always", "never"),
    "train.select": ("last", "recall"),
    "cluster.launcher": ("auto", "ray", "ranks", "process"),
    "fusion.gate": ("auto", "constant", "entropy", "learned"),
    "fusion.order": ("parallel", "sequential"),
    "fusion.latent.places": ("answer", "all"),
    "launch.recipe": RECIPES,
    "launch.container_runtime": ("pyxis", "apptainer"),
    "launch.ray_start": ("nodes", "symmetric"),
    "export.dtype": ("auto", "float32", "bfloat16"),
    "export.adapter": ("folded", "kept"),
}
_AT_LEAST: dict[str, float] = {
    "corpus.shards": 1,
    "corpus.chunk_chars": 200,
    "corpus.overlap_sentences": 0,
    "corpus.max_documents": 0,
    "generator.attempts": 1,
    "generator.max_in_flight": 1,
    "generator.requests_per_minute": 0,
    "generator.tokens_per_minute": 0,
    "generator.retries": 0,
    "generator.hedge_after": 0,
    "generator.price_prompt": 0,
    "generator.price_cached": 0,
    "generator.price_completion": 0,
    "generator.budget_tokens": 0,
    "generator.budget_money": 0,
    "generator.drain_seconds": 0,
    "synthesis.partitions": 1,
    "synthesis.documents_per_unit": 1,
    "synthesis.phrasings": 1,
    "synthesis.abstain_fraction": 0,
    "synthesis.call_chars": 200,
    "synthesis.pairs_per_call": 1,
    "synthesis.max_reply_tokens": 64,
    "synthesis.anchors": 1,
    "synthesis.coverage_rounds": 0,
    "synthesis.group_documents": 2,
    "synthesis.group_frequency": 2,
    "synthesis.groups_per_document": 1,
    "synthesis.max_question_chars": 1,
    "synthesis.max_answer_chars": 1,
    "memory.scratch.vocabulary": 300,
    "memory.scratch.layers": 1,
    "memory.max_answer_tokens": 1,
    "memory.calibration_facts": 0,
    "memory.loaded_gb": 0,
    "train.epochs": 0,
    "train.lr": 0,
    "train.max_minutes": 0,
    "train.max_steps": 0,
    "train.clip": 0,
    "train.weight_decay": 0,
    "train.micro_batch_tokens": 32,
    "train.trained_layers": 0,
    "train.checkpoint_minutes": 0,
    "train.checkpoint_steps": 0,
    "train.keep_checkpoints": 1,
    "train.max_failures": 0,
    "train.max_stalled_starts": 0,
    "train.keep_activations_gb": 0,
    "train.lora_rank": 1,
    "train.lora_alpha": 1,
    "train.eval_steps": 0,
    "train.eval_minutes": 0,
    "train.eval_sample": 1,
    "train.eval_patience": 0,
    "executive.attempts": 1,
    "executive.max_in_flight": 1,
    "executive.requests_per_minute": 0,
    "executive.tokens_per_minute": 0,
    "executive.retries": 0,
    "executive.hedge_after": 0,
    "executive.max_reply_tokens": 64,
    "executive.temperature": 0,
    "protocol.wordings": 1,
    "protocol.questions": 1,
    "protocol.identify_turns": 0,
    "protocol.seek_turns": 0,
    "protocol.pivots": 0,
    "protocol.prune_after": 1,
    "protocol.idle_turns": 1,
    "protocol.max_calls": 2,
    "protocol.max_questions": 1,
    "protocol.max_tokens": 0,
    "protocol.max_seconds": 0,
    "fusion.entropy_slope": 0,
    "fusion.examples": 8,
    "fusion.draft_tokens": 0,
    "fusion.latent.every": 1,
    "fusion.latent.heads": 1,
    "fusion.latent.examples": 1,
    "fusion.latent.outside": 0,
    "fusion.latent.epochs": 1,
    "fusion.latent.batch": 1,
    "fusion.latent.micro_batch": 1,
    "fusion.latent.distill": 0,
    "fusion.latent.locality": 0,
    "fusion.latent.noise": 0,
    "evaluate.limit": 0,
    "evaluate.baseline_limit": 0,
    "evaluate.passages": 1,
    "evaluate.bootstrap": 100,
    "evaluate.batch_size": 1,
    "cluster.workers": 0,
    "cluster.shards_at_once": 0,
    "cluster.synthesis_workers": 0,
    "cluster.threads": 0,
    "cluster.nodes": 0,
    "launch.nodes": 1,
    "launch.tasks_per_node": 0,
    "launch.gpus_per_node": 0,
    "launch.cpus": 0,
    "launch.minutes": 0,
    "launch.signal_seconds": 10,
    "launch.max_stalled": 0,
    "launch.retries": 0,
    "launch.array_at_once": 0,
    "plan.sample_documents": 1,
    "plan.characters": 0,
    "plan.ranks": 1,
    "plan.batch": 1,
    "plan.context": 1,
    "plan.bootstrap": 100,
    "scale.cell_threads": 1,
    "scale.max_failures": 0,
    "scale.partitions": 1,
    "scale.bootstrap": 20,
    "scale.measurements": 1,
}
_POSITIVE = (
    "corpus.max_document_mb",
    "cluster.start_timeout",
    "train.question_weight",
    "launch.queue_minutes",
    "plan.recall",
    "plan.bits_per_character",
    "plan.utilization",
    "plan.backbone_parameters",
    "fusion.backbone_temperature",
    "fusion.memory_temperature",
    "fusion.latent.head_width",
    "fusion.latent.lr",
    "fusion.latent.held_out",
    "generator.request_timeout",
    "generator.connect_timeout",
    "generator.patience",
    "executive.request_timeout",
    "executive.connect_timeout",
    "executive.patience",
)
_FRACTIONS = (
    "corpus.max_quarantined_fraction",
    "generator.hedge_fraction",
    "executive.hedge_fraction",
    "generator.max_failed_fraction",
    "synthesis.max_rejected_fraction",
    "synthesis.coverage",
    "synthesis.near_duplicate",
    "train.warmup_fraction",
    "train.eval_target",
    "export.refusal",
    "fusion.constant",
    "fusion.max_lost",
    "fusion.latent.held_out",
    "plan.recall",
    "plan.utilization",
    "scale.warmup_fraction",
    "scale.full",
    "scale.saturated",
    "scale.cell_gpu",
    "scale.biographies.asked_fraction",
)


def choices(key: str) -> tuple[str, ...]:
    """The words that a key may have; empty where it takes any value."""
    return _CHOICES.get(key, ())


def check_rules(config: Config) -> None:
    """Refuse a configuration that breaks a rule.

    Raises:
        UsageError: every broken rule, one a line: the key, its value, what is allowed.
    """
    broken = [message for rule in _RULES for message in rule(config)]
    if broken:
        raise UsageError("configuration: " + "\n  ".join(broken))


def lookup(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    node: Any = config
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _choices(config: Config) -> Iterator[str]:
    for key, allowed in _CHOICES.items():
        value = lookup(config, key)
        if value not in allowed:
            yield f"{key}='{value}' must be one of {', '.join(allowed)}{suggest(value, allowed)}"


def _bounds(config: Config) -> Iterator[str]:
    for key, least in _AT_LEAST.items():
        if lookup(config, key) < least:
            yield f"{key}={lookup(config, key)} must be at least {least:g}"
    for key in _POSITIVE:
        if lookup(config, key) <= 0:
            yield f"{key}={lookup(config, key)} must be above 0"
    for key in _FRACTIONS:
        if not 0 <= lookup(config, key) <= 1:
            yield f"{key}={lookup(config, key)} must lie between 0 and 1"


def _steps(config: Config) -> Iterator[str]:
    known = get_args(StepName)
    for name in config.synthesis.steps:
        if name not in known:
            yield (
                f"synthesis.steps: unknown step '{name}'{suggest(name, known)};"
                f" steps are {', '.join(known)}"
            )
    if len(set(config.synthesis.steps)) != len(config.synthesis.steps):
        yield f"synthesis.steps={config.synthesis.steps} names a step twice"
    if not config.synthesis.steps:
        yield "synthesis.steps=[] leaves nothing to do; name at least 'direct'"


def _endpoints(config: Config) -> Iterator[str]:
    yield from _endpoint(config.generator, config.generator.kind)
    yield from _endpoint(config.executive, config.executive.kind)
    generator = config.generator
    if generator.budget_money and not (generator.price_prompt or generator.price_completion):
        yield (
            f"generator.budget_money={generator.budget_money:g} needs generator.price_prompt and"
            " generator.price_completion"
        )


def _endpoint(endpoint: EndpointConfig, kind: str) -> Iterator[str]:
    group = endpoint.group
    if kind not in ("rules", "none") and not endpoint.model:
        yield f"{group}.model='' must name the model that {group}.kind={kind} asks"
    if kind == "openai" and not endpoint.urls:
        yield f"{group}.urls=[] must name an endpoint, as {group}.urls=[http://127.0.0.1:8000/v1]"
    if kind == "recorded" and not endpoint.recording:
        yield f"{group}.recording='' must name the file of {group}.kind=recorded"
    for url in endpoint.urls:
        yield from _url(url, group)
    name = endpoint.api_key_env
    if name and not name.isidentifier():
        yield (  # the value may be a key that was put in the wrong place: it is not repeated
            f"{group}.api_key_env must be the NAME of an environment variable, not the key itself"
        )


def _url(url: str, group: str) -> Iterator[str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield f"{group}.urls: {parts.scheme}://{parts.hostname} is not an http(s) URL"
    if parts.username or parts.password or parts.query:
        yield (
            f"{group}.urls: the URL of {parts.hostname} carries credentials or a query; keys come"
            f" from the environment variable that {group}.api_key_env names"
        )


def _train(config: Config) -> Iterator[str]:
    train = config.train
    if train.batch_tokens % train.micro_batch_tokens:
        yield (
            f"train.batch_tokens={train.batch_tokens} must be a multiple of"
            f" train.micro_batch_tokens={train.micro_batch_tokens}"
        )
    if train.zero_stage not in (0, 1, 2, 3):
        yield f"train.zero_stage={train.zero_stage} must be 0, 1, 2 or 3"
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        yield f"train.betas={train.betas} must be two numbers in [0, 1)"
    if train.question_loss == "yes" and train.source == "documents":
        yield "train.question_loss='yes' needs questions: set train.source=reflections"
    measured = train.eval_steps or train.eval_minutes
    for key in ("eval_patience", "eval_target"):
        if getattr(train, key) and not measured:
            yield f"train.{key} needs recall to be measured: set train.eval_minutes or eval_steps"
    if train.select == "recall" and not measured:
        yield "train.select='recall' needs train.eval_minutes or train.eval_steps"
    if not train.lora_targets:
        yield "train.lora_targets=[] leaves nothing to adapt; write [all-linear]"
    rows = max(1, train.batch_tokens // train.micro_batch_tokens)
    if config.cluster.workers and rows % config.cluster.workers:
        yield (
            f"cluster.workers={config.cluster.workers} must divide the {rows} rows of a step"
            " (train.batch_tokens / train.micro_batch_tokens)"
        )


def _memory(config: Config) -> Iterator[str]:
    scratch = config.memory.scratch
    if scratch.heads < 1 or scratch.hidden_size % scratch.heads:
        yield (
            f"memory.scratch.heads={scratch.heads} must divide"
            f" memory.scratch.hidden_size={scratch.hidden_size}"
        )
    elif (scratch.hidden_size // scratch.heads) % 2:
        yield (
            f"memory.scratch.hidden_size / heads = {scratch.hidden_size // scratch.heads} must be"
            " even (rotary embeddings turn pairs)"
        )
    if not config.memory.base:
        yield "memory.base='' must name a model: smollm2-135m, scratch, a folder or a hub id"


def _named(config: Config) -> Iterator[str]:
    for key, known in (("evaluate.baselines", BASELINES), ("track.to", TRACKERS)):
        for name in lookup(config, key):
            if name not in known:
                yield (
                    f"{key}: unknown name '{name}'{suggest(name, known)};"
                    f" names are {', '.join(known)}"
                )


def _launch(config: Config) -> Iterator[str]:
    launch = config.launch
    for key in _ONE_LINE:
        if any(mark in getattr(launch, key) for mark in "\n\"'`$\\"):
            yield f"launch.{key} must be plain text on one line, without quotes, $ or backslashes"
    for key in ("job_name", "memory", "partition", "account"):
        if " " in getattr(launch, key):
            yield f"launch.{key}='{getattr(launch, key)}' must not hold spaces"
    for option in launch.sbatch:
        if not option.startswith("--") or "\n" in option:
            yield f"launch.sbatch: '{option[:40]}' must be one option of sbatch, as --qos=high"
    for key in ("sbatch", "setup"):
        if any(_SECRET.search(line) for line in getattr(launch, key)):
            yield (  # the line may hold the secret: it is not repeated
                f"launch.{key} sets what looks like a key or password: scripts and process lists"
                " are public; export it where the job is submitted, the job inherits it"
            )
    if any(
        not folder.startswith("/") or set(folder) & set(":,\n\"'`$\\") for folder in launch.mounts
    ):
        yield f"launch.mounts={launch.mounts} must be absolute folders, without ':' and ','"


def _plan(config: Config) -> Iterator[str]:
    if config.plan.recall == 1:
        yield "plan.recall=1 must be below 1: no law reaches it"


def _scale(config: Config) -> Iterator[str]:
    yield from scale_rules(config.scale)


_ONE_LINE = (
    "job_name",
    "memory",
    "partition",
    "account",
    "container",
    "log_folder",
    "ray_address",
    "rendezvous",
)
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)\w*=[^\s$]", re.IGNORECASE)
"""An assignment of a literal to a name like these; ``$(...)`` and ``$NAME`` are no literals."""


def _fusion(config: Config) -> Iterator[str]:
    layers = config.fusion.latent.memory_layers
    if not layers or len(set(layers)) != len(layers):
        yield f"fusion.latent.memory_layers={layers} must name different layers, at least one"


_RULES: tuple[Rule, ...] = (
    _choices, _bounds, _endpoints, _steps, _train, _memory, _named, _launch, _plan, _scale, _fusion,
)  # fmt: skip
