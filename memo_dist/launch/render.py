"""Slurm scripts from the ``launch`` group: one template for jobs, one for the chain.

The committed files under ``slurm/`` are what :func:`shipped_scripts` yields; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jinja2

from memo_dist.config.schema import LaunchConfig
from memo_dist.launch.slurm_calls import COMMAND_SECONDS
from memo_dist.launch.verbs import VerbCall

DEFAULT_PARTITIONS = 4


@dataclass(frozen=True)
class Script:
    """One file to submit: its name and its content."""

    name: str
    text: str


@dataclass(frozen=True)
class Recipe:
    """What a job script is for."""

    title: str
    example: str


RECIPES: dict[str, Recipe] = {
    "single-node": Recipe("One verb on one node, with all its GPUs.", "encode CORPUS --run RUN"),
    "multi-node": Recipe("Training on several nodes with Slurm's own ranks.", "train RUN"),
    "ray": Recipe("One verb on Ray over all nodes of the job.", "encode CORPUS --run RUN"),
    "array": Recipe(
        "A synthesis as a job array: one task a partition, failed ones again alone.\n"
        "# --array must name the partitions of synthesis.partitions; `synthesize` without this"
        " script\n# merges them.",
        "synthesize CORPUS --run RUN",
    ),
    "scale-array": Recipe(
        "A scaling study as a job array: each task its share of the cells, failed tasks again.\n"
        "# --array must name the partitions of scale.partitions; `scale run` without this script\n"
        "# fits, predicts, runs the held-out sizes and reports.",
        "scale run STUDY --run FOLDER",
    ),
}
FILE_NAMES = {"array": "synthesize-array.sbatch"}
MERGE = "merge.sbatch"
"""Joins the parts of a synthesis, in a chain whose other jobs have GPUs."""
ARRAYS = {"array": "synthesize", "scale-array": "scale"}
"""Recipes that are job arrays, and their verbs."""


def recipe_of(launch: LaunchConfig, call: VerbCall) -> str:
    """``launch.recipe``, or for ``auto`` the one that fits the verb and the nodes."""
    if launch.recipe == "array" and call.verb == "scale":
        return "scale-array"
    if launch.recipe != "auto":
        return launch.recipe
    if launch.nodes == 1:
        return "single-node"
    return "multi-node" if call.verb == "train" else "ray"


def ranks_per_node(launch: LaunchConfig) -> int:
    """Training ranks that a launcher starts on each node."""
    return launch.tasks_per_node or launch.gpus_per_node or 1


def file_name(recipe: str) -> str:
    """The name of a recipe's script."""
    return FILE_NAMES.get(recipe, f"{recipe}.sbatch")


def job_script(recipe: str, launch: LaunchConfig, array: str = "", name: str = "") -> Script:
    """The script of one job.

    Args:
        recipe: a key of :data:`RECIPES`.
        launch: the group ``launch``.
        array: the task indices of recipe ``array``, as sbatch's ``--array`` takes them.
        name: of the file, where it is not the recipe's own.
    """
    name = name or file_name(recipe)
    nodes = launch.nodes if recipe in ("multi-node", "ray") else 1
    tasks = ranks_per_node(launch) if recipe == "multi-node" else 1
    if array and launch.array_at_once:
        array = f"{array}%{launch.array_at_once}"
    log = "%x-%A_%a.log" if recipe in ARRAYS else "%x-%j.log"
    text = _template("job.sbatch.j2").render(
        launch=launch,
        recipe=recipe,
        verb={"multi-node": "train", **ARRAYS}.get(recipe),
        is_array=recipe in ARRAYS,
        title=RECIPES[recipe].title,
        example=RECIPES[recipe].example,
        file=f"slurm/{name}",
        nodes=nodes,
        tasks=tasks,
        array=array,
        log=f"{launch.log_folder}/{log}" if launch.log_folder else log,
        mounts="".join(f",{folder}" for folder in launch.mounts),
        pyxis_mounts=",".join(f"{folder}:{folder}" for folder in ["$PWD", *launch.mounts]),
    )
    return Script(name, text)


def chain_scripts(
    launch: LaunchConfig, partitions: int, synthesis_gpus: bool = True
) -> list[Script]:
    """The scripts of the chain; the last one submits the others.

    Args:
        launch: the group ``launch``.
        partitions: of the synthesis.
        synthesis_gpus: its generator uses the GPUs that the jobs request; if not, the jobs of the
            synthesis request none.
    """
    train = "single-node" if launch.nodes == 1 else "multi-node"
    jobs = {recipe: job_script(recipe, launch) for recipe in ("single-node", train)}
    without = launch if synthesis_gpus else replace(launch, gpus_per_node=0)
    array = job_script("array", without, task_range(partitions))
    merge = jobs["single-node"]
    if launch.gpus_per_node:  # nothing in a merge runs on a GPU
        merge = job_script("single-node", replace(launch, gpus_per_node=0), name=MERGE)
    own = [merge] if merge.name == MERGE else []
    names = {"file": "slurm/chain.sh", "train": file_name(train), "merge": merge.name}
    text = _template("chain.sh.j2").render(names, seconds=COMMAND_SECONDS)
    return [array, *own, *jobs.values(), Script("chain.sh", text)]


def task_range(partitions: int) -> str:
    """All partitions as sbatch's ``--array`` takes them."""
    return f"0-{partitions - 1}"


def shipped_scripts() -> Iterator[Script]:
    """The files under ``slurm/``: the defaults, two nodes where a recipe is about several."""
    one, two = LaunchConfig(), LaunchConfig(nodes=2)
    yield from chain_scripts(two, DEFAULT_PARTITIONS)
    yield job_script("scale-array", one, task_range(DEFAULT_PARTITIONS))
    yield job_script("ray", two)
    yield job_script("ray", replace(two, ray_start="symmetric"), name="ray-symmetric.sbatch")
    image = "/path/to/memo-dist.sqsh"
    yield job_script("multi-node", replace(two, container=image), name="multi-node-pyxis.sbatch")
    sif = replace(one, nodes=2, container="/path/to/memo-dist.sif", container_runtime="apptainer")
    yield job_script("multi-node", sif, name="multi-node-apptainer.sbatch")


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memo_dist.launch"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="<#",  # "{#" is shell: ${#array[@]}
        comment_end_string="#>",
        autoescape=False,  # noqa: S701 (shell, not HTML; the values are checked in config/rules.py)
    )
    return environment.get_template(name)
