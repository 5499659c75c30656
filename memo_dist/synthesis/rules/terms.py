"""Facts of lists "term - explanation": "4317 - OTLP over gRPC, the default for most SDKs"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memo_dist.synthesis.rules.blocks import Block
from memo_dist.synthesis.rules.facts import Fact
from memo_dist.synthesis.rules.morphology import parts_of_speech, singular
from memo_dist.synthesis.rules.nlp import is_phrase
from memo_dist.synthesis.rules.wording import sentence

_MAX_ANSWER_WORDS = 20
_MAX_REVERSE_WORDS = 10
_ARTICLE = re.compile(r"^(?:an?|the)\s", re.IGNORECASE)
_CLASS = re.compile(
    r"\b([a-z]{3,}s)(?:\s+(?:are|is|of|for|in|to|you|that|can|which)\b[^:]{0,200})?:$"
)
_SHORT_CODE = re.compile(r"^\W*\w{1,6}\W*$")


def term_facts(block: Block, context: str) -> Iterator[Fact]:
    """What the term is or does, and the term from its explanation."""
    term, gloss = block.pairs[0]
    answer = _first_statement(gloss)
    if not 2 <= len(answer.split()) <= _MAX_ANSWER_WORDS:
        return
    noun = _class_noun(block)
    name = f"{noun} {term}" if noun and _SHORT_CODE.match(term) else term
    acts = _acts(answer)
    if not acts and not is_phrase(answer.partition(",")[0]):
        return
    plain = [f"what does {name} do", f"what is {name} for"] if acts else [f"what is {name}"]
    if not acts and noun:
        plain.append(f"what is {name} used for")
    questions = [f"{context}, {text}" for text in plain]
    questions += [f"{plain[0]} {context}", f"{context}, can you tell me {_indirect(name, acts)}"]
    told = tuple(map(sentence, questions))
    yield Fact(told, answer, "direct", block.start, "", "be", "term.what")
    if noun and not acts and len(answer.split()) <= _MAX_REVERSE_WORDS:
        body = f"which {noun} is {'' if _ARTICLE.match(answer) else 'for '}{answer}"
        wordings = [
            f"{context}, {body}",
            f"{body} {context}",
            f"{context}, what is the {noun} for {answer}",
        ]
        yield Fact(
            tuple(map(sentence, wordings)), term, "indirect", block.start, "", noun, "term.which"
        )


def _first_statement(gloss: str) -> str:
    """The explanation up to its first sentence end or semicolon."""
    return re.split(r"(?<=[a-z)])[.;]\s", gloss, maxsplit=1)[0].strip(" .;,")


def _class_noun(block: Block) -> str:
    """The noun that the announcement counts: "port" of "The command opens three ports:"."""
    match = _CLASS.search(block.intro.lower())
    if not match or not match[1].endswith("s"):
        return ""
    noun = singular(match[1])
    return noun if noun != match[1] and "NOUN" in parts_of_speech(noun) else ""


def _acts(gloss: str) -> bool:
    """Whether the explanation says what the term does ("sets the log level")."""
    first = gloss.split()[0]
    kinds = parts_of_speech(first.lower())
    return (
        first[-1:] == "s"
        and "VERB" in kinds
        and not _ARTICLE.match(gloss)
        and first.isalpha()
        and singular(first.lower()) != first.lower()
    )


def _indirect(name: str, acts: bool) -> str:
    return f"what {name} does" if acts else f"what {name} is"
