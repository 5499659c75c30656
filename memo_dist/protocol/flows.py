"""The three ways of asking: the full protocol, one turn, and a plain conversation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from memo_dist.llm.requests import Message
from memo_dist.protocol.inquiry import Inquiry
from memo_dist.protocol.requests import MAX_CANDIDATES
from memo_dist.protocol.types import Ask, Conclusion, Consult, Flow, Note

FALLBACK = "fallback: the memory's own answer to the question"
NO_REPLY = "Your last reply could not be read."
NO_NEWS = "None of these is new: ask something else, or finish."

Steps = Generator[Consult | Ask, Any, Any]


def full(inquiry: Inquiry) -> Flow:
    """Grounding, entity identification, answer seeking, synthesis (arXiv 2605.15156)."""
    yield from _ground(inquiry)
    entity = yield from _identify(inquiry)
    yield from _seek(inquiry, entity)
    return (yield from _conclude(inquiry))


def one_turn(inquiry: Inquiry) -> Flow:
    """One round of questions, then the answer."""
    yield from _ground(inquiry)
    return (yield from _conclude(inquiry))


def multi_turn(inquiry: Inquiry) -> Flow:
    """A conversation: the executive asks until it answers, with no other guidance."""
    turns: list[Message] = [inquiry.calls.opening()]
    idle = turn = 0
    while idle < inquiry.settings.idle_turns:
        turn += 1
        last = bool(inquiry.budget.used_up())
        request = inquiry.calls.conversation(tuple(turns))
        value = yield from inquiry.consult("conversation", turn, request)
        if value is not None and (value["done"] or last):
            if not inquiry.notes:
                break
            return _answered(inquiry, value["answer"], inquiry.spoken)
        if last:
            break
        proposals = [{"question": text} for text in value["questions"]] if value else []
        fresh: list[Note] = yield from inquiry.ask("conversation", turn, proposals)
        idle = 0 if fresh else idle + 1
        problem = NO_NEWS if value else NO_REPLY
        ending = bool(inquiry.budget.used_up())
        turns.append(Message("assistant", _said(value, inquiry.settings.questions)))
        turns.append(inquiry.calls.replies(fresh, problem, ending))
    return (yield from _fall_back(inquiry))


FLOWS = {"full": full, "one_turn": one_turn, "multi_turn": multi_turn}
"""By ``protocol.variant``."""


def _ground(inquiry: Inquiry) -> Steps:
    """Questions that need no other's answer; the question itself where none can be had."""
    value = yield from inquiry.consult("grounding", 1, inquiry.calls.grounding())
    proposals = value["questions"] if value else []
    fresh = yield from inquiry.ask("grounding", 1, proposals)
    if not fresh:
        yield from inquiry.ask("grounding", 1, [{"question": inquiry.calls.question}])


def _identify(inquiry: Inquiry) -> Generator[Consult | Ask, Any, str]:
    """The entity that the answer must be asked of; "" where none was found."""
    settings, candidates = inquiry.settings, inquiry.candidates
    idle = 0
    for turn in range(1, settings.identify_turns + 1):
        if inquiry.budget.used_up() or idle >= settings.idle_turns:
            break
        request = inquiry.calls.identify(
            inquiry.notes, candidates.alive, candidates.dropped, settings.identify_turns - turn
        )
        value = yield from inquiry.consult("identify", turn, request)
        if value is None:
            idle += 1
            continue
        entity = " ".join(value["entity"].split())
        candidates.propose([*value["candidates"][:MAX_CANDIDATES], entity])
        if entity and not candidates.is_dropped(entity):
            return entity
        if not value["questions"]:
            break
        fresh = yield from inquiry.ask("identify", turn, value["questions"])
        idle = 0 if fresh else idle + 1
    return ""


def _seek(inquiry: Inquiry, entity: str) -> Steps:
    """Ask about the entity until the executive has what it needs."""
    settings, candidates = inquiry.settings, inquiry.candidates
    idle = pivots = 0
    for turn in range(1, settings.seek_turns + 1):
        if inquiry.budget.used_up() or idle >= settings.idle_turns:
            return
        left = settings.seek_turns - turn
        request = inquiry.calls.seek(
            inquiry.notes, candidates.alive, candidates.dropped, left, entity
        )
        value = yield from inquiry.consult("seek", turn, request)
        if value is None:
            idle += 1
            continue
        other = " ".join(value["pivot"].split())
        turned = bool(other) and pivots < settings.pivots and not candidates.is_dropped(other)
        if turned:
            candidates.propose([other])
            entity, pivots = other, pivots + 1
        if value["ready"]:
            return
        fresh = yield from inquiry.ask("seek", turn, value["questions"])
        if not (value["questions"] or turned):
            return
        idle = 0 if fresh or turned else idle + 1


def _conclude(inquiry: Inquiry) -> Flow:
    """The executive's answer from the notes; nothing is made of silence.

    A memory that was never asked has not been silent: then the question itself is asked, however
    long it is.
    """
    limit = inquiry.budget.used_up()
    if not inquiry.notes:
        yield from inquiry.ask_itself()
    if not inquiry.spoken:
        return Conclusion("", (), "memory silent", limit, inquiry.budget.failed)
    request = inquiry.calls.synthesis(inquiry.notes)
    value = yield from inquiry.consult("synthesis", 1, request)
    if value is None:
        return (yield from _fall_back(inquiry, limit))
    cited = [note for note in inquiry.spoken if note.number in value["support"]]
    text = value["answer"] if value["known"] else ""
    return _answered(inquiry, text, cited or inquiry.spoken, limit)


def _answered(
    inquiry: Inquiry, text: str, support: Sequence[Note], limit: str | None = None
) -> Conclusion:
    limit = inquiry.budget.used_up() if limit is None else limit
    text, failed = " ".join(text.split()), inquiry.budget.failed
    if not support:  # an answer that the memory said nothing to is the executive's own
        return Conclusion("", (), "memory silent", limit, failed)
    if not text:
        return Conclusion("", (), "not known", limit, failed)
    return Conclusion(text, tuple(support), "answered", limit, failed)


def _fall_back(inquiry: Inquiry, limit: str | None = None) -> Flow:
    """What the memory itself answers to the question: the executive gave no answer."""
    limit = inquiry.budget.used_up() if limit is None else limit
    note = inquiry.note_of(inquiry.calls.question)
    if note is None:
        note = yield from inquiry.ask_itself()
    support = () if note.ballot.silent else (note,)
    return Conclusion(note.ballot.text, support, FALLBACK, limit, inquiry.budget.failed)


def _said(value: dict[str, Any] | None, most: int) -> str:
    """The executive's turn; never left out, as many chat templates want turns to alternate."""
    return "\n".join(value["questions"][:most] if value else ()) or "(nothing)"
