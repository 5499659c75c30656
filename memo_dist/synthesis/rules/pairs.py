"""Facts of key-value lines and table rows: "Warranty: 24 months"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from memo_dist.synthesis.rules.blocks import Block
from memo_dist.synthesis.rules.document import ReadDocument
from memo_dist.synthesis.rules.facts import Fact
from memo_dist.synthesis.rules.naming import possessive_of
from memo_dist.synthesis.rules.wording import sentence

_MAX_VALUE_WORDS = 8
_PEOPLE_KEYS = {
    "present": "who was present",
    "attendees": "who attended",
    "participants": "who took part",
    "apologies": "who sent apologies",
    "absent": "who was absent",
}


def pair_facts(read: ReadDocument) -> Iterator[Fact]:
    """The facts of all key-value and table lines of a document."""
    keys = Counter(block.pairs[0][0].lower() for block in read.pairs if len(block.pairs) == 1)
    values = Counter(pair for block in read.pairs for pair in block.pairs)
    for block in read.pairs:
        if len(block.pairs) == 1:
            yield from _single(read, block, keys)
        else:
            yield from _row(block, values)


def _single(read: ReadDocument, block: Block, keys: Counter[str]) -> Iterator[Fact]:
    key, value = block.pairs[0]
    repeated = keys[key.lower()] > 1
    owner = read.topic.name if read.topic is not None else ""
    if key.lower() in _PEOPLE_KEYS:
        yield _present(key.lower(), value, read.context, block.start)
        return
    place = f' under "{block.heading}"' if repeated and block.heading else ""
    if owner:
        yield _of_owner(owner, _lower(key), value, place, block.start)
    else:
        yield _of_document(read, _lower(key), value, place, block.start)


def _present(key: str, value: str, context: str, start: int) -> Fact:
    """As in "Present: A, B and C" asks for people."""
    asked = _PEOPLE_KEYS[key]
    questions = [
        f"{context}, {asked}",
        f"{asked} {context}",
        f"can you tell me {asked} {context}",
        f"{context}, which people are listed under {key}",
    ]
    return Fact(tuple(map(sentence, questions)), value, "direct", start, "", key)


def _row(block: Block, seen: Counter[tuple[str, str]]) -> Iterator[Fact]:
    """One row: the first column names what the others tell of; both ways round."""
    (first_key, first), *others = block.pairs
    column = _lower(first_key)
    code = " " not in first and any(c.isdigit() for c in first) and column not in first.lower()
    owner = f"{column} {first}" if code else first
    for key, value in others:
        yield _of_owner(owner, _lower(key), value, "", block.start)
        if seen[(key, value)] == 1 and len(value.split()) <= _MAX_VALUE_WORDS:
            yield _which_row(column, _lower(key), value, first, block.start)


def _which_row(column: str, key: str, value: str, owner: str, start: int) -> Fact:
    """The row from a value: "Which code has the meaning sensor fault?"."""
    questions = [
        f"which {column} has the {key} {value}",
        f'the {key} "{value}" belongs to which {column}',
        f"for which {column} is the {key} {value}",
        f"can you tell me which {column} has the {key} {value}",
    ]
    return Fact(tuple(map(sentence, questions)), owner, "indirect", start, "", key)


def _of_document(read: ReadDocument, key: str, value: str, place: str, start: int) -> Fact:
    """A value that belongs to the document as a whole: "What is the fee according to ...?"."""
    be, context = _be(key), read.context
    questions = [
        f"{context}, what {be} the {key}{place}",
        f"what {be} the {key}{place} {context}",
        f"{context}, which {key} {be} given{place}",
        f"can you tell me the {key}{place} {context}",
        f"the {key}{place} {be} what {context}",
    ]
    return Fact(tuple(map(sentence, questions)), value, "direct", start, "", key)


def _of_owner(owner: str, key: str, value: str, place: str, start: int) -> Fact:
    """A value of something with a name: "What is the weight of X?"."""
    be = _be(key)
    questions = [
        f"what {be} the {key} of {owner}{place}",
        f"what {be} {possessive_of(owner)} {key}{place}",
        f"which {key} does {owner} have{place}",
        f"can you tell me the {key} of {owner}{place}",
        f"for {owner}, what {be} the {key}{place}",
    ]
    return Fact(tuple(map(sentence, questions)), value, "direct", start, owner, key)


def _be(key: str) -> str:
    return "are" if key.endswith("s") and not key.endswith("ss") else "is"


def _lower(key: str) -> str:
    """Lower case unless it is an acronym or a name in capitals."""
    words = [w if len(w) > 1 and w[1:2].isupper() else w[:1].lower() + w[1:] for w in key.split()]
    return " ".join(words)
