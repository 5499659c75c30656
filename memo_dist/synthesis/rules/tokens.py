"""Tokens and sentences: what every other part of the generator reads."""

from __future__ import annotations

from dataclasses import dataclass, field

VERB_TAGS = ("VV", "VB", "VH", "VD", "VM")


@dataclass(slots=True)
class Token:
    """One token of a sentence.

    Attributes:
        text: as written (typographic apostrophes made plain).
        tag, lemma: from the tagger, repaired by rules.
        start, end: character offsets into the sentence.
        glued: no white space before it.
        sub: what a pronoun or a short definite phrase stands for; empty: nothing to replace.
        dropped: left out when rendered, because a neighbour's ``sub`` covers it.
        dangling: points outside the sentence and could not be resolved.
    """

    text: str
    tag: str
    lemma: str
    start: int
    end: int
    glued: bool = False
    sub: str = ""
    dropped: bool = False
    dangling: bool = False

    @property
    def lower(self) -> str:
        """The text in lower case."""
        return self.text.lower()

    @property
    def is_verb(self) -> bool:
        """Whether the tag is one of a verb."""
        return self.tag.startswith(VERB_TAGS)

    @property
    def is_name(self) -> bool:
        """Whether the token is written as a (part of a) name."""
        if self.tag == "NP0":
            return not self.text[0].islower()
        return self.text[0].isupper() and self.tag[0] in "NAUOZC"

    @property
    def is_noun(self) -> bool:
        """Whether the token can head a noun phrase."""
        return self.tag in {"NN0", "NN1", "NN2", "NP0", "UNC", "DATE", "ZZ0", "NN"}


@dataclass(slots=True)
class Sentence:
    """A tagged sentence: parentheses are taken out of the tokens and kept beside them.

    Attributes:
        text: as in the document, white space made single.
        start, end: character offsets into the document.
        tokens: without parenthesised ones and without the final full stop.
        asides: (offset of the parenthesis into the sentence, text inside).
        end_mark: the final punctuation, empty when there is none.
    """

    text: str
    start: int
    end: int
    tokens: list[Token]
    asides: list[tuple[int, str]] = field(default_factory=list)
    end_mark: str = ""
