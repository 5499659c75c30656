"""How phrases are written out and named."""

from __future__ import annotations

from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.morphology import parts_of_speech, singular
from memo_dist.synthesis.rules.phrases import Phrase
from memo_dist.synthesis.rules.tokens import Token

DANGLING = "\x01"
"""Rendered in place of a pronoun without antecedent: such text is rejected."""


def render(tokens: list[Token]) -> str:
    """The text of tokens, pronouns replaced by what they stand for."""
    out = ""
    for token in tokens:
        if token.dropped:
            continue
        word = DANGLING if token.dangling and not token.sub else token.sub or token.text
        out += word if token.glued or not out else f" {word}"
    return out.strip(" ,;:")


def possessive_of(name: str) -> str:
    """As in "Anne" gives "Anne's"; "the girls" gives "the girls'"."""
    last = name.split(" ")[-1]
    plural = last.endswith("s") and (
        name.lower().startswith("the ")
        or (
            " " in name
            and "NOUN" in parts_of_speech(last)
            and singular(last.lower()) != last.lower()
        )
    )
    return f"{name}'" if plural else f"{name}'s"


def without_possessor(core: list[Token]) -> list[Token]:
    """The part after "'s" ("Tom's friend Ned": "friend Ned"), without determiners of it."""
    cut = max((k + 1 for k, token in enumerate(core) if token.tag == "POS"), default=0)
    rest = core[cut:]
    names = lexicon().sets
    known = names["titles"] | names["titles_m"] | names["titles_f"]
    first_name = next((k for k, t in enumerate(rest) if t.tag == "NP0" or t.text in known), -1)
    if first_name < 0:
        first_name = next((k for k, t in enumerate(rest) if t.text[0].isupper()), 0)
    return rest[first_name:] if not (rest and rest[0].lower == "the") else rest


def as_antecedent(phrase: Phrase) -> str:
    """A common phrase as a later sentence would repeat it: "a boy" becomes "the boy"."""
    if phrase.plural_list:
        return render(phrase.tokens)
    core = phrase.tokens[: phrase.core or len(phrase.tokens)]
    text = render(core)
    if core[0].tag == "AT0" and core[0].lower in {"a", "an"}:
        return f"the {render(core[1:])}"
    if core[0].tag in {"AT0", "DPS"} or core[0].sub or phrase.head.tag == "NN2":
        return text
    return f"the {text}" if core[0].tag in {"NN1", "AJ0", "ORD"} else text


def lists_people(phrase: Phrase) -> bool:
    """Whether a first name stands in the phrase."""
    names = lexicon().sets
    return any(
        t.text in names["first_names_f"] or t.text in names["first_names_m"] for t in phrase.tokens
    )
