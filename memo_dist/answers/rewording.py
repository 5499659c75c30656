"""The same question in other words, by rules for English; other languages keep the plain ones.

Sources of a memory's questions differ in manner: some name their document first, some are typed
into a search box. A question that misses one manner often meets another.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from memo_dist.answers.keywords import search_words

_LEAD = re.compile(
    r"^(?:(?:according to|in|under|for|on|at|as of|with|by)\s[^,?]{2,80},\s+"
    r"|(?:could|can) you (?:tell me|say):?\s+|(?:please )?(?:tell me|say)\s+|do you know\s+"
    r"|i would like to know\s+)",
    re.IGNORECASE,
)
_TRAIL = re.compile(r",?\s+according to [^?]+(?=\?)", re.IGNORECASE)
_NAME = re.compile(r"(?<=\w )[A-Z][\w'-]*(?: (?:(?:of|the|and) )?(?:[A-Z][\w'-]*|\d[\w.-]*))*")
_ASKED_OTHERWISE = {
    "when": "on what date",
    "where": "in which place",
    "who": "which person",
    "why": "for what reason",
    "how many": "what number of",
    "how much": "what amount of",
    "how long": "for what time",
    "which": "what",
    "what": "which",
    "in which": "in what",
    "in what": "in which",
}
_ASKING = re.compile(rf"^(?:{'|'.join(_ASKED_OTHERWISE)})\b", re.IGNORECASE)

_OPEN = re.compile(r"(?:\w+ )?(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)


def rewordings(question: str, count: int) -> tuple[str, ...]:
    """The question and other wordings of it, all different: the first ``count`` that there are.

    Args:
        question: what is asked.
        count: most wordings, the question itself included; 1 to :data:`MOST_WORDINGS`.
    """
    found = (manner(question) for manner in _MANNERS)
    return tuple(dict.fromkeys([question, *(text for text in found if text)]))[:count]


def _keywords(question: str) -> str:
    return search_words(question, "") or ""


def _typed(question: str) -> str:
    return question.lower().rstrip(" ?")


def _bare(question: str) -> str:
    """Without the phrase that says where the answer stands."""
    bare = _TRAIL.sub("", _LEAD.sub("", question, count=1))
    return question if bare == question else _sentence(bare)


def _placed(question: str) -> str:
    """The longest name first: "In <name>, ..."."""
    names, bare = _NAME.findall(question), _bare(question)
    return f"In {max(names, key=len)}, {_clause(bare)}" if names and _OPEN.match(bare) else ""


def _polite(question: str) -> str:
    bare = _bare(question)
    return f"Can you tell me {_clause(bare)}" if _OPEN.match(bare) else ""


def _asked_otherwise(question: str) -> str:
    found = _ASKING.match(question)
    if found is None:
        return ""
    return _sentence(_ASKED_OTHERWISE[found.group(0).lower()] + question[found.end() :])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _clause(text: str) -> str:
    """As part of a sentence; an abbreviation keeps its capitals."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


_MANNERS: tuple[Callable[[str], str], ...] = (
    _keywords,
    _bare,
    _polite,
    _placed,
    _asked_otherwise,
    _typed,
)
MOST_WORDINGS = 1 + len(_MANNERS)
