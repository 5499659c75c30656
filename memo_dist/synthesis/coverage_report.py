"""The coverage of a run: ``synth/coverage.jsonl`` and what to show of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memo_dist.corpus.manifest import DOCUMENTS
from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError
from memo_dist.io.atomic import read_json, read_jsonl, write_json, write_jsonl
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.coverage import DocumentCoverage, cover_documents
from memo_dist.synthesis.types import Reflection

_SHOWN = 10
_GAPS_SHOWN = 3
_GAP_CHARS = 160


@dataclass(frozen=True, slots=True)
class WorstDocument:
    """One of the documents with the most sentences that no reflection covers."""

    document: str
    title: str
    sentences: int
    covered: int
    gaps: list[str]


@dataclass(frozen=True, slots=True)
class CoverageSummary:
    """What ``synth/coverage.json`` holds.

    Attributes:
        reflections: SHA-256 of the reflections that it was measured on.
        documents: documents of the corpus.
        whole: documents of which every sentence is covered.
        sentences, covered: sentences with something to tell, and those that are covered.
        worst: documents with the most uncovered sentences, and their first gaps.
    """

    reflections: str
    documents: int
    whole: int
    sentences: int
    covered: int
    worst: list[WorstDocument]

    @property
    def fraction(self) -> float:
        """Covered sentences of all, 0 to 1."""
        return self.covered / self.sentences if self.sentences else 1.0


def coverage_summary(run: RunFolder) -> CoverageSummary:
    """The run's coverage; measured and written once for each set of reflections.

    Raises:
        UsageError: the run has no reflections yet.
    """
    if not run.reflections.exists():
        raise UsageError(f"{run.root} has no reflections yet; `memo-dist synthesize` writes them")
    fingerprint = hash_file(run.reflections)
    path = run.synth / "coverage.json"
    if path.exists():
        stored = _stored(path)
        if stored.reflections == fingerprint:
            return stored
    path.unlink(missing_ok=True)  # it marks a complete coverage.jsonl
    summary = _measure(run, fingerprint)
    write_json(path, asdict(summary))
    return summary


def text_report(summary: CoverageSummary) -> str:
    """What ``synthesize --report`` prints."""
    lines = [
        f"{summary.covered:,} of {summary.sentences:,} sentences "
        f"({100 * summary.fraction:.1f} %) are covered by a reflection; "
        f"{summary.whole:,} of {summary.documents:,} documents wholly."
    ]
    if summary.worst:
        lines.append("Least covered:")
    for item in summary.worst:
        lines.append(f"  {item.document} ({item.title}): {item.covered} of {item.sentences}")
        lines += [f"    - {text}" for text in item.gaps]
    return "\n".join(lines)


def _measure(run: RunFolder, fingerprint: str) -> CoverageSummary:
    tally = _Tally()
    documents = (Document.from_json(row) for row in read_jsonl(run.corpus / DOCUMENTS))
    reflections = (Reflection.from_json(row) for row in read_jsonl(run.reflections))
    write_jsonl(run.synth / "coverage.jsonl", tally.rows(documents, reflections))
    return CoverageSummary(
        fingerprint, tally.documents, tally.whole, tally.sentences, tally.covered, tally.worst
    )


class _Tally:
    """Sums while the rows are written."""

    def __init__(self) -> None:
        self.documents = self.whole = self.sentences = self.covered = 0
        self.worst: list[WorstDocument] = []

    def rows(
        self, documents: Iterator[Document], reflections: Iterator[Reflection]
    ) -> Iterator[dict[str, Any]]:
        """One row a document, with the text of each gap."""
        texts: dict[str, str] = {}

        def kept() -> Iterator[Document]:
            for document in documents:
                texts[document.id] = document.text
                yield document

        for item in cover_documents(kept(), reflections):
            text = texts.pop(item.document)
            self._add(item, text)
            gaps = [{"start": a, "end": b, "text": text[a:b]} for a, b in item.gaps]
            yield {**asdict(item), "gaps": gaps}

    def _add(self, item: DocumentCoverage, text: str) -> None:
        self.documents += 1
        self.whole += not item.gaps
        self.sentences += item.sentences
        self.covered += item.covered
        if item.gaps:
            gaps = [" ".join(text[a:b].split())[:_GAP_CHARS] for a, b in item.gaps[:_GAPS_SHOWN]]
            self.worst.append(
                WorstDocument(item.document, item.title, item.sentences, item.covered, gaps)
            )
            self.worst.sort(key=lambda row: (row.covered - row.sentences, row.document))
            del self.worst[_SHOWN:]


def _stored(path: Path) -> CoverageSummary:
    row = read_json(path)
    return CoverageSummary(**{**row, "worst": [WorstDocument(**item) for item in row["worst"]]})
