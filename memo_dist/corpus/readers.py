"""Files to documents: one reader a suffix; what cannot be read is quarantined, never fatal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePath

from memo_dist.answers.characters import clean_characters
from memo_dist.corpus.asciidoc import read_asciidoc
from memo_dist.corpus.boilerplate import drop_navigation
from memo_dist.corpus.html import read_html
from memo_dist.corpus.language import language_of
from memo_dist.corpus.listing import SourceFile
from memo_dist.corpus.markdown import read_markdown, read_mdx
from memo_dist.corpus.office import read_csv, read_docx
from memo_dist.corpus.parsed import MARK, Parsed, take_headings, without_empty_headings
from memo_dist.corpus.pdf import read_pdf
from memo_dist.corpus.rows import read_jsonl_rows, read_parquet_rows
from memo_dist.corpus.rst import read_rst
from memo_dist.corpus.text import check_text, decode, tidy
from memo_dist.corpus.types import Document, Quarantined, UnreadableError, check_size
from memo_dist.corpus.wrapping import kind_of, read_plain

_MAX_TITLE = 100
_DOCUMENT_READERS: dict[str, Callable[[bytes], Parsed]] = {
    ".md": read_markdown,
    ".mdx": read_mdx,
    ".html": read_html,
    ".rst": read_rst,
    ".adoc": read_asciidoc,
    ".docx": read_docx,
    ".csv": read_csv,
    ".pdf": read_pdf,
}
_ROW_READERS: dict[str, Callable[[SourceFile, int], Iterator[Document | Quarantined]]] = {
    ".jsonl": read_jsonl_rows,
    ".parquet": read_parquet_rows,
}


def read_file(file: SourceFile, max_bytes: int) -> Iterator[Document | Quarantined]:
    """Yield every document of a file, or the reason against it.

    Args:
        file: the file.
        max_bytes: largest document in bytes (a file, or the text of one row).

    Raises:
        MemoryError: of this process; what else a document does to its reader is a reason.
    """
    rows = _ROW_READERS.get(file.suffix)
    try:
        if rows is None:
            yield _read_whole(file, max_bytes)
        else:
            yield from rows(file, max_bytes)
    except UnreadableError as error:
        yield error.at(file.origin)
    except RecursionError:
        yield Quarantined(file.origin, "too_nested", "its structure nests too deeply to read")
    except OSError as error:
        yield Quarantined(file.origin, "unreadable", error.strerror or str(error))
    except MemoryError:
        raise
    except Exception as error:  # a fault of a reader costs one document, never the corpus
        yield Quarantined(file.origin, "reader_error", f"{type(error).__name__}: {error}"[:200])


def read_text(data: bytes) -> Parsed:
    """Read a plain-text file; a short first line that is no sentence is its title."""
    text = tidy(decode(data).replace(MARK, ""), wrapped=True)
    first = text.split("\n", 1)[0].strip()
    names_it = len(first) <= _MAX_TITLE and first != text and first[-1] not in ".,;:!?"
    return Parsed(text, first if names_it and first[0].isupper() else "")


def _document(file: SourceFile, parsed: Parsed, kind: str) -> Document:
    """Clean what a reader found, and tell where its headings are."""
    lines = clean_characters(check_text(parsed.text)).split("\n")
    if kind != ".csv":  # its lines are rows, whatever their cells hold
        lines = drop_navigation(lines, (parsed.title, *PurePath(file.document_id).parts))
    text = tidy("\n".join(without_empty_headings(lines)), wrapped=False)
    text, headings = take_headings(text)
    title = " ".join(clean_characters(parsed.title).split())
    title = title or PurePath(file.document_id).name
    return Document(
        file.document_id, title, text, parsed.date, file.origin, language_of(text), headings
    )


def _read_whole(file: SourceFile, max_bytes: int) -> Document:
    check_size(file.path.stat().st_size, max_bytes)
    data = read_plain(file.path, max_bytes)
    check_size(len(data), max_bytes)
    kind = kind_of(data, file.suffix)
    return _document(file, _DOCUMENT_READERS.get(kind, read_text)(data), kind)
