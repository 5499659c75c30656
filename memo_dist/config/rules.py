"""Checks of a configuration: what each key's schema says, and the rules that span keys.

Each rule has a test that a bad configuration is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, get_args

from memo_dist.config.keys import KeySpec, key_specs
from memo_dist.config.model_schema import BUILT_IN, EndpointConfig
from memo_dist.config.scale_rules import scale_rules
from memo_dist.config.schema import Config, TrainConfig
from memo_dist.config.serve_schema import ServeConfig
from memo_dist.config.steps import StepName
from memo_dist.errors import UsageError, suggest
from memo_dist.io.urls import read_url

Rule = Callable[[Config], Iterator[str]]


def choices(key: str) -> tuple[str, ...]:
    """The words that a key may have; empty where it takes any value."""
    spec = key_specs(Config).get(key)
    return spec.choices if spec else ()


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
    for key, spec in key_specs(Config).items():
        value = lookup(config, key)
        if spec.choices and value not in spec.choices:
            allowed = ", ".join(spec.choices)
            yield f"{key}='{value}' must be one of {allowed}{suggest(value, spec.choices)}"


def _names(config: Config) -> Iterator[str]:
    for key, spec in key_specs(Config).items():
        known = spec.names
        for name in lookup(config, key) if known else ():
            if name not in known:
                yield (
                    f"{key}: unknown name '{name}'{suggest(name, known)};"
                    f" names are {', '.join(known)}"
                )


def _bounds(config: Config) -> Iterator[str]:
    for key, spec in key_specs(Config).items():
        value = lookup(config, key)
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, float) and not isfinite(item) for item in items):
            yield f"{key}={value} must be a finite number"
            continue
        for reason, holds in _checks(spec):
            if not all(map(holds, items)):
                yield f"{key}={value} must {reason}"


def _checks(spec: KeySpec) -> Iterator[tuple[str, Callable[[float], bool]]]:
    """(what a value must be, whether it is) for each bound of a key."""
    least, above, between = spec.at_least, spec.above, spec.between
    if least is not None:
        yield f"be at least {least:g}", lambda value: value >= least
    if above is not None:
        yield f"be above {above:g}", lambda value: value > above
    if between is not None:
        low, high = between
        yield f"be from {low} to {high}", lambda value: low <= value <= high
    if spec.fraction:
        yield "lie between 0 and 1", lambda value: 0 <= value <= 1


def _corpus(config: Config) -> Iterator[str]:
    for code in config.corpus.languages:
        if not re.fullmatch(r"[a-z]{2,3}", code):
            yield f"corpus.languages: '{code}' is no code of a language (en, de, ja, ...)"


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
    steps = config.synthesis.steps
    if not config.corpus.trusted and "cross" in steps:
        yield (
            f"synthesis.steps={steps}: 'cross' joins documents in one call, and with"
            " corpus.trusted=false a call reads one document; leave 'cross' out"
        )
    for judge in ("verify", "roundtrip"):
        if judge in steps and "cross" in steps[: steps.index(judge)]:
            yield (
                f"synthesis.steps={steps}: '{judge}' reads the pairs of single documents and would"
                f" lose those of 'cross'; put 'cross' after '{judge}'"
            )
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
    named = kind == "recorded" and group == "generator"  # by the recording
    if kind not in (*BUILT_IN, "none") and not named and not endpoint.model:
        yield f"{group}.model='' must name the model for {group}.kind={kind}"
    if kind == "openai" and not endpoint.urls:
        yield f"{group}.urls=[] must name an endpoint, as {group}.urls=[http://127.0.0.1:8000/v1]"
    if kind == "recorded" and not endpoint.recording:
        yield f"{group}.recording='' must name the file or folder of {group}.kind=recorded"
    yield from _where(endpoint.urls, endpoint.api_key_env, f"{group}.")


def _where(urls: list[str], name: str, prefix: str) -> Iterator[str]:
    """Of ``PREFIXurls`` and ``PREFIXapi_key_env``."""
    for url in urls:
        yield from _url(url, prefix)
    if name and (not name.isidentifier() or _is_key(name)):
        yield (  # the value may be a key that was put in the wrong place: it is not repeated
            f"{prefix}api_key_env must be the NAME of an environment variable, not the key itself"
        )


def _is_key(name: str) -> bool:
    """Whether the name of a variable looks like a key itself, as some services write theirs."""
    if _KEY_BEGINNING.match(name):
        return True
    longest = max(map(len, name.split("_")))
    return longest >= _LONG_WORD and any(sign.isdigit() for sign in name)


def _url(url: str, prefix: str) -> Iterator[str]:
    parts = read_url(url)
    if parts is None:
        yield f"{prefix}urls: one of them is no URL: its host or port cannot be read"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield f"{prefix}urls: {parts.scheme}://{parts.hostname} is not an http(s) URL"
    if parts.username or parts.password or parts.query:
        yield (
            f"{prefix}urls: the URL of {parts.hostname} carries credentials or a query; name the"
            f" environment variable with the key in {prefix}api_key_env"
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
            yield f"train.{key} needs measurements of recall: set train.eval_minutes or eval_steps"
    if train.select == "recall" and not measured:
        yield "train.select='recall' needs train.eval_minutes or train.eval_steps"
    yield from _knowledge(train)
    if not train.lora_targets:
        yield "train.lora_targets=[] leaves nothing to adapt; write [all-linear]"
    rows = max(1, train.batch_tokens // train.micro_batch_tokens)
    if config.cluster.workers and rows % config.cluster.workers:
        yield (
            f"cluster.workers={config.cluster.workers} must divide the {rows} rows of a step"
            " (train.batch_tokens / train.micro_batch_tokens)"
        )


def _knowledge(train: TrainConfig) -> Iterator[str]:
    if train.replay == 1:
        yield "train.replay=1 must be below 1: some tokens must be of reflections"
    for key in ("anchor_kl", "replay_text"):
        if getattr(train, key) and not train.replay:
            yield f"train.{key}={getattr(train, key)} needs other text: set train.replay=0.1"
    if train.teacher and train.source == "documents":
        yield f"train.teacher={train.teacher} labels answers: set train.source=reflections"
    if train.held_out_questions and not (train.eval_steps or train.eval_minutes):
        yield (
            f"train.held_out_questions={train.held_out_questions} needs train.eval_minutes or"
            " train.eval_steps"
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
            yield f"launch.sbatch: '{option[:40]}' must be one sbatch option, as --qos=high"
    for key in ("sbatch", "setup"):
        if any(_SECRET.search(line) for line in getattr(launch, key)):
            yield (  # the line may hold the secret: it is not repeated
                f"launch.{key} sets what looks like a key or password: scripts and process lists"
                " are public; export it before the submission, the job inherits it"
            )
    if any(
        not folder.startswith("/") or set(folder) & set(":,\n\"'`$\\") for folder in launch.mounts
    ):
        yield f"launch.mounts={launch.mounts} must be absolute folders, without ':' and ','"


def _plan(config: Config) -> Iterator[str]:
    if config.plan.recall == 1:
        yield "plan.recall=1 must be below 1: no recall law reaches it"


def _serve(config: Config) -> Iterator[str]:
    serve = config.serve
    if not _TIME.fullmatch(serve.consolidate_at):
        yield f"serve.consolidate_at='{serve.consolidate_at}' must be a time of the day, as 03:00"
    if not serve.modes:
        yield "serve.modes=[] must name at least one mode, as [direct]"
    if not serve.host:
        yield "serve.host='' must be an address, as 127.0.0.1"
    if any(not name or set(name) & set("/@ ") for name in serve.hosts):
        yield f"serve.hosts={serve.hosts} must be host names without scheme and path"
    if bool(serve.tls_cert) is not bool(serve.tls_key):
        yield "serve.tls_cert and serve.tls_key go together: set both, or neither"
    if serve.max_replicas and not 0 < serve.replicas <= serve.max_replicas:
        yield (
            f"serve.max_replicas={serve.max_replicas} needs serve.replicas between 1 and itself,"
            f" not {serve.replicas}"
        )
    yield from _vllm(serve)
    if serve.replica_gpus > 1 and serve.replica_gpus % 1:
        yield f"serve.replica_gpus={serve.replica_gpus} must be a whole number above 1"


def _vllm(serve: ServeConfig) -> Iterator[str]:
    yield from _where(serve.vllm_urls, serve.vllm_api_key_env, "serve.vllm_")
    if serve.engine == "vllm" and serve.replicas:
        yield (
            f"serve.replicas={serve.replicas} needs serve.engine=transformers: vLLM scales by its"
            " own processes (serve.vllm_args, serve.vllm_urls)"
        )
    if not serve.vllm_command.strip():
        yield "serve.vllm_command='' must be the command of vLLM, as /opt/vllm/bin/vllm"


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
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)\w*=[^\s$]", re.IGNORECASE)
"""An assignment of a literal to a name like these; ``$(...)`` and ``$NAME`` are no literals."""


def _fusion(config: Config) -> Iterator[str]:
    layers = config.fusion.latent.memory_layers
    if not layers or len(set(layers)) != len(layers):
        yield f"fusion.latent.memory_layers={layers} must name different layers, at least one"


_KEY_BEGINNING = re.compile(
    r"(sk|pk|rk|hf|gh[opsur]|github_pat|glpat|xox[abpr]|xai|gsk|nvapi|key|AKIA|ASIA|AIza|eyJ)"
    r"(_|(?<=AKIA)|(?<=ASIA)|(?<=AIza)|(?<=eyJ))\w{8,}"
)
_LONG_WORD = 20
"""Letters and digits without a break: names of variables have words, keys have not."""


_RULES: tuple[Rule, ...] = (
    _corpus,
    _choices, _names, _bounds, _endpoints, _steps, _train, _memory, _launch, _plan, _scale, _fusion,
    _serve,
)  # fmt: skip
