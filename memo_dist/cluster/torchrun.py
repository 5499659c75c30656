"""``torchrun`` that meets safely, ends with its ranks' exit code and passes SIGUSR1 on to them.

torchrun itself ends with 1 whatever its ranks ended with, so a scheduler could not tell "saved,
run me again" (75) from a failure, and SIGUSR1 would end it before the ranks have saved.
Ranks meet as :mod:`memo_dist.cluster.meeting` says. Arguments are torchrun's, without those of the
rendezvous: ``--standalone`` (one machine), or ``--nnodes=N --meet=HOST:PORT --secret=FILE``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from memo_dist.errors import EXIT_FAILED, EXIT_STOPPED, MemoDistError


def children() -> list[int]:
    """Processes that this one has started."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _to_ranks(number: int, frame: FrameType | None) -> None:
    for pid in children():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main(arguments: list[str]) -> int:
    """Run torchrun; returns the code that most says what happened."""
    # https://github.com/pytorch/pytorch/issues/154849
    signal.signal(signal.SIGUSR1, _to_ranks)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    from memo_dist.cluster import meeting

    meeting.register()
    try:
        torchrun(_with_meeting(arguments))
    except MemoDistError as error:
        print(f"memo-dist: {error}", file=sys.stderr)
        return error.exit_code
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        return _one(codes)
    except SignalException as error:
        return EXIT_STOPPED if error.sigval == signal.SIGTERM else 128 + int(error.sigval)
    return 0


def _with_meeting(arguments: list[str]) -> list[str]:
    """torchrun's arguments, with the rendezvous among them."""
    from memo_dist.cluster import meeting

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("--meet")
    parser.add_argument("--secret", type=Path)
    border = arguments.index("-m") if "-m" in arguments else len(arguments)
    known, others = parser.parse_known_args(arguments[:border])
    several = known.meet and known.secret and not known.standalone
    place = meeting.several_machines(known.meet, known.secret) if several else meeting.one_machine()
    return [*place, *others, *arguments[border:]]


def _one(codes: set[int]) -> int:
    """75 if all ranks stopped with their state saved; else the first failure's code."""
    if codes == {EXIT_STOPPED}:
        return EXIT_STOPPED
    positive = sorted(code for code in codes if code > 0 and code != EXIT_STOPPED)
    return positive[0] if positive else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
