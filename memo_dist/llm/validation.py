"""Is an answer valid? And what to send where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memo_dist.llm.backends.base import Answer
from memo_dist.llm.records import Attempt
from memo_dist.llm.requests import Message, Request
from memo_dist.llm.schema_check import schema_fault

MAX_REASON_CHARS = 200
MAX_REPAIRED_CHARS = 8000
RETRY_TEMPERATURE = 0.5
MOST_DOUBLINGS = 4
"""Times that the limit of a reply is doubled: a model that repeats itself needs an end."""
TRUNCATED = "truncated"
_CUT_OFF = frozenset({"length", "max_tokens", "model_length"})
_FILTERED = frozenset(
    {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "refusal"}
)
"""Finish reasons that say something about an answer; servers have many other names for "done"
(stop, eos, eos_token, STOP, end_turn), and the answer itself shows whether it is one."""


def fault_of(answer: Answer, schema: str | None) -> str:
    """Why an answer to a request with this schema cannot be accepted; "" where it can.

    An answer that was cut off is never accepted: cut JSON may still parse.
    """
    finish = answer.finish_reason.lower()
    if finish in _CUT_OFF:
        return f"{TRUNCATED}: the answer was cut off at the token limit"
    if finish in _FILTERED:
        return f"finish reason {answer.finish_reason}"
    if not answer.text.strip():
        return "empty: the answer has no text"
    if schema is None:
        return ""
    return schema_fault(answer.text, schema)[:MAX_REASON_CHARS]


def next_send(request: Request, history: Sequence[Attempt]) -> Request:
    """What to send as the next attempt; a pure function, so a resumed run sends the same.

    - The first invalid answer gets one repair turn: its own text and what is wrong with it.
    - Later ones are asked afresh, with another seed and not greedily: a greedy request that
      failed would fail alike.
    - Each answer that was cut off doubles the room of all that follow.
    """
    invalid = [row for row in history if row.outcome == "invalid"]
    if not invalid:
        return request
    cut = sum(row.reason.startswith(TRUNCATED) for row in invalid)
    if len(invalid) == 1 and not cut and invalid[0].text.strip():
        return _repair(request, invalid[0])
    room = request.max_tokens * 2 ** min(cut, MOST_DOUBLINGS)
    request = replace(request, max_tokens=room)
    warmth = max(request.temperature, RETRY_TEMPERATURE)
    return replace(request, seed=request.seed + len(invalid), temperature=warmth)


def _repair(request: Request, bad: Attempt) -> Request:
    turns = (
        Message("assistant", bad.text[:MAX_REPAIRED_CHARS]),
        Message(
            "user", f"That answer is not valid: {bad.reason}. Write the corrected answer only."
        ),
    )
    return replace(request, messages=request.messages + turns)
