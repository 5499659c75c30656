"""``memo-dist dataset NAME SOURCE OUT``: converts published files to a corpus and questions."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.corpus.datasets import DATASETS, write_dataset


@click.command("dataset", epilog=f"Data sets: {', '.join(sorted(DATASETS))}.")
@click.argument("name", metavar="NAME", type=click.Choice(sorted(DATASETS)))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--split", default="", help="Convert only this split if the files contain several.")
def command(name: str, source: Path, out: Path, split: str) -> None:
    """Convert the published files of data set NAME to a corpus and questions.

    SOURCE is the local path of the files. The results are OUT/corpus.jsonl and
    OUT/questions.jsonl.
    """
    counts = write_dataset(name, source, out, split)
    click.echo(
        f"{out}/corpus.jsonl: {counts.documents} documents; {out}/questions.jsonl:"
        f" {counts.questions} questions, {counts.unanswerable} of them unanswerable"
    )
