"""YAML from people and from elsewhere."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, without tags that make objects.

    PyYAML raises more than its own errors: ValueError at dates like 2031-02-30 and numbers of
    thousands of digits, AttributeError at ``!!timestamp x``, RecursionError at deep nesting.

    Raises:
        ValueError: the text is not YAML; the message says where.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
