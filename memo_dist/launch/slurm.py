"""Slurm: scripts rendered, submitted and followed, through Slurm's own commands."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from memo_dist.config import Config
from memo_dist.config.model_schema import BUILT_IN
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.launch import jobs
from memo_dist.launch.jobs import JobState
from memo_dist.launch.render import (
    ARRAYS,
    Script,
    chain_scripts,
    job_script,
    ranks_per_node,
    recipe_of,
    task_range,
)
from memo_dist.launch.slurm_calls import COMMAND_SECONDS, run_slurm
from memo_dist.launch.slurm_rows import WAITING, KnownRows, state_of
from memo_dist.launch.verbs import VerbCall
from memo_dist.scaling.cells import partition_cells
from memo_dist.scaling.folder import SETTLED, StudyFolder
from memo_dist.training.job import rows_per_step

CHAIN_SECONDS = 7 * COMMAND_SECONDS
"""Of the chain: its five submissions and, after one that fails, its scancel end before that."""


@dataclass(frozen=True)
class SlurmPlan:
    """What would be submitted.

    Attributes:
        scripts: files; the last one is what ``command`` names.
        command: the words of the submission; the script's name stands for its path.
        config: the resolved configuration.
    """

    scripts: list[Script]
    command: list[str]
    config: Config

    def describe(self) -> str:
        """Every script and the command, as ``--dry-run`` prints them."""
        parts = [f"# ---- {script.name}\n{script.text}" for script in self.scripts]
        return "\n".join([*parts, f"# ---- command\n{shlex.join(self.command)}\n"])

    def submit(self) -> SlurmJob:
        """Submit it; Slurm keeps its own copy of the scripts.

        Raises:
            UsageError: Slurm refuses it; says why and which key to change.
            RunError: Slurm gives no answer.
        """
        folder = self.config.launch.log_folder
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="memo-launch-") as name:
            for script in self.scripts:
                atomic.write_text(Path(name) / script.name, script.text)
            last = self.scripts[-1].name
            words = [str(Path(name) / last) if word == last else word for word in self.command]
            seconds = CHAIN_SECONDS if words[0] == "bash" else COMMAND_SECONDS
            printed = run_slurm(words, refused=_refusal, seconds=seconds)
        ids = re.findall(r"^(?:\w+ )?(\d+)", printed, re.MULTILINE)
        return SlurmJob(ids[-1], tuple(ids[:-1]))


def plan(config: Config, call: VerbCall) -> SlurmPlan:
    """Scripts and command for a verb.

    Raises:
        UsageError: the recipe does not fit the verb, or nothing is left to do.
    """
    launch = config.launch
    recipe = recipe_of(launch, call)
    if recipe == "chain":
        return _chain(config, call)
    _check_recipe(recipe, call)
    array = _missing_partitions(config, call) if recipe in ARRAYS else ""
    if recipe == "array":
        _check_array(config, recipe)
        launch = launch if _uses_gpus(config) else replace(launch, gpus_per_node=0)
    if recipe == "multi-node":
        rows_per_step(config.train, launch.nodes * ranks_per_node(launch))
    script = job_script(recipe, launch, array)
    return SlurmPlan([script], ["sbatch", "--parsable", script.name, *call.words], config)


def _check_recipe(recipe: str, call: VerbCall) -> None:
    wanted = {"multi-node": "train", **ARRAYS}.get(recipe, call.verb)
    if call.verb != wanted:
        raise UsageError(
            f"launch.recipe={recipe} is for '{wanted}', not for '{call.verb}': name another"
            " launch.recipe"
        )


def _check_array(config: Config, recipe: str) -> None:
    """Tasks of an array share nothing, so no limit or budget either."""
    if config.generator.kind not in BUILT_IN:
        raise UsageError(
            f"launch.recipe={recipe} divides the synthesis among independent tasks, which cannot"
            f" share the limits and the budget of generator.kind={config.generator.kind}: run"
            " `synthesize` with launch.recipe=ray, then `train` and `export`"
        )


def _uses_gpus(config: Config) -> bool:
    return config.generator.kind != "rules"


def _chain(config: Config, call: VerbCall) -> SlurmPlan:
    if call.verb != "encode" or call.corpus is None or call.run is None:
        raise UsageError("launch.recipe=chain takes the stages of: encode CORPUS --run RUN")
    kept = [f"--config={file}" for file in call.files] + list(call.overrides)
    left = set(call.arguments) - {str(call.corpus), "--run", str(call.run), f"--run={call.run}"}
    left -= {"--config", *map(str, call.files), *kept}
    if left:
        raise UsageError(f"launch.recipe=chain cannot pass {' '.join(sorted(left))} to its stages")
    _check_array(config, "chain")
    launch = config.launch
    if launch.nodes > 1:
        rows_per_step(config.train, launch.nodes * ranks_per_node(launch))
    scripts = chain_scripts(launch, config.synthesis.partitions, _uses_gpus(config))
    questions = launch.questions or "-"
    words = ["bash", "chain.sh", str(call.corpus), str(call.run), questions, *kept]
    return SlurmPlan(scripts, words, config)


def _missing_partitions(config: Config, call: VerbCall) -> str:
    """Indices of the partitions that are not done yet, as sbatch takes them.

    Raises:
        UsageError: all are done.
    """
    study = call.verb == "scale"
    count = config.scale.partitions if study else config.synthesis.partitions
    if call.run is None:
        return task_range(count)
    done = _study_partition_is_done if study else _synthesis_partition_is_done
    left = [index for index in range(count) if not done(config, call.run, index)]
    if not left:
        raise UsageError(
            f"all {count} partitions of {call.run} are done; `memo-dist {_REST[call.verb]}"
        )
    return task_range(count) if len(left) == count else ",".join(map(str, left))


_REST = {"synthesize": "synthesize` merges them", "scale": "scale run` fits and reports"}


def _synthesis_partition_is_done(config: Config, run: Path, index: int) -> bool:
    return (run / "synth" / config.synthesis.steps[-1] / f"part-{index}.jsonl").exists()


def _study_partition_is_done(config: Config, run: Path, index: int) -> bool:
    study, cells = StudyFolder(run), partition_cells(config.scale, index)
    return all(study.outcome(cell, config.scale) in SETTLED for cell in cells)


@dataclass(frozen=True)
class SlurmJob:
    """One job, an array, or the last of a chain.

    Attributes:
        id: Slurm's number.
        before: the jobs that it depends on, in order.
    """

    id: str
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "slurm:" + ",".join([*self.before, self.id])

    @classmethod
    def parse(cls, text: str) -> SlurmJob:
        """The inverse of ``str``: ``12``, or ``12,13,14`` of a chain.

        Raises:
            UsageError: it holds no job numbers.
        """
        ids = text.split(",")
        if not all(part.isdigit() for part in ids):
            raise UsageError(f"slurm:{text}: write slurm:NUMBER, as `memo-dist launch` printed it")
        return cls(ids[-1], tuple(ids[:-1]))

    @property
    def ids(self) -> tuple[str, ...]:
        """All of them, in order."""
        return (*self.before, self.id)

    def state(self) -> JobState:
        """See :class:`memo_dist.launch.jobs.Job`; of all jobs together."""
        return state_of(KnownRows(self.ids).look())

    def cancel(self) -> None:
        """End all of them."""
        run_slurm(["scancel", *self.ids])

    def missing(self) -> str:
        """Slurm's reasons, the nodes that are wanted and the idle ones."""
        rows = KnownRows(self.ids).look()
        waiting = next((row for row in rows if row["JobState"] in WAITING), rows[-1])
        where = waiting.get("Partition", "")
        idle = run_slurm(["sinfo", "--noheader", "-o", "%F", *(["-p", where] if where else [])])
        counts = idle.split("\n")[0].strip().split("/")
        want = waiting.get("NumNodes", "?").partition("-")[0]
        have = f"{counts[1]} idle of {counts[3]}" if len(counts) == 4 else "unknown"
        return (
            f"reason {waiting.get('Reason', 'unknown')}; want {want}"
            f" node(s) of partition {where or '?'}, have {have}: lower launch.nodes, launch.memory"
            " or launch.gpus_per_node, name another launch.partition, or wait longer"
        )

    def follow(self, queue_seconds: float, tell: Callable[[str], None]) -> int:
        """See :func:`memo_dist.launch.jobs.follow`; what slurmctld forgets meanwhile is kept."""
        return jobs.follow(_Followed(self), queue_seconds, tell)


