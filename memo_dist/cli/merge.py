"""``memo-dist merge RUN... --out RUN``: banks of one base become one."""

from __future__ import annotations

from pathlib import Path

import click

METHODS = ("union", "linear", "slerp", "task", "ties", "dare", "iso_c", "tsv", "regmean")


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="RUN", type=click.Path(path_type=Path), help="New run folder."
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="union",
    show_default=True,
    help="union: keep all shards as they are; another one merges weights into fewer shards.",
)
@click.option(
    "--shards", type=int, default=1, show_default=True, help="Shards after a merge of weights."
)
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor of the merged task vector: task, ties, dare, iso_c, tsv.",
)
@click.option(
    "--duplicates",
    type=click.Choice(("refuse", "newer")),
    default="refuse",
    show_default=True,
    help="A document in two runs: refuse, or withhold the revision with the earlier date.",
)
@click.option(
    "--questions",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Taught questions per document that recall is measured on; 0: none.",
)
def command(  # noqa: PLR0913
    runs: tuple[Path, ...],
    out: Path,
    method: str,
    shards: int,
    scale: float,
    duplicates: str,
    questions: int,
) -> None:
    """Merge the memories of RUN... into the memory of a new run, without training.

    The memories must have the same base. The union keeps every shard and its answers. The other
    methods merge weights into fewer shards; the recall that this costs is printed beside the
    union's, and is in RUN/memory/merge.json.
    """
    # Imported here: --help and refused arguments need no torch.
    from memo_dist.change.merge import Options, merge
    from memo_dist.observability.logs import quiet_libraries

    quiet_libraries()
    options = Options(method, shards, scale, duplicates == "newer", questions)
    for line in merge(runs, out, options).lines():
        click.echo(line)
    click.echo(f"merged into {out}")
