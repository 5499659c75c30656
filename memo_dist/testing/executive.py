"""A scripted executive: follows known steps from question to answer through the protocol.

A script has one JSON object a line: ``question``, and ``steps`` of ``question`` (and optionally
``wordings``), in which ``#1`` stands for the answer of step 1. Everything else it takes from the
prompt, as a model would: which steps were asked, and what the memory said. Optional ``loop``
makes it misbehave: ``same`` asks its first step for ever, ``new`` asks something new for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.io.user_rows import user_rows

_QUESTION = re.compile(r"^Question: (.*)$", re.MULTILINE)
_NOTE = re.compile(
    r"^\[(\d+)\] Q: (.*)\n    A: (?:\(does not know\)|(.*) \[\d+/\d+ wordings, \d+ %\])$",
    re.MULTILINE,
)
_REFERENCE = re.compile(r"#(\d+)")
_TURNS_LEFT = re.compile(r"Turns left: (\d+)")


@dataclass(frozen=True, slots=True)
class _Note:
    number: int
    question: str
    answer: str | None


class ScriptedExecutive:
    """Replies by script; a question that the script lacks is not split and not known."""

    def __init__(self, script: Path) -> None:
        rows = user_rows(script, "the script")
        self._rows = {" ".join(row["question"].split()): row for _, row in rows}

    def reply(self, turns: Sequence[str], schema: Mapping[str, Any]) -> str:
        """The reply to a conversation's user turns, as JSON under the protocol's schemas."""
        prompt = "\n".join(turns)
        found = _QUESTION.search(prompt)
        row = self._rows.get(found.group(1).strip() if found else "", {"steps": []})
        fields = schema["properties"]
        progress = _Progress(row, prompt, _wordings(fields))
        for mark, reply in (
            ("entity", progress.identify),
            ("ready", progress.seek),
            ("support", progress.synthesis),
            ("done", progress.converse),
        ):
            if mark in fields:
                return json.dumps(reply(), ensure_ascii=False)
        return json.dumps(progress.ground(), ensure_ascii=False)


def _wordings(fields: Mapping[str, Any]) -> int:
    """Other wordings that the schema allows for a question."""
    question = fields.get("questions", {}).get("items", {})
    limit: int = question.get("properties", {}).get("wordings", {}).get("maxItems", 0)
    return limit


class _Progress:
    """How far one question has come, read from its prompt."""

    def __init__(self, row: Mapping[str, Any], prompt: str, wordings: int) -> None:
        self._wordings = wordings
        self._steps: list[Mapping[str, Any]] = row["steps"]
        self._loop: str = row.get("loop", "")
        self._left = (_TURNS_LEFT.findall(prompt) or ["0"])[-1]
        notes = [
            _Note(int(number), question, answer or None)
            for number, question, answer in _NOTE.findall(prompt)
        ]
        self._notes = {note.question: note for note in notes}
        self._answers: list[str | None] = []
        self._used: list[_Note] = []
        self._open: list[tuple[int, str]] = []
        for number, step in enumerate(self._steps):
            self._place(number, step["question"])

    def _place(self, number: int, template: str) -> None:
        question = self._resolved(template)
        note = self._notes.get(question) if question else None
        self._answers.append(note.answer if note else None)
        if note is not None:
            self._used.append(note)
        elif question is not None:
            self._open.append((number, question))

    def _resolved(self, template: str) -> str | None:
        """The step's question; None while an answer that it needs is missing."""
        text = " ".join(template.split())
        for reference in _REFERENCE.findall(text):
            place = int(reference) - 1
            answer = self._answers[place] if place < len(self._answers) else None
            if answer is None:
                return None
            text = text.replace(f"#{reference}", answer)
        return text

    @property
    def _last(self) -> int:
        return len(self._steps) - 1

    def _proposals(self, numbers: range, about: str = "") -> list[dict[str, Any]]:
        if self._loop == "same":
            first = self._resolved(self._steps[0]["question"])
            return [{"about": about, "question": first, "wordings": []}]
        if self._loop == "new":
            text = f"What is number {len(self._notes)}, with {self._left} turns left?"
            return [{"about": about, "question": text, "wordings": []}]
        return [
            {
                "about": about,
                "question": question,
                "wordings": self._steps[number].get("wordings", [])[: self._wordings],
            }
            for number, question in self._open
            if number in numbers
        ]

    def ground(self) -> dict[str, Any]:
        return {"questions": self._proposals(range(len(self._steps)))}

    def identify(self) -> dict[str, Any]:
        known = [answer for answer in self._answers[: self._last] if answer]
        ready = len(known) == self._last and not self._loop
        return {
            "candidates": known,
            "questions": [] if ready else self._proposals(range(self._last)),
            "entity": known[-1] if ready and known else "",
        }

    def seek(self) -> dict[str, Any]:
        questions = self._proposals(range(len(self._steps)), about=self._entity())
        return {"questions": questions, "ready": not questions, "pivot": ""}

    def _entity(self) -> str:
        known = [answer for answer in self._answers[: self._last] if answer]
        return known[-1] if known else ""

    def synthesis(self) -> dict[str, Any]:
        answer = self._answers[self._last] if self._steps else None
        return {
            "support": [note.number for note in self._used],
            "known": answer is not None,
            "answer": answer or "",
        }

    def converse(self) -> dict[str, Any]:
        questions = [proposal["question"] for proposal in self._proposals(range(len(self._steps)))]
        answer = self._answers[self._last] if self._steps else None
        return {"questions": questions, "done": not questions, "answer": answer or ""}
