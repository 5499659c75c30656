"""``memo-dist fuse RUN``: fits the gate or connector between a memory and a frozen backbone."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, resolve, run_argument
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run, open_run


@click.command("fuse")
@run_argument
@click.option(
    "--mode",
    type=click.Choice(["logits", "latent"]),
    default="logits",
    show_default=True,
    help="Fit a gate (logits) or a connector (latent).",
)
@click.option("--backbone", help="Frozen LLM; the same as fusion.backbone=NAME.")
@config_options
def command(
    run_folder: Path,
    mode: str,
    backbone: str | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Fit a gate or connector between the memory of RUN and a frozen LLM (the backbone).

    The weights of both models stay unchanged; the result is in RUN/fusion.

    logits: a gate, which weights the token probabilities of the memory and the backbone (for
    ask --mode logits).

    latent: a connector, a cross-attention from the backbone to the hidden states of the memory
    (for ask --mode latent). After a stop, the same command continues its training.
    """
    existing_run(run_folder)
    # The backbone's name is kept in the run's configuration: asking needs no option for it.
    named = (f"fusion.backbone={backbone}",) if backbone else ()
    config = resolve(config_files, (*overrides, *named), run_folder)
    quiet_libraries()
    if mode == "latent":
        _train_connector(run_folder, config)
        return
    STOP.install()
    with open_run(run_folder, config, "must") as run:
        _fit_gate(run, config)


def _train_connector(run_folder: Path, config: Config) -> None:
    from memo_dist.fusion.latent.stage import fuse_latent

    found = fuse_latent(run_folder, config)
    if found is None:
        return
    folder, card = found
    for where, arms in card["nats_per_token"]["after"].items():
        click.echo(
            f"{where}, held-out loss (nats/token): backbone {arms['backbone']:.2f}, fused"
            f" {arms['fused']:.2f}, backbone with the passage {arms['taught']:.2f}"
        )
    click.echo(f"the connector is in {folder}")


def _fit_gate(run: RunFolder, config: Config) -> None:
    from memo_dist.fusion.logits.stage import fit_run_gate

    folder, fitted = fit_run_gate(run, config, STOP)
    counts, nats = fitted.examples, fitted.loss
    outside = sum(count for kind, count in counts.items() if kind != "inside")
    click.echo(
        f"fitted on {counts['inside']} held-out answers and {outside} questions outside the"
        f" documents on which the memory does not abstain; loss (nats/token): backbone"
        f" {nats['backbone']:.2f}, memory {nats['memory']:.2f}, entropy gate"
        f" {nats['entropy']:.2f}, learned gate {nats['learned']:.2f}"
    )
    click.echo(f"the gate is in {folder}")
