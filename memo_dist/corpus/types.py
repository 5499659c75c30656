"""What a corpus is made of: documents, and chunks of them on sentence borders."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from memo_dist.io.hashing import hash_value, sha256_text


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the corpus.

    Attributes:
        id: unique in the corpus; names the document in every reflection and answer.
        title: a human title (the file's name where the document has none).
        text: plain text, UTF-8, paragraphs separated by blank lines.
        date: ISO date (``2031-03-14``) the document speaks from, when known; grounds
            relative time ("last year").
        origin: where it was read from, relative to the corpus root.
        language: ISO 639-1 code of the language of the text (``en``), empty where unsure.
        headings: (character offset of its line in ``text``, level) of each heading, in order;
            level 1 is the highest. Empty for formats that do not mark headings.
    """

    id: str
    title: str
    text: str
    date: str | None = None
    origin: str = ""
    language: str = ""
    headings: tuple[tuple[int, int], ...] = ()

    @property
    def content_hash(self) -> str:
        """SHA-256 over title, text and date: changes when the memory's view of it changes."""
        return hash_value([self.title, self.text, self.date])

    @property
    def text_hash(self) -> str:
        """SHA-256 over text and date: equal for copies under other ids or titles."""
        return sha256_text(f"{self.date}\n{self.text}")

    def to_json(self) -> dict[str, Any]:
        """The document as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Document:
        """The inverse of :meth:`to_json`; further fields of a corpus' row are left out.

        Rows of run folders that an older memo-dist wrote have neither language nor headings.
        """
        values = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        values["headings"] = tuple((at, level) for at, level in row.get("headings", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of one document that starts and ends on sentence borders.

    Attributes:
        document: the document's id.
        start, end: character offsets into ``Document.text`` (half open).
        text: ``Document.text[start:end]``.
        section: folders, title and headings that hold for all of the chunk, outermost first
            ("go > Getting Started > Install"); empty where it would repeat the title only.
    """

    document: str
    start: int
    end: int
    text: str
    section: str = ""

    @property
    def id(self) -> str:
        """``<document id>:<start>-<end>``, the form that reflections cite."""
        return f"{self.document}:{self.start}-{self.end}"

    def to_json(self) -> dict[str, Any]:
        """The chunk as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Chunk:
        """The inverse of :meth:`to_json`."""
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file or row that did not become a document.

    Attributes:
        origin: file relative to the corpus root; rows add ``:<line>`` (counted from 1).
        reason: one of a few short names (``not_utf8``, ``missing_field``, ...): counted.
        detail: what is wrong with this one, for people.
    """

    origin: str
    reason: str
    detail: str

    def to_json(self) -> dict[str, Any]:
        """One line of ``quarantine.jsonl``."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Quarantined:
        """The inverse of :meth:`to_json`."""
        return cls(**row)


class UnreadableError(Exception):
    """Raised inside the readers: this file or row becomes a :class:`Quarantined` entry."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def at(self, origin: str) -> Quarantined:
        """The quarantine entry for ``origin``."""
        return Quarantined(origin, self.reason, self.detail)


def check_size(size: int, max_bytes: int) -> None:
    """Refuse a document that is larger than ``max_bytes``.

    Raises:
        UnreadableError: ``too_large``.
    """
    if size > max_bytes:
        raise UnreadableError(
            "too_large",
            f"{size / 2**20:.1f} MiB, over corpus.max_document_mb={max_bytes / 2**20:g}",
        )
