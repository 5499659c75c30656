"""Nothing secret reaches a report, even where somebody wrote a key into a config or a command."""

from __future__ import annotations

import re

HIDDEN = "[hidden]"

_GUARDED_NAME = (
    r"[\w.-]*(?:api[_-]?key|secret|passw(?:or)?d|credential|bearer|(?:access|auth|hf)[_-]token)"
)
_ASSIGNED = re.compile(
    rf"(?i)({_GUARDED_NAME}[\w.-]*[\"']?[ \t]*[:= ][ \t]*)(\"[^\"\n]*\"|'[^'\n]*'|\S+)"
)
_KNOWN_KEYS = re.compile(r"\b(?:sk-|hf_|gh[opsu]_|xox[abp]-|AKIA)[\w-]{8,}")
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s@]+@")


def redact(text: str) -> str:
    """``text`` with the values of secret-looking names, known key forms and URL logins hidden."""
    hidden = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
    hidden = _KNOWN_KEYS.sub(HIDDEN, hidden)
    return _URL_PASSWORD.sub(f"{HIDDEN}@", hidden)