class _Followed:
    """A job whose rows are kept from one look to the next."""

    def __init__(self, job: SlurmJob) -> None:
        self._job, self._known = job, KnownRows(job.ids)
        self.cancel, self.missing = job.cancel, job.missing

    def __str__(self) -> str:
        return str(self._job)

    def state(self) -> JobState:
        """Of all jobs and array tasks, also of those that slurmctld has forgotten."""
        return state_of(self._known.look())


def _refusal(said: str) -> UsageError:
    """What Slurm answered, and the key it is about."""
    reason = re.sub(r"(sbatch|scontrol): (error: )?", "", said).replace("\n", "; ")
    lowered = reason.lower()
    hint = "launch.* keys set the resources that the job requests"
    if "partition" in lowered:
        hint = f"launch.partition; partitions here: {_partitions()}"
    elif "time limit" in lowered:
        hint = "launch.minutes"
    elif "account" in lowered:
        hint = "launch.account"
    elif "memory" in lowered:
        hint = "launch.memory"
    elif any(word in lowered for word in ("node", "gres", "processor", "cpu")):
        hint = f"launch.nodes, launch.gpus_per_node, launch.memory, launch.cpus; have {_nodes()}"
    return UsageError(f"Slurm refuses the job: {reason} ({hint})")


def _partitions() -> str:
    return _or_unknown(["sinfo", "--noheader", "-o", "%P"])


def _nodes() -> str:
    """``2 node(s) of 8 CPUs, 64000 MB, gpu:8``, for each kind of node."""
    return _or_unknown(["sinfo", "--noheader", "-o", "%D node(s) of %c CPUs, %m MB, %G"]).replace(
        ", (null)", ""
    )


def _or_unknown(words: list[str]) -> str:
    try:
        return "; ".join(line.strip() for line in run_slurm(words).splitlines()) or "none"
    except RunError:
        return "unknown"
