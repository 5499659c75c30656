"""What a slot answers: which question word asks for it, and what the short answer is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.clauses import Clause, Slot
from memo_dist.synthesis.rules.entities import Tracker
from memo_dist.synthesis.rules.kinds import UNITS, EntityKind, measure_kind, noun_kind
from memo_dist.synthesis.rules.lexicon import MONTHS, lexicon
from memo_dist.synthesis.rules.morphology import singular
from memo_dist.synthesis.rules.naming import render
from memo_dist.synthesis.rules.phrases import Phrase
from memo_dist.synthesis.rules.tokens import Token

MAX_ANSWER_WORDS = 20
_MAX_CLAUSE_WORDS = 14
_TIME_WH = {
    "by": ("by when", "by what date"),
    "until": ("until when", "until what time"),
    "till": ("until when", "until what time"),
    "since": ("since when", "since what time"),
    "from": ("from when", "since when"),
    "as of": ("as of when", "as of what date"),
}
_POINT = word_set("in on at during before after around circa about between span") | {""}
_LONG = {
    "within": ("within what period", "how soon"),
    "for": ("for how long", "how long"),
    "over": ("over what period", "over how long"),
    "after": ("after how long", "how long afterwards"),
    "in": ("in how much time", "how fast"),
    "during": ("over what period", "during which time"),
}
_NAMING = {"appoint": "as", "elect": "as", "crown": "as", "declare": "", "name": "", "call": ""}
_TO_POST = frozenset({"appoint", "elect"})
_PLACING = frozenset({"open", "build", "hold", "store", "find", "place", "install", "put", "mount"})
"""Verbs that put their object somewhere: the place is not the object's own."""
_LOCATED = word_set(
    "locate situate lie stand live reside found establish build base install store keep place "
    "open move settle bear die meet take happen occur headquarter exhibit display bury grow work "
    "study teach manufacture produce print publish"
)
"""Verbs whose place people ask for: others often lend their place to the object."""
_REASON = frozenset({"because of", "due to", "owing to", "thanks to"})
_CLAUSE_WH = {
    "because": ("why", "for what reason"),
    "so that": ("why", "for what purpose"),
    "when": ("when",),
    "after": ("when",),
    "before": ("when", "before what"),
    "until": ("until when", "how long"),
    "as soon as": ("when",),
    "if": ("under what condition", "when", "in which case"),
    "provided that": ("when", "on what condition"),
}
_YEAR = re.compile(r"^\d{4}$")
_MONTH_NAMES = "|".join(MONTHS)
_DAY = re.compile(rf"\d{{1,2}} (?:{_MONTH_NAMES})|(?:{_MONTH_NAMES}) \d{{1,2}}\b|\d{{4}}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Ask:
    """How to ask for one slot.

    Attributes:
        wh: question phrases, the plainest first, lower case.
        answer: the short answer.
        stranded: a preposition that stays at the end of the question.
        gap: the slot that is asked for; None asks for the subject.
    """

    wh: tuple[str, ...]
    answer: str
    stranded: str = ""
    gap: Slot | None = None


class Roles:
    """Chooses question words with what the document told of its entities."""

    def __init__(self, tracker: Tracker, story: bool = False) -> None:
        """Use the entities that ``tracker`` collected; in a story, unknown names are persons."""
        self.tracker = tracker
        self.story = story

    def kind(self, phrase: Phrase) -> EntityKind:
        """The kind of a phrase; "thing" when nothing tells."""
        measured = measure_kind(phrase)
        if measured:
            return measured
        if phrase.plural_list:
            return self._list_kind(phrase)
        entity = self.tracker.entity_of(phrase)
        if entity is not None and entity.kind:
            return entity.kind
        if entity is not None and self.story and _like_person(entity.name):
            return "person"
        if phrase.head.tag == "PNP" and phrase.head.lower in {"he", "she", "him", "her", "you"}:
            return "person"
        return noun_kind(phrase.head.lower) or "thing"

    def _list_kind(self, phrase: Phrase) -> EntityKind:
        """A list is of persons when a word of it names one."""
        words = [token.text for token in phrase.tokens if token.text[0].isupper()]
        found = (self.tracker.find([word]) for word in words)
        kinds = [entity.kind for entity in found if entity is not None and entity.kind]
        return kinds[0] if kinds else noun_kind(phrase.head.lower) or "thing"

    def who(self, phrase: Phrase) -> tuple[str, ...]:
        """Question words for a phrase as subject or object, the plainest first."""
        kind = self.kind(phrase)
        noun = self.noun(phrase)
        entity = self.tracker.entity_of(phrase)
        if kind == "person" and (phrase.plural or not phrase.named):
            return ("who",)
        if kind == "person":
            topic = self.tracker.topic is not None and entity is self.tracker.topic
            return ("who", f"which {noun}") if noun and topic else ("who",)
        if noun and not phrase.plural_list:
            return f"which {noun}", "what"
        if kind == "group" and not phrase.plural_list:
            return ("which organisation", "which company") if phrase.named else ("who",)
        return ("what",)

    def which(self, phrase: Phrase) -> tuple[str, ...]:
        """Like :meth:`who` for a subject: "which team" for "the northern team"."""
        core = phrase.tokens[: phrase.core or len(phrase.tokens)]
        plain = phrase.head.tag in {"NN1", "NN2"} and phrase.head.text[0].islower()
        specific = len(core) > 2 and (core[0].lower == "the" or core[0].tag == "DPS")
        if plain and specific and not phrase.plural_list and self.kind(phrase) != "person":
            return f"which {phrase.head.lower}", "what"
        return self.who(phrase)

    def noun(self, phrase: Phrase) -> str:
        """The common noun that the document uses for a named phrase ("river"), if any."""
        entity = self.tracker.entity_of(phrase)
        if entity is None or not entity.named or phrase.plural_list:
            return ""
        last = entity.name.split(" ")[-1].lower()
        single = singular(last) == last
        own = (
            last
            if single and noun_kind(last) in {"place", "group", "work"} and " " in entity.name
            else ""
        )
        return min(entity.nouns, key=lambda noun: (len(noun), noun), default=own)

    def asks(self, clause: Clause, slot: Slot) -> Ask | None:
        """How to ask for ``slot``; None when no natural question asks for it."""
        if slot.kind == "prep" and slot.phrase is not None:
            if self._light(slot.phrase):
                return None
            return self._prep(clause, slot, slot.phrase)
        if slot.kind == "prep":
            return self._gerund(slot)
        if slot.kind == "clause":
            wh = _CLAUSE_WH.get(slot.marker)
            brief = len(render(slot.tokens).split()) <= _MAX_CLAUSE_WORDS
            return self._make(wh, slot.tokens, slot) if wh and brief else None
        if slot.kind == "infinitive":
            return self._infinitive(clause, slot)
        if slot.kind == "object" and slot.phrase is not None:
            return self._object(clause, slot, slot.phrase)
        if slot.kind == "predicate" and slot.phrase is not None:
            return self._predicate(clause, slot, slot.phrase)
        return None

    def _make(
        self, wh: tuple[str, ...] | None, tokens: list[Token], gap: Slot, stranded: str = ""
    ) -> Ask | None:
        answer = render(tokens)
        if not wh or not answer or len(answer.split()) > MAX_ANSWER_WORDS:
            return None
        return Ask(wh, answer, stranded, gap)

    def _object(self, clause: Clause, slot: Slot, phrase: Phrase) -> Ask | None:
        kind = measure_kind(phrase)
        first = phrase.first.lower
        if _numbered(phrase):
            return self._make((f"which {_numbered(phrase)}",), slot.tokens, slot)
        if first in {"every", "each"} and kind in {"time", "duration"}:
            return self._make(("how often", "at what interval"), slot.tokens, slot)
        if kind == "duration":
            wh = ("how long", "how much time", *_units("", phrase))
            return self._make(wh, slot.tokens, slot)
        if kind == "time" and (clause.verb.main.lemma in {"take", "last"}):
            return self._make(("how long",), slot.tokens, slot)
        if kind == "time":
            return self._make(("when",), slot.tokens, slot) if clause.slots[0] is not slot else None
        many = self.how_many(phrase)
        if many:
            return self._make((many,), slot.tokens, slot)
        role = clause.verb.main.lemma.lower()
        if clause.verb.passive and role in _NAMING:
            return self._make(("what", "to what position")[: 2 if role in _TO_POST else 1],
                              slot.tokens, slot, _NAMING[role])  # fmt: skip
        if first == "no" or self._light(phrase):
            return None
        if kind == "amount":
            return self._make(("how much",), slot.tokens, slot)
        thing = self.kind(phrase) == "group" and not phrase.named
        return self._make(("what",) if thing else self.who(phrase), slot.tokens, slot)

    def _light(self, phrase: Phrase) -> bool:
        """As in "take place", "give birth": the noun belongs to the verb."""
        return phrase.core == 1 and lexicon().has("light_objects", phrase.head.lower)

    def how_many(self, phrase: Phrase) -> str:
        """As in "how many lanes" for "12 wide lanes"; empty when nothing is counted."""
        core = phrase.tokens[: phrase.core or len(phrase.tokens)]
        number = next((k for k, token in enumerate(core) if token.tag == "CRD"), -1)
        people = lexicon().has("person_plurals", phrase.head.lower)
        counted = (phrase.head.tag == "NN2" or people) and phrase.head.lower not in UNITS
        if number < 0 or not counted or phrase.plural_list or phrase.head.text[0].isupper():
            return ""
        if core[0].tag in {"DPS", "AT0", "DT0"} or noun_kind(phrase.head.lower) == "duration":
            return ""
        return f"how many {render(core[number + 1 :])}"

    def _predicate(self, clause: Clause, slot: Slot, phrase: Phrase) -> Ask | None:
        if not clause.verb.copular or clause.subject is None:
            return self._make(("what",), slot.tokens, slot)
        kind = self.kind(clause.subject)
        measured = measure_kind(phrase)
        if measured == "duration":
            return self._make(("what", "how long"), slot.tokens, slot)
        if measured == "time":
            return self._make(("when", "what"), slot.tokens, slot)
        person = kind == "person" or self.kind(phrase) == "person"
        return self._make(("who",) if person else ("what",), slot.tokens, slot)

    def _gerund(self, slot: Slot) -> Ask | None:
        if slot.marker == "by":
            return self._make(("how", "in what way"), slot.tokens, slot)
        if slot.marker == "for":
            return self._make(("why", "for what reason"), slot.tokens, slot)
        if slot.marker in {"before", "after", "when", "while"}:
            return self._make(("when",), slot.tokens, slot)
        return None

    def _infinitive(self, clause: Clause, slot: Slot) -> Ask | None:
        controlled = lexicon().has("control_verbs", clause.verb.main.lemma.lower())
        if controlled or clause.verb.copular or clause.slot("predicate"):
            return None
        if not lexicon().has("purposive", clause.verb.main.lemma.lower()):
            return None
        return self._make(("why", "for what purpose"), slot.tokens, slot)

    def _prep(self, clause: Clause, slot: Slot, phrase: Phrase) -> Ask | None:
        marker, kind = slot.marker, self.kind(phrase)
        if _numbered(phrase):
            return self._make((f"{marker} which {_numbered(phrase)}",), phrase.tokens, slot)
        if marker == "span":
            return self._make(("when",), slot.tokens, slot)
        if kind == "duration" and marker in _LONG:
            return self._make((*_LONG[marker], *_units(marker, phrase)), phrase.tokens, slot)
        if kind in {"time", "duration"}:
            return self._time(slot, phrase)
        if kind == "amount":
            return self._amount(clause, slot, phrase)
        if marker in _REASON:
            return self._make(("why", "for what reason"), slot.tokens, slot)
        if self._placed(marker, kind, phrase) or self._held(clause, marker, kind):
            return self._place(clause, slot, phrase)
        return self._agent(clause, slot, phrase) if marker == "by" and phrase.named else None

    def _agent(self, clause: Clause, slot: Slot, phrase: Phrase) -> Ask | None:
        """As in "was founded by Jan Kolar": who did it."""
        close = [s for s in clause.slots if not s.fronted][:2]
        if not clause.verb.passive or slot not in close:
            return None
        wh = self.who(phrase)[0]
        if wh == "what" and _like_person(render(phrase.tokens[: phrase.core])):
            wh = "who"  # an agent of unknown kind is more often a person
        wh = "who" if wh == "which organisation" else wh
        return self._make((wh,), phrase.tokens, slot, slot.marker)

    def _time(self, slot: Slot, phrase: Phrase) -> Ask | None:
        dated = phrase.head.tag == "DATE"
        if slot.marker in _TIME_WH:
            point = measure_kind(phrase) == "time"  # "by three weeks" is no date
            return self._make(_TIME_WH[slot.marker], phrase.tokens, slot) if point else None
        if slot.marker not in _POINT:
            return None
        plain = dated and slot.marker in {"in", "on", "at", ""}
        answer = phrase.tokens if plain else slot.tokens
        return self._make(("when", *date_variants(render(phrase.tokens))), answer, slot)

    def _amount(self, clause: Clause, slot: Slot, phrase: Phrase) -> Ask | None:
        many = self.how_many(phrase)
        head = phrase.head.lower
        if many:
            return self._make((f"{slot.marker} {many}",), phrase.tokens, slot)
        if "%" in phrase.head.text or head in {"percent", "per cent"}:
            return self._make((f"{slot.marker} what percentage",), phrase.tokens, slot)
        if head.startswith(("°", "degree")):
            return self._make((f"{slot.marker} what temperature",), phrase.tokens, slot)
        if slot.marker in {"for", "by"}:
            return self._make((f"{slot.marker} how much",), phrase.tokens, slot)
        return None

    def _placed(self, marker: str, kind: EntityKind, phrase: Phrase) -> bool:
        if not lexicon().has("place_preps", marker.split(" ")[-1]):
            return False
        name = phrase.head.is_name and phrase.head.text[0].isupper() and not phrase.first.sub
        return kind == "place" or (
            kind == "thing" and name and marker in {"in", "at", "near", "across", "throughout"}
        )

    def _place_follows(self, clause: Clause, slot: Slot) -> bool:
        """Whether the next slot is a place too: only the last of a chain is asked for."""
        if slot.fronted or slot is clause.slots[-1]:
            return False
        follow = clause.slots[[s is slot for s in clause.slots].index(True) + 1]
        if follow.kind != "prep" or follow.phrase is None:
            return False
        return self._placed(follow.marker, self.kind(follow.phrase), follow.phrase)

    def _held(self, clause: Clause, marker: str, kind: EntityKind) -> bool:
        """As in "carried in hand luggage": a thing that something is put in or on is a place."""
        inside = marker in {"in", "on", "inside", "under", "outside", "behind", "into"}
        holding = lexicon().has("holding_verbs", clause.verb.main.lemma.lower())
        return inside and kind in {"thing", "work"} and holding

    def _place(self, clause: Clause, slot: Slot, phrase: Phrase) -> Ask | None:
        if self._place_follows(clause, slot) or slot.marker == "from" or phrase.plural_list:
            return None
        located = clause.verb.main.lemma.lower() in _LOCATED or clause.verb.copular
        held = self._held(clause, slot.marker, self.kind(phrase))
        goods = clause.slot("object")
        if goods is not None and clause.verb.main.lemma.lower() not in _PLACING:
            return None
        if not held and not (located and phrase.named):
            return None  # "has the highest rent of any city in X": belongs to the object
        noun = self.noun(phrase) or _own_noun(phrase)
        name = phrase.head.is_name and phrase.head.text[0].isupper()
        named = (name or bool(phrase.first.sub)) and slot.marker in {"in", "at", "to"}
        answer = phrase.tokens if named else slot.tokens
        more: tuple[str, ...] = (f"{slot.marker} which {noun}",) if noun else ("in what place",)
        if slot.marker not in {"in", "at", "on", "near"}:
            more = ()
        return self._make(("where", *more), answer, slot)


def _numbered(phrase: Phrase) -> str:
    """The noun of "port 8443", "version 3.4"; empty for other phrases."""
    core = [t for t in phrase.tokens if t.tag not in {"AT0", "AV0"}]
    if len(core) != 2 or core[1].tag != "CRD" or core[0].tag != "NN1" or core[0].is_name:
        return ""
    return core[0].lower


def date_variants(text: str) -> tuple[str, ...]:
    """Question phrases that fit a date's precision: year, month, day."""
    if _YEAR.match(text):
        return "in what year", "in which year"
    if _DAY.search(text):
        return "on what date", "on which day"
    if text.split(" ")[0] in MONTHS:
        return ("in which month",)
    return ()


def _like_person(name: str) -> bool:
    """Whether a name of unknown kind looks like a person's."""
    words = name.split(" ")
    return len(words) <= 3 and all(word[:1].isupper() and word.isalpha() for word in words)


def _units(marker: str, phrase: Phrase) -> tuple[str, ...]:
    """ "within how many days" for "within 14 days"."""
    counted = phrase.head.tag == "NN2" and phrase.tokens[0].tag in {"CRD", "AV0"}
    return (f"{marker} how many {phrase.head.lower}".strip(),) if counted else ()


def _own_noun(phrase: Phrase) -> str:
    """As in "province" for "the province of X"; "river" for "the Nelson River"."""
    head = phrase.head
    if head.is_name and head.tag in {"NN1", "NP0"}:
        return head.lower if lexicon().has("place_nouns", head.lower) else ""
    return singular(head.lower) if noun_kind(head.lower) == "place" else ""
