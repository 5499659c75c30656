"""Facts inside phrases: "the security officer, Tomas Ruzicka", "his friend Ned", brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memo_dist.synthesis.rules.document import ReadSentence
from memo_dist.synthesis.rules.facts import Fact
from memo_dist.synthesis.rules.kinds import noun_kind
from memo_dist.synthesis.rules.naming import possessive_of, render
from memo_dist.synthesis.rules.nlp import DATE_PATTERN
from memo_dist.synthesis.rules.tokens import Sentence, Token
from memo_dist.synthesis.rules.wording import framed, sentence

_LIFE = re.compile(
    rf"(?P<born>{DATE_PATTERN}|\b\d{{4}})[^–-]{{0,40}}[–-]\s*(?P<died>{DATE_PATTERN}|\d{{4}})"
)
_BORN = re.compile(rf"\bborn\b[^,;]*?(?P<born>{DATE_PATTERN}|\d{{4}})")
_ABBREVIATION = re.compile(r"^[A-Z][A-Z&0-9-]{1,7}$")
_ROLE_TAGS = frozenset({"AJ0", "NN1", "ORD", "NN2", "AJS"})


@dataclass(frozen=True, slots=True)
class NestedFact:
    """Wordings of a question about a part of a phrase, and the answer."""

    questions: list[str]
    answer: str


def nested_facts(item: ReadSentence, context: str) -> Iterator[Fact]:
    """Roles, life dates and abbreviations that stand inside the phrases of a sentence."""
    clause = next((c for c in item.clauses if c.subject is not None), None)
    owner = render(clause.subject.tokens) if clause is not None and clause.subject else ""
    named = clause is not None and clause.subject is not None and clause.subject.named
    found = list(role_facts(item.sentence.tokens, owner, context))
    found += aside_facts(item.sentence, owner if named else "")
    for fact in found:
        start = item.sentence.start
        yield Fact(tuple(fact.questions), fact.answer, "direct", start, rule="nested")


def role_facts(tokens: list[Token], owner: str, context: str) -> Iterator[NestedFact]:
    """As in "the chief engineer Ivo Hanak" and "his friend Ned": who holds the role.

    Args:
        tokens: one sentence.
        owner: the subject that explains its bound possessives, empty when unknown.
        context: places a role without an owner.
    """
    for at, token in enumerate(tokens):
        if token.tag != "NN1" or noun_kind(token.lower) != "person" or token.text[0].isupper():
            continue
        name, stop = _name_after(tokens, at + 1)
        start = at
        while start > 0 and tokens[start - 1].tag in _ROLE_TAGS and not tokens[start - 1].is_name:
            start -= 1
        if not name or start == 0 or stop == at:
            continue
        role = _role(tokens, start, at, owner)
        if role:
            yield _who_is(role, name, "" if "'" in role else context)


def _name_after(tokens: list[Token], at: int) -> tuple[str, int]:
    """The proper name that follows a role, a comma between them allowed when one closes it."""
    comma = at < len(tokens) and tokens[at].text == ","
    start = at + 1 if comma else at
    end = start
    while end < len(tokens) and tokens[end].tag == "NP0" and tokens[end].text[0].isalpha():
        end += 1
    closed = end == len(tokens) or tokens[end].text in {",", ";"}
    if end == start or (comma and not closed) or (end < len(tokens) and tokens[end].tag == "POS"):
        return "", at
    joined = end < len(tokens) and tokens[end].lower in {"and", "or"}
    return ("", at) if comma and joined else (render(tokens[start:end]), end)


def _role(tokens: list[Token], start: int, at: int, owner: str) -> str:
    """The role with its owner: "Tom's friend", "the chief engineer"; empty when unclear."""
    before = tokens[start - 1]
    text = render(tokens[start : at + 1])
    if before.lower == "the":
        return f"the {text}"
    if before.tag == "DPS":
        holder = before.sub or (possessive_of(owner) if owner and not before.dangling else "")
        return f"{holder} {text}" if holder else ""
    if before.tag == "POS":
        first = start - 2
        while first > 0 and tokens[first - 1].tag == "NP0":
            first -= 1
        named = tokens[first].is_name and tokens[first].text[0].isupper()
        return f"{render(tokens[first:start])} {text}" if named else ""
    return ""


def _who_is(role: str, name: str, context: str) -> NestedFact:
    lead = f"{context}, " if context else ""
    return NestedFact(
        [
            sentence(f"{lead}who is {role}"),
            sentence(f"{lead}what is the name of {role}"),
            framed(f"who {role} is", context, 0),
            sentence(f"{lead}what is {role} called"),
            sentence(f"{lead}{role} is who"),
        ],
        name,
    )


def aside_facts(item: Sentence, subject: str) -> Iterator[NestedFact]:
    """Life dates and abbreviations in brackets behind a name.

    Args:
        item: the sentence.
        subject: the name that opens it, to which life dates belong.
    """
    for offset, text in item.asides:
        at = sum(token.start < offset for token in item.tokens) - 1
        if subject and at < len(subject.split()) + 1:
            yield from _life(text, subject)
        if _ABBREVIATION.match(text):
            yield from _abbreviation(item.tokens, at, text)


def _life(text: str, name: str) -> Iterator[NestedFact]:
    life = _LIFE.search(text)
    born = life or _BORN.search(text)
    if born:
        yield _when(name, "born", born["born"])
    if life:
        yield NestedFact(
            [
                sentence(f"when did {name} die"),
                sentence(f"what is the date of {possessive_of(name)} death"),
                sentence(f"can you tell me when {name} died"),
                sentence(f"{name} died when"),
            ],
            life["died"],
        )


def _when(name: str, event: str, date: str) -> NestedFact:
    return NestedFact(
        [
            sentence(f"when was {name} {event}"),
            sentence(f"what is {possessive_of(name)} date of birth"),
            sentence(f"can you tell me when {name} was {event}"),
            sentence(f"{name} was {event} when"),
        ],
        date,
    )


def _abbreviation(tokens: list[Token], at: int, short: str) -> Iterator[NestedFact]:
    start = at
    while start > 0 and (tokens[start - 1].is_name or tokens[start - 1].tag == "PRF"):
        start -= 1
    full = render(tokens[start : at + 1])
    if len(full.split()) < 2 or full[:1].lower() != short[:1].lower():
        return
    yield NestedFact(
        [
            sentence(f"what does {short} stand for"),
            sentence(f"what is the full form of {short}"),
            sentence(f"can you tell me what {short} stands for"),
            sentence(f"{short} is short for what"),
        ],
        full,
    )
