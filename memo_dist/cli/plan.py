"""``memo-dist plan CORPUS``: estimates memory size, time and cost of a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import click

from memo_dist.cli.options import config_options, corpus_argument, resolve
from memo_dist.corpus.listing import list_source
from memo_dist.io.store import Place
from memo_dist.observability.logs import quiet_libraries


@click.command("plan")
@corpus_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--recall", type=float, help="Target recall; the same as plan.recall=R.")
@config_options
def command(
    corpus: Place,
    as_json: bool,
    recall: float | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Estimate facts, memory size, training hours, GPU memory and generator calls of CORPUS.

    The estimate applies the rules generator to a sample of the documents. It writes no files and
    makes no API calls.
    """
    target = () if recall is None else (f"plan.recall={recall}",)
    config = resolve(config_files, (*overrides, *target))
    if isinstance(corpus, Path):
        list_source(corpus)  # a wrong path is an error before seconds of imports
    quiet_libraries()
    from memo_dist.scaling.capacity_plan import plan_corpus, plan_text

    planned = plan_corpus(corpus, config)
    click.echo(
        json.dumps(planned.to_json(), sort_keys=True) if as_json else plan_text(planned), nl=as_json
    )
