"""The text around a passage, a span and a question: one form for training and for writing.

A passage is read once, as a prefix. Each task is a branch that continues the prefix on its own:

    prefix:  <|im_start|>user
             Title: ...
             the passage
    writer:  Ask (article): words before [span] words after  ->  a question
    reader:  Question: a question                            ->  the answer, or "Not stated"

Prefix, branch and target are tokenised separately, so that their boundaries are boundaries of
tokens and a branch's tokens do not depend on the passage.
"""

from __future__ import annotations

from typing import Literal, get_args

from memo_dist.models.chat_format import CHATML_END, CHATML_START

Manner = Literal["article", "post", "review"]
"""Whose questions a written one resembles: readers of articles, of posts, of reviews."""
MANNERS: tuple[Manner, ...] = get_args(Manner)

NOT_STATED = "Not stated"
"""The reader's answer to a question that the passage does not answer."""
TARGET_END = CHATML_END

_BEFORE = 6
_AFTER = 4
_TO_ANSWER = f"{CHATML_END}\n{CHATML_START}assistant\n"


def prefix(title: str, text: str) -> str:
    """The passage under its title; the title names what the passage is about."""
    return f"{CHATML_START}user\nTitle: {title}\n{text}\n"


def writer_branch(text: str, start: int, end: int, manner: Manner) -> str:
    """Asks for a question that ``text[start:end]`` answers.

    Some words on both sides tell which mention is meant.
    """
    before = " ".join(text[:start].split()[-_BEFORE:])
    after = " ".join(text[end:].split()[:_AFTER])
    marked = f"{before} [{text[start:end]}] {after}".strip()
    return f"Ask ({manner}): {marked}{_TO_ANSWER}"


def reader_branch(question: str) -> str:
    """Asks for the answer to ``question`` from the passage."""
    return f"Question: {question}{_TO_ANSWER}"
