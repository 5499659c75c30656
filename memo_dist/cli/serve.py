"""``memo-dist serve RUN``: a memory behind HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, need_server, resolve, run_argument
from memo_dist.runs import existing_run


@click.command("serve")
@run_argument
@config_options
def command(run_folder: Path, config_files: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Answer from the memory of RUN over HTTP until SIGTERM; docs/serving.md lists the endpoints.

    The server listens on the loopback address (keys serve.*). Any other address needs keys in the
    environment variable MEMO_DIST_SERVE_KEYS: NAME:SECRET:RIGHTS, separated by semicolons, with
    RIGHTS of read, write, delete and admin. Written documents are answered at once from a buffer
    in RUN/serve, and trained by consolidation. The extra `serve` must be installed, and for
    serve.replicas the extra `serve-ray`.
    """
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    need_server(config, "serve")
    from memo_dist.observability.logs import quiet_libraries
    from memo_dist.serve.server import serve

    quiet_libraries()
    serve(run, config)
