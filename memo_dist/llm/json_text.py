"""JSON in the text of a model's answer."""

from __future__ import annotations

import json
import re
from typing import Any

_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_OPENING = re.compile(r"\{(?=\s*[\"}])|\[(?=\s*[\[{\"\]\d-])")
"""Where an object or a list of any use may begin."""
_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z))|,(?=\s*[}\]])', re.DOTALL)
"""A string, which stays as it is, or a comma before a closing bracket."""
_READ_AGAIN = 8
"""Times that an answer's length may be read over, so that broken text costs linear time."""
_FALSE_STARTS = 500
"""Most brackets that begin no JSON: each costs a pass over the text for the error's line number."""

_Read = tuple[list[Any], str]
"""The values of a text, and what is wrong with the first that is none."""


def values(text: str) -> list[Any]:
    """The JSON objects and lists of an answer, in order; thoughts before the answer count only
    where nothing stands behind them. An answer that is one JSON value is that value, also where it
    was written as a JSON string.

    Fences, prose and whatever else stands around the values is not looked at. Strings may hold line
    breaks as they are.
    """
    return _read(text)[0]


def json_fault(text: str) -> str:
    """What the parser says of the first object or list of an answer that is none; "" where all
    that begin are whole, or the last one is cut off."""
    return _read(text)[1]


def without_trailing_commas(text: str) -> str:
    """The text from its first object or list on, without commas behind a last item."""
    opening = _OPENING.search(text)
    if opening is None:
        return text
    return text[: opening.start()] + _LAST_COMMA.sub(r"\1", text[opening.start() :])


def _read(text: str) -> _Read:
    whole = _whole(text)
    if whole[0]:
        return whole
    *thoughts, told = _THOUGHT_END.split(text)
    read = _balanced(told)
    while not read[0] and thoughts:
        read = _balanced(thoughts.pop())
    return read


def _whole(text: str) -> _Read:
    try:
        value = json.loads(text, strict=False, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return [], ""
    if isinstance(value, str):
        return _balanced(value)
    return [value] if _is_text(value, text) else [], ""


def _balanced(text: str) -> _Read:
    """Every outermost value that stands in the text, and why the first that is none does not."""
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant)
    found: list[Any] = []
    at, left, tries, fault = 0, _READ_AGAIN * len(text) + 1, _FALSE_STARTS, ""
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
            fault = fault or str(error)
            left -= getattr(error, "pos", len(text)) - start + 1
            tries -= 1
            at = start + 1
    return found, fault


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
