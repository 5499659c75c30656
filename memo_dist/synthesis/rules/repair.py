"""Corrections of tags that a neighbouring word decides, and fixed expressions as one token."""

from __future__ import annotations

import re

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.morphology import parts_of_speech, verb_lemma
from memo_dist.synthesis.rules.tokens import Token

_YEAR = re.compile(r"(?:1[0-9]|20)\d\d$")
_YEAR_LEFT = word_set(
    "in since by from until till before after during of around circa to and between for"
)
_ROUGHLY = word_set("about around nearly approximately roughly over under almost only")
_PHRASE_OR_CLAUSE = frozenset({"as", "before", "after", "since", "until", "than"})
_BARE_INFINITIVE = frozenset({"make", "let", "help", "see", "hear", "watch", "have", "do", "feel"})
_NOMINATIVE = frozenset({"he", "she", "they", "we", "i"})


def repair_names(tokens: list[Token]) -> None:
    """Read capitalised words beside a name as part of it ("Monumento Roundabout")."""
    for i, token in enumerate(tokens):
        if i == 0 or not token.text[0].isupper() or token.tag[:2] not in {"AJ", "AV", "VV", "UN"}:
            continue
        near = tokens[i - 1 : i] * (i > 1) + tokens[i + 1 : i + 2]
        if any(t.text[0].isupper() and t.tag[:1] in {"N", "A"} for t in near):
            token.tag, token.lemma = "NP0", token.text


def compound(tokens: list[Token]) -> list[Token]:
    """Join fixed expressions ("because of", "in order to") to one token."""
    known = lexicon().compounds
    joined: list[Token] = []
    at = 0
    while at < len(tokens):
        for size in (4, 3, 2, 1):
            words = tokens[at : at + size]
            key = " ".join(token.lower for token in words)
            if size > 1 and (len(words) < size or key not in known):
                continue
            if size > 1:
                text = " ".join(token.text for token in words)
                words = [Token(text, known[key], key, words[0].start, words[-1].end)]
            joined.append(words[0])
            at += size
            break
    return joined


def decapitalise(tokens: list[Token], names: frozenset[str]) -> None:
    """Write the first word as inside a sentence, unless it is (part of) a name."""
    if not tokens or not tokens[0].text[0].isupper() or tokens[0].text == "I":
        return
    first = tokens[0]
    if first.text in names:
        first.tag = "NP0" if first.tag[0] in "NAUV" else first.tag
        return
    acronym = len(first.text) > 1 and first.text[1:2].isupper()
    if first.tag == "NP0" or acronym or first.text[0] == '"':
        return
    if first.tag in {"NN0", "NN1", "NN2", "AJ0", "AJC", "AJS", "UNC", "ORD", "CRD"}:
        beside_name = len(tokens) > 1 and tokens[1].text[0].isupper() and tokens[1].tag[0] == "N"
        if beside_name or not parts_of_speech(first.text):
            return
    first.text = first.text[0].lower() + first.text[1:]


def repair(tokens: list[Token]) -> None:
    """Correct tags that the tagger gets wrong in a way that a neighbour decides."""
    for i, token in enumerate(tokens):
        left = tokens[i - 1] if i else None
        right = tokens[i + 1] if i + 1 < len(tokens) else None
        if not _repair_small(tokens, i, left, right) and left is not None:
            _repair_content(tokens, i, left, right)
        if token.text[0].isdigit() and token.tag not in {"DATE", "ORD"}:
            token.tag = "CRD"


def _repair_small(tokens: list[Token], at: int, left: Token | None, right: Token | None) -> bool:
    """Years, apostrophes and words that open a phrase or a clause; whether one was seen."""
    token = tokens[at]
    low = token.lower
    if _YEAR.match(token.text) and (left is None or left.lower in _YEAR_LEFT):
        token.tag = "DATE"
    elif token.text == "'" and left and token.glued and left.lower.endswith("s"):
        token.tag = "POS"
    elif _is_adverb(low, left, right):
        token.tag = "AV0"
    elif low in _PHRASE_OR_CLAUSE and token.tag == "CJS":
        token.tag = "PRP" if _opens_phrase(tokens, at + 1) else "CJS"
    elif low == "that" and right and left:
        _repair_that(token, left, right)
    else:
        return False
    return True


