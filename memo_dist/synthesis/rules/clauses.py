"""Clauses: who did what to whom, where, when and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from memo_dist.synthesis.rules.kinds import measure_kind
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.morphology import past, third_person
from memo_dist.synthesis.rules.phrases import Phrase, VerbGroup
from memo_dist.synthesis.rules.tokens import Token

SlotKind = Literal["object", "predicate", "prep", "infinitive", "clause", "content", "adverb"]
ClauseKind = Literal["main", "relative", "participle", "apposition", "imperative"]


@dataclass(slots=True)
class Slot:
    """One complement or adverbial of a clause.

    Attributes:
        kind: its form.
        tokens: all of it, preposition or conjunction first.
        marker: the preposition or conjunction in lower case, empty without one.
        phrase: its noun phrase, if it has one.
        fronted: whether it stood before the subject.
    """

    kind: SlotKind
    tokens: list[Token]
    marker: str = ""
    phrase: Phrase | None = None
    fronted: bool = False


@dataclass(slots=True)
class Clause:
    """A subject, its verb group and the slots around it.

    Attributes:
        kind: where it stood; ``apposition`` clauses say "X is Y".
        subject: absent in imperatives.
        verb: the verb group.
        slots: in the order of the text.
        cut: whether reading stopped inside, so that the last slot may lack its end.
        inner: whether it stands inside a slot of another clause ("because ...").
    """

    kind: ClauseKind
    subject: Phrase | None
    verb: VerbGroup
    slots: list[Slot] = field(default_factory=list)
    cut: bool = False
    inner: bool = False

    def slot(self, kind: SlotKind) -> Slot | None:
        """The first slot of a kind."""
        return next((slot for slot in self.slots if slot.kind == kind), None)


def timed(slot: Slot) -> bool:
    """Whether a slot is a time ("in 1994", "four years later")."""
    if slot.phrase is None:
        return False
    return slot.marker == "span" or measure_kind(slot.phrase) == "time"


def bare(phrase: Phrase) -> Phrase:
    """The phrase as the subject of a further clause: without what was attached to it later."""
    return Phrase(list(phrase.tokens), phrase.head, phrase.plural_list, phrase.core)


def be_form(subject: Phrase, past_tense: bool, at: Token) -> VerbGroup:
    """A form of "be" that agrees with the subject."""
    word = ("were" if past_tense else "are") if subject.plural else ("was" if past_tense else "is")
    tag = "VBD" if past_tense else ("VBB" if subject.plural else "VBZ")
    token = Token(word, tag, "be", at.start, at.start)
    return VerbGroup([token], token, True)


def finite_form(verb: VerbGroup, subject: Phrase, past_tense: bool) -> VerbGroup:
    """Make "standing" to "stands" and "named" to "is named", in the tense of the main clause."""
    main = verb.main
    if main.tag == "VVN":
        stative = lexicon().has("stative_participles", main.lemma.lower())
        be = be_form(subject, past_tense or not stative, main)
        return VerbGroup([be.main, *verb.tokens], main, True, passive=True)
    lemma = main.lemma.lower()
    word = past(lemma) if past_tense else (lemma if subject.plural else third_person(lemma))
    tag = "VVD" if past_tense else ("VVB" if subject.plural else "VVZ")
    token = Token(word, tag, lemma, main.start, main.end)
    rest = [token if t is main else t for t in verb.tokens]
    return VerbGroup(rest, token, True)
