"""From a tagged sentence to clauses.

A shallow, deterministic parser. It prefers no clause to a wrong one: what it cannot read
stays in the sentence and is reported as unread.
"""

from __future__ import annotations

from memo_dist.synthesis.rules.clauses import Clause, Slot, bare, be_form, finite_form, timed
from memo_dist.synthesis.rules.kinds import measure_kind, name_kind, noun_kind
from memo_dist.synthesis.rules.lexicon import lexicon
from memo_dist.synthesis.rules.morphology import past
from memo_dist.synthesis.rules.phrases import Phrase, VerbGroup
from memo_dist.synthesis.rules.slots import RELATIVE, SlotReader

_MAX_CLAUSES = 12
_MAX_INNER = 4


class ClauseParser(SlotReader):
    """Reads one sentence from left to right into :attr:`clauses`."""

    def parse(self) -> list[Clause]:
        """The clauses of the sentence; :attr:`complete` says whether all of it was read."""
        at = 0
        while self.reader.tag(at) and len(self.clauses) < _MAX_CLAUSES:
            stop = self._clause(at)
            cut = stop <= at or (bool(self.clauses) and self.clauses[-1].cut)
            if cut:
                self.complete = False
                stop = self._resume(max(stop, at + 1))
            at = self._skip_joint(stop)
        self._read_inner()
        return self.clauses

    def _resume(self, at: int) -> int:
        """After a part that could not be read: the next place where a clause surely begins."""
        for k in range(at, self.end()):
            joint = self.reader.low(k) in {",", ";"} or self.reader.tag(k) == "CJC"
            if joint and self.reader.clause_ahead(self._skip_joint(k)):
                return k
        return self.end()

    def _read_inner(self) -> None:
        """Read the subordinate clauses that state facts, each within its own borders."""
        outer = self.reader.limit
        for start, end in self.inner[:_MAX_INNER]:
            self.reader.limit = end
            before = len(self.clauses)
            self._clause(start)
            for clause in self.clauses[before:]:
                clause.inner = True
        self.reader.limit = outer

    def _skip_joint(self, at: int) -> int:
        while self.reader.tag(at) and (
            self.reader.low(at) in {",", ";", ":", "--", "–", "—"} or self.reader.tag(at) == "CJC"
        ):
            at += 1
        return at

    # ---- one clause -------------------------------------------------------------------

    def _clause(self, at: int) -> int:
        """Parse a clause with its own subject; returns its end, or ``at`` if there is none."""
        lead, start = self._leading(at)
        subject, end = self.reader.group(start, subject=True)
        if subject is None:
            return self._imperative(at, start, lead)
        end = self._subject_tail(subject, end)
        verb, after = self.reader.verb_group(end)
        if verb is None or not verb.finite:
            verb, after = self._mistagged(end, verb, after)
        if verb is None:
            return self._imperative(at, start, lead)
        clause = Clause("main", subject, verb, lead)
        self.clauses.append(clause)
        return self.complements(clause, after)

    def _mistagged(
        self, end: int, verb: VerbGroup | None, after: int
    ) -> tuple[VerbGroup | None, int]:
        """Accept a lone participle as a past tense when no "by" follows it."""
        if verb is None or verb.main.tag != "VVN" or len(verb.verbs) != 1:
            return None, end
        if self.reader.low(after) == "by" or past(verb.main.lemma) != verb.main.lower:
            return None, end
        verb.main.tag, verb.finite = "VVD", True
        return verb, after

    def _imperative(self, at: int, start: int, lead: list[Slot]) -> int:
        verb, after = self.reader.verb_group(start)
        opening = at == 0 or (bool(self.clauses) and self.clauses[-1].kind == "imperative")
        if verb is None or verb.main.tag not in {"VVB", "VVI"} or not opening:
            return at
        if len(verb.verbs) > 1 and not (verb.negative and verb.verbs[0].lower == "do"):
            return at
        if any(token.tag == "TO0" for token in verb.tokens):
            return at
        clause = Clause("imperative", None, verb, lead)
        self.clauses.append(clause)
        return self.complements(clause, after)

    def _leading(self, at: int) -> tuple[list[Slot], int]:
        """Adverbials before the subject."""
        slots: list[Slot] = []
        while self.reader.tag(at):
            slot, end = self._lead_slot(at)
            if slot is None:
                return slots, at
            slot.fronted = True
            if not slots or not self.same_time(slots[-1], slot):
                slots.append(slot)
            at = end + 1 if self.reader.low(end) == "," else end
        return slots, at

    def _lead_slot(self, at: int) -> tuple[Slot | None, int]:
        tag, low = self.reader.tag(at), self.reader.low(at)
        if tag in {"AV0", "AVP", "CJC"} and not self._opens_number(at):
            return Slot("adverb", [self.tokens[at]], low), at + 1
        if tag in {"PRP", "PRF"}:
            return self.prepositional(at)
        if tag in {"CJS", "AVQ"}:
            end = self._comma_before_clause(at)
            if end > 0 and lexicon().has("asserted_conjunctions", low):
                self.inner.append((at + 1, end))
            return (Slot("clause", list(self.tokens[at:end]), low), end) if end > 0 else (None, at)
        if tag == "TO0" or tag in {"VVG", "VVN"}:
            end = self._comma_before_clause(at)
            return (Slot("clause", list(self.tokens[at:end]), "to"), end) if end > 0 else (None, at)
        if tag == "DATE" and self.reader.low(at + 1) == ",":
            dated = Phrase([self.tokens[at]], self.tokens[at])
            return Slot("prep", dated.tokens, "", dated), at + 1
        phrase, end = self.reader.noun_phrase(at)
        timed_lead = phrase is not None and measure_kind(phrase) in {"time", "duration"}
        if phrase is None or not timed_lead or self.reader.low(end) != ",":
            return None, at
        return Slot("prep", phrase.tokens, "", phrase), end

    def _opens_number(self, at: int) -> bool:
        return self.reader.tag(at + 1) in {"CRD", "DT0"}

    def _comma_before_clause(self, at: int) -> int:
        """The comma that ends a leading clause: the first after which subject and verb follow."""
        for k in range(at + 1, self.end()):
            if self.reader.low(k) == "," and (
                self.reader.clause_ahead(k + 1) or self.reader.tag(k + 1) in {"VVB", "VVI", "PRP"}
            ):
                return k
        return -1

    def _subject_tail(self, subject: Phrase, end: int) -> int:
        """Read what stands between a subject and its verb; attach or make clauses of it."""
        while self.reader.tag(end) and not self.reader.verb_ahead(end):
            before = end
            if self.reader.tag(end) == "PRP":
                slot, end = self.prepositional(end)
                subject.tokens = subject.tokens + (slot.tokens if slot else [])
            elif self.reader.low(end) == ",":
                end = self._interruption(subject, end)
            elif self.reader.low(end) in RELATIVE | {"that"} or self.reader.tag(end) in {
                "VVG",
                "VVN",
            }:
                end = self._restrictive(subject, end)
            if end == before:
                break
        return end

    def _interruption(self, subject: Phrase, at: int) -> int:
        """As in ", who ...," or ", a British singer," between subject and verb."""
        close = self._closing_comma(at + 1)
        if close < 0:
            return at
        outer, self.reader.limit = self.reader.limit, close
        end = self._after_comma(subject, subject, at + 1)
        _, stop = self.reader.group(at + 1)
        self.reader.limit = outer
        return close + 1 if end > at + 1 or stop == close else at

    def _closing_comma(self, at: int) -> int:
        commas = [k for k in range(at, self.end()) if self.reader.low(k) == ","]
        return next((k for k in commas if self.reader.verb_ahead(k + 1)), -1)

    def _restrictive(self, phrase: Phrase, at: int) -> int:
        """Attach "that occurred in May" or "located in X" to the phrase before it."""
        own = 1 if self.reader.low(at) in RELATIVE | {"that"} else 0
        end, verbs = self.end(), 0
        for k in range(at + 1, end):
            starts = self.reader.verb_ahead(k) and not self.tokens[k - 1].is_verb
            verbs += starts and self.tokens[k].tag not in {"AV0", "AVP"}
            if verbs > own or self.reader.low(k) in {",", ";"}:
                end = k
                break
        phrase.tokens = phrase.tokens + list(self.tokens[at:end])
        return end

    # ---- complements ------------------------------------------------------------------

    def complements(self, clause: Clause, at: int) -> int:
        """Read slots until the clause ends; returns the position after it."""
        while self.reader.tag(at):
            if self._joins_participle(clause, at):
                return self._same_auxiliary(clause, at)
            if self._ends_clause(at):
                return self._continue_subject(clause, at)
            comma = self.reader.low(at) == ","
            end = self._comma(clause, at) if comma else self.slot(clause, at)
            if end <= at:
                self.complete, clause.cut = False, True
                return at
            at = end
        return at

    def _ends_clause(self, at: int) -> bool:
        """Whether a coordinated clause or verb phrase begins here (or a semicolon stands)."""
        low = self.reader.low(at)
        if low in {";", ":", "--", "–", "—"}:
            return True
        if low == ",":
            follow = at + 2 if self.reader.tag(at + 1) == "CJC" else at + 1
            return self.reader.clause_ahead(follow) or self.reader.verb_ahead(follow)
        if self.reader.tag(at) == "CJC":
            return self.reader.clause_ahead(at + 1) or self.reader.verb_ahead(at + 1)
        return False

    def _continue_subject(self, clause: Clause, at: int) -> int:
        """Parse a verb phrase that shares the subject ("... and opened ..."); else stop."""
        follow = self._skip_joint(at)
        if self.reader.low(at) in {";", ":"} or not self.reader.verb_ahead(follow):
            return at
        verb, after = self.reader.verb_group(follow)
        if verb is None or not verb.finite or len(self.clauses) >= _MAX_CLAUSES:
            return at
        kept = [slot for slot in clause.slots if slot.fronted and slot.kind != "adverb"]
        shared = Clause(clause.kind, clause.subject, verb, kept)
        self.clauses.append(shared)
        end = self.complements(shared, after)
        if any(not slot.fronted and timed(slot) for slot in shared.slots):
            shared.slots = [s for s in shared.slots if not (s.fronted and timed(s))]
        return end

    def _joins_participle(self, clause: Clause, at: int) -> bool:
        """As in "were sanctioned and held": a second participle under the same auxiliary."""
        modal = clause.verb.verbs[0].tag == "VM0"
        shared = clause.verb.passive or self._perfect(clause) or modal
        if self.reader.tag(at) != "CJC" or not shared or clause.kind == "imperative":
            return False
        follow = at + 1
        while self.reader.tag(follow) in {"AV0", "XX0"}:
            follow += 1
        if modal and not clause.verb.passive:
            return self.reader.tag(follow) in {"VVI", "VVB"}
        if self.reader.tag(follow) not in {"VVN", "VVD"}:
            return False
        phrase, _ = self.reader.noun_phrase(follow + 1)
        active = clause.verb.passive and phrase is not None and measure_kind(phrase) is None
        if active:  # "was introduced in April and replaced the old model"
            self.tokens[follow].tag = "VVD"
        return not active

    def _perfect(self, clause: Clause) -> bool:
        return clause.verb.verbs[0].tag.startswith("VH") and len(clause.verb.verbs) > 1

    def _same_auxiliary(self, clause: Clause, at: int) -> int:
        verb, after = self.reader.verb_group(at + 1)
        if verb is None:
            return at
        auxiliaries = clause.verb.verbs[:-1]
        verb.main.tag = clause.verb.main.tag
        group = VerbGroup([*auxiliaries, *verb.tokens], verb.main, True, clause.verb.passive)
        shared = Clause(clause.kind, clause.subject, group, [s for s in clause.slots if s.fronted])
        self.clauses.append(shared)
        return self.complements(shared, after)

    def _comma(self, clause: Clause, at: int) -> int:
        """What follows a comma inside a clause: relative, participle, apposition, adverbial."""
        last = self._last_phrase(clause)
        end = self._after_comma(clause.subject, last, at + 1)
        if end > at + 1:
            return end
        skip = at + 2 if self.reader.tag(at + 1) == "CJC" else at + 1
        aside = self._aside(skip)
        if aside > skip:
            return aside
        stop = self.slot(clause, skip)
        return stop if stop > skip else at

    def _aside(self, at: int) -> int:
        """A phrase between commas that is no complement ("her guardian, John Jarndyce")."""
        phrase, end = self.reader.group(at)
        if phrase is None or measure_kind(phrase) is not None:
            return at
        return end if self.reader.low(end) in {",", ""} else at

    def _last_phrase(self, clause: Clause) -> Phrase | None:
        for slot in reversed(clause.slots):
            if slot.fronted or slot.phrase is None:
                break
            if measure_kind(slot.phrase) not in {"time", "duration"}:
                return slot.phrase
        return clause.subject

    def _after_comma(self, subject: Phrase | None, last: Phrase | None, at: int) -> int:
        low, tag = self.reader.low(at), self.reader.tag(at)
        if low in {"which", "who"} and last is not None:
            return self._relative(last, at)
        if low in RELATIVE:
            return self.extent(at + 1)
        verb_at = at + 1 if tag == "AV0" else at
        if self.reader.tag(verb_at) in {"VVG", "VVN"} and subject is not None:
            return self._participle(subject, at)
        if last is not None and tag not in {"PRP", "CJS", "AV0"}:
            return self._apposition(last, at)
        return at

    def _relative(self, last: Phrase, at: int) -> int:
        verb, after = self.reader.verb_group(at + 1)
        if verb is None or not verb.finite:
            return self.extent(at + 1)
        clause = Clause("relative", bare(last), verb)
        self.clauses.append(clause)
        return self.complements(clause, after)

    def _participle(self, subject: Phrase, at: int) -> int:
        """A clause of "standing at X" or "named by Y", in the tense of the main clause."""
        verb, after = self.reader.verb_group(at)
        main = next((c for c in reversed(self.clauses) if c.verb.finite), None)
        if verb is None or len(verb.verbs) > 1:
            return self.extent(at + 1)
        finite = finite_form(verb, subject, main.verb.past if main else False)
        clause = Clause("participle", bare(subject), finite)
        self.clauses.append(clause)
        return self.complements(clause, after)

    def _apposition(self, last: Phrase, at: int) -> int:
        """As in ", a British singer": a clause "last is a British singer"."""
        phrase, end = self.reader.group(at)
        if phrase is None or phrase.head.tag in {"PNP", "DATE", "EX0"}:
            return at
        while self.reader.tag(end) == "PRP":
            slot, stop = self.prepositional(end)
            if slot is None:
                break
            phrase.tokens, end = phrase.tokens + slot.tokens, stop
        if self.reader.tag(end) in {"VVG", "VVN", "CJT"} or self.reader.low(end) in RELATIVE:
            stop = self.extent(end + 1)
            phrase.tokens, end = phrase.tokens + list(self.tokens[end:stop]), stop
        if self.reader.low(end) not in {",", ""} or phrase.first.tag not in {"AT0", "DPS"}:
            return at
        after = end + 1 if self.reader.low(end) == "," else end
        if not last.named:
            return after  # nothing to ask for without a name
        if last.plural_list or (_personal(last) and noun_kind(phrase.head.lower) != "person"):
            return at
        verb = be_form(last, past_tense=False, at=self.tokens[at])
        slot = Slot("predicate", phrase.tokens, "", phrase)
        self.clauses.append(Clause("apposition", bare(last), verb, [slot]))
        return end + 1 if self.reader.low(end) == "," else end


def _personal(phrase: Phrase) -> bool:
    """Whether a name is surely a person's."""
    words = [token.text for token in phrase.tokens if token.text[0].isupper()]
    return bool(words) and name_kind(words) == "person"
