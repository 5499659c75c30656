"""``memo-dist mcp RUN``: a memory as tools of an agent."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, need_server, resolve, run_argument
from memo_dist.runs import existing_run


@click.command("mcp")
@run_argument
@click.option(
    "--http",
    is_flag=True,
    help="Listen on serve.host and serve.port (streamable HTTP, path /mcp) in place of standard"
    " input and output.",
)
@config_options
def command(
    run_folder: Path, http: bool, config_files: tuple[Path, ...], overrides: tuple[str, ...]
) -> None:
    """Offer the memory of RUN as MCP tools on standard input and output, for one agent.

    The tools ask, search, add, list, update and delete; see docs/serving.md. `memo-dist serve`
    offers the same tools at /mcp. The extra `mcp` must be installed.
    """
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    need_server(config, "mcp", "mcp")
    from memo_dist.observability.logs import quiet_libraries
    from memo_dist.serve.server import serve, serve_stdio

    quiet_libraries()
    if http:
        serve(run, config, only_mcp=True)
    else:
        serve_stdio(run, config)
