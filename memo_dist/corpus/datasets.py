"""Published question-answering data sets as a corpus and questions.

Each reader takes the files as their authors publish them, from a local path:

- MuSiQue (https://github.com/StonyBrookNLP/musique): ``musique_ans_v1.0_dev.jsonl``, or a
  ``musique_full_*`` file with its unanswerable questions.
- NarrativeQA (https://github.com/google-deepmind/narrativeqa): the repository's folder.
- BrowseComp-Plus (https://github.com/texttron/BrowseComp-Plus): the decrypted JSON lines.
- 2WikiMultihopQA (https://github.com/Alab-NII/2wikimultihop): ``dev.json``.

Questions pool their paragraphs into one corpus, so scores are not comparable with the
published tables, which give each question its own few paragraphs.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.corpus.markdown import front_title, split_front_matter
from memo_dist.corpus.text import readable_date
from memo_dist.errors import UsageError, suggest
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value, stable_modulo

Row = dict[str, Any]
_ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """What :func:`write_dataset` wrote.

    Attributes:
        documents, questions: lines written.
        unanswerable: how many of the questions are.
    """

    documents: int
    questions: int
    unanswerable: int


@dataclass(frozen=True, slots=True)
class _Dataset:
    documents: Iterable[Row]
    questions: Iterable[Row]


def write_dataset(name: str, source: Path, out: Path, split: str = "") -> DatasetCounts:
    """Turn a published data set into ``out/corpus.jsonl`` and ``out/questions.jsonl``.

    Args:
        name: one of :data:`DATASETS`.
        source: the published file or folder.
        out: the folder to write into.
        split: keep one split (``train``, ``valid``, ``test``) of a set that has several
            in its files; empty keeps all.

    Raises:
        UsageError: an unknown name, a missing file, or a file in another format; the
            message names the line and the field.
    """
    if name not in DATASETS:
        raise UsageError(
            f"unknown data set {name!r}{suggest(name, DATASETS)}; known: {', '.join(DATASETS)}"
        )
    if not source.exists():
        raise UsageError(f"{source} does not exist; give the path of the published {name} files")
    dataset = DATASETS[name](source)
    questions = [row for row in dataset.questions if split in ("", row["split"])]
    if not questions:
        raise UsageError(f"{source} holds no questions" + (f" of split {split!r}" if split else ""))
    documents = atomic.write_jsonl(out / "corpus.jsonl", _unique(dataset.documents, split))
    atomic.write_jsonl(out / "questions.jsonl", questions)
    unanswerable = sum(not row["answerable"] for row in questions)
    return DatasetCounts(documents, len(questions), unanswerable)


def _unique(documents: Iterable[Row], split: str) -> Iterator[Row]:
    """Each document once; questions share paragraphs."""
    seen: set[str] = set()
    for row in documents:
        if row["id"] not in seen and split in ("", row.get("split", split)):
            seen.add(row["id"])
            yield row


def _question(row: Row, where: str, *, answerable: bool = True, **extra: Any) -> Row:
    """A line of ``questions.jsonl`` from a row that names its fields the usual way."""
    if answerable and not str(row.get("answer") or "").strip():
        raise UsageError(f"{where}: no answer; test splits are published without answers")
    answer = str(row["answer"]).strip() if answerable else ""
    aliases = [str(alias) for alias in extra.pop("aliases", []) if alias and alias != answer]
    question = str(_need(row, "question", where)).strip()
    return {
        "question": question,
        "answer": answer,
        "aliases": sorted(set(aliases)) if answerable else [],
        "answerable": answerable,
        **extra,
    }


# MuSiQue ---------------------------------------------------------------------------------


def _musique(source: Path) -> _Dataset:
    """MuSiQue: paragraphs become documents.

    The full version asks each question twice, once with a needed paragraph taken away. In
    one pooled corpus the answerable twin would bring that paragraph back, so one of the two
    is chosen (by the hash of the question's id), and an unanswerable question whose needed
    paragraphs are all in the pool, through other questions, is left out.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for number, row in _json_lines(source):
        where = f"{source.name}, line {number}"
        _need(row, "paragraphs", where)
        groups[str(_need(row, "id", where))].append({**row, "where": where})
    chosen = [_choose_twin(group) for _, group in sorted(groups.items())]
    documents = [_msq_document(part) for row in chosen for part in row["paragraphs"]]
    pool = {document["id"] for document in documents}
    needed = {identity: _msq_needed(group) for identity, group in groups.items()}
    questions = [
        _msq_question(row, _split_of(source))
        for row in chosen
        if row.get("answerable", True) or not needed[str(row["id"])] <= pool
    ]
    return _Dataset(documents, questions)


def _choose_twin(group: list[Row]) -> Row:
    ordered = sorted(group, key=lambda row: bool(row.get("answerable", True)))
    return ordered[stable_modulo(str(group[0]["id"]), len(ordered))]


def _msq_needed(group: list[Row]) -> set[str]:
    """Ids of all supporting paragraphs that either twin has."""
    return {
        _msq_document(part)["id"]
        for row in group
        for part in row["paragraphs"]
        if part.get("is_supporting")
    }


def _msq_document(paragraph: Row) -> Row:
    title = str(_need(paragraph, "title", "paragraph"))
    text = str(_need(paragraph, "paragraph_text", f"paragraph {title!r}"))
    return {"id": _content_id("msq", title, text), "title": title, "text": text}


def _msq_question(row: Row, split: str) -> Row:
    answerable = bool(row.get("answerable", True))
    parts = [(_msq_document(part)["id"], part.get("is_supporting")) for part in row["paragraphs"]]
    supporting = [identity for identity, supports in parts if supports]
    return {
        "id": str(row["id"]),
        **_question(
            row, row["where"], answerable=answerable, aliases=row.get("answer_aliases", [])
        ),
        "supporting_ids": supporting if answerable else [],
        "candidate_ids": [identity for identity, _ in parts],
        "hops": len(row.get("question_decomposition", [])),
        "type": str(row["id"]).split("__")[0],
        "split": split,
    }


# NarrativeQA -----------------------------------------------------------------------------


def _narrativeqa(source: Path) -> _Dataset:
    """NarrativeQA on the Wikipedia summaries that the repository carries."""
    about = {row["document_id"]: row for row in _csv_rows(source / "documents.csv")}
    summaries = source / "third_party" / "wikipedia" / "summaries.csv"
    return _Dataset(
        (_nqa_document(row, about.get(row["document_id"], {})) for row in _csv_rows(summaries)),
        _nqa_questions(source / "qaps.csv"),
    )


def _nqa_document(row: Row, about: Row) -> Row:
    return {
        "id": f"nqa-{row['document_id']}",
        "title": about.get("wiki_title") or row["document_id"],
        "text": row["summary"].strip(),
        "url": about.get("wiki_url", ""),
        "kind": about.get("kind", ""),
        "split": row["set"],
    }


def _nqa_questions(path: Path) -> Iterator[Row]:
    asked: dict[str, int] = defaultdict(int)
    for row in _csv_rows(path):
        document = f"nqa-{row['document_id']}"
        answers = {"question": row["question"], "answer": row["answer1"]}
        identity = f"{document}-q{asked[document]}"
        asked[document] += 1
        yield {
            "id": identity,
            **_question(answers, f"{path.name}, {identity}", aliases=[row["answer2"].strip()]),
            "supporting_ids": [document],
            "hops": 1,
            "type": "narrative",
            "split": row["set"],
        }


# BrowseComp-Plus -------------------------------------------------------------------------


def _browsecomp_plus(source: Path) -> _Dataset:
    """BrowseComp-Plus: web pages with gold, evidence and hard negative labels."""
    return _Dataset(_bcp_documents(source), _bcp_questions(source))


def _bcp_documents(source: Path) -> Iterator[Row]:
    for number, row in _json_lines(source):
        for kind in ("gold_docs", "evidence_docs", "negative_docs"):
            for page in _need(row, kind, f"{source.name}, line {number}"):
                yield _bcp_document(page, f"{source.name}, line {number}, {kind}")


def _bcp_document(page: Row, where: str) -> Row:
    identity = f"bcp-{_need(page, 'docid', where)}"
    text = str(_need(page, "text", where)).replace("\r\n", "\n")
    front, body = split_front_matter(text)
    url = str(page.get("url") or "")
    row = {"id": identity, "title": front_title(front) or url or identity, "text": body}
    date = readable_date(front.get("date"))
    return {**row, "url": url, **({"date": date} if date else {})}


def _bcp_questions(source: Path) -> Iterator[Row]:
    for number, row in _json_lines(source):
        where = f"{source.name}, line {number}"
        pages = [*_need(row, "evidence_docs", where), *_need(row, "gold_docs", where)]
        asked = {"question": _need(row, "query", where), "answer": row.get("answer")}
        yield {
            "id": f"bcp-{_need(row, 'query_id', where)}",
            **_question(asked, where),
            "supporting_ids": list(dict.fromkeys(f"bcp-{page['docid']}" for page in pages)),
            "hops": len(row["evidence_docs"]),
            "type": "browse",
            "split": "test",
        }


# 2WikiMultihopQA -------------------------------------------------------------------------


def _two_wiki(source: Path) -> _Dataset:
    """2WikiMultihopQA, in the HotpotQA format: one JSON array."""
    try:
        rows = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} is not the published JSON file: {error}") from error
    if not isinstance(rows, list):
        raise UsageError(f"{source} holds {type(rows).__name__}, not an array of questions")
    numbered = list(enumerate(rows, start=1))
    split = _split_of(source)
    return _Dataset(
        (page for n, row in numbered for page in _2wiki_pages(row, f"{source.name}, item {n}")),
        (_2wiki_question(row, f"{source.name}, item {n}", split) for n, row in numbered),
    )


