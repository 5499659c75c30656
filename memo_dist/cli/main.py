"""Entry point: finds the verb, runs it, and turns errors into one message and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from memo_dist import process
from memo_dist.cluster.resources import address_limit, memory_limit
from memo_dist.cluster.stop import STOP
from memo_dist.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    AwaitingRepliesError,
    MemoDistError,
    StoppedError,
    UsageError,
    suggest,
)
from memo_dist.io.terminal import guard_streams
from memo_dist.verbs import VERBS
from memo_dist.version import VERSION

_NO_MEMORY = ("allocate memory", "failed to map segment", "can't start new thread")
"""Of torch on a CPU; of the loader of libraries; of Python, where a thread's stack has no room."""


class _Verbs(click.Group):
    """Imports a verb's module only when the verb is used, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"memo_dist.cli.{name}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(
                f"no such verb '{args[0]}'{suggest(args[0], VERBS)}; verbs are {', '.join(VERBS)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb.name, verb.summary) for verb in VERBS.values()])


@click.group(
    cls=_Verbs,
    name="memo-dist",
    subcommand_metavar="VERB [ARGUMENTS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name="memo-dist")
def memo_dist() -> None:
    """Turn documents into a memory model that answers questions about them.

    `memo-dist VERB --help` prints the options of a verb. `memo-dist config --help-keys` prints
    all configuration keys.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    process.begin()
    process.end_without_memory(_out_of_memory(), EXIT_FAILED)
    guard_streams()
    verb = VERBS.get(sys.argv[1]) if sys.argv[1:] else None
    if verb is not None and verb.saves:
        STOP.install()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code = run(sys.argv[1:])
    STOP.leave()
    process.leave(code)


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code (see memo_dist.errors)."""
    try:
        _check_text(arguments)
        _check_folder()
        # ctx.exit's code comes back as the value; verbs return nothing.
        code = memo_dist.main(arguments, prog_name="memo-dist", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", EXIT_INTERRUPTED)
    except AwaitingRepliesError as error:
        return _say(f"{error}:\n  {shlex.join(['memo-dist', *arguments])}", error.exit_code)
    except StoppedError as error:
        return _say(str(error), EXIT_INTERRUPTED if STOP.interrupted else error.exit_code)
    except MemoDistError as error:
        return _say(str(error), error.exit_code)
    except OSError as error:
        return _say(_describe(error), EXIT_FAILED)
    except MemoryError:
        return _say(_out_of_memory(), EXIT_FAILED)
    except Exception as error:
        if _lacks_memory(error):
            return _say(_out_of_memory(), EXIT_FAILED)
        return _say(_unexpected(error), EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _lacks_memory(error: Exception) -> bool:
    """Under ``ulimit -v`` compiled modules also end in errors that say nothing of memory."""
    vague = isinstance(error, SystemError | ImportError) and address_limit() is not None
    return vague or any(words in str(error) for words in _NO_MEMORY)


def _out_of_memory() -> str:
    return (
        f"out of memory or threads: process {os.getpid()} got no more (limit: {memory_limit()});"
        " lower evaluate.batch_size, memory.loaded_gb, train.micro_batch_tokens or cluster.workers,"
        " or give it more memory"
    )


def _check_text(arguments: list[str]) -> None:
    """Refuse what is no text: files of a run hold UTF-8.

    Raises:
        UsageError: an argument has bytes that are not UTF-8.
    """
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            raise UsageError(f"argument {number} is not valid UTF-8: '{shown}'") from None


def _check_folder() -> None:
    """Refuse a current folder that is gone: libraries end the process where they need it.

    Raises:
        UsageError: says so.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used ({error.strerror}): change to another one (cd)"
        ) from None


def _say(message: str, code: int) -> int:
    click.echo(f"memo-dist: {message}", err=True)
    return code


def _describe(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free some space and run the command again"
        return f"no space left to write{where} ({error.strerror}); {remedy}"
    if error.errno == errno.ENOMEM:
        return _out_of_memory()
    if error.errno == errno.EROFS:
        remedy = "mount it for writing (errors of a disk can end that: dmesg), then run it again"
        return f"the file system can only be read{where} ({error.strerror}); {remedy}"
    return f"{error.strerror or error}{where}"


def _unexpected(error: Exception) -> str:
    """One line for an error without a handler of its own; the traceback on request."""
    if os.environ.get("MEMO_DIST_TRACEBACK"):
        traceback.print_exc()
    first = str(error).strip().splitlines()
    return (
        f"unexpected {type(error).__name__}: {first[0] if first else ''}"
        " (set MEMO_DIST_TRACEBACK=1 to see where)"
    )
