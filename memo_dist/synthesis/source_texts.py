"""The text that a reflection rests on, read from the corpus files when it is asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

from memo_dist.corpus.manifest import DOCUMENTS
from memo_dist.corpus.sections import Sections, folders
from memo_dist.corpus.types import Document
from memo_dist.io.atomic import row_at
from memo_dist.synthesis.coverage import chunk_span
from memo_dist.synthesis.types import Reflection

_KEPT = 256
"""Documents kept in memory: reflections come document by document."""


class SourceTexts:
    """Text of the cited chunks with their sections and the titles and dates of their documents.

    Memory: one offset a document, and the latest documents' texts.

    Args of the constructor:
        corpus: the corpus folder.
        offsets: byte offset of each document's line in ``documents.jsonl``.
    """

    def __init__(self, corpus: Path, offsets: Mapping[str, int]) -> None:
        self._path = corpus / DOCUMENTS
        self._stream = self._path.open("rb")
        self._documents: OrderedDict[str, tuple[Document, Sections]] = OrderedDict()
        self._offsets = offsets
        self._words: dict[str, int] = {}

    def __enter__(self) -> SourceTexts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __call__(self, reflection: Reflection) -> str:
        """Empty where the reflection cites no chunk."""
        return "\n".join(self._texts(reflection.chunks))

    def words(self) -> int:
        """Words of all documents; those that were read before are not read again."""
        for name in self._offsets.keys() - self._words.keys():
            self._document(name)
        return sum(self._words.values())

    def whole(self, reflection: Reflection) -> str:
        """Title, folders, date and text of all documents that the reflection cites."""
        found = (self._document(name)[0] for name in reflection.sources)
        parts = ([one.title, *folders(one.origin), one.date or "", one.text] for one in found)
        return "\n".join(part for some in parts for part in some)

    def _texts(self, chunks: Iterable[str]) -> Iterable[str]:
        for chunk in chunks:
            name, (start, end) = chunk_span(chunk)
            document, sections = self._document(name)
            section, date = sections.of(start, end), document.date or ""
            yield f"{document.title}\n{section}\n{date}\n{document.text[start:end]}"

    def _document(self, name: str) -> tuple[Document, Sections]:
        found = self._documents.get(name)
        if found is None:
            row = row_at(self._stream, self._offsets[name], self._path)
            document = Document.from_json(row)
            if name not in self._words:
                self._words[name] = len(document.text.split())
            found = self._documents[name] = document, Sections(document)
            if len(self._documents) > _KEPT:
                self._documents.popitem(last=False)
        return found