def _is_adverb(low: str, left: Token | None, right: Token | None) -> bool:
    """As in "Today, ..." and "about 45 minutes"."""
    roughly = low in _ROUGHLY and right is not None and right.text[0].isdigit()
    return roughly or (low == "today" and left is None)


def _repair_content(tokens: list[Token], at: int, left: Token, right: Token | None) -> None:
    """Verbs that look like nouns and nouns that look like verbs."""
    token = tokens[at]
    noun = token.tag[:2] in {"NN", "AJ"}
    if noun and left.lower in _NOMINATIVE and right and right.tag not in {"VVD", "VVZ"}:
        if "VERB" in parts_of_speech(token.text):
            token.tag = "VVZ" if token.tag == "NN2" else "VVB"
            token.lemma = verb_lemma(token.text)
    elif token.tag == "VVI" and left.is_noun:
        bare = any(t.lemma.lower() in _BARE_INFINITIVE for t in tokens[:at] if t.is_verb)
        token.tag = token.tag if bare else "VVB"
    elif token.is_verb:
        _repair_verb(token, left, right)
    elif token.tag in {"NN1", "NN2"} and right and left.tag == "CJC":
        _repair_joined(tokens, at)


def _repair_that(token: Token, left: Token, right: Token) -> None:
    if token.lower == "that" and left.is_noun and (right.is_verb or right.tag in {"PNP", "NP0"}):
        token.tag = "CJT"
    elif token.lower == "that" and right.is_noun and not left.is_noun and not left.is_verb:
        token.tag = "DT0"


def _repair_verb(token: Token, left: Token, right: Token | None) -> None:
    """A capitalised verb between names is a name; a base form after a determiner is a noun."""
    if token.text[0].isupper() and (left.is_name or (right is not None and right.is_name)):
        token.tag, token.lemma = "NP0", token.text
    elif left.tag in {"AT0", "DPS", "POS"} and token.tag in {"VVB", "VVI", "VVZ"}:
        token.tag = "NN2" if token.tag == "VVZ" else "NN1"
    elif token.tag == "VVN" and left.tag == "PNP":
        token.tag = "VVD"


def _repair_joined(tokens: list[Token], at: int) -> None:
    """As in "and costs 85 euros", "and contact the office": a verb that looks like a noun."""
    token, follow = tokens[at], tokens[at + 1].tag
    if "VERB" not in parts_of_speech(token.text):
        return
    if token.tag == "NN1" and follow in {"AT0", "DPS", "PNP"}:
        token.tag = "VVB"
    elif token.tag == "NN2" and any(t.tag in {"VVZ", "VBZ", "VHZ"} for t in tokens[:at]):
        measured = at > 1 and tokens[at - 2].tag in {"NN2", "NN0"} and any(
            t.tag == "CRD" for t in tokens[max(0, at - 4) : at])  # fmt: skip
        if follow in {"AT0", "DPS", "PNP", "CRD"} or (measured and follow == "PRP"):
            token.tag = "VVZ"


def ensure_verb(tokens: list[Token]) -> None:
    """A sentence without a finite verb: find the word that was taken for a noun."""
    finite = {"VVD", "VVZ", "VVB", "VM0", "VBD", "VBZ", "VBB", "VHD", "VHZ", "VHB", "VDD", "VDZ"}
    if any(token.tag in finite for token in tokens):
        return
    for left, token, right in zip(tokens, tokens[1:], tokens[2:], strict=False):
        wanted = {"NN2": ("NN1", "NP0"), "NN1": ("NN2",)}.get(token.tag, ())
        opens = right.tag in {"PRP", "AT0", "DPS", "CRD", "AV0", "TO0", "PNP", "DT0"}
        verb = token.text[0].islower() and "VERB" in parts_of_speech(token.text)
        if left.tag in wanted and opens and verb:
            token.tag = "VVZ" if token.tag == "NN2" else "VVB"
            token.lemma = verb_lemma(token.text)
            return


def _opens_phrase(tokens: list[Token], at: int) -> bool:
    """Whether no finite verb follows before the next comma: a noun phrase, not a clause."""
    for token in tokens[at:]:
        if token.text in {",", ";", ":"}:
            return True
        if token.tag in {"VVD", "VVZ", "VVB", "VBD", "VBZ", "VBB", "VHD", "VHZ", "VHB", "VM0"}:
            return False
        if token.tag in {"VDD", "VDZ", "VDB"}:
            return False
    return True
