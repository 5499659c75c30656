"""Questions about one slot of a clause, in several constructions that differ in structure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.clauses import Clause, Slot
from memo_dist.synthesis.rules.kinds import measure_kind
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.morphology import past, third_person, verb_form
from memo_dist.synthesis.rules.naming import render
from memo_dist.synthesis.rules.phrases import VerbGroup
from memo_dist.synthesis.rules.roles import Ask
from memo_dist.synthesis.rules.tokens import Token

_MAX_TAIL_WORDS = 12
_MAX_KEPT_WORDS = 12
_BEHIND = ("according to", "in ")
"""Contexts that may follow the question; others only open it."""
_MIN_FREE_WORDS = 7
"""A question this long says enough to be asked once without its document's name."""
_FRAMES = (
    "Can you tell me {}?",
    "Do you know {}?",
    "Please tell me {}.",
    "Could you say {}?",
    "I would like to know {}.",
)
_CONNECTIVES = word_set(
    "also today however then therefore moreover furthermore meanwhile thus hence instead later "
    "finally eventually subsequently additionally too still only even just"
)
_KEPT_ADVERBS = frozenset({"in advance", "at all times"})
_SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does"}


@dataclass(slots=True)
class Parts:
    """The pieces that every construction is put together from (all text).

    Attributes:
        subject: the subject, empty when it is the gap.
        auxiliary: what is inverted ("did", "was", "must").
        rest: the verb behind the inverted subject.
        verb: the verb in declarative order.
        core: object or predicate that stays behind the verb.
        tail: adverbials that stay.
    """

    subject: str
    auxiliary: str
    rest: str
    verb: str
    core: str
    tail: str


def kept_slots(clause: Clause, gap: Slot | None) -> tuple[list[Slot], list[Slot]] | None:
    """Slots that a question keeps: complements, and adverbials while they are short.

    Returns None when a complement is too long to be repeated and too important to be left out.
    """
    core: list[Slot] = []
    tail: list[Slot] = []
    words = 0
    for whole in clause.slots:
        slot = whole if whole is gap else _shortened(whole)
        size = len(render(slot.tokens).split())
        if slot is gap:
            continue
        if slot.kind in {"object", "predicate", "content", "infinitive"}:
            if size > _MAX_KEPT_WORDS:
                control = lexicon().has("control_verbs", clause.verb.main.lemma.lower())
                if slot.kind == "infinitive" and not control:
                    continue
                return None
            core.append(slot)
            words += size
        elif _worth_keeping(slot) and (words + size <= _MAX_TAIL_WORDS or slot.marker == "if"):
            tail.append(slot)
            words += size
    return core, tail


def _shortened(slot: Slot) -> Slot:
    """A long object without what was attached to it ("the records of the transaction")."""
    phrase = slot.phrase
    if slot.kind != "object" or phrase is None or phrase.plural_list:
        return slot
    if len(render(slot.tokens).split()) <= _MAX_KEPT_WORDS or not phrase.core:
        return slot
    return Slot(slot.kind, phrase.tokens[: phrase.core], slot.marker, phrase, slot.fronted)


def _worth_keeping(slot: Slot) -> bool:
    if slot.kind == "adverb":
        fixed = " " in slot.tokens[0].text and slot.tokens[0].lower not in _KEPT_ADVERBS
        return not fixed and not slot.fronted and slot.tokens[0].lower not in _CONNECTIVES
    return slot.marker not in {"although", "though", "whereas", "to"} or slot.kind == "prep"


def parts(clause: Clause, gap: Slot | None, subject_gap: bool = False) -> Parts | None:
    """The text pieces of a question about ``gap``; None when it cannot be asked."""
    kept = kept_slots(clause, gap)
    if kept is None or (clause.subject is None and not subject_gap):
        return None
    core, tail = kept
    auxiliary, rest = invert(clause.verb)
    inner = [slot for slot in core if slot.kind in {"object", "predicate"}]
    later = [slot for slot in core if slot.kind not in {"object", "predicate"}]
    return Parts(
        subject="" if subject_gap or clause.subject is None else render(clause.subject.tokens),
        auxiliary=auxiliary,
        rest=rest,
        verb=declarative(clause.verb),
        core=join(render(slot.tokens) for slot in inner),
        tail=join(render(slot.tokens) for slot in [*later, *_in_order(tail)]),
    )


def _in_order(slots: list[Slot]) -> list[Slot]:
    """Fronted adverbials go to the end; conditions last of all."""
    middle = [slot for slot in slots if not slot.fronted and slot.kind != "clause"]
    rest = [slot for slot in slots if slot not in middle]
    return middle + sorted(rest, key=lambda slot: slot.kind == "clause")


def invert(verb: VerbGroup) -> tuple[str, str]:
    """("did", "open") for "opened"; ("was", "founded") for "was founded"."""
    verbs = verb.verbs
    first = verbs[0]
    others = [t for t in verb.tokens if t is not first and not _connective(t)]
    if len(verbs) > 1 or verb.copular or first.tag == "VM0":
        return _plain(first), render([_spaced(t) for t in others])
    aux = {"D": "did", "Z": "does"}.get(first.tag[-1], "do")
    words = [first.lemma.lower() if t is first else t.text for t in verb.tokens]
    kept = [w for w, t in zip(words, verb.tokens, strict=True) if not _connective(t)]
    return aux, " ".join(kept)


