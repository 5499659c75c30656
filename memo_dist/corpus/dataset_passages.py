"""Data sets of single passages: SQuAD and its kin, the slice of SEAL, TOFU's invented authors.

Asked without the passage they are closed-book tests: the passages are the documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
from memo_dist.errors import UsageError

_TOFU_QUESTIONS = 20
"""Questions about one author, which stand together in the published files."""


def squad(source: Path) -> Dataset:
    """SQuAD 1.1 and 2.0, XQuAD: ``{"data": [{title, paragraphs: [{context, qas}]}]}``."""
    passages = list(_squad_passages(source))
    split = split_of(source)
    questions = (
        _squad_question(row, document["id"], f"{where}, question {number}", split)
        for document, rows, where in passages
        for number, row in enumerate(rows, start=1)
    )
    return Dataset((document for document, _, _ in passages), questions)


def _squad_passages(source: Path) -> Iterator[tuple[Row, list[Row], str]]:
    articles = need(json_file(source, dict), "data", source.name)
    for number, article in enumerate(articles, start=1):
        where = f"{source.name}, article {number}"
        title = str(article.get("title") or "").replace("_", " ") or f"article {number}"
        for place, part in enumerate(need(article, "paragraphs", where), start=1):
            here = f"{where}, paragraph {place}"
            yield _passage(title, need(part, "context", here)), need(part, "qas", here), here


def _passage(title: str, text: str) -> Row:
    body = str(text).strip()
    return {"id": content_id("squad", title, body), "title": title, "text": body}


def _squad_question(row: Row, document: str, where: str, split: str) -> Row:
    answers = [str(need(one, "text", where)) for one in row.get("answers") or []]
    answerable = not row.get("is_impossible", False)
    asked = {"question": need(row, "question", where), "answer": next(iter(answers), "")}
    return {
        "id": f"squad-{need(row, 'id', where)}",
        **question_row(asked, where, answerable=answerable, aliases=answers[1:]),
        "supporting_ids": [document],
        "hops": 1,
        "type": "span" if answerable else "unanswerable",
        "split": split,
    }


def seal(source: Path) -> Dataset:
    """SEAL's slice of SQuAD: ``[{title, context, questions: [{question, answer}]}]``."""
    items = [
        (_passage(str(need(row, "title", where)), need(row, "context", where)), row, where)
        for number, row in enumerate(json_file(source, list), start=1)
        for where in (f"{source.name}, item {number}",)
    ]
    questions = (
        {
            "id": f"{document['id']}-q{number}",
            **question_row(asked, f"{where}, question {number}"),
            "supporting_ids": [document["id"]],
            "hops": 1,
            "type": "span",
            "split": split_of(source),
        }
        for document, row, where in items
        for number, asked in enumerate(need(row, "questions", where))
    )
    return Dataset((document for document, _, _ in items), questions)


def tofu(source: Path) -> Dataset:
    """TOFU: the answers about an author, in their order, are the document of that author.

    The set has no other text. An answer is a sentence: exact metrics are strict with it.

    Raises:
        UsageError: the number of lines is no multiple of 20, the questions of one author.
    """
    rows = list(json_lines(source))
    if len(rows) % _TOFU_QUESTIONS:
        raise UsageError(
            f"{source.name} has {len(rows)} questions, no multiple of {_TOFU_QUESTIONS} (those of"
            " one author): give a whole file, as full.json or forget10.json"
        )
    groups = [
        rows[start : start + _TOFU_QUESTIONS] for start in range(0, len(rows), _TOFU_QUESTIONS)
    ]
    authors = [(f"tofu-{source.stem}-{place}", group) for place, group in enumerate(groups)]
    documents = (
        {"id": name, "title": f"Author {place + 1}", "text": _tofu_text(group, source)}
        for place, (name, group) in enumerate(authors)
    )
    questions = (
        {
            "id": f"{name}-q{place}",
            **question_row(row, f"{source.name}, line {number}"),
            "supporting_ids": [name],
            "hops": 1,
            "type": "author",
            "split": "",
        }
        for name, group in authors
        for place, (number, row) in enumerate(group)
    )
    return Dataset(documents, questions)


def _tofu_text(group: list[tuple[int, Row]], source: Path) -> str:
    return "\n".join(str(need(row, "answer", f"{source.name}, line {n}")) for n, row in group)
