"""Reads the complements and adverbials of a clause, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.clauses import Clause, Slot, SlotKind, bare, finite_form, timed
from memo_dist.synthesis.rules.kinds import measure_kind
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.phrases import Phrase, Reader
from memo_dist.synthesis.rules.tokens import Sentence

RELATIVE = frozenset({"which", "who", "whom", "whose", "where"})
_TELLING = word_set("tell inform remind convince persuade assure warn promise notify")


class SlotReader(ABC):
    """Reads slots of one sentence; a parser adds how clauses begin and go on."""

    def __init__(self, sentence: Sentence) -> None:
        """Prepare to read ``sentence``; nothing is parsed yet."""
        self.tokens = sentence.tokens
        self.reader = Reader(sentence.tokens)
        self.clauses: list[Clause] = []
        self.complete = True
        self.inner: list[tuple[int, int]] = []

    @abstractmethod
    def complements(self, clause: Clause, at: int) -> int:
        """Read slots until the clause ends; returns the position after it."""

    def slot(self, clause: Clause, at: int) -> int:
        """Read one slot into ``clause``; returns its end, or ``at`` when nothing fits."""
        tag, low = self.reader.tag(at), self.reader.low(at)
        last = clause.slots[-1] if clause.slots and not clause.slots[-1].fronted else None
        if tag == "PRP":
            slot, end = self.prepositional(at)
        elif tag == "TO0":
            end = self.extent(at + 1)
            slot = Slot("infinitive", list(self.tokens[at:end]), "to")
        elif tag in {"CJS", "AVQ", "CJT"} or low in RELATIVE:
            return self._subordinate(clause, last, at)
        elif tag in {"VVG", "VVN"} and last is not None and last.phrase is not None:
            return self._reduced(clause, last, at)
        elif tag == "CJC" and last is not None:
            return self._joined(last, at)
        else:
            slot, end = self._plain(at, clause)
        if slot is None:
            return at
        if last is None or not self.same_time(last, slot):
            clause.slots.append(slot)
        return end

    def same_time(self, last: Slot, slot: Slot) -> bool:
        """Join "from 2006" with "to 2009", "until his retirement" with "in 2012"."""
        if last.phrase is None or not timed(slot):
            return False
        if last.marker == "from" and timed(last) and slot.marker in {"to", "until"}:
            last.tokens, last.marker = last.tokens + slot.tokens, "between"
            return True
        if last.marker not in {"until", "before", "after", "since"} or timed(last):
            return False
        last.tokens = last.tokens + slot.tokens
        last.phrase.tokens = last.phrase.tokens + slot.tokens
        return True

    def _plain(self, at: int, clause: Clause) -> tuple[Slot | None, int]:
        if self.reader.tag(at) == "VVG":
            end = self.extent(at + 1)
            return Slot("object", list(self.tokens[at:end])), end
        phrase, end = self.reader.group(at)
        if phrase is not None and not self._fits(clause, phrase):
            return None, at
        if phrase is not None and measure_kind(phrase) == "duration":
            stop = self._span(end)
            if stop > end:
                return Slot("prep", list(self.tokens[at:stop]), "span", phrase), stop
        if phrase is not None:
            kind: SlotKind = "predicate" if clause.verb.copular else "object"
            return Slot(kind, phrase.tokens, "", phrase), end
        stop = at
        while self.reader.tag(stop) in {"AV0", "AJ0", "AJC", "AJS", "AVP", "XX0", "VVN"}:
            stop += 1
        if stop == at:
            return None, at
        adjective = any(self.tokens[k].tag[:2] in {"AJ", "VV"} for k in range(at, stop))
        return Slot("predicate" if adjective else "adverb", list(self.tokens[at:stop])), stop

    def _span(self, at: int) -> int:
        """The end of "later" or "before departure" behind a duration."""
        if self.reader.low(at) in {"later", "ago", "earlier", "afterwards", "beforehand"}:
            return at + 1
        if self.reader.low(at) not in {"before", "after"}:
            return at
        slot, end = self.prepositional(at)
        return end if slot is not None else at

    def _fits(self, clause: Clause, phrase: Phrase) -> bool:
        """A second phrase without preposition fits after "give", or when it is a time."""
        before = [slot for slot in clause.slots if not slot.fronted]
        if phrase.first.lower in {"every", "each"}:
            return True
        taken = any(slot.kind == "object" for slot in before)
        if not before or measure_kind(phrase) in {"time", "duration"}:
            return True
        if taken:
            close = before[-1].kind == "object" and len(before) == 1
            return close and lexicon().has("ditransitive", clause.verb.main.lemma.lower())
        return before[-1].kind != "prep" or clause.verb.copular

    def _joined(self, last: Slot, at: int) -> int:
        """As in "and ..." that continues the last slot: "in A and in B", "red and blue"."""
        slot, end = self.prepositional(at + 1)
        if slot is None:
            phrase, end = self.reader.group(at + 1)
            slot = Slot("object", phrase.tokens, "", phrase) if phrase else None
            if (
                phrase is not None
                and last.phrase is not None
                and bool(measure_kind(phrase)) != bool(measure_kind(last.phrase))
            ):
                return at
        if slot is None and self.reader.tag(at + 1) in {"AJ0", "AV0", "AJC", "VVN", "TO0", "VVG"}:
            end = self.extent(at + 2)
        if end <= at + 1:
            return at
        if slot is None and last.phrase is not None and self.reader.tag(at + 1) in {"VVG", "VVN"}:
            return end  # "directed by X and starring Y": says nothing of X
        last.tokens = last.tokens + list(self.tokens[at:end])
        if last.phrase is not None:
            last.phrase.tokens = last.phrase.tokens + list(self.tokens[at:end])
        return end

    def prepositional(self, at: int) -> tuple[Slot | None, int]:
        """A preposition with its phrase or gerund."""
        inner = at
        while self.reader.tag(inner) in {"PRP", "PRF"}:
            inner += 1
        if inner == at:
            return None, at
        marker = " ".join(token.lower for token in self.tokens[at:inner])
        phrase, end = self.reader.group(inner)
        if (
            phrase is not None
            and self.reader.tag(end) == "PRF"
            and self.reader.tag(end + 1) == "VVG"
        ):
            end = self.extent(end + 1)
            phrase.tokens = list(self.tokens[inner:end])
        if phrase is None and self.reader.tag(inner) in {"VVG", "VBG", "VHG"}:
            end = self.extent(inner + 1)
            return Slot("prep", list(self.tokens[at:end]), marker), end
        if phrase is None:
            return None, at
        return Slot("prep", list(self.tokens[at:end]), marker, phrase), end

    def _subordinate(self, clause: Clause, last: Slot | None, at: int) -> int:
        """As in "because ...", "that ..." after a verb, or a restrictive clause after a noun."""
        low, tag = self.reader.low(at), self.reader.tag(at)
        told = clause.verb.main.lemma in _TELLING
        noun = last is not None and last.phrase is not None
        if low in RELATIVE or (tag == "CJT" and noun and not told):
            if last is None or last.phrase is None:
                end = self.extent(at + 1)
                clause.slots.append(Slot("content", list(self.tokens[at:end]), low))
                return end
            end = self.extent(at + 1)
            last.tokens = last.tokens + list(self.tokens[at:end])
            last.phrase.tokens = last.phrase.tokens + list(self.tokens[at:end])
            return end
        content = tag == "CJT" or (tag == "AVQ" and last is None)
        end = self.end() if content else self.extent(at + 1)
        kind: SlotKind = "content" if content else "clause"
        factive = lexicon().has("factive_verbs", clause.verb.main.lemma.lower())
        if (tag == "CJT" and factive) or lexicon().has("asserted_conjunctions", low):
            self.inner.append((at + 1, end))
        clause.slots.append(Slot(kind, list(self.tokens[at:end]), low))
        return end

    def _reduced(self, clause: Clause, last: Slot, at: int) -> int:
        """As in "a range located in X": belongs to the noun; of a copular clause, also a clause."""
        end = self.extent(at + 1)
        tokens = list(self.tokens[at:end])
        if clause.verb.copular and clause.subject is not None and self.reader.tag(at) == "VVN":
            verb, after = self.reader.verb_group(at)
            if verb is not None and after <= end:
                finite = finite_form(verb, clause.subject, clause.verb.past)
                follow = Clause("participle", bare(clause.subject), finite)
                self.clauses.append(follow)
                last.tokens = last.tokens + tokens
                return self.complements(follow, after)
        last.tokens = last.tokens + tokens
        if last.phrase is not None:
            last.phrase.tokens = last.phrase.tokens + tokens
        return end

    def extent(self, at: int) -> int:
        """Where a subordinate part that began before ``at`` ends: a comma or a new clause."""
        for k in range(at, self.end()):
            low = self.reader.low(k)
            if low in {";", ":", "--", "–", "—"}:
                return k
            if low == "," and self._list_goes_on(k):
                continue
            if low == ",":
                return k
            if self.reader.tag(k) == "CJC" and (
                self.reader.clause_ahead(k + 1) or self.reader.tag(k + 1) in {"VVZ", "VBZ", "VBD"}
            ):
                return k
            if k > at and self.reader.tag(k) == "CJS" and self.reader.low(k) != "as":
                return k
        return self.end()

    def end(self) -> int:
        """Where the part that is being read ends."""
        return min(self.reader.limit, len(self.tokens))

    def _list_goes_on(self, comma: int) -> bool:
        """Whether ", B and C" follows: a comma inside a list does not end a phrase."""
        phrase, end = self.reader.noun_phrase(comma + 1)
        while phrase is not None and self.reader.low(end) == ",":
            phrase, end = self.reader.noun_phrase(end + 1)
        joined = self.reader.tag(end) == "CJC" and phrase is not None
        if not joined:
            return False
        follow, stop = self.reader.noun_phrase(end + 1)
        return follow is not None and not self.reader.verb_ahead(stop)
