"""Published question-answering data sets as a corpus and questions.

Each reader takes the files as their authors publish them, from a local path:

- MuSiQue (https://github.com/StonyBrookNLP/musique): ``musique_ans_v1.0_dev.jsonl``, or a
  ``musique_full_*`` file with its unanswerable questions.
- NarrativeQA (https://github.com/google-deepmind/narrativeqa): the repository's folder.
- BrowseComp-Plus (https://github.com/texttron/BrowseComp-Plus): the decrypted JSON lines.
- 2WikiMultihopQA (https://github.com/Alab-NII/2wikimultihop): ``dev.json``.
- SQuAD and sets of its form, as XQuAD (https://github.com/google-deepmind/xquad): a ``.json`` file.
- SEAL's slice of SQuAD (https://github.com/Continual-Intelligence/SEAL): ``squad_val.json``.
- TOFU (https://huggingface.co/datasets/locuslab/TOFU): ``full.json`` or one of its parts.
- LongMemEval (https://github.com/xiaowu0162/LongMemEval): ``longmemeval_*.json``.
- LoCoMo (https://github.com/snap-research/locomo): ``locomo10.json``.

Questions pool their paragraphs into one corpus, so scores are not comparable with the
published tables, which give each question its own few paragraphs.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memo_dist.corpus.dataset_chats import locomo, longmemeval
from memo_dist.corpus.dataset_passages import seal, squad, tofu
from memo_dist.corpus.dataset_rows import (
    Dataset,
    Row,
    content_id,
    json_file,
    json_lines,
    need,
    question_row,
    split_of,
)
from memo_dist.corpus.markdown import front_title, split_front_matter
from memo_dist.corpus.text import readable_date
from memo_dist.errors import UsageError, suggest
from memo_dist.io import atomic
from memo_dist.io.hashing import stable_modulo


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


# MuSiQue ---------------------------------------------------------------------------------


def _musique(source: Path) -> Dataset:
    """MuSiQue: paragraphs become documents.

    The full version asks each question twice, once with a needed paragraph taken away. In
    one pooled corpus the answerable twin would bring that paragraph back, so one of the two
    is chosen (by the hash of the question's id), and an unanswerable question whose needed
    paragraphs are all in the pool, through other questions, is left out.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for number, row in json_lines(source):
        where = f"{source.name}, line {number}"
        need(row, "paragraphs", where)
        groups[str(need(row, "id", where))].append({**row, "where": where})
    chosen = [_choose_twin(group) for _, group in sorted(groups.items())]
    documents = [_msq_document(part) for row in chosen for part in row["paragraphs"]]
    pool = {document["id"] for document in documents}
    needed = {identity: _msq_needed(group) for identity, group in groups.items()}
    questions = [
        _msq_question(row, split_of(source))
        for row in chosen
        if row.get("answerable", True) or not needed[str(row["id"])] <= pool
    ]
    return Dataset(documents, questions)


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
    title = str(need(paragraph, "title", "paragraph"))
    text = str(need(paragraph, "paragraph_text", f"paragraph {title!r}"))
    return {"id": content_id("msq", title, text), "title": title, "text": text}


def _msq_question(row: Row, split: str) -> Row:
    answerable = bool(row.get("answerable", True))
    parts = [(_msq_document(part)["id"], part.get("is_supporting")) for part in row["paragraphs"]]
    supporting = [identity for identity, supports in parts if supports]
    return {
        "id": str(row["id"]),
        **question_row(
            row, row["where"], answerable=answerable, aliases=row.get("answer_aliases", [])
        ),
        "supporting_ids": supporting if answerable else [],
        "candidate_ids": [identity for identity, _ in parts],
        "hops": len(row.get("question_decomposition", [])),
        "type": str(row["id"]).split("__")[0],
        "split": split,
    }


# NarrativeQA -----------------------------------------------------------------------------


def _narrativeqa(source: Path) -> Dataset:
    """NarrativeQA on the Wikipedia summaries that the repository carries."""
    about = {row["document_id"]: row for row in _csv_rows(source / "documents.csv")}
    summaries = source / "third_party" / "wikipedia" / "summaries.csv"
    return Dataset(
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
            **question_row(answers, f"{path.name}, {identity}", aliases=[row["answer2"].strip()]),
            "supporting_ids": [document],
            "hops": 1,
            "type": "narrative",
            "split": row["set"],
        }


# BrowseComp-Plus -------------------------------------------------------------------------


def _browsecomp_plus(source: Path) -> Dataset:
    """BrowseComp-Plus: web pages with gold, evidence and hard negative labels."""
    return Dataset(_bcp_documents(source), _bcp_questions(source))


def _bcp_documents(source: Path) -> Iterator[Row]:
    for number, row in json_lines(source):
        for kind in ("gold_docs", "evidence_docs", "negative_docs"):
            for page in need(row, kind, f"{source.name}, line {number}"):
                yield _bcp_document(page, f"{source.name}, line {number}, {kind}")


def _bcp_document(page: Row, where: str) -> Row:
    identity = f"bcp-{need(page, 'docid', where)}"
    text = str(need(page, "text", where)).replace("\r\n", "\n")
    front, body = split_front_matter(text)
    url = str(page.get("url") or "")
    row = {"id": identity, "title": front_title(front) or url or identity, "text": body}
    date = readable_date(front.get("date"))
    return {**row, "url": url, **({"date": date} if date else {})}


def _bcp_questions(source: Path) -> Iterator[Row]:
    for number, row in json_lines(source):
        where = f"{source.name}, line {number}"
        pages = [*need(row, "evidence_docs", where), *need(row, "gold_docs", where)]
        asked = {"question": need(row, "query", where), "answer": row.get("answer")}
        yield {
            "id": f"bcp-{need(row, 'query_id', where)}",
            **question_row(asked, where),
            "supporting_ids": list(dict.fromkeys(f"bcp-{page['docid']}" for page in pages)),
            "hops": len(row["evidence_docs"]),
            "type": "browse",
            "split": "test",
        }


# 2WikiMultihopQA -------------------------------------------------------------------------


def _two_wiki(source: Path) -> Dataset:
    """2WikiMultihopQA, in the HotpotQA format: one JSON array."""
    rows = json_file(source, list)
    numbered = list(enumerate(rows, start=1))
    split = split_of(source)
    return Dataset(
        (page for n, row in numbered for page in _2wiki_pages(row, f"{source.name}, item {n}")),
        (_2wiki_question(row, f"{source.name}, item {n}", split) for n, row in numbered),
    )


def _2wiki_pages(row: Row, where: str) -> list[Row]:
    pages = []
    for title, sentences in need(row, "context", where):
        text = " ".join(sentence.strip() for sentence in sentences)
        pages.append({"id": content_id("2wiki", title, text), "title": title, "text": text})
    return pages


def _2wiki_question(row: Row, where: str, split: str) -> Row:
    pages = _2wiki_pages(row, where)
    titles = {title for title, _ in need(row, "supporting_facts", where)}
    supporting = [page["id"] for page in pages if page["title"] in titles]
    return {
        "id": f"2wiki-{need(row, '_id', where)}",
        **question_row(row, where),
        "supporting_ids": supporting,
        "candidate_ids": [page["id"] for page in pages],
        "hops": len(supporting),
        "type": str(row.get("type", "")),
        "split": split,
    }


# Shared ----------------------------------------------------------------------------------


def _csv_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise UsageError(f"{path} is missing; give the folder of the NarrativeQA repository")
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            missing = [key for key in ("document_id", "set") if not row.get(key)]
            if missing or None in row.values():
                raise UsageError(f"{path}: a row lacks {missing or 'columns'}: {row!r:.120}")
            yield row


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "musique": _musique,
    "narrativeqa": _narrativeqa,
    "browsecomp-plus": _browsecomp_plus,
    "2wikimultihopqa": _two_wiki,
    "squad": squad,
    "seal": seal,
    "tofu": tofu,
    "longmemeval": longmemeval,
    "locomo": locomo,
}
"""Readers by name."""
