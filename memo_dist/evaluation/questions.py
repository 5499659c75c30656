"""``questions.jsonl``: the questions that a memory and its baselines are scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.errors import UsageError
from memo_dist.io.user_rows import user_rows


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its gold answer.

    Attributes:
        id: unique in the file.
        question: the text that is asked.
        answer: the gold answer; empty when not answerable.
        aliases: other right answers.
        supporting_ids: ids of the documents that the answer rests on.
        answerable: False: the corpus does not hold the answer and abstaining is right.
        type: free label for the breakdown by type; empty when the file has none.
    """

    id: str
    question: str
    answer: str
    aliases: tuple[str, ...] = ()
    supporting_ids: tuple[str, ...] = ()
    answerable: bool = True
    type: str = ""

    @property
    def golds(self) -> tuple[str, ...]:
        """The answer and its aliases: any of them is right."""
        return (self.answer, *self.aliases)


def load_questions(path: Path, limit: int = 0) -> list[Question]:
    """Read a question file: one JSON object a line; fields that are not known are ignored.

    Args:
        path: the file.
        limit: keep the first N questions; 0 keeps all. Every line is checked either way.

    Raises:
        UsageError: the file is missing, empty or not UTF-8 JSON lines, a field is missing or of
            the wrong type, an id appears twice, or the limit is negative; names the line.
    """
    if limit < 0:
        raise UsageError(f"evaluate.limit is {limit}: write 0 (all questions) or a positive number")
    seen: dict[str, int] = {}
    questions: list[Question] = []
    for number, row in user_rows(path, "the questions"):
        where = f"{path}, line {number}"
        question = _question(row, where)
        if question.id in seen:
            raise UsageError(
                f"{where}: the id '{question.id}' was used on line {seen[question.id]};"
                " give each question its own id"
            )
        seen[question.id] = number
        questions.append(question)
    if not questions:
        raise UsageError(f"{path} holds no question: write one JSON object a line")
    return questions[:limit] if limit else questions


def default_name(file: Path) -> str:
    """What is measured with a file is named ``dev-questions`` for ``.../dev/questions.jsonl``."""
    return f"{file.resolve().parent.name}-{file.stem}"


def _question(row: dict[str, Any], where: str) -> Question:
    answerable = row.get("answerable", True)
    if not isinstance(answerable, bool):
        raise UsageError(f"{where}: 'answerable' is {answerable!r}; write true or false")
    return Question(
        id=_text(row, "id", where),
        question=_text(row, "question", where),
        answer=_answer(row, answerable, where),
        aliases=_texts(row, "aliases", where) if answerable else (),
        supporting_ids=_texts(row, "supporting_ids", where),
        answerable=answerable,
        type=str(row.get("type") or ""),
    )


def _answer(row: dict[str, Any], answerable: bool, where: str) -> str:
    if answerable:
        return _text(row, "answer", where)
    answer = row.get("answer") or ""
    if answer:
        raise UsageError(
            f"{where}: 'answerable' is false but 'answer' is {answer!r}; leave the answer empty"
        )
    return ""


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise UsageError(f"{where}: the field '{name}' is missing")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where}: '{name}' is {value!r}; write a text that is not empty")
    return value.strip()


def _texts(row: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{where}: '{name}' is {value!r}; write a list of texts")
    return tuple(item.strip() for item in value if item.strip())
