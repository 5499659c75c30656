"""An ordinance is amended: from the amended text to the first right answer, by date.

    python examples/regulation.py RUN [KEY=VALUE]...

Encodes the ordinance of 2028 (examples/regulation/), asks about it, adds the amended text of 2032
by `memo-dist update RUN --add`, and asks again: plain questions get the values of 2032, questions
"as of" the earlier date those of 2028. Both texts are in one shard, as they must be for this: the
answers of different dates to one question are told apart within a shard. They are in units of their
own: the rule-based writer asks nothing that two documents of one unit answer differently. Prints
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from technical_documentation import Row, Verb, timed, verb

from memo_dist import Bank
from memo_dist.answers.text import contains

TEXTS = Path(__file__).with_name("regulation")
OLD, NEW = TEXTS / "ordinance-2028.md", TEXTS / "ordinance-2032.md"
AS_OF = "As of 9 October 2028, "
AMENDED = (
    ("the limit of error for a household meter", "2 percent", "1.5 percent"),
    ("the deadline for a fault report", "40 hours", "24 hours"),
    ("the deadline for a refund to a household", "60 days", "30 days"),
    ("the deadline for an appeal", "45 days", "20 days"),
)
"""(what is asked for, value of 2028, value of 2032)."""


def main(run: str, *settings: str) -> None:
    """Encode, ask, amend, ask."""
    print(json.dumps(amend(Path(run), settings), indent=2))


def amend(run: Path, settings: Sequence[str], verb: Verb = verb) -> Row:
    """Values that the memory gives before and after the amendment, and seconds."""
    one = "corpus.shards=1"  # dates are compared within a shard
    encoding = timed(verb, "encode", OLD, "--run", run, *settings, one)
    before = _given(run, "")
    began = time.monotonic()
    updating = timed(verb, "update", run, "--add", NEW)
    after = _given(run, "")
    seconds = {
        "encode": encoding,
        "update": updating,
        "amended text to first answers": round(time.monotonic() - began, 1),
    }
    dated = _given(run, AS_OF)
    return {
        "seconds": seconds,
        "before, plain": _counted(before),
        "after, plain": _counted(after),
        "after, as of 2028": _counted(dated),
        "answers": [
            {"question": question(row[0]), "before": a, "after": b, "as of 2028": c}
            for row, a, b, c in zip(AMENDED, before, after, dated, strict=True)
        ],
    }


def question(what: str, as_of: str = "") -> str:
    """A question about the ordinance, in the words of the memory's rule-based writer."""
    text = f"{as_of}in Metering Accuracy Ordinance, what is {what}?"
    return text[0].upper() + text[1:]


def _given(run: Path, as_of: str) -> list[str]:
    """What the memory writes, also where it is not sure enough to answer."""
    with Bank(run) as bank:
        answers = bank.answer([question(what, as_of) for what, *_ in AMENDED])
    return [answer.text or answer.refused for answer in answers]


def _counted(answers: Sequence[str]) -> dict[str, Any]:
    rows = list(zip(AMENDED, answers, strict=True))
    return {
        "n": len(rows),
        "value of 2028": sum(bool(contains(a, [old])) for (_, old, _), a in rows),
        "value of 2032": sum(bool(contains(a, [new])) for (_, _, new), a in rows),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
