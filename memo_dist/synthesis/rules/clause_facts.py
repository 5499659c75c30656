"""Facts of one clause: its slots, its action, and the subject in reverse."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.clauses import Clause, Slot
from memo_dist.synthesis.rules.copula import Copula
from memo_dist.synthesis.rules.document import ReadDocument
from memo_dist.synthesis.rules.facts import Fact, FactKind
from memo_dist.synthesis.rules.kinds import measure_kind, name_kind, noun_kind
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.naming import possessive_of, render
from memo_dist.synthesis.rules.phrases import DETERMINERS, Phrase
from memo_dist.synthesis.rules.roles import Ask, Roles
from memo_dist.synthesis.rules.tokens import Token
from memo_dist.synthesis.rules.wording import (
    join,
    kept_slots,
    sentence,
    slot_questions,
    subject_questions,
)

_MAX_SLOT_FACTS = 5
_POINTING = word_set(
    "this that these those such some any another one several many most few both each every no other"
)
_POINTERS = frozenset({"see", "consider", "note", "refer", "read", "check", "remember", "keep"})
"""Instructions that point at something rather than ask to do it."""
_PLACING = ("according to", "for ", "regarding ")
"""Contexts that say which thing "the sensor" is: a document or a product with a name."""
_TERM_COUNT = 3
_MAX_OBJECT_WORDS = 8
_MAX_EXISTS_SLOTS = 3
_LEAST_CLAUSE_TOKENS = 4
_MEASURED = ("how many", "how much", "how long", "how often", "when", "by when", "until", "since")
_MAX_REVERSE_WORDS = 14


class ClauseFacts:
    """Writes the facts of a document's clauses, one clause at a time."""

    def __init__(self, read: ReadDocument) -> None:
        """Use the document's entities and context."""
        self.read = read
        self.roles = Roles(read.tracker, story=read.story)
        self.words = Counter(re.findall(r"[\w'-]+", read.document.text.lower()))
        self.turn = 0

    # ---- clauses ----------------------------------------------------------------------

    def facts(self, clause: Clause, start: int) -> Iterator[Fact]:
        """All facts of one clause; ``start`` is its sentence's offset in the document."""
        if clause.kind == "imperative":
            clause = _instructed(clause)
        subject = clause.subject
        if subject is None or not self._states(clause, subject):
            return
        grounded = self._grounded(subject)
        if subject.head.tag == "EX0":
            yield from self._existential(clause, start)
        elif clause.verb.copular and _noun_predicate(clause):
            if grounded or _gives_amount(clause):
                yield from self._copula(clause, start, self._about(clause))
        else:
            yield from self._slots(clause, start, grounded)

    def _slots(self, clause: Clause, start: int, grounded: bool) -> Iterator[Fact]:
        """What stands around the verb, and the subject in reverse."""
        about = self._about(clause)
        attribute = clause.verb.main.lemma.lower()
        for ask in self._asks(clause):
            if not self._asked(clause, ask) or not (grounded or _measured(ask)):
                continue
            self.turn += 1
            context = self._context(clause, ask.gap)
            questions = slot_questions(clause, ask, context, self.turn)
            rule = f"slot.{ask.gap.kind if ask.gap else ''}.{ask.wh[0]}"
            yield Fact(tuple(questions), ask.answer, "direct", start, about, attribute, rule)
        if grounded:
            yield from self._reverse(clause, start, attribute)

    def _states(self, clause: Clause, subject: Phrase) -> bool:
        """Whether the clause was read whole and states something of a subject that can be told."""
        verb = clause.verb.main
        if subject.head.lower == "you" and (verb.lower in _POINTERS or verb.text.isupper()):
            return False
        if clause.inner and not clause.verb.past:
            return False  # "when there are two candidates" states no fact
        told = not clause.cut and _tellable(clause) and _agrees(clause)
        return told and self._sayable(subject)

    def _sayable(self, subject: Phrase) -> bool:
        """Whether the subject can be repeated in a question: no number, nothing that points."""
        pointing = subject.first.lower in _POINTING and not subject.first.sub
        return subject.head.tag != "CRD" and not pointing and self._resolved(subject)

    def _grounded(self, subject: Phrase) -> bool:
        """Whether a reader without the text knows what the subject is: a name, a term, a phrase.

        A common noun alone ("the request") is known only where the context names what it belongs
        to, or as a term that the document speaks of again and again. Its amounts, dates and numbers
        are asked for all the same, within the document's context.
        """
        if subject.named or subject.head.lower in {"you", "there"}:
            return True
        core = [t for t in subject.tokens if t.tag not in DETERMINERS]
        if len(core) > 1 or self.read.context.startswith(_PLACING):
            return True
        return self.words[render(core).lower()] >= _TERM_COUNT

    def _resolved(self, phrase: Phrase) -> bool:
        """Whether what its pronouns stand for has a name: other antecedents are often wrong."""
        names = {e.name for e in self.read.tracker.entities if e.named}
        owners = {possessive_of(name) for name in names}
        said = {t.sub for t in phrase.tokens if t.sub and not t.sub.startswith("of ")}
        return said <= names | owners

    def _copula(self, clause: Clause, start: int, about: str) -> Iterator[Fact]:
        head = clause.subject.head.lemma.lower() if clause.subject else ""
        context = self._context(clause, clause.slot("predicate"))
        for found in Copula(clause, self.roles, context).facts():
            kind: FactKind = "indirect" if found.reverse else "direct"
            if found.reverse and not self._answerable(clause):
                continue
            owner = "" if found.reverse else about
            yield Fact(
                tuple(q for q in found.questions if q),
                found.answer,
                kind,
                start,
                owner,
                head,
                found.rule,
            )

    def _answerable(self, clause: Clause) -> bool:
        """Whether the subject says something by itself ("the fort" alone does not)."""
        subject = clause.subject
        if subject is None:
            return False
        bare = subject.definite and len(subject.tokens) == 2 and not subject.first.sub
        return not bare or subject.named or self.roles.kind(subject) == "person"

    def _about(self, clause: Clause) -> str:
        entity = self.read.tracker.entity_of(clause.subject) if clause.subject else None
        return entity.name if entity is not None and entity.named else ""

    def _asks(self, clause: Clause) -> list[Ask]:
        found = []
        slots = clause.slots[:-1] if clause.cut else clause.slots
        for slot in slots:
            ask = self.roles.asks(clause, slot)
            if ask is not None and not (clause.verb.negative and slot.kind != "object"):
                found.append(ask)
        return found[:_MAX_SLOT_FACTS]

    def _asked(self, clause: Clause, ask: Ask) -> bool:
        """Whether people ask so: "what" only for the object of a short clause about a name."""
        slot, subject = ask.gap, clause.subject
        if clause.verb.main.tag == "VVG":
            return False  # "is happening": true of the day only
        assert slot is not None
        if slot.phrase is not None and not self._resolved(slot.phrase):
            return False
        if clause.verb.copular and (clause.slot("infinitive") or ask.wh[0] == "why"):
            return False  # "it is possible to ...": what depends on the condition is not sure
        if slot.kind == "clause":
            return self._conditional(clause, slot)
        if ask.wh[0].startswith(_MEASURED):
            return _measured(ask)
        if ask.stranded == "by" or ask.wh[0] not in {"what", "who"}:
            return ask.wh[0] != "what"
        if slot.kind != "object" or slot.phrase is None or subject is None or not subject.named:
            return False
        if clause.verb.main.lemma.lower() == "have" or subject.head.text.isupper():
            return False
        if " " not in ask.answer and ask.answer.islower():
            return False  # "items": says too little
        return len(clause.slots) <= 2 and len(ask.answer.split()) <= _MAX_OBJECT_WORDS

    def _conditional(self, clause: Clause, slot: Slot) -> bool:
        """Whether condition and main clause say enough ("if possible", "submit early" do not)."""
        others = [s for s in clause.slots if s is not slot and s.kind != "adverb"]
        told = bool(others) or clause.verb.passive
        if any(t.tag in {"VVG", "VBG", "VHG"} for t in slot.tokens[:3]):
            return False  # "when automating a certificate": who does it stays open
        return told and len(slot.tokens) >= _LEAST_CLAUSE_TOKENS

    def _context(self, clause: Clause, gap: Slot | None, subject_gap: bool = False) -> str:
        """The document's context phrase, when the question would not stand without it."""
        if self.read.topic is not None and self._speaks_of_topic(clause, gap, subject_gap):
            return ""
        kept = kept_slots(clause, gap) or ([], [])
        slots = [slot.tokens for group in kept for slot in group]
        subject = clause.subject
        if subject is not None and not subject_gap:
            if subject.named:
                return ""
            if subject.definite or not _has_name(slots):
                return self.read.context
            return ""
        return "" if _has_name(slots) else self.read.context

    def _speaks_of_topic(self, clause: Clause, gap: Slot | None, subject_gap: bool) -> bool:
        topic = self.read.topic
        assert topic is not None
        said = [render(slot.tokens) for slot in clause.slots if slot is not gap]
        if clause.subject is not None and not subject_gap:
            said.append(render(clause.subject.tokens))
        return any(topic.name in text for text in said)

    # ---- question types beside plain slots ----------------------------------------------

    def _reverse(self, clause: Clause, start: int, attribute: str) -> Iterator[Fact]:
        """As in "Which company opened the plant in 2019?": the subject is the answer."""
        subject = clause.subject
        if subject is None or not self._reversible(clause, subject):
            return
        answer = render(subject.tokens)
        if len(answer.split()) > 10:
            return
        self.turn += 1
        wh = self.roles.which(subject)[:1]
        if wh[0] == "what" or (wh[0].startswith("which ") and not noun_kind(wh[0][6:])):
            return
        entity = self.read.tracker.entity_of(subject)
        if entity is None or entity.kind not in {"person", "group", "place", "work"}:
            return
        if entity.kind == "person" and not (entity.gender or name_kind(entity.name.split(" "))):
            return  # taken for a person by its verb alone: as likely a product
        context = self._context(clause, None, subject_gap=True)
        questions = subject_questions(clause, wh, context, self.turn)
        yield Fact(tuple(questions), answer, "indirect", start, "", attribute, f"reverse.{wh[0]}")

    def _reversible(self, clause: Clause, subject: Phrase) -> bool:
        """Whether what the clause says picks its subject out."""
        slots = [s for s in clause.slots if s.kind not in {"adverb"}]
        if (
            clause.cut
            or not slots
            or clause.verb.negative
            or subject.head.lower in {"you", "i", "we"}
        ):
            return False
        predicate = clause.slot("predicate")
        if clause.verb.copular and predicate is not None and predicate.phrase is not None:
            definite = predicate.phrase.first.lower == "the" or predicate.phrase.first.sub
            if not definite and not _has_name([s.tokens for s in slots]):
                return False
        told = sum(len(render(s.tokens).split()) for s in slots)
        if not subject.named or told > _MAX_REVERSE_WORDS or clause.verb.verbs[0].tag == "VM0":
            return False
        picked = _has_name([s.tokens for s in slots]) or any(
            t.tag in {"CRD", "DATE"} for s in slots for t in s.tokens
        )
        return picked and measure_kind(subject) is None and self._answerable(clause)

    def _existential(self, clause: Clause, start: int) -> Iterator[Fact]:
        """As in "There are 12 lanes in the hall": "How many lanes are there in the hall?"."""
        slot = clause.slot("predicate")
        if slot is None or slot.phrase is None:
            return
        many = self.roles.how_many(slot.phrase)
        rest = join(render(s.tokens) for s in clause.slots if s is not slot and s.kind != "adverb")
        if not many or not rest or len(clause.slots) > _MAX_EXISTS_SLOTS:
            return
        be = clause.verb.verbs[0].text
        context = self._context(clause, slot) or self.read.context
        body = join((many, be, "there", rest))
        questions = (
            sentence(f"{context}, {body}"),
            sentence(join((f"what is the number of {many[9:]}", rest, context))),
            sentence(join((body, context))),
        )
        yield Fact(questions, render(slot.tokens), "direct", start, "", "number", "exists")


