"""Noun phrases, prepositional phrases and verb groups over tagged tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.tokens import Token

DETERMINERS = frozenset({"AT0", "DT0", "DPS", "DTQ"})
_MODIFIERS = frozenset({"AJ0", "AJC", "AJS", "CRD", "ORD", "VVN", "VVG", "POS"})
FINITE_TAGS = word_set("VM0 VBB VBD VBZ VHB VHD VHZ VDB VDD VDZ VVB VVD VVZ")
_AFTER_AUX = {
    "VM": ("VV", "VB", "VH", "VD"),
    "VH": ("VVN", "VVD", "VBN", "VHN", "VHD", "VDN"),
    "VB": ("VVN", "VVD", "VVG", "VBG", "VBN", "VHG"),
    "VD": ("VVI", "VVB", "VHI", "VHB"),
}
_BETWEEN = frozenset({"AV0", "XX0"})


@dataclass(slots=True)
class Phrase:
    """A noun phrase with what belongs to it ("of" phrases, coordination, restrictive clauses).

    Attributes:
        tokens: all of it, in order.
        head: the noun (or pronoun, number) that decides number and kind.
        plural_list: whether it is a coordination of several phrases.
    """

    tokens: list[Token]
    head: Token
    plural_list: bool = False
    core: int = 0

    @property
    def first(self) -> Token:
        """The first token."""
        return self.tokens[0]

    @property
    def plural(self) -> bool:
        """Whether a verb agrees with it in the plural."""
        if self.head.text[0].isupper() and self.first.lower != "the" and not self.plural_list:
            return False
        return self.plural_list or self.head.tag == "NN2" or self.head.lower in {"they", "we"}

    @property
    def named(self) -> bool:
        """Whether a name or a date stands in it (a name includes resolved pronouns)."""
        return any(
            token.sub or (token.is_name and token.text[0].isupper()) for token in self.tokens
        )

    @property
    def definite(self) -> bool:
        """Whether it opens with "the", a demonstrative or a possessive."""
        return self.first.lower in {"the", "this", "that", "these", "those"}


@dataclass(slots=True)
class VerbGroup:
    """Auxiliaries, adverbs between them, and the main verb.

    Attributes:
        tokens: in order, particles ("set up") at the end.
        main: the main verb.
        finite: whether the first verb carries tense or is a modal.
        passive, negative: voice and polarity.
    """

    tokens: list[Token]
    main: Token
    finite: bool
    passive: bool = False
    negative: bool = False

    @property
    def verbs(self) -> list[Token]:
        """The verbs alone."""
        return [token for token in self.tokens if token.is_verb]

    @property
    def copular(self) -> bool:
        """Whether the main verb is "be"."""
        return self.main.tag.startswith("VB")

    @property
    def past(self) -> bool:
        """Whether it speaks of the past."""
        return self.verbs[0].tag in {"VVD", "VBD", "VHD", "VDD"}


@dataclass(slots=True)
class Reader:
    """Reads phrases from a position of a sentence; every method returns the end position."""

    tokens: Sequence[Token]
    limit: int = 1_000_000
    _cache: dict[int, tuple[Phrase | None, int]] = field(default_factory=dict)

    def tag(self, at: int) -> str:
        """The tag at a position, empty after the end."""
        return self.tokens[at].tag if at < min(self.limit, len(self.tokens)) else ""

    def low(self, at: int) -> str:
        """The lower-cased text at a position, empty after the end."""
        return self.tokens[at].lower if 0 <= at < min(self.limit, len(self.tokens)) else ""

    def noun_phrase(self, at: int) -> tuple[Phrase | None, int]:
        """A phrase without prepositional parts."""
        if at not in self._cache:
            self._cache[at] = self._noun_phrase(at)
        return self._cache[at]

    def _noun_phrase(self, at: int) -> tuple[Phrase | None, int]:
        if self.tag(at) in {"PNP", "PNI", "EX0", "PNX"}:
            return Phrase([self.tokens[at]], self.tokens[at]), at + 1
        end, head = at, -1
        while self.tag(end) and self._continues(at, end):
            if self.tokens[end].is_noun:
                head = end
            end += 1
        tail = head
        if head < 0:
            return self._headless(at, end)
        if self.tag(tail + 1) == "CRD" and tail + 2 == end:
            tail += 1  # "Version 5.0", "Article 4"
        stop = tail + 1
        return Phrase(list(self.tokens[at:stop]), self.tokens[head], core=stop - at), stop

    def _continues(self, at: int, end: int) -> bool:
        token, tag = self.tokens[end], self.tag(end)
        if tag in DETERMINERS:
            return end == at or self.tag(end - 1) in {"DT0", "AV0"} or self.low(end - 1) == "both"
        if tag == "VVN" and end == at:
            return self.tag(at + 1) in {"NN1", "NN2"}
        if tag in {"VVG", "VVN"}:
            inside = end > at and self.tag(end - 1) != "POS" and not self.tokens[end - 1].is_noun
            return inside and self._noun_ahead(end + 1)
        if tag in {"AV0", "AVP"}:
            return self.tag(end + 1) in {"AJ0", "CRD", "AJC", "AJS", "ORD"} and (
                end == at or self.tag(end - 1) in DETERMINERS
            )
        if tag == "CRD" and end > at and self.tokens[end - 1].is_noun:
            return not (self.tag(end + 1) and self.tokens[end + 1].is_noun)
        if tag == "POS":
            return end > at and self.tokens[end - 1].is_noun
        if token.text == "," or tag == "CJC":
            return self._joins_adjectives(at, end)
        return token.is_noun or tag in _MODIFIERS

    def _joins_adjectives(self, at: int, end: int) -> bool:
        """Whether a comma or "and" stands between two adjectives of one noun."""
        nearby = self.tag(end - 1) == "AJ0" and end > at
        return nearby and self.tag(end + 1) == "AJ0" and self._noun_ahead(end + 2)

    def _noun_ahead(self, at: int) -> bool:
        while self.tag(at) in _MODIFIERS:
            at += 1
        return bool(self.tag(at)) and self.tokens[at].is_noun

    def _headless(self, at: int, end: int) -> tuple[Phrase | None, int]:
        """As in "the poor", "those", "98", "the overlying": the last modifier is the head."""
        while end > at and self.tag(end - 1) in {"POS", "AV0", "CJC", "AT0", "DPS"}:
            end -= 1
        if end == at and self.tag(at) == "AT0" and self.tag(at + 1) == "VVG":
            end = at + 2
        tags = {self.tag(k) for k in range(at, end)}
        nominal = self.low(at) == "the" and self.tag(end - 1) in {"AJ0", "AJS", "AJC", "ORD"}
        gerund = self.tag(at) in {"AT0", "DPS"} and self.tag(end - 1) == "VVG"
        if end == at or not (tags & {"CRD", "DT0"} or nominal or gerund):
            return None, at
        if tags == {"DTQ"}:
            return None, at
        return Phrase(list(self.tokens[at:end]), self.tokens[end - 1], core=end - at), end

    def group(self, at: int, subject: bool = False) -> tuple[Phrase | None, int]:
        """A phrase with its "of" phrases and coordination ("A, B and C of D")."""
        phrase, end = self.with_of(at)
        if phrase is None:
            return None, at
        end = self._with_places(phrase, at, end)
        return self._with_list(phrase, at, end, subject)

    def with_of(self, at: int) -> tuple[Phrase | None, int]:
        """A phrase with its "of" phrases, without coordination."""
        phrase, end = self.noun_phrase(at)
        while phrase is not None:
            bound = self.tag(end) == "PRF" or self._noun_takes(phrase, end)
            follow, stop = self.noun_phrase(end + 1) if bound else (None, end)
            if follow is None or follow.head.tag in {"PNX", "EX0"}:
                break
            end = stop
            phrase = Phrase(list(self.tokens[at:end]), phrase.head, core=phrase.core)
        return phrase, end

    def _noun_takes(self, phrase: Phrase, at: int) -> bool:
        pair = (phrase.tokens[-1].lemma.lower(), self.low(at))
        return pair in lexicon().noun_prepositions

    def _with_places(self, phrase: Phrase, at: int, end: int) -> int:
        """Absorb ", North Dakota, United States" after a name, when no verb follows it."""
        while self.low(end) == "," and self.tokens[end - 1].is_name:
            follow, stop = self.noun_phrase(end + 1)
            plain = follow is not None and all(t.is_name for t in follow.tokens)
            if not plain or self.verb_ahead(stop) or self.low(stop) in {"and", "or"}:
                break
            if self.low(stop) not in {",", ""} and self.tag(stop) not in {"PRP", "CJC", "CJS"}:
                break
            end = stop
        phrase.tokens = list(self.tokens[at:end])
        return end

    def _with_list(
        self, phrase: Phrase, at: int, end: int, subject: bool
    ) -> tuple[Phrase | None, int]:
        stop, joined = end, False
        while True:
            follow_at = self._list_item(stop)
            if follow_at < 0:
                break
            follow, after = self.with_of(follow_at)
            closing = self.tag(follow_at - 1) == "CJC"
            measure = follow is not None and follow.first.tag == "CRD" and phrase.first.tag != "CRD"
            if measure and phrase.named:
                break
            if follow is None or (closing and not subject and self._verb_after(after)):
                break
            stop = after
            joined = joined or closing
            if closing and self.low(stop) != "and":
                break
        if not joined:
            return phrase, end
        return Phrase(list(self.tokens[at:stop]), phrase.head, True, phrase.core), stop

    def _list_item(self, at: int) -> int:
        """Where the next item of a list begins, after "," or "and" or ", and"; -1: no item."""
        if self.low(at) == "," and self.low(at + 1) in {"and", "or"}:
            return at + 2
        if self.low(at) == "," or self.low(at) in {"and", "or"}:
            return at + 1
        if self.low(at) == "as" and self.low(at + 1) == "well" and self.low(at + 2) == "as":
            return at + 3
        return -1

    def verb_ahead(self, at: int) -> bool:
        """Whether a finite verb group (after adverbs) begins here."""
        while self.tag(at) in {"AV0", "AVP"}:
            at += 1
        return self.tag(at) in FINITE_TAGS

    def _verb_after(self, at: int) -> bool:
        """Whether a verb follows, at once or after an apposition between commas."""
        if self.low(at) != ",":
            return self.verb_ahead(at)
        commas = [k for k in range(at + 1, len(self.tokens)) if self.low(k) == ","]
        return bool(commas) and self.verb_ahead(commas[0] + 1)

    def clause_ahead(self, at: int) -> bool:
        """Whether a subject with its finite verb begins here."""
        while self.tag(at) == "AV0":
            at += 1
        phrase, end = self.with_of(at)
        while phrase is not None and self.tag(end) == "PRP":
            follow, stop = self.with_of(end + 1)
            if follow is None:
                break
            end = stop
        return phrase is not None and self.verb_ahead(end)

    def verb_group(self, at: int) -> tuple[VerbGroup | None, int]:
        """A verb group, adverbs before it included ("officially opened")."""
        start = at
        while self.tag(at) in {"AV0", "XX0", "TO0"}:
            at += 1
        if not self.tag(at).startswith("V"):
            return None, start
        first = at
        main = at
        while True:
            step = self._next_verb(main)
            if step < 0:
                break
            main = step
        end = main + 1
        while self.tag(end) == "AVP" or (self.tag(end) == "XX0"):
            end += 1
        return self._build(start, first, main, end), end

    def _next_verb(self, at: int) -> int:
        wanted = _AFTER_AUX.get(self.tag(at)[:2])
        k = at + 1
        while self.tag(k) in _BETWEEN:
            k += 1
        return k if wanted and self.tag(k).startswith(wanted) else -1

    def _build(self, start: int, first: int, main: int, end: int) -> VerbGroup:
        tokens = list(self.tokens[start:end])
        before = self.tag(_previous_verb(self.tokens, first, main)) if main > first else ""
        if main > first and self.tag(main) == "VVD":
            self.tokens[main].tag = "VVN"
        return VerbGroup(
            tokens=tokens,
            main=self.tokens[main],
            finite=self.tag(first) in FINITE_TAGS and not any(t.tag == "TO0" for t in tokens),
            passive=before.startswith("VB") and self.tag(main) == "VVN",
            negative=any(token.tag == "XX0" for token in tokens),
        )


def _previous_verb(tokens: Sequence[Token], first: int, main: int) -> int:
    return max(k for k in range(first, main) if tokens[k].is_verb)