def _connective(token: Token) -> bool:
    return token.tag == "AV0" and token.lower in _CONNECTIVES


def _plain(token: Token) -> str:
    return {"'s": "is", "'re": "are", "'ll": "will", "'d": "would", "wo": "will", "ca": "can"}.get(
        token.lower, token.text
    )


def _spaced(token: Token) -> Token:
    """As in "n't" written out, so that it can stand away from its verb."""
    if token.lower in {"n't", "not"}:
        return Token("not", "XX0", "not", token.start, token.end)
    return token


def declarative(verb: VerbGroup, full: bool = False) -> str:
    """The verb group as it stands; connectives and "only" are left out unless ``full``."""
    kept = [t for t in verb.tokens if not _connective(t) or (full and t.lower in {"only", "just"})]
    return " ".join(_plain(_spaced(t)) for t in kept)


def agree_singular(text: str, verb: VerbGroup) -> str:
    """The verb group after "who" or "what": "are paid" becomes "is paid"."""
    first, _, rest = text.partition(" ")
    if first in _SINGULAR:
        return f"{_SINGULAR[first]} {rest}".strip()
    if verb.verbs[0].tag == "VVB" and first == verb.verbs[0].text:
        return f"{third_person(verb.verbs[0].lemma.lower())} {rest}".strip()
    return text


def join(pieces: Iterable[str]) -> str:
    """Non-empty pieces with single spaces."""
    return " ".join(piece for piece in pieces if piece)


def sentence(text: str, mark: str = "?") -> str:
    """Capital first letter, one mark at the end, no space before commas."""
    clean = " ".join(text.replace(" ,", ",").split()).rstrip(" ,;:.?")
    return clean[:1].upper() + clean[1:] + mark


def slot_questions(clause: Clause, ask: Ask, context: str, turn: int) -> list[str]:
    """All wordings of the question about a slot, the plainest first.

    Args:
        clause, ask: what is asked for, and how.
        context: "according to the Travel policy" or empty.
        turn: chooses among frames, so that a corpus shows all of them.
    """
    pieces = parts(clause, ask.gap)
    if pieces is None:
        return []
    wh = ask.wh[0]
    behind = join((pieces.core, ask.stranded, pieces.tail))
    plain = join((wh, pieces.auxiliary, pieces.subject, pieces.rest, behind))
    found = agent_questions(clause, ask, pieces, context)
    found.append(_with(plain, context))
    if context.startswith("according to") and len(plain.split()) >= _MIN_FREE_WORDS:
        found.append(sentence(plain))
    for other in ask.wh[1:]:
        found.append(
            _with(join((other, pieces.auxiliary, pieces.subject, pieces.rest, behind)), context)
        )
    found += _synonym(clause, ask, pieces, context)
    if context.startswith(_BEHIND):
        found.append(sentence(join((plain, context))))
    found += _fronted(clause, ask, context)
    order = join((wh, pieces.subject, pieces.verb, behind))
    found.append(framed(order, context, turn))
    found.append(framed(order, context, turn + 2))
    return found


def agent_questions(clause: Clause, ask: Ask, pieces: Parts, context: str) -> list[str]:
    """As in "Who founded X in 1987?" for "X was founded in 1987 by Y"."""
    if not clause.verb.passive or ask.stranded != "by":
        return []
    verb = active(clause.verb)
    if not verb:
        return []
    behind = join((pieces.subject, pieces.core, pieces.tail))
    whom = "by whom" if ask.wh[0] == "who" else f"by {ask.wh[0]}"
    inverted = join((whom, pieces.auxiliary, pieces.subject, pieces.rest, pieces.core, pieces.tail))
    return [_with(join((ask.wh[0], verb, behind)), context), _with(inverted, context)]


def active(verb: VerbGroup) -> str:
    """The active form for a singular subject: "must be checked" becomes "must check"."""
    verbs = verb.verbs
    lemma = verb.main.lemma.lower()
    before = list(verbs[:-2])
    be = verbs[-2]
    particles = [t.text for t in verb.tokens if t.tag == "AVP"]
    if be.tag in {"VBG"}:
        return ""
    if not before:
        form = past(lemma) if be.tag == "VBD" else third_person(lemma)
    else:
        form = verb_form(lemma, "VVN") if be.tag == "VBN" else lemma
    aux = {"have": "has"}.get(before[0].lower, before[0].text) if before else ""
    negation = "not" if verb.negative else ""
    return "" if negation and not before else join((aux, negation, form, *particles))


def _with(question: str, context: str) -> str:
    return sentence(f"{context}, {question}" if context else question)


def framed(text: str, context: str, turn: int) -> str:
    """An indirect question: "Can you tell me when ...?", the context where it reads best."""
    frame = _FRAMES[turn % len(_FRAMES)]
    if context.startswith(_BEHIND):
        return sentence(frame[:-1].format(join((text, context))), frame[-1])
    lead = f"{context}, " if context else ""
    asked = frame[:-1].format(text)
    first = asked if asked.startswith("I ") else asked[:1].lower() + asked[1:]
    return sentence(f"{lead}{first}" if lead else asked, frame[-1])


