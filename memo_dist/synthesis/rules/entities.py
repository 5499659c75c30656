"""Who and what a document speaks of, and what its pronouns stand for.

Works sentence by sentence: names and noun phrases become entities; pronouns and short
definite phrases ("the company") get the name they stand for in ``Token.sub``, or are
marked ``dangling`` when no antecedent is sure enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memo_dist.synthesis.rules.clauses import Clause
from memo_dist.synthesis.rules.kinds import (
    EntityKind,
    measure_kind,
    name_gender,
    name_kind,
    noun_gender,
    noun_kind,
)
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.naming import (
    DANGLING,
    as_antecedent,
    lists_people,
    possessive_of,
    render,
    without_possessor,
)
from memo_dist.synthesis.rules.phrases import Phrase
from memo_dist.synthesis.rules.tokens import Token

_HE = frozenset({"he", "him", "his", "himself"})
_SHE = frozenset({"she", "her", "hers", "herself"})
_IT = frozenset({"it", "its", "itself"})
_THEY = frozenset({"they", "them", "their", "theirs", "themselves"})
_SPEAKER = frozenset({"i", "we", "us", "me", "my", "our", "ours", "mine"})
_POSSESSIVE = frozenset({"his", "her", "its", "their"})
_INSIDE = frozenset({"in", "at", "near", "outside", "throughout"})
_REFLEXIVE = "sel"
_OPENERS = frozenset({"the", "this", "these", "that", "those"})
_MAX_NAME_WORDS = 7


@dataclass(slots=True)
class Entity:
    """Something that the document speaks of.

    Attributes:
        name: how questions name it.
        kind: its kind when known.
        gender: ``m``, ``f`` or empty.
        plural: whether "they" fits it.
        named: whether the name is a proper one.
        nouns: common nouns that describe it ("river", "singer").
        seen: index of the sentence that spoke of it last.
        subject: index of the sentence whose subject it was last, -9 if never.
        order: position among all mentions, for recency inside a sentence.
    """

    name: str
    kind: EntityKind | None
    gender: str = ""
    plural: bool = False
    named: bool = False
    nouns: set[str] = field(default_factory=set)
    seen: int = -9
    subject: int = -9
    order: int = 0


class Tracker:
    """Keeps a document's entities while its sentences are read in order."""

    def __init__(self, topic: Entity | None, document: Entity | None = None) -> None:
        """Start with the topic and with the document itself ("this policy"), if they have names."""
        self.topic = topic
        self.entities: list[Entity] = [e for e in (topic, document) if e is not None]
        self.sentence = 0
        self._order = 0

    def read(self, tokens: list[Token], clauses: list[Clause]) -> None:
        """Resolve the pronouns of the next sentence and record its entities."""
        self.sentence += 1
        phrases = _phrases(clauses)
        main = [c.subject for c in clauses if c.subject is not None and c.kind != "relative"]
        subjects = {id(subject.head) for subject in main}
        leading = {id(subject.first) for subject in main} | subjects
        starts = {id(phrase.first): phrase for phrase in phrases}
        local = _local_subjects(clauses)
        inside = _inner_subjects(clauses)
        at = 0
        while at < len(tokens):
            token = tokens[at]
            if token.lower in _HE | _SHE | _IT | _THEY and token.tag in {"PNP", "DPS", "PNX"}:
                if not self._bound(token, inside.get(id(token))):
                    self._pronoun(token, id(token) in leading, local.get(id(token)))
            elif token.lower in _SPEAKER and token.tag in {"PNP", "DPS"}:
                token.dangling = True
            phrase = starts.get(id(token))
            if phrase is not None and not token.sub:
                self._phrase(phrase, id(phrase.head) in subjects)
            elif token.is_name and (at == 0 or not tokens[at - 1].is_name):
                self._run(tokens, at)
            at += 1
        self._describe(clauses)

    def _run(self, tokens: list[Token], at: int) -> None:
        """Record a name that heads no slot ("the courtship of Roy Gardiner", "Tom's boat")."""
        end = at
        while end < len(tokens) and tokens[end].is_name and tokens[end].tag != "DATE":
            end += 1
        run = tokens[at:end]
        if not run or all(token.tag != "NP0" for token in run):
            return
        phrase = Phrase(run, run[-1], core=len(run))
        if measure_kind(phrase) is None and not run[0].text.startswith('"'):
            self._name(phrase, run, False)

    def _bound(self, token: Token, subject: Phrase | None) -> bool:
        """Whether a possessive is explained by the subject of its own clause ("her home")."""
        if subject is None or token.tag not in {"DPS", "PNX"} or id(token) == id(subject.first):
            return False
        if any(part is token for part in subject.tokens):
            return False
        word = token.lower
        if word in _THEY:
            return subject.plural
        entity = self.entity_of(subject)
        if word in _IT:
            person = (entity.kind if entity else noun_kind(subject.head.lower)) == "person"
            return not subject.plural and not person and subject.head.tag != "PNP"
        wanted = "m" if word in _HE else "f"
        if entity is None:
            gender = noun_gender(subject.head.lower)
            return gender == wanted or (not gender and noun_kind(subject.head.lower) == "person")
        if entity.gender == wanted:
            return True
        if entity.gender or entity.kind not in {"person", None} or subject.plural:
            return False
        entity.gender = wanted
        return True

    # ---- antecedents ------------------------------------------------------------------

    def _pronoun(self, token: Token, is_subject: bool, local: Phrase | None) -> None:
        """Resolve one pronoun; as an object it cannot stand for its own clause's subject."""
        barred = self.entity_of(local) if local is not None and token.tag == "PNP" else None
        entity = self._antecedent(token.lower, is_subject, barred)
        if entity is None:
            token.dangling = True
            return
        if token.lower in _HE | _SHE and not entity.gender:
            entity.gender = "m" if token.lower in _HE else "f"
            entity.kind = entity.kind or "person"
        if _REFLEXIVE in token.lower:
            return
        possessive = token.lower in _POSSESSIVE and token.tag == "DPS"
        token.sub = possessive_of(entity.name) if possessive else entity.name
        self._mention(entity, is_subject)

    def _antecedent(self, word: str, is_subject: bool, barred: Entity | None) -> Entity | None:
        fitting = [e for e in self.entities if e is not barred and self._fits(e, word)]
        if not fitting:
            return None
        ranked = sorted(fitting, key=lambda e: self._salience(e, is_subject), reverse=True)
        best = ranked[0]
        if self.sentence - best.seen > (6 if best is self.topic else 3):
            return best if best is self.topic else None
        return best

    def _fits(self, entity: Entity, word: str) -> bool:
        if self.sentence - entity.seen > 1 and not entity.named:
            return False
        if word in _HE | _SHE:
            wanted = "m" if word in _HE else "f"
            unknown = entity.kind is None and entity.named and " of " not in entity.name
            person = entity.kind == "person" or unknown
            return person and entity.gender in {wanted, ""} and not entity.plural
        if word in _IT:
            return entity.kind not in {"person", "time", "duration"} and not entity.plural
        return entity.plural or (entity.kind == "group" and entity.named)

    def _salience(self, entity: Entity, is_subject: bool) -> tuple[float, int]:
        """Subjects of this and the last sentence first, then the topic, then recency."""
        score = -float(self.sentence - entity.seen)
        if entity.subject == self.sentence:
            score += 2.0
        elif entity.subject == self.sentence - 1:
            score += 2.5 if is_subject else 1.5
        if entity is self.topic:
            score += 1.6
        if entity.named:
            score += 0.6
        if entity.gender or entity.kind:
            score += 0.3
        if entity.kind == "place" and entity is not self.topic:
            score -= 0.7
        return score, entity.order

    # ---- mentions ---------------------------------------------------------------------

    def _mention(self, entity: Entity, is_subject: bool) -> None:
        self._order += 1
        entity.seen, entity.order = self.sentence, self._order
        if is_subject:
            entity.subject = self.sentence

    def _phrase(self, phrase: Phrase, is_subject: bool) -> None:
        if phrase.head.tag in {"PNP", "PNX", "EX0", "PNI"} or measure_kind(phrase) is not None:
            return
        if phrase.plural_list:
            self._register(
                as_antecedent(phrase),
                "person" if lists_people(phrase) else None,
                phrase,
                is_subject,
            )
            return
        known = self._definite(phrase)
        if known is not None:
            self._mention(known, is_subject)
            return
        core = phrase.tokens[: phrase.core or len(phrase.tokens)]
        if phrase.head.is_name and phrase.head.text[0].isupper():
            self._name(phrase, core, is_subject)
        else:
            kind = noun_kind(phrase.head.lower)
            self._register(as_antecedent(phrase), kind, phrase, is_subject)

    def _name(self, phrase: Phrase, core: list[Token], is_subject: bool) -> None:
        """A proper name: an entity known under it, or a new one."""
        words = [token.text for token in core if token.text[0].isupper()]
        if not words:
            return
        before = next((k for k, t in enumerate(core) if t.tag == "NP0"), 0) - 1
        title = core[before] if before >= 0 else core[0]
        nouns = {title.lower} if title.tag == "NN1" and title.text[0].islower() else set()
        full = render(without_possessor(core))
        known = self.find(words)
        if known is None:
            kind = name_kind(words) or next((noun_kind(n) for n in sorted(nouns)), None)
            entity = Entity(full, kind, name_gender(words), phrase.plural, True)
            self.entities.append(entity)
            known = entity
        if is_subject or len(words) == 1:
            self._spell_out(phrase, known, words)
        known.nouns |= nouns
        for noun in sorted(nouns):
            known.gender = known.gender or noun_gender(noun)
            known.kind = known.kind or noun_kind(noun)
        self._mention(known, is_subject)

    def _spell_out(self, phrase: Phrase, known: Entity, words: list[str]) -> None:
        """As in "the Office" becomes "the National Metrology Office" when that stood before."""
        short = len(words) == 1 and len(phrase.tokens) == 2 and phrase.first.lower == "the"
        if short and len(known.name.split()) > 2 and known.kind in {"group", "place"}:
            name = known.name if known.name.lower().startswith("the ") else f"the {known.name}"
            phrase.first.sub, phrase.head.dropped = name, True

    def find(self, words: list[str]) -> Entity | None:
        """The entity whose name holds all of these capitalised words (latest first)."""
        wanted = set(words)
        found = [
            e for e in self.entities if e.named and wanted and wanted <= set(e.name.split(" "))
        ]
        return max(found, key=lambda e: e.order) if found else None

    def _definite(self, phrase: Phrase) -> Entity | None:
        """The name that "the park" stands for, the topic first; it is written into ``sub``."""
        if len(phrase.tokens) != 2 or phrase.first.lower not in _OPENERS:
            return None
        noun = phrase.head.lower
        if not phrase.head.tag.startswith("NN") or phrase.head.text[0].isupper():
            return None
        fitting = [e for e in self.entities if e.named and self._described(e, noun)]
        if not fitting:
            phrase.first.dangling = phrase.first.lower != "the"
            return None
        best = max(fitting, key=lambda e: (e is self.topic, _ends_in(e, noun), e.order))
        phrase.first.sub, phrase.head.dropped = best.name, True
        return best

    def _described(self, entity: Entity, noun: str) -> bool:
        if noun in entity.nouns:
            return True
        words = lexicon().sets
        if _ends_in(entity, noun) and not entity.plural:
            return True
        if noun in words["company_nouns"]:
            return entity.kind == "group" or (entity is self.topic and entity.kind is None)
        product = noun in words["product_nouns"] and entity is self.topic
        return product and entity.kind in {None, "thing"}

    def _register(
        self, name: str, kind: EntityKind | None, phrase: Phrase, is_subject: bool
    ) -> None:
        """A phrase without a name of its own: kept as an antecedent for the next sentence."""
        if not name or DANGLING in name or len(name.split()) > _MAX_NAME_WORDS:
            return
        noun = phrase.head.lower
        entity = next((e for e in self.entities if e.name == name), None)
        if entity is None:
            entity = Entity(name, kind, noun_gender(noun), phrase.plural)
            self.entities.append(entity)
        self._mention(entity, is_subject)

    def _describe(self, clauses: list[Clause]) -> None:
        """Learn "X is a river": nouns and kind of X."""
        for clause in clauses:
            self._notice_person(clause)
            self._notice_places(clause)
            slot = clause.slot("predicate")
            if clause.subject is None or slot is None or slot.phrase is None:
                continue
            if not clause.verb.copular or clause.verb.negative or clause.subject.plural_list:
                continue
            entity = self.entity_of(clause.subject)
            head = slot.phrase.head
            if entity is None or not entity.named or head.text[0].isupper():
                continue
            if head.tag not in {"NN1", "NN2"}:
                continue
            entity.nouns.add(head.lower)
            entity.kind = noun_kind(head.lower) or entity.kind
            entity.gender = entity.gender or noun_gender(head.lower)

    def _notice_person(self, clause: Clause) -> None:
        """A name without "the" that says, wants or marries is a person's."""
        if clause.subject is None or clause.subject.plural or clause.verb.passive:
            return
        entity = self.entity_of(clause.subject)
        if entity is None or entity.kind is not None or entity.name.lower().startswith("the "):
            return
        if entity.named and lexicon().has("human_verbs", clause.verb.main.lemma.lower()):
            entity.kind = "person"

    def _notice_places(self, clause: Clause) -> None:
        """A name of unknown kind that something is "in" or "at" is a place."""
        for slot in clause.slots:
            if slot.kind != "prep" or slot.phrase is None or slot.marker not in _INSIDE:
                continue
            entity = self.entity_of(slot.phrase)
            if entity is not None and entity.named and entity.kind is None and not entity.gender:
                entity.kind = "place"

    def entity_of(self, phrase: Phrase) -> Entity | None:
        """The entity that a phrase names, pronouns and definite phrases included."""
        if phrase.first.sub:
            return next((e for e in self.entities if e.name == phrase.first.sub), None)
        core = phrase.tokens[: phrase.core or len(phrase.tokens)]
        if not phrase.head.is_name or not phrase.head.text[0].isupper():
            return None
        return self.find([t.text for t in core if t.text[0].isupper()])


def _ends_in(entity: Entity, noun: str) -> bool:
    """As in "the company" for "the Quennarth Metering Company"."""
    return entity.name.split(" ")[-1].lower() == noun


def _phrases(clauses: list[Clause]) -> list[Phrase]:
    found = []
    for clause in clauses:
        if clause.subject is not None:
            found.append(clause.subject)
        found.extend(slot.phrase for slot in clause.slots if slot.phrase is not None)
    return found


def _local_subjects(clauses: list[Clause]) -> dict[int, Phrase]:
    """For each head of a slot, the subject of its own clause."""
    return {
        id(slot.phrase.head): clause.subject
        for clause in clauses
        if clause.subject is not None
        for slot in clause.slots
        if slot.phrase is not None and not slot.fronted
    }


def _inner_subjects(clauses: list[Clause]) -> dict[int, Phrase]:
    """For each token of a slot (fronted ones excepted), the subject of its own clause."""
    return {
        id(token): clause.subject
        for clause in clauses
        if clause.subject is not None
        for slot in clause.slots
        if not slot.fronted
        for token in slot.tokens
    }
