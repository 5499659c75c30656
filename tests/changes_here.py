"""Verbs that change a memory, in this process and without Ray.

Each stage does its own work; only what Ray carries to workers is done here, one after the other.
With ``write_final`` in place of trainings, weights are random, but still a function of their job:
then what is tested is which files change when, and what an error leaves, not what a memory learns.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist import pipeline
from memo_dist.change import update, verify
from memo_dist.cluster.rendezvous import adopt_ranks
from memo_dist.cluster.resources import Resources
from memo_dist.config.schema import Config
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.chat_format import ChatFormat
from memo_dist.synthesis.engine import never
from memo_dist.synthesis.finish import finish, finished_summary
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.partition import synthesize_partition
from memo_dist.synthesis.plan import make_plan
from memo_dist.synthesis.stages import write_planned
from memo_dist.training import checkpoint, start
from memo_dist.training.job import TrainJob
from memo_dist.training.start import RankedWork

HERE = Resources(1, 0, 2**30)


def write_final(job: TrainJob) -> None:
    """What a training of a job leaves."""
    model = AutoModelForCausalLM.from_pretrained(job.base).eval()
    noise = torch.Generator().manual_seed(int(job.identity[:8], 16))
    for weight in model.parameters():
        weight.data += 0.01 * torch.randn(weight.shape, generator=noise)
    model.save_pretrained(job.final)
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    ChatFormat.from_tokenizer(tokenizer).install(tokenizer)
    tokenizer.save_pretrained(job.final)
    probe = {}
    for index, ids in enumerate(map(torch.tensor, job.probe)):
        with torch.no_grad():
            probe[f"ids.{index}"] = ids
            probe[f"logits.{index}"] = model(input_ids=ids[None]).logits[0, -1].clone()
    save_file(probe, job.final / "probe.safetensors")
    atomic.write_jsonl(job.path / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    state = checkpoint.TrainState(1, 1, 1, 1, 1, 0.0, job.seed, job.identity, 1, 0, 1, {})
    checkpoint.complete(job.final, state)


def work_here(patch: pytest.MonkeyPatch, trains: bool = False) -> None:
    """Let the stages that start Ray do their work in this process.

    Args:
        patch: undoes it.
        trains: train; otherwise random weights stand for trained ones.
    """
    patch.setattr(pipeline, "run_synthesis", _synthesise)
    train = train_here if trains else _do_not_train
    for module in (start, verify):
        patch.setattr(module, "train_by_ray", train)
    for module in (update, pipeline):
        patch.setattr(module, "ray_session", _no_ray)


@contextmanager
def _no_ray(_):
    yield HERE


def _synthesise(run: RunFolder, config: Config) -> None:
    generator = generator_factory(config)()
    plan = make_plan(run.corpus, config, generator)
    if finished_summary(run, plan) is not None:
        return
    write_planned(run, plan)
    for partition in range(plan.partitions):
        synthesize_partition(run, config, generator, partition, never)
    finish(run, plan, config.synthesis)


def _do_not_train(work: RankedWork, run: RunFolder, config: Config) -> None:
    for shard in work.pending(run, config):
        write_final(work.job(run, config, shard, HERE))


def train_here(work: RankedWork, run: RunFolder, config: Config) -> None:
    """As one rank, which finds what a killed one before it left."""
    adopt_ranks(run.root / "train", config.cluster.start_timeout)
    for shard in work.pending(run, config):
        work.entry(work.job(run, config, shard, HERE).to_json(), None)
