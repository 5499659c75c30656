"""Data sets of long conversations: each session of a chat is a document, with its date."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from memo_dist.corpus.dataset_rows import Dataset, Row, json_file, need, question_row
from memo_dist.corpus.text import readable_date
from memo_dist.errors import UsageError

_SESSION = re.compile(r"session_(\d+)")
_SLASHED = re.compile(r"(\d{4})/(\d{2})/(\d{2})")
_SPOKEN = re.compile(r"(\d{1,2}) (\w+),? (\d{4})")
_KINDS = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
"""LoCoMo's categories of questions."""
_ADVERSARIAL = 5


def longmemeval(source: Path) -> Dataset:
    """LongMemEval: the sessions of all questions are pooled.

    A question whose id ends with ``_abs`` has no answer in its sessions.
    """
    rows = json_file(source, list)
    numbered = [(row, f"{source.name}, item {n}") for n, row in enumerate(rows, start=1)]
    documents = (page for row, where in numbered for page in _lme_sessions(row, where))
    return Dataset(documents, (_lme_question(row, where) for row, where in numbered))


def _lme_sessions(row: Row, where: str) -> Iterator[Row]:
    names = need(row, "haystack_session_ids", where)
    sessions = need(row, "haystack_sessions", where)
    dates = row.get("haystack_dates") or [""] * len(names)
    if not len(names) == len(sessions) == len(dates):
        raise UsageError(f"{where}: {len(names)} session ids, {len(sessions)} sessions")
    for name, turns, date in zip(names, sessions, dates, strict=True):
        lines = [f"{need(t, 'role', where)}: {need(t, 'content', where)}" for t in turns]
        yield _session(f"lme-{name}", f"Chat of {date}" if date else str(name), lines, _date(date))


def _lme_question(row: Row, where: str) -> Row:
    name = str(need(row, "question_id", where))
    answer = need(row, "answer", where)
    asked = {"question": _dated(row, where), "answer": str(answer)}
    return {
        "id": f"lme-{name}",
        **question_row(asked, where, answerable=not name.endswith("_abs")),
        "supporting_ids": [f"lme-{one}" for one in row.get("answer_session_ids") or []],
        "type": str(row.get("question_type", "")),
        "split": "",
    }


def _dated(row: Row, where: str) -> str:
    """The question with the day on which it is asked: "last week" depends on it."""
    day = _date(str(row.get("question_date") or ""))
    question = str(need(row, "question", where)).strip()
    return f"{question} (asked on {day})" if day else question


def locomo(source: Path) -> Dataset:
    """LoCoMo: ten conversations of two people; pictures are given by their captions.

    Adversarial questions have no answer in the conversation.
    """
    samples = [
        (row, f"{source.name}, conversation {n}", str(row.get("sample_id") or n))
        for n, row in enumerate(json_file(source, list), start=1)
    ]
    documents = (page for row, where, name in samples for page in _lcm_sessions(row, where, name))
    questions = (
        _lcm_question(asked, f"{where}, question {n}", name, n)
        for row, where, name in samples
        for n, asked in enumerate(need(row, "qa", where))
    )
    return Dataset(documents, questions)


def _lcm_sessions(row: Row, where: str, name: str) -> Iterator[Row]:
    conversation: Mapping[str, object] = need(row, "conversation", where)
    found = [(int(m[1]), key) for key in conversation if (m := _SESSION.fullmatch(key))]
    for number, key in sorted(found):
        date = str(conversation.get(f"{key}_date_time") or "")
        turns = conversation[key]
        if not isinstance(turns, list):
            raise UsageError(f"{where}: {key} is no list of turns; is this the published file?")
        lines = [_lcm_line(turn, f"{where}, {key}") for turn in turns]
        yield _session(_lcm_id(name, number), f"{name}, {date or key}", lines, _date(date))


def _lcm_line(turn: Row, where: str) -> str:
    caption = turn.get("blip_caption")
    picture = f" [picture: {caption}]" if caption else ""
    return f"{need(turn, 'speaker', where)}: {turn.get('text') or ''}{picture}"


def _lcm_id(name: str, session: int) -> str:
    return f"locomo-{name}-s{session}"


def _lcm_question(row: Row, where: str, name: str, number: int) -> Row:
    category = row.get("category")
    answerable = category != _ADVERSARIAL
    answer = need(row, "answer", where) if answerable else ""
    asked = {"question": need(row, "question", where), "answer": str(answer)}
    return {
        "id": f"locomo-{name}-q{number}",
        **question_row(asked, where, answerable=answerable),
        "supporting_ids": [_lcm_id(name, n) for n in _lcm_evidence(row.get("evidence") or [])],
        "type": _KINDS.get(category, str(category)) if isinstance(category, int) else "",
        "split": "",
    }


def _lcm_evidence(marks: Sequence[object]) -> list[int]:
    """Sessions of marks as ``D3:12``; some published marks hold several."""
    found = (int(n) for mark in marks for n in re.findall(r"D(\d+):\d+", str(mark)))
    return list(dict.fromkeys(found))


def _session(name: str, title: str, lines: Sequence[str], date: str) -> Row:
    row = {"id": name, "title": title, "text": "\n".join(lines)}
    return {**row, **({"date": date} if date else {})}


def _date(text: str) -> str:
    """An ISO date from ``2023/05/20 (Sat) 02:21`` or ``1:56 pm on 8 May, 2023``; else ""."""
    slashed = _SLASHED.search(text)
    if slashed:
        return "-".join(slashed.groups())
    spoken = _SPOKEN.search(text)
    return readable_date(" ".join(spoken.groups()) if spoken else text) or ""
