"""``memo-dist config``: the resolved configuration."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, resolve
from memo_dist.config import to_yaml
from memo_dist.config.help import describe


@click.command("config")
@click.option(
    "--help-keys", is_flag=True, help="Print every key with its default value and meaning."
)
@config_options
def command(help_keys: bool, config_files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Resolve defaults, files and overrides; check and print the configuration."""
    config = resolve(config_files, overrides)
    click.echo(describe() if help_keys else to_yaml(config), nl=help_keys)
