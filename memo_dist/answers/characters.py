"""One form for characters that look alike or show nothing: for documents, questions and answers.

Unicode Normalization Form C (https://unicode.org/reports/tr15/), ligatures as their letters,
letters and digits of double width as the plain ones, hyphens and minus signs as ``-``, spaces of
any width as a space, and no invisible characters: soft hyphens, zero-width and direction marks,
variation selectors, tags, control characters.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[\t\n\r -~]*")
_SOFT_BREAK = re.compile("\u00ad[ \t]*\r?\n[ \t]*")
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e01ef\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
_JOINER = re.compile("(?<![\u0590-\u1fff\u2190-\uffff\U00010000-\U0010ffff])[\u200c\u200d]")
"""Zero-width joiners after Latin, Greek or Cyrillic letters; other scripts and emoji need them."""
_PRESENTATION = re.compile("[\ufb00-\ufdff\ufe70-\ufefc\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+")
_HYPHEN = re.compile("[\u2010\u2011\u2212]")
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE_END = re.compile("\r\n|[\r\x85\u2028\u2029]")
_BREAK = re.compile("[\x0b\x0c]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_characters(text: str) -> str:
    """The text in its one form; lines end in ``\\n``, and a page break is an empty line.

    Half a surrogate pair becomes U+FFFD, so that the result can be written as UTF-8. The result
    of a cleaned text is that text.
    """
    if _PLAIN.fullmatch(text) and "\r" not in text:
        return text
    text = _SOFT_BREAK.sub("", text)
    text = _BREAK.sub("\n\n", _LINE_END.sub("\n", text))
    text = _JOINER.sub("", _INVISIBLE.sub("", text))
    text = _SPACE.sub(" ", _SURROGATE.sub("\ufffd", text))
    text = _HYPHEN.sub("-", text)
    text = _PRESENTATION.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", text)
