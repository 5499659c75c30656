"""Facts of key-value lines and table rows: "Warranty: 24 months"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.blocks import Block, is_value
from memo_dist.synthesis.rules.document import ReadDocument
from memo_dist.synthesis.rules.facts import Fact
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.morphology import parts_of_speech, singular
from memo_dist.synthesis.rules.naming import possessive_of
from memo_dist.synthesis.rules.nlp import is_phrase
from memo_dist.synthesis.rules.terms import term_facts
from memo_dist.synthesis.rules.wording import sentence

_MAX_VALUE_WORDS = 8
_MAX_OWNER_WORDS = 4
_IDENTIFIER = re.compile(r"[_{}<>$=/\\@#\"`*\[\]]|[a-z][A-Z]|^[a-z]+(?:[.-][a-z]+)+$|^-")
_PLACING = ("according to", "for ", "regarding ")
"""Contexts of documents and products with a name: what their lines state belongs to them."""
_SECTIONS = word_set(
    "syntax examples example usage options parameters description details notes overview summary "
    "arguments fields properties general introduction"
)
"""Headings that own nothing."""
_PEOPLE_KEYS = {
    "present": "who was present",
    "attendees": "who attended",
    "participants": "who took part",
    "apologies": "who sent apologies",
    "absent": "who was absent",
}


def pair_facts(read: ReadDocument) -> Iterator[Fact]:
    """The facts of all key-value lines, table rows and terms of a document."""
    keys = Counter(block.pairs[0][0].lower() for block in read.pairs if len(block.pairs) == 1)
    values = Counter(pair for block in read.pairs for pair in block.pairs)
    for block in read.pairs:
        if block.kind == "term":
            yield from term_facts(block, read.context)
        elif len(block.pairs) == 1:
            yield from _single(read, block, keys)
        else:
            yield from _row(block, values, read.context)


def _single(read: ReadDocument, block: Block, keys: Counter[str]) -> Iterator[Fact]:
    key, value = block.pairs[0]
    if not is_value(value) or not is_phrase(value) or not _is_noun(key):
        return
    repeated = keys[key.lower()] > 1
    owner = read.topic.name if read.topic is not None else ""
    if key.lower() in _PEOPLE_KEYS:
        yield _present(key.lower(), value, read.context, block.start)
        return
    heading = block.heading if len(block.heading.split()) <= _MAX_OWNER_WORDS else ""
    heading = "" if heading.lower() in _SECTIONS else heading
    if repeated and heading and (_IDENTIFIER.search(heading) or not owner):
        yield _of_owner(heading, _lower(key), value, read.context, block.start)
        return
    place = f' under "{block.heading}"' if repeated and block.heading else ""
    if owner:
        yield _of_owner(owner, f"{_lower(key)}", value, "", block.start, place)
    elif read.context.startswith(_PLACING):
        yield _of_document(read, _lower(key), value, block.start)


def _is_noun(key: str) -> bool:
    """Whether a key names an attribute ("Warranty", "SKU"), not who speaks ("Matteo: ...")."""
    words = re.findall(r"[^\W\d_]+", key.partition("(")[0])
    last = words[-1] if words else ""
    names = lexicon().sets["first_names_f"] | lexicon().sets["first_names_m"]
    if last in names or words[:1] == [""]:
        return False
    return (len(last) > 1 and last.isupper()) or "NOUN" in parts_of_speech(last)


def _present(key: str, value: str, context: str, start: int) -> Fact:
    """As in "Present: A, B and C" asks for people."""
    asked = _PEOPLE_KEYS[key]
    questions = [
        f"{context}, {asked}",
        f"{asked} {context}",
        f"can you tell me {asked} {context}",
        f"{context}, which people are listed under {key}",
    ]
    return Fact(tuple(map(sentence, questions)), value, "direct", start, "", key, "pair.people")


def _row(block: Block, seen: Counter[tuple[str, str]], context: str) -> Iterator[Fact]:
    """One row: the first column names what the others tell of; both ways round."""
    (first_key, first), *others = block.pairs
    if not is_value(first):
        return
    column = _lower(first_key)
    code = " " not in first and any(c.isdigit() for c in first) and column not in first.lower()
    owner = f"{column} {first}" if code else first
    for key, value in others:
        if not is_value(value):
            continue
        yield _of_owner(owner, _lower(key), value, context, block.start)
        if seen[(key, value)] == 1 and len(value.split()) <= _MAX_VALUE_WORDS:
            yield _which_row(column, (_lower(key), value), first, context, block.start)


def _which_row(column: str, pair: tuple[str, str], owner: str, context: str, start: int) -> Fact:
    """The row from a value: "Which code has the meaning sensor fault?"."""
    key, value = pair
    questions = [
        f"{context}, which {column} has the {key} {value}",
        f"which {column} has the {key} {value} {context}",
        f"{context}, for which {column} is the {key} {value}",
        f"{context}, can you tell me which {column} has the {key} {value}",
    ]
    told = tuple(map(sentence, questions))
    return Fact(told, owner, "indirect", start, "", key, "row.which")


def _of_document(read: ReadDocument, key: str, value: str, start: int) -> Fact:
    """A value that belongs to the document as a whole: "What is the fee according to ...?"."""
    be, context = _be(key), read.context
    questions = [
        f"{context}, what {be} the {key}",
        f"what {be} the {key} {context}",
        f"{context}, which {key} {be} given",
        f"can you tell me the {key} {context}",
    ]
    return Fact(tuple(map(sentence, questions)), value, "direct", start, "", key, "pair.document")


def _of_owner(  # noqa: PLR0913
    owner: str, key: str, value: str, context: str, start: int, place: str = ""
) -> Fact:
    """A value of something with a name: "What is the weight of X?"."""
    be = _be(key)
    lead = f"{context}, " if context and not context.endswith(owner) else ""
    questions = [
        f"{lead}what {be} the {key} of {owner}{place}",
        f"{lead}what {be} {possessive_of(owner)} {key}{place}",
        f"{lead}which {key} does {owner} have{place}",
        f"{lead}can you tell me the {key} of {owner}{place}",
    ]
    rule = "pair.row" if context else "pair.owner"
    return Fact(tuple(map(sentence, questions)), value, "direct", start, owner, key, rule)


def _be(key: str) -> str:
    last = key.split(" ")[-1]
    return "are" if last.endswith("s") and singular(last) != last else "is"


def _lower(key: str) -> str:
    """Lower case unless it is an acronym or a name in capitals."""
    words = [w if len(w) > 1 and w[1:2].isupper() else w[:1].lower() + w[1:] for w in key.split()]
    return " ".join(words)
