"""JSON in the text of a model's answer."""

from __future__ import annotations

import json
import re
from typing import Any

_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_OPENING = re.compile(r"\{(?=\s*[\"}])|\[(?=\s*[\[{\"\]\d-])")
"""Where an object or a list of any use may begin."""
_READ_AGAIN = 8
"""Times that an answer's length may be read over, so that broken text costs linear time."""
_FALSE_STARTS = 500
"""Most brackets that begin no JSON: each costs a pass over the text for the error's line number."""


def values(text: str) -> list[Any]:
    """The JSON objects and lists of an answer, in order; thoughts before the answer count only
    where nothing stands behind them. An answer that is one JSON value is that value, also where it
    was written as a JSON string.

    Fences, prose and whatever else stands around the values is not looked at.
    """
    whole = _whole(text)
    if whole:
        return whole
    told = _THOUGHT_END.split(text)
    return next((found for part in reversed(told) if (found := _balanced(part))), [])


def _whole(text: str) -> list[Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, str):
        return _balanced(value)
    return [value] if _is_text(value, text) else []


def _balanced(text: str) -> list[Any]:
    """Every outermost value that stands in the text."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    found, at, left, tries = [], 0, _READ_AGAIN * len(text) + 1, _FALSE_STARTS
    while left > 0 and tries and (opening := _OPENING.search(text, at)):
        start = opening.start()
        try:
            value, at = decoder.raw_decode(text, start)
            if _is_text(value, text):
                found.append(value)
        except RecursionError:
            break
        except ValueError as error:
            if getattr(error, "pos", 0) >= len(text.rstrip()):
                break  # cut off: what stands inside of it is no answer
            left -= getattr(error, "pos", len(text)) - start + 1
            tries -= 1
            at = start + 1
    return found


def _is_text(value: Any, text: str) -> bool:
    """Whether files can hold the value: half of a surrogate pair is a string that none can."""
    if "\\ud" not in text.lower():
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