def _2wiki_pages(row: Row, where: str) -> list[Row]:
    pages = []
    for title, sentences in _need(row, "context", where):
        text = " ".join(sentence.strip() for sentence in sentences)
        pages.append({"id": _content_id("2wiki", title, text), "title": title, "text": text})
    return pages


def _2wiki_question(row: Row, where: str, split: str) -> Row:
    pages = _2wiki_pages(row, where)
    titles = {title for title, _ in _need(row, "supporting_facts", where)}
    supporting = [page["id"] for page in pages if page["title"] in titles]
    return {
        "id": f"2wiki-{_need(row, '_id', where)}",
        **_question(row, where),
        "supporting_ids": supporting,
        "candidate_ids": [page["id"] for page in pages],
        "hops": len(supporting),
        "type": str(row.get("type", "")),
        "split": split,
    }


# Shared ----------------------------------------------------------------------------------


def _content_id(prefix: str, title: str, text: str) -> str:
    return f"{prefix}-{hash_value([title, text])[:_ID_DIGITS]}"


def _split_of(source: Path) -> str:
    return next((name for name in ("train", "dev", "test") if name in source.stem), "")


def _need(row: Any, key: str, where: str) -> Any:
    if not isinstance(row, dict) or row.get(key) is None:
        raise UsageError(f"{where}: field {key!r} is missing; is this the published file?")
    return row[key]


def _json_lines(source: Path) -> Iterator[tuple[int, Row]]:
    if not source.is_file():
        raise UsageError(f"{source} is a folder; give the path of the .jsonl file")
    with source.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{source.name}, line {number}: {error}") from error
            yield number, row


def _csv_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise UsageError(f"{path} is missing; give the folder of the NarrativeQA repository")
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            missing = [key for key in ("document_id", "set") if not row.get(key)]
            if missing or None in row.values():
                raise UsageError(f"{path}: a row lacks {missing or 'columns'}: {row!r:.120}")
            yield row


DATASETS: dict[str, Callable[[Path], _Dataset]] = {
    "musique": _musique,
    "narrativeqa": _narrativeqa,
    "browsecomp-plus": _browsecomp_plus,
    "2wikimultihopqa": _two_wiki,
}
"""Readers by name."""
