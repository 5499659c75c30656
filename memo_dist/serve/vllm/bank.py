"""From bank.json to shards that vLLM serves: in processes of this server, or at URLs."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from memo_dist.answering import MODES
from memo_dist.config import origin
from memo_dist.config.schema import Config
from memo_dist.config.serve_schema import ServeConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic, permissions
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import OpenMemories
from memo_dist.memory.calibration import Calibration
from memo_dist.memory.loading import base_folder
from memo_dist.memory.manifest import BankManifest, ShardEntry
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.loading import answering_device, load_tokenizer
from memo_dist.models.weight_files import StoredWeights
from memo_dist.serve.vllm.client import Client, RefusedError
from memo_dist.serve.vllm.process import VllmProcess, vllm_command
from memo_dist.serve.vllm.shards import ServedShard, Server, VllmShards

LOG = "vllm.log"
"""In RUN/serve."""
_HASH_DIGITS = 16
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank."""
_BASE_MODEL = "memo-base"
_OUTPUT = "lm_head"


class _Place(NamedTuple):
    """Where a model is served, and how many tokens it reads and writes at most."""

    server: Server
    positions: int


def opener(run: RunFolder, config: Config) -> OpenMemories:
    """What opens the shards of a generation of ``run`` with vLLM.

    Args:
        run: its folder ``serve`` gets the log.
        config: ``serve.vllm_*`` and ``memory.max_answer_tokens``.

    Raises:
        UsageError: a mode needs the models in this process, there is no vLLM, the key is not in
            the environment, or only the run's own file names URLs, command, words or variable.
    """
    settings = config.serve
    names = ("command", "args", "urls", "api_key_env")
    origin.check({f"serve.vllm_{name}": getattr(settings, f"vllm_{name}") for name in names})
    inside = [mode for mode in settings.modes if MODES[mode].inside]
    if inside:
        raise UsageError(
            f"serve.modes={settings.modes}: {', '.join(inside)} reads the memory's logits or hidden"
            " states inside of its model: use serve.engine=transformers, or other modes"
        )
    key = _read_key(settings)
    if not settings.vllm_urls:
        vllm_command(settings)
        permissions.make_folder(_log(run).parent, config.run.group_readable)
        with permissions.creating(config.run.group_readable):
            _log(run).write_bytes(b"")  # that of the server before

    def opened(manifest: BankManifest, folder: Path) -> Sequence[VllmShards]:
        processes = ExitStack()
        with ExitStack() as failing:
            failing.callback(processes.close)
            places = (
                _at_urls(manifest, folder, settings, key)
                if settings.vllm_urls
                else _own(manifest, folder, run, config, processes)
            )
            shards = _shards(manifest, folder, places)
            found = VllmShards(shards, config.memory.max_answer_tokens, processes.close)
            _check(found, settings)
            failing.pop_all()
        return [found]

    return opened


def _log(run: RunFolder) -> Path:
    return run.root / "serve" / LOG


def _read_key(settings: ServeConfig) -> str:
    name = settings.vllm_api_key_env
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise UsageError(
            f"serve.vllm_api_key_env={name}, but the environment variable {name} is not set"
        )
    if not (key.isascii() and key.isprintable()):  # no HTTP header could hold it
        raise UsageError(
            f"serve.vllm_api_key_env={name}: the value of the environment variable {name} is no API"
            " key (line breaks, control characters or letters beyond ASCII)"
        )
    return key


def _shards(
    manifest: BankManifest, folder: Path, places: Mapping[str, _Place]
) -> dict[int, ServedShard]:
    found = {}
    for entry in manifest.shards:
        path, place = manifest.shard_folder(folder, entry.id), places[_model(entry)]
        found[entry.id] = ServedShard(
            place.server,
            _model(entry),
            ChatFormat.from_tokenizer(load_tokenizer(path)),
            place.positions,
            Calibration.load(path).needs_whole_vocabulary,
        )
    return found


def _check(shards: VllmShards, settings: ServeConfig) -> None:
    """Ask each shard once.

    Raises:
        UsageError: a server at a URL does not give what a calibration needs.
        RunError: a reply lacks something.
    """
    try:
        shards.check()
    except RefusedError as error:
        raise UsageError(
            f"serve.engine=vllm cannot give the confidences of this bank: {error}; a calibration"
            " that uses first_entropy or abstain_logprob needs --max-logprobs=-1"
            + (" of the servers in serve.vllm_urls" if settings.vllm_urls else "")
            + ", or export again"
        ) from error


def _model(entry: ShardEntry) -> str:
    """The name of a shard at a server: other weights have another one."""
    return f"memo-{entry.weights_hash[:_HASH_DIGITS]}"


def _own(
    manifest: BankManifest, folder: Path, run: RunFolder, config: Config, processes: ExitStack
) -> dict[str, _Place]:
    """Start a process for each full shard, and one for all adapters; all load at the same time.

    ``processes`` ends them.

    Raises:
        RunError: one of them does not start.
    """
    settings = config.serve
    secrets = [
        group.api_key_env for group in (config.generator, config.executive) if group.api_key_env
    ]
    until = time.monotonic() + settings.vllm_start_seconds
    started = []
    for words in serve_words(manifest, folder):
        words = [*words, *_own_words(settings)]
        process = VllmProcess(words, settings, _log(run), secrets)
        processes.callback(process.end)
        started.append(process)
    for process in started:
        process.wait(until)
    return _places(started)


