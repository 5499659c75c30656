"""Why a request is refused: a status, a short name for programs, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ApiError(Exception):
    """A request that is refused; the message holds no text of a document and no question.

    Attributes:
        status: of HTTP.
        code: short name.
        message: what is wrong and what to change.
        param: the field that is wrong; "": none.
        retry_after: seconds after which the same request may succeed; 0: not said.
    """

    status: int
    code: str
    message: str
    param: str = ""
    retry_after: int = 0

    def __str__(self) -> str:
        return self.message


def invalid(message: str, param: str = "") -> ApiError:
    """The request itself is wrong (400)."""
    return ApiError(400, "invalid_value", message, param)


def not_found(what: str) -> ApiError:
    """There is no such thing, or the caller may not see it (404)."""
    return ApiError(404, "not_found", f"there is no such {what}")


def forbidden(message: str) -> ApiError:
    """The caller's key does not allow it (403)."""
    return ApiError(403, "forbidden", message)
