"""Words, numbers and names of a text: what grounding, coverage and grouping compare.

Everything here is a rule on characters, without a model, so that it is fast and the same on every
machine. The list of function words is English; in other languages those words count as content,
which makes the comparisons stricter, never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from unicodedata import normalize

from memo_dist.answers.text import word_set

FUNCTION_WORDS = word_set(
    "a an the this that these those and or but nor so if than then as of in on at by to from for "
    "with into onto about over under after before between during through is are was were be been "
    "being am do does did done has have had having will would shall should can could may might "
    "must not no it its he him his she her hers they them their theirs we us our you your i me my "
    "who whom whose which what when where why how there here also both each other such only own "
    "same very s t"
)
"""English words that say nothing about what a text is about."""

_STEM = 5
"""Letters that stand for a word: a stemmer's job for every alphabetic language, roughly."""
_WORD = re.compile(r"\w+(?:[.,:]\d+)*")
_CODED = re.compile(r"[\d_]")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_TOKEN = re.compile(r"[^\W_][\w'’.&-]*")
_LINKS = word_set("of de da di du des del der den la le van von the")
_SENTENCE_END = re.compile(r"[.!?:\n]\s*$")


def words(text: str) -> list[str]:
    """The words and numbers of ``text`` in lower case (NFKC), in order."""
    return _WORD.findall(normalize("NFKC", text).casefold())


def stem(word: str) -> str:
    """What stands for a word in comparisons: numbers whole, other words cut."""
    return _plain(word) if word[0].isdigit() else word[:_STEM]


def content(text: str) -> frozenset[str]:
    """Stems of the words that say what the text is about."""
    return frozenset(stem(word) for word in words(text) if word not in FUNCTION_WORDS)


def whole_content(text: str) -> frozenset[str]:
    """As :func:`content`, uncut: Niger is not Nigeria, where equal words must mean one thing."""
    return frozenset(_plain(word) for word in words(text) if word not in FUNCTION_WORDS)


def coded(text: str) -> frozenset[str]:
    """Numbers, and whole words with a digit or an underscore (``TX1000A``, ``memo_port``)."""
    return frozenset(_plain(word) for word in words(text) if _CODED.search(word))


def _plain(word: str) -> str:
    """A number without its thousands separators; any other word as it is."""
    return word.replace(",", "") if word[0].isdigit() else word


def numbers(text: str) -> frozenset[str]:
    """The numbers written in digits, without thousands separators."""
    return frozenset(match.replace(",", "") for match in _NUMBER.findall(text))


def names(text: str) -> list[str]:
    """Capitalised names ("Bay of Plenty") in order, each once; possessive endings are cut."""
    return list(dict.fromkeys(text[start:end] for start, end in name_spans(text)))


def name_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the names stand: half-open character offsets."""
    run: list[re.Match[str]] = []
    links: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text):
        before = links or run
        last = before[-1] if before else None
        if last is not None and not _joined(last, text[last.end() : token.start()]):
            yield from _name(text, run)
            run, links = [], []
        if token.group()[0].isupper():
            run += [*links, token]
            links = []
        elif run and token.group() in _LINKS:
            links.append(token)
        elif run:
            yield from _name(text, run)
            run, links = [], []
    if run:
        yield from _name(text, run)


def _joined(last: re.Match[str], gap: str) -> bool:
    """Whether a name may go on after a token: not after a possessive or the end of a sentence."""
    word = last.group()
    ends = word.endswith(".") and len(word) > 4 and "." not in word[:-1]
    return gap.isspace() and not ends and not word.endswith(("'s", "’s"))


def _name(text: str, run: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """The run without function words in front and without its possessive ending."""
    while run and run[0].group().casefold() in FUNCTION_WORDS:
        run = run[1:]
    if not run:
        return
    start = run[0].start()
    opens = start == 0 or _SENTENCE_END.search(text[max(0, start - 3) : start]) is not None
    if len(run) == 1 and opens and len(run[0].group()) < 3:
        return
    cut = text[start : run[-1].end()].rstrip(".'’-&")
    yield start, start + len(cut.removesuffix("'s").removesuffix("’s"))
