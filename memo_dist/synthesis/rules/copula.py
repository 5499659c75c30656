"""Facts of clauses with "be": what X is, where it is, and what X is the capital of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.clauses import Clause, Slot
from memo_dist.synthesis.rules.kinds import measure_kind, noun_kind
from memo_dist.synthesis.rules.naming import possessive_of, render
from memo_dist.synthesis.rules.phrases import Phrase
from memo_dist.synthesis.rules.roles import MAX_ANSWER_WORDS, Roles
from memo_dist.synthesis.rules.tokens import Token
from memo_dist.synthesis.rules.wording import framed, join, sentence

_SORTS = {"place": "place", "group": "organisation", "work": "work"}
_AGE = re.compile(r"\byears? (?:old|of age)$")
_EMPTY_NOUNS = word_set(
    "way ways reason reasons case cases thing things issue problem result results point part parts "
    "responsibility goal idea question difference one ones kind type example examples matter fact "
    "something anything everything nothing same choice option bit lot number time"
)
"""Nouns that say nothing of what they stand for."""
_MAX_GENERIC_TOKENS = 3
_LEAST_SAID = 3
"""Words of a predicate without articles and prepositions: fewer say little ("a tool")."""
_LOCATING = frozenset({"in", "on", "at", "near", "along", "off", "within", "between", "outside"})


@dataclass(frozen=True, slots=True)
class CopulaFact:
    """Questions with one answer and what wrote them; ``reverse``: the answer is the subject."""

    questions: list[str]
    answer: str
    rule: str
    reverse: bool = False


class Copula:
    """Question writer for one copular clause with a noun phrase as predicate."""

    def __init__(self, clause: Clause, roles: Roles, context: str) -> None:
        """``context`` places questions without a name; empty when not needed."""
        assert clause.subject is not None
        self.clause, self.roles, self.context = clause, roles, context
        self.subject: Phrase = clause.subject
        self.name = render(self.subject.tokens)
        self.be = clause.verb.verbs[0].text if len(clause.verb.verbs) == 1 else ""
        self.before = [s for s in clause.slots if s.fronted and s.kind == "prep"]
        self.behind = [
            s for s in clause.slots if not s.fronted and s.kind in {"prep", "infinitive"}
        ]

    def facts(self) -> Iterator[CopulaFact]:
        """All facts of the clause."""
        slot = self.clause.slot("predicate")
        if slot is None or slot.phrase is None or not self.be or self.clause.verb.negative:
            return
        if self._defines(slot, slot.phrase):
            yield from self._what(slot, slot.phrase)
        yield from self._where(slot.phrase)
        yield from self._of_what(slot.phrase)
        yield from self._which(slot, slot.phrase)

    def _defines(self, slot: Slot, phrase: Phrase) -> bool:
        """Whether the clause says what its subject is: a name or kind of thing, and a noun for it.

        As in "The Tarn 40 is a pump", "A gauge is a value that ...", "the fee is 12 euros"; not
        "the reason is a change" nor "the device is the result".
        """
        if measure_kind(phrase):
            return len(self.subject.tokens) > 1 or self.subject.named
        if phrase.head.lower in _EMPTY_NOUNS or self.subject.head.lower in _EMPTY_NOUNS:
            return False
        if phrase.first.tag in {"DPS", "DT0"} or self.subject.first.tag in {"DPS", "DT0"}:
            return False
        related = self.subject.first.lower == "the" and any(
            t.tag == "PRF" or t.sub.startswith("of ") for t in self.subject.tokens
        )
        short = len(self.subject.tokens) <= _MAX_GENERIC_TOKENS
        plural = self.subject.head.tag == "NN2"
        generic = short and (self.subject.first.lower in {"a", "an"} or plural)
        part = self.subject.first.lower in {"a", "an"} and not short  # "a large part of the town"
        known = (self.subject.named and not part) or generic or related
        said = [t for t in slot.tokens if t.tag not in {"AT0", "PRF", "PRP"}]
        return known and (phrase.named or len(said) >= _LEAST_SAID)

    def _what(self, slot: Slot, phrase: Phrase) -> Iterator[CopulaFact]:
        """As in "Who is X?" and, for "the A of B is C", also "What is B's A?"."""
        answer = self._full(slot)
        measured = measure_kind(phrase)
        person = self.roles.kind(self.subject) == "person" or self.roles.kind(phrase) == "person"
        wh = "who" if person and not measured else "what"
        wh = "how old" if _AGE.search(answer) else wh
        rest = "" if answer != render(slot.tokens) or not measured else join(
            render(s.tokens) for s in [*self.behind, *self.before])  # fmt: skip
        plain = join((wh, self.be, self.name, rest))
        questions = [self._with(plain), *self._genitive(wh, rest)]
        if measured == "duration":
            questions.append(self._with(join(("how long", self.be, self.name, rest))))
        noun = _SORTS.get(noun_kind(phrase.head.lower) or "")
        if noun and not person and not self.subject.plural and phrase.first.lower in {"a", "an"}:
            questions.append(self._with(join(("what kind of", noun, self.be, self.name))))
        questions.append(framed(join((wh, self.name, self.be, rest)), self.context, 0))
        questions.append(framed(join((wh, self.name, self.be, rest)), self.context, 2))
        yield CopulaFact(questions, answer, "copula.what")

    def _full(self, slot: Slot) -> str:
        """The predicate with the phrases behind it, as long as the answer stays short."""
        text = render(slot.tokens)
        if measure_kind(slot.phrase) if slot.phrase else None:
            return text
        for extra in self.behind:
            longer = join((text, render(extra.tokens)))
            if len(longer.split()) > MAX_ANSWER_WORDS:
                break
            text = longer
        return text

    def _genitive(self, wh: str, rest: str) -> list[str]:
        """As in "the population of Deering": "Deering's population", "What population has ...?"."""
        split = self._split(self.subject.tokens)
        if split is None:
            return []
        noun, owner = split
        plural = self.subject.plural
        return [
            self._with(join((wh, self.be, possessive_of(owner), noun, rest))),
            self._with(join(("what", noun, "did" if self.clause.verb.past else "does", owner,
                             "have", rest))) if not plural and wh == "what" else "",
        ]  # fmt: skip

    def _split(self, tokens: list[Token]) -> tuple[str, str] | None:
        """("population", "Deering") for "the population of Deering"."""
        at = next((k for k, t in enumerate(tokens) if t.tag == "PRF"), -1)
        added = next((k for k, t in enumerate(tokens) if t.sub.startswith("of ")), -1)
        if tokens[0].lower != "the" or max(at, added) < 2:
            return None
        cut = at if at > 0 else added
        owner = render(tokens[at + 1 :]) if at > 0 else tokens[added].sub[3:]
        if len(owner.split()) > 5 or any(t.tag in {"PRP", "CJT"} for t in tokens):
            return None
        return render(tokens[1:cut]), owner

    def _where(self, phrase: Phrase) -> Iterator[CopulaFact]:
        """As in "X is a peak in Y": "Where is X?"."""
        place = next((s for s in self.behind[:1] if s.marker in _LOCATING), None)
        if measure_kind(phrase) or place is None or place.phrase is None:
            return
        if self.roles.kind(self.subject) == "person":
            return
        if not place.phrase.named or measure_kind(place.phrase) or phrase.definite:
            return
        more = [s for s in self.behind[1:] if s.kind == "prep" and s.marker in _LOCATING | {"of"}]
        keep = [place.tokens[1:] if place.marker in {"in", "at"} else place.tokens]
        keep += [s.tokens for s in more if self.behind.index(s) == len(keep)]
        answer = join(render(tokens) for tokens in keep)
        yield CopulaFact(
            [
                self._with(f"where {self.be} {self.name}"),
                self._with(f"where {self.be} {self.name} located"),
                self._with(f"what is the location of {self.name}"),
                self._with(f"in what place can {self.name} be found"),
                framed(f"where {self.name} {self.be}", self.context, 1),
            ],
            answer,
            "copula.where",
        )

    def _of_what(self, phrase: Phrase) -> Iterator[CopulaFact]:
        """As in "X is a tributary of Y": "What is X a tributary of?"."""
        core = phrase.tokens
        at = next((k for k, t in enumerate(core) if t.tag == "PRF"), -1)
        if at < 1 or core[at - 1].tag == "NP0" or core[at - 1].text[0].isupper():
            return
        if measure_kind(phrase) or core[0].tag == "CRD" or core[0].lower == "one":
            return
        role, owner = render(core[:at]), render(core[at + 1 :])
        if not owner or len(owner.split()) > 8 or not any(t.is_name for t in core[at + 1 :]):
            return
        plain = f"what {self.be} {self.name} {role} of"
        yield CopulaFact(
            [
                self._with(plain),
                framed(f"what {self.name} {self.be} {role} of", self.context, 3),
            ],
            owner,
            "copula.of",
        )

    def _which(self, slot: Slot, phrase: Phrase) -> Iterator[CopulaFact]:
        """The subject from its description: "Which city is in McHenry County?"."""
        if measure_kind(self.subject) or self.subject.head.tag == "PNP":
            return
        definite = phrase.first.lower == "the" or phrase.first.tag == "DPS" or phrase.first.sub
        described = self._full(slot)
        named = any(t.is_name and t.text[0].isupper() for t in slot.tokens) or any(
            s.phrase is not None and s.phrase.named for s in self.behind
        )
        if not self.subject.named or not (named or definite):
            return
        wh = self.roles.which(self.subject)
        noun = phrase.head.lower
        one = {"are": "is", "were": "was"}.get(self.be, self.be)
        tail = join(render(s.tokens) for s in self.behind)
        questions = []
        if not definite and phrase.head.tag == "NN1" and tail and len(phrase.tokens) <= 4:
            questions.append(self._with(f"which {noun} {one} {tail}"))
        lead = next((w for w in wh if w != f"which {noun}"), "what")
        questions += [
            self._with(f"{lead} {one} {described}"),
            self._with(f"can you name {described}") if definite else "",
            framed(f"{lead} {one} {described}", self.context, 1) if lead != "what" else "",
            self._with(f"what is the name of {described}") if definite else "",
        ]
        yield CopulaFact([q for q in questions if q], self.name, "copula.which", True)

    def _with(self, question: str) -> str:
        return sentence(f"{self.context}, {question}" if self.context else question)
