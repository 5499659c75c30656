"""The same question as a person types it into a search box: its words that carry meaning."""

from __future__ import annotations

import re

from memo_dist.answers.text import word_set

FUNCTION_WORDS = word_set(
    "a an the of in on at to for with by from and or that which who whom whose what when where why "
    "how is are was were be been being do does did has have had can could you tell me know please "
    "say i would like it its this these those according regarding there as any must shall will"
)
"""English words that do not say what is asked about."""
_ASKING = re.compile(
    r"\b(how many \w+|how (?:much|long|often|far|high|large|old)|which \w+|who|whom|when|where|why"
    r"|how|what)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w$€£%°][\w.,'’/%-]*[\w%]|\w")
_FEWEST = 3


def search_words(question: str, topic: str) -> str | None:
    """As in "How long does the cell last?" on the Tessmar 40: "Tessmar 40 cell last, how long?".

    None where too few words would be left to say what is asked.
    """
    found = _ASKING.search(question)
    asking = found.group(0).lower() if found else ""
    rest = _ASKING.sub(" ", question, count=1)
    words = [word for word in _WORD.findall(rest) if word.lower() not in FUNCTION_WORDS]
    known = {word.lower().removesuffix("'s") for word in words}
    lead = [word for word in topic.split() if word.lower() not in known | FUNCTION_WORDS]
    words = list(dict.fromkeys([*lead, *words]))
    if len(words) < _FEWEST:
        return None
    text = f"{' '.join(words)}{', ' if asking else ''}{asking}?"
    return text[0].upper() + text[1:]
