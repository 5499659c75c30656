"""The memories of a bank, as work whose ranks are started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from memo_dist.cluster.placement import Placement
from memo_dist.cluster.ray_tasks import on_workers
from memo_dist.cluster.resources import Resources
from memo_dist.config.schema import Config
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.base import SCRATCH_NAME, BaseModel, resolve_base
from memo_dist.stages.records import SYNTHESIS
from memo_dist.stages.state import require
from memo_dist.synthesis.finish import require_reflections
from memo_dist.training.done import pending_shards
from memo_dist.training.enriched import check_teacher
from memo_dist.training.examples import Examples
from memo_dist.training.job import TrainJob, make_plan, rows_per_step, total_steps
from memo_dist.training.memory_check import check_addresses, planned_need
from memo_dist.training.model import use_bf16
from memo_dist.training.prepare import check_training, memory_base, place_bank, prepare_job
from memo_dist.training.rank_entry import memory_rank
from memo_dist.training.saver import with_resume
from memo_dist.training.trained_on import TrainedOn

LARGE_BYTES = 2**26
"""From this size of ``reflections.jsonl`` on the start of workers pays."""
_Prepared = tuple[RunFolder, Config, int, BaseModel, Resources, TrainedOn]


class BankWork:
    """The shards' trainings; see :class:`memo_dist.training.start.RankedWork`.

    Args:
        resume: of the command: ``auto``, ``must`` or the folder of a checkpoint.
    """

    entry = staticmethod(memory_rank)

    def __init__(self, resume: str = "auto") -> None:
        self._resume = resume
        self._base: BaseModel
        self._inputs: dict[int, TrainedOn] = {}

    def label(self, number: int) -> str:
        """A shard's training."""
        return f"train shard {number}"

    def check(self, config: Config, world: int) -> None:
        """Base, DeepSpeed file, teacher, rows of a step, precision, and address space."""
        if config.memory.base != SCRATCH_NAME:
            resolve_base(config.memory.base)
        check_training(config)
        check_teacher(config)
        rows_per_step(config.train, world)
        use_bf16(config.train.precision)
        gpu = torch.cuda.is_available()
        need = planned_need(config, world, gpu)
        if need is not None:
            check_addresses(config, need, gpu)

    def pending(self, run: RunFolder, config: Config) -> list[int]:
        """Shards that are not trained, in order."""
        require(run, SYNTHESIS)
        require_reflections(run)
        self._base = memory_base(run, config)
        self._inputs = pending_shards(run, config, self._base)
        return list(self._inputs)

    def place(self, config: Config, resources: Resources) -> Placement:
        """Shards side by side, within this machine's memory."""
        return place_bank(config, resources)

    def job(self, run: RunFolder, config: Config, number: int, resources: Resources) -> TrainJob:
        """Split, tokenise and describe a shard's training."""
        inputs = self._inputs.get(number)
        job = prepare_job(run, config, number, self._base, resources, inputs)
        return with_resume(job, self._resume)

    def jobs(
        self, run: RunFolder, config: Config, numbers: Sequence[int], resources: Resources
    ) -> dict[int, TrainJob]:
        """:meth:`job` of several shards; many reflections are prepared in Ray workers."""
        if len(numbers) < 2 or not _is_for_workers(run, config):
            return {number: self.job(run, config, number, resources) for number in numbers}
        there = replace(run, root=run.root.absolute())
        base = replace(self._base, path=self._base.path.absolute())
        rows = [
            (there, config, number, base, resources, self._inputs[number]) for number in numbers
        ]
        doing = (
            f"preparing the trainings in {run.root / 'train'}, of which a worker holds one shard's"
            " reflections in memory (a few kilobytes each),"
        )
        found = on_workers(_prepared, rows, doing)
        jobs = (with_resume(job, self._resume) for job in found)
        return dict(zip(numbers, jobs, strict=True))

    def steps(self, job: TrainJob, world: int) -> int:
        """Steps of the packed examples."""
        plan = make_plan(job, Examples.load(Path(job.examples)).lengths, world)
        return total_steps(job.train, plan)


def _is_for_workers(run: RunFolder, config: Config) -> bool:
    """Whether there is much to prepare, without a model and without files beside the run."""
    train = config.train
    here = train.teacher or train.replay or train.held_out_questions or train.deepspeed
    return not here and run.reflections.stat().st_size >= LARGE_BYTES


def _prepared(arguments: _Prepared) -> TrainJob:
    return prepare_job(*arguments)