def _fronted(clause: Clause, ask: Ask, context: str) -> list[str]:
    """As in "In 2019, what did X open?": the first other adverbial comes first."""
    kept = kept_slots(clause, ask.gap)
    if kept is None or context:
        return []
    moved = next((s for s in kept[1] if _movable(s)), None)
    if moved is None:
        return []
    rest = Clause(
        clause.kind, clause.subject, clause.verb, [s for s in clause.slots if s is not moved]
    )
    pieces = parts(rest, ask.gap)
    if pieces is None:
        return []
    behind = join((pieces.core, ask.stranded, pieces.tail))
    body = join((ask.wh[0], pieces.auxiliary, pieces.subject, pieces.rest, behind))
    return [sentence(f"{render(moved.tokens)}, {body}")]


def _movable(slot: Slot) -> bool:
    """Whether a slot reads well before the question: a time, a named place, a condition."""
    if slot.kind == "clause":
        return slot.marker in {"if", "when", "after", "before", "while"}
    if slot.phrase is None or slot.kind != "prep":
        return False
    named = slot.marker in {"in", "at", "on", "under", "during"} and slot.phrase.named
    return named or measure_kind(slot.phrase) == "time"


def _synonym(clause: Clause, ask: Ask, pieces: Parts, context: str) -> list[str]:
    """The same construction with another verb."""
    lemma = clause.verb.main.lemma.lower()
    other = lexicon().verb_synonyms.get(lemma)
    asked_object = ask.gap is not None and ask.gap.kind == "object"
    transitive = clause.verb.passive or asked_object or clause.slot("object") is not None
    if (
        not other
        or " " in other
        or not transitive
        or any(t.tag == "AVP" for t in clause.verb.tokens)
    ):
        return []
    if clause.slot("infinitive") or clause.slot("content"):
        return []
    inverted_form = clause.verb.main.lemma if pieces.auxiliary in {"did", "does", "do"} else None
    if inverted_form is None:
        rest = replace_last(
            pieces.rest, clause.verb.main.text, verb_form(other, clause.verb.main.tag)
        )
    else:
        rest = replace_last(pieces.rest, lemma, other)
    if rest == pieces.rest:
        return []
    behind = join((pieces.core, ask.stranded, pieces.tail))
    return [_with(join((ask.wh[0], pieces.auxiliary, pieces.subject, rest, behind)), context)]


def replace_last(text: str, old: str, new: str) -> str:
    """``text`` with its last word ``old`` made ``new`` (unchanged when it is not there)."""
    words = text.split(" ")
    for k in range(len(words) - 1, -1, -1):
        if words[k] == old:
            return " ".join([*words[:k], new, *words[k + 1 :]])
    return text


def subject_questions(clause: Clause, wh: tuple[str, ...], context: str, turn: int) -> list[str]:
    """Wordings of the question whose answer is the subject: "Who founded X?"."""
    pieces = parts(clause, None, subject_gap=True)
    if pieces is None or clause.subject is None:
        return []
    behind = join((pieces.core, pieces.tail))
    if not behind:
        return []
    one = agree_singular(pieces.verb, clause.verb)
    many = clause.subject.plural
    verbs = [pieces.verb if many and w.startswith("which ") else one for w in wh]
    bodies = [join((w, verb, behind)) for w, verb in zip(wh, verbs, strict=True)]
    found = [_with(body, context) for body in bodies]
    found += _by_whom(clause, pieces, context, "by whom" if wh[0] == "who" else "by what")
    lemma = clause.verb.main.lemma.lower()
    other = lexicon().verb_synonyms.get(lemma)
    if other and " " not in other and (clause.verb.passive or clause.slot("object")):
        verb = replace_last(one, clause.verb.main.text, verb_form(other, clause.verb.main.tag))
        if verb != one:
            found.append(_with(join((wh[0], verb, behind)), context))
    if context.startswith(_BEHIND):
        found.append(sentence(join((bodies[0], context))))
    found.append(framed(bodies[0], context, turn))
    found.append(framed(bodies[0], context, turn + 3))
    return found


def _by_whom(clause: Clause, pieces: Parts, context: str, wh: str) -> list[str]:
    """As in "By whom was X founded?" for an active clause with one object."""
    slot = clause.slot("object")
    verb = clause.verb
    if slot is None or slot.phrase is None or len(verb.verbs) != 1 or verb.negative:
        return []
    others = [s for s in clause.slots if s.kind in {"object", "predicate", "content"}]
    if len(others) > 1 or verb.main.lemma in {"have", "become", "cost", "weigh", "last"}:
        return []
    if any(t.tag == "AVP" for t in verb.tokens):
        return []
    form = verb_form(verb.main.lemma.lower(), "VVN")
    plural = slot.phrase.plural
    be = ("were" if plural else "was") if verb.past else ("are" if plural else "is")
    return [_with(join((wh, be, pieces.core, form, pieces.tail)), context)]