def _instructed(clause: Clause) -> Clause:
    """As in "Press the button": "you should press the button"."""
    at = clause.verb.tokens[0].start
    you = Token("you", "PNP", "you", at, at)
    should = Token("should", "VM0", "should", at, at)
    verb = clause.verb
    verb.main.tag = "VVI"
    verb.tokens = [should, *(t for t in verb.tokens if not t.tag.startswith("VD"))]
    return Clause("main", Phrase([you], you, core=1), verb, clause.slots)


def _noun_predicate(clause: Clause) -> bool:
    slot = clause.slot("predicate")
    return (
        slot is not None and slot.phrase is not None and clause.verb.main is clause.verb.verbs[-1]
    )


def _tellable(clause: Clause) -> bool:
    """Whether the subject is something that can be asked about."""
    subject = clause.subject
    assert subject is not None
    if subject.head.lower in lexicon().sets["abstract_subjects"] and len(subject.tokens) < 3:
        return False
    if subject.head.tag in {"PNI", "PNX"}:
        return False
    return not any(token.dangling for token in subject.tokens)


def _agrees(clause: Clause) -> bool:
    """Whether subject and verb agree in number: where they don't, the subject was cut wrongly."""
    subject, first = clause.subject, clause.verb.verbs[0]
    assert subject is not None
    if subject.head.lower in {"you", "i", "they", "we", "there"} or subject.first.sub:
        return True
    if subject.plural or subject.head.tag == "NN0":
        return first.lower not in {"is", "was", "has", "does"} and first.tag != "VVZ"
    return first.lower not in {"are", "were", "have", "do"} and first.tag != "VVB"


def _measured(ask: Ask) -> bool:
    """Whether the answer holds an amount, a date, a number or a named time."""
    tokens = ask.gap.tokens if ask.gap is not None else []
    return any(
        t.tag in {"CRD", "DATE", "ORD"} or t.lower in {"every", "each", "daily"} or t.is_name
        for t in tokens
    )


def _gives_amount(clause: Clause) -> bool:
    slot = clause.slot("predicate")
    return slot is not None and slot.phrase is not None and measure_kind(slot.phrase) is not None


def _has_name(groups: list[list[Token]]) -> bool:
    return any(
        token.sub or token.tag == "NP0" or token.text[0].isupper()
        for tokens in groups
        for token in tokens
        if token.tag != "DATE"
    )
