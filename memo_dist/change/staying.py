"""Whether a file of a run still holds words of documents that were forgotten.

Documents that stay may say the same: a corrected text that was added for a deleted one, or a few
words that somebody quotes. What they hold is no residue, whenever they came.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from memo_dist.change.fingerprint import Fingerprint, search
from memo_dist.corpus.manifest import DOCUMENTS, iter_documents
from memo_dist.errors import RunError
from memo_dist.io.runfolder import RunFolder

BUFFER = Path("serve") / "buffer.sqlite"
"""The pending buffer of memo_dist.serve, below the run."""
OTHER_RUNS = Path("serve") / "scopes"
"""Runs of scopes: other documents than those of this run, also in files of earlier revisions."""
_COLUMNS = "id, title, text, metadata, scope"
"""What callers choose."""
NOT_SEARCHED = f"{OTHER_RUNS.as_posix()}: runs of their own with documents of scopes, not searched"


def residue(
    run: RunFolder, gone: Collection[str], fingerprints: Sequence[Fingerprint]
) -> tuple[list[str], int]:
    """The files of a run that hold words of forgotten documents, and how many were opened.

    Runs of words that a document of the corpus or of the pending buffer has too do not count.

    Args:
        run: the run.
        gone: ids of the forgotten documents.
        fingerprints: of their texts.

    Raises:
        RunError: the pending buffer cannot be read.
    """
    base, others = run.memory_shard(0), (run.root / OTHER_RUNS,)
    found, opened = search(run.root, fingerprints, base, others)
    if not found:
        return found, opened
    stays = list(_staying(run, gone))
    return search(run.root, [one.without(stays) for one in fingerprints], base, others)


def _staying(run: RunFolder, gone: Collection[str]) -> Iterator[str]:
    """Whatever stands in the run by right; tombstones and receipts name forgotten documents too."""
    yield from gone
    if (run.corpus / DOCUMENTS).exists():
        for one in iter_documents(run.corpus):
            yield f"{one.id}\n{one.title}\n{one.text}\n{one.origin}"
    path = run.root / BUFFER
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as buffer:
            rows = buffer.execute(f"SELECT {_COLUMNS} FROM documents").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise RunError(f"the pending buffer '{path}' cannot be read: {error}") from error
    yield from ("\n".join(row) for row in rows if row[0] not in gone)
