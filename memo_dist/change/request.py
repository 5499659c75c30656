"""What a user asks to change: a whole new corpus, or single documents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from memo_dist.config.schema import Config, CorpusConfig
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.build import build_corpus, load_documents
from memo_dist.corpus.edit import edit_corpus
from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError, suggest
from memo_dist.io.generations import link_folder
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Place


@dataclass(frozen=True)
class Request:
    """A change of a run's corpus.

    Attributes:
        corpus: the whole new corpus; None: single documents.
        add: files whose documents come in.
        replace: {id of a document: the file that takes its place}.
    """

    corpus: Place | None = None
    add: Sequence[Path] = ()
    replace: Mapping[str, Path] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a request that asks for nothing, or for both kinds of change.

        Raises:
            UsageError: says what to give.
        """
        single = bool(self.add or self.replace)
        if (self.corpus is None) is not single:
            raise UsageError(
                "name the new CORPUS, or single documents by --add FILE and --replace ID=FILE"
                + (", not both" if single else "")
            )


def parse_replacements(values: Sequence[str]) -> dict[str, Path]:
    """``ID=FILE`` of each ``--replace``.

    Raises:
        UsageError: a value has no ``=``, or an id comes twice.
    """
    found: dict[str, Path] = {}
    for value in values:
        name, equals, file = value.rpartition("=")
        if not (equals and name and file):
            raise UsageError(f"--replace {value}: write ID=FILE, as --replace manual=new/manual.md")
        if name in found:
            raise UsageError(f"--replace names the document {name!r} twice")
        found[name] = Path(file)
    return found


def apply(request: Request, folder: Path, config: Config) -> None:
    """Bring the corpus in ``folder`` to the state that is asked for; nothing where it is there.

    Raises:
        UsageError: a file cannot be read, an id is unknown or taken; or see ``build_corpus``.
        RunError: ``folder`` cannot be written.
    """
    if request.corpus is not None:
        build_corpus(request.corpus, folder, corpus_settings(config), revise=True)
        return
    settings = corpus_settings(config)
    known = {document.id: document for document in load_documents(folder)}
    put: dict[str, Document] = {}
    for file in request.add:
        for document in _read(file, settings):
            _check_new(document, {**known, **put}, file)
            put[document.id] = document
    for name, file in request.replace.items():
        put[name] = _replacement(name, file, known, settings)
    edit_corpus(folder, settings, put.values())


@contextmanager
def preview(run: RunFolder, config: Config, request: Request) -> Iterator[Path]:
    """The folder of the corpus as ``request`` would leave it, while the block lasts.

    Raises:
        UsageError: see :func:`apply`.
    """
    with tempfile.TemporaryDirectory(prefix="memo-preview-") as name:
        folder = Path(name) / "corpus"
        link_folder(run.corpus, folder)
        apply(request, folder, config)
        yield folder


def _read(file: Path, config: CorpusConfig) -> list[Document]:
    """The documents of one file, or of a folder."""
    with tempfile.TemporaryDirectory(prefix="memo-read-") as name:
        build_corpus(file, Path(name), replace(config, shards=1, max_documents=0))
        return load_documents(Path(name))


def _check_new(document: Document, known: Mapping[str, Document], file: Path) -> None:
    """A document that is there already may come again (a command that is repeated)."""
    there = known.get(document.id)
    if there is not None and there.content_hash != document.content_hash:
        raise UsageError(
            f"--add {file}: a document with the id {document.id!r} is there already, with another"
            f" content; use --replace {document.id}={file}"
        )


def _replacement(
    name: str, file: Path, known: Mapping[str, Document], config: CorpusConfig
) -> Document:
    """The document of ``file`` under the id ``name``; a file without a title keeps the old one."""
    if name not in known:
        raise UsageError(f"--replace {name}=...: there is no such document{suggest(name, known)}")
    documents = _read(file, config)
    if len(documents) != 1:
        raise UsageError(
            f"--replace {name}={file}: the file must hold one document, it holds {len(documents)}"
        )
    (new,) = documents
    title = known[name].title if new.title == file.stem else new.title
    return replace(new, id=name, title=title)