def _own_words(settings: ServeConfig) -> list[str]:
    words = [
        f"--kv-cache-memory-bytes={int(settings.vllm_cache_gb * 2**30)}",
        # With the bytes given this is only a check at the start, which would refuse a GPU on which
        # the generation before, or another shard, has memory already.
        "--gpu-memory-utilization=0.01",
        "--disable-log-stats",
        "--uvicorn-log-level=warning",
    ]
    if answering_device("auto").type == "cpu":  # as the other engine loads it; start in seconds
        words += ["--dtype=float32", "--enforce-eager"]
    return words


def serve_words(manifest: BankManifest, folder: Path) -> list[list[str]]:
    """The words behind ``vllm serve`` for each server that a bank needs.

    Args:
        manifest: of the bank.
        folder: holds ``bank.json``.

    Raises:
        UsageError: an adapter's rank is larger than vLLM takes, it changes the output layer, or
            their base is missing.
        RunError: the base is another one.
    """
    common = ["--generation-config=vllm"]
    paths = {entry.id: manifest.shard_folder(folder, entry.id) for entry in manifest.shards}
    if any(Calibration.load(path).needs_whole_vocabulary for path in paths.values()):
        common.append("--max-logprobs=-1")
    adapters = [entry for entry in manifest.shards if entry.kind == "adapter"]
    found = [
        [str(paths[entry.id]), f"--served-model-name={_model(entry)}", *common]
        for entry in manifest.shards
        if entry.kind == "full"
    ]
    if adapters:
        folders = [paths[entry.id] for entry in adapters]
        base = [str(base_folder(manifest, folder)), f"--served-model-name={_BASE_MODEL}"]
        # As JSON: NAME=PATH cannot hold a path with a comma.
        names = [
            json.dumps({"name": _model(entry), "path": str(paths[entry.id])}) for entry in adapters
        ]
        found.append([*base, *common, *_lora_words(folders), "--lora-modules", *names])
    return found


def _lora_words(folders: Sequence[Path]) -> list[str]:
    """The words that let a base take the adapters in these folders.

    Only the modules that they have are made ready for adapters. vLLM 0.32 would take the output
    layer too, and there its adapters fail (on a CPU: the process ends) where the log-probabilities
    of several prompts are requested, as for the likelihood of questions.
    """
    modules = sorted(set().union(*map(_modules, folders)))
    rank = f"--max-lora-rank={_rank(folders)}"
    most = f"--max-loras={len(folders)}"
    return ["--enable-lora", most, rank, "--lora-target-modules", *modules]


def _modules(folder: Path) -> set[str]:
    """Last parts of the names of the modules that an adapter changes.

    Raises:
        UsageError: it changes the output layer.
    """
    names = [name for name in StoredWeights(folder).names if ".lora_" in name]
    found = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in names}
    if _OUTPUT in found:
        raise UsageError(
            f"the adapter in '{folder}' changes the output layer (train.lora_targets), which vLLM"
            " does not serve rightly: use serve.engine=transformers, or export with"
            " export.adapter=folded"
        )
    return found


def _rank(folders: Sequence[Path]) -> int:
    """The least of vLLM's ranks that holds the adapters in these folders."""
    most = max(int(atomic.read_json(path / "adapter_config.json")["r"]) for path in folders)
    for rank in _RANKS:
        if rank >= most:
            return rank
    raise UsageError(
        f"an adapter of rank {most} (train.lora_rank) is larger than the {_RANKS[-1]} that vLLM"
        " serves: use serve.engine=transformers, or export with export.adapter=folded"
    )


def _at_urls(
    manifest: BankManifest, folder: Path, settings: ServeConfig, key: str
) -> dict[str, _Place]:
    """The shards at URLs; the first URL that has one serves it.

    Raises:
        UsageError: nobody serves a shard; has the commands that do.
        RunError: a server does not answer.
    """
    clients = [Client(url, key, settings.answer_seconds) for url in settings.vllm_urls]
    found = _places(clients)
    missing = [entry for entry in manifest.shards if _model(entry) not in found]
    if missing:
        want = ", ".join(f"{_model(entry)} (shard {entry.id})" for entry in missing)
        commands = "\n".join(
            f"  vllm serve {shlex.join(words)}" for words in serve_words(manifest, folder)
        )
        raise UsageError(
            f"serve.vllm_urls={settings.vllm_urls} serve {', '.join(sorted(found)) or 'nothing'},"
            f" and this generation needs {want}; start vLLM there with\n{commands}"
        )
    return found


def _places(servers: Sequence[Server]) -> dict[str, _Place]:
    """Where each model is served."""
    found: dict[str, _Place] = {}
    for server in servers:
        rows: list[dict[str, Any]] = server.get("/models").get("data") or []
        known = [int(row["max_model_len"]) for row in rows if row.get("max_model_len")]
        if not known:
            raise RunError("a vLLM server does not say how many tokens it reads (max_model_len)")
        for row in rows:  # an adapter has its base's
            found.setdefault(str(row.get("id")), _Place(server, min(known)))
    return found
