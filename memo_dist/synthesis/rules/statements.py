"""Facts of a sentence as a whole: roles and brackets inside it, and the sentence itself."""

from __future__ import annotations

from collections.abc import Iterator

from memo_dist.synthesis.rules.clauses import Clause
from memo_dist.synthesis.rules.document import ReadSentence
from memo_dist.synthesis.rules.facts import Fact
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.naming import DANGLING, render
from memo_dist.synthesis.rules.nested import aside_facts, role_facts
from memo_dist.synthesis.rules.phrases import FINITE_TAGS, Reader
from memo_dist.synthesis.rules.roles import MAX_ANSWER_WORDS
from memo_dist.synthesis.rules.tokens import Token
from memo_dist.synthesis.rules.wording import declarative, framed, join, sentence


def nested_facts(item: ReadSentence, context: str) -> Iterator[Fact]:
    """Roles, life dates and abbreviations that stand inside phrases."""
    clause = next((c for c in item.clauses if c.subject is not None), None)
    owner = render(clause.subject.tokens) if clause is not None and clause.subject else ""
    named = clause is not None and clause.subject is not None and clause.subject.named
    found = list(role_facts(item.sentence.tokens, owner, context))
    found += aside_facts(item.sentence, owner if named else "")
    for fact in found:
        yield Fact(tuple(fact.questions), fact.answer, "direct", item.sentence.start)


def statement(item: ReadSentence, context: str) -> Fact | None:
    """The sentence itself, asked for by what it speaks of: "What is said about X and Y?"."""
    tokens = item.sentence.tokens
    texts = [_clause_text(c) for c in item.clauses if c.subject is not None and not c.cut]
    if any(token.tag in FINITE_TAGS for token in tokens) and item.sentence.end_mark == ".":
        texts.append(render(tokens))
    fitting = [t for t in texts if 4 <= len(t.split()) <= MAX_ANSWER_WORDS]
    fitting = [t for t in fitting if DANGLING not in t]
    if not fitting:
        return None
    words = fitting[0]
    keys = [key for key in _key_phrases(tokens) if key in words or key[4:] in words]
    if not keys:
        return None
    named = any(any(c.isupper() for c in key) for key in keys)
    about = " and ".join(keys[:2])
    questions = _statement_wordings(about, "" if named else context)
    return Fact(tuple(questions), words, "direct", item.sentence.start, "", "say")


def _statement_wordings(about: str, context: str) -> list[str]:
    lead = f"{context}, " if context else ""
    return [
        sentence(f"{lead}what is said about {about}"),
        sentence(f"{lead}what do we know about {about}"),
        framed(f"what is known about {about}", context, 0),
        framed(f"what is told about {about}", context, 2),
    ]


def _clause_text(clause: Clause) -> str:
    subject = render(clause.subject.tokens) if clause.subject else ""
    fronted = [render(s.tokens) for s in clause.slots if s.fronted and s.kind != "adverb"]
    rest = [render(s.tokens) for s in clause.slots if not s.fronted]
    return join([subject, declarative(clause.verb, full=True), *rest, *fronted])


def _key_phrases(tokens: list[Token]) -> list[str]:
    """The first two informative noun phrases of a sentence."""
    reader, found, at = Reader(tokens), [], 0
    while at < len(tokens):
        phrase, end = reader.with_of(at)
        if phrase is None:
            at += 1
            continue
        indefinite = phrase.first.lower in {"a", "an"}
        text = f"the {render(phrase.tokens[1:])}" if indefinite else render(phrase.tokens)
        vague = lexicon().has("abstract_subjects", phrase.head.lower)
        plain = phrase.head.is_noun and phrase.head.tag != "DATE" and DANGLING not in text
        if plain and not vague:
            found.append(text)
        at = end
    return list(dict.fromkeys(found))[:2]
