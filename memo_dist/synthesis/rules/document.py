"""One document, read: sentences with clauses, resolved pronouns, topic and context."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date

from memo_dist.answers.text import word_set
from memo_dist.corpus.sections import folders
from memo_dist.corpus.types import Document
from memo_dist.synthesis.rules.blocks import Block, read_blocks
from memo_dist.synthesis.rules.clauses import Clause
from memo_dist.synthesis.rules.entities import Entity, Tracker
from memo_dist.synthesis.rules.kinds import name_gender, name_kind, noun_kind
from memo_dist.synthesis.rules.lexicon import MONTHS, lexicon
from memo_dist.synthesis.rules.morphology import parts_of_speech
from memo_dist.synthesis.rules.naming import possessive_of, render
from memo_dist.synthesis.rules.nlp import split_sentences, tag_sentence
from memo_dist.synthesis.rules.noise import clean_title
from memo_dist.synthesis.rules.parser import ClauseParser
from memo_dist.synthesis.rules.quality import unreadable
from memo_dist.synthesis.rules.tokens import Sentence, Token

_BRACKETS = re.compile(r"\s*[(\[][^)\]]*[)\]]")
_STRUCTURED = re.compile(r"[|\t]|https?://")
_INSIDE = re.compile(r"(?<=[a-z,] )[A-Z][\w'-]+")
_LOWER = re.compile(r"\b[a-z][\w'-]+")
_ARTICLES = frozenset({"The", "A", "An", "In", "On", "Of"})
_TITLE_WORDS = word_set(
    "user service operating operator quick start release of for the a an company product"
)
_COMMON_TITLES = word_set(
    "getting-started introduction overview installation install configuration usage index readme "
    "about faq quick-start quickstart changelog release-notes reference examples tutorial guide "
    "setup requirements troubleshooting concepts api home welcome contents summary notes minutes "
    "limits settings security support contact glossary architecture design upgrading"
)
"""Titles that say nothing without the folder of their document."""
_STORY_MARKS = "|–:?"
_STORY_PEOPLE = 3
_MAX_SENTENCE_TOKENS = 90


@dataclass(slots=True)
class ReadSentence:
    """A sentence with its clauses (empty when none could be read).

    Attributes:
        sentence: tagged; without tokens where it is not read.
        clauses: what the parser found.
        complete: whether the parser read all of it.
        unread: why it is not read at all; else empty.
    """

    sentence: Sentence
    clauses: list[Clause]
    complete: bool
    unread: str = ""


@dataclass(slots=True)
class ReadDocument:
    """What question writing needs of a document.

    Attributes:
        document: the document.
        sentences: its prose, in order, pronouns resolved.
        pairs: its key-value and table lines.
        tracker: its entities.
        topic: what the title names, when the text speaks of it.
        context: a phrase that places a question without a name ("according to ...").
    """

    document: Document
    sentences: list[ReadSentence] = field(default_factory=list)
    pairs: list[Block] = field(default_factory=list)
    tracker: Tracker = field(default_factory=lambda: Tracker(None))
    topic: Entity | None = None
    context: str = ""

    @property
    def story(self) -> bool:
        """Whether the text tells a story under a title that names nothing in it."""
        people = [e for e in self.tracker.entities if e.kind == "person" and e.gender and e.named]
        told = self.topic is None or self.topic.kind in {"person", "work", None}
        return told and len(people) >= _STORY_PEOPLE and not document_name(self.document.title)


def read_document(document: Document) -> ReadDocument:
    """Parse a document and resolve what its pronouns and short phrases stand for."""
    document = replace(document, title=clean_title(document.title))
    result = ReadDocument(document)
    names = _names(document)
    for block in read_blocks(document.text):
        if block.kind != "prose":
            result.pairs.append(block)
        else:
            result.sentences.extend(_read_prose(block, names, document.date))
    result.topic = _topic(document, result.sentences)
    title = _BRACKETS.sub("", document.title)
    result.context = context_phrase(title, result.topic) + _folder(document)
    result.tracker = Tracker(result.topic, _itself(document.title, result.topic))
    for item in result.sentences:
        result.tracker.read(item.sentence.tokens, item.clauses)
        # An inner clause shares tokens with the outer one, but binds other pronouns.
        item.clauses = [deepcopy(c) if c.inner else c for c in item.clauses]
        for clause in item.clauses:
            _complete_subject(clause, result.topic)
            _bind(clause)
    return result


def _read_prose(block: Block, names: frozenset[str], as_of: str | None) -> list[ReadSentence]:
    found = []
    for text, start in split_sentences(block.text, block.start):
        reason = unreadable(" ".join(text.split()))
        if reason:
            plain = Sentence(" ".join(text.split()), start, start + len(text), [])
            found.append(ReadSentence(plain, [], False, reason))
            continue
        sentence = tag_sentence(text, start, names)
        sentence.tokens = absolute_times(sentence.tokens, as_of)
        if _STRUCTURED.search(text) or not 3 <= len(sentence.tokens) <= _MAX_SENTENCE_TOKENS:
            found.append(ReadSentence(sentence, [], False))
            continue
        parser = ClauseParser(sentence)
        clauses = parser.parse()
        found.append(ReadSentence(sentence, clauses, parser.complete))
    return found


def _names(document: Document) -> frozenset[str]:
    """Words that are surely names: capitalised inside sentences, never in lower case."""
    inside = set(_INSIDE.findall(document.text))
    lower = set(_LOWER.findall(document.text))
    title = _BRACKETS.sub("", document.title).split()
    plain = {word.lower().removesuffix("s") for word in title}
    if len(title) <= 3 and not plain & lexicon().sets["document_nouns"]:
        inside |= {word for word in title if word[:1].isupper() and word not in _ARTICLES}
    return frozenset(word for word in inside if word.lower() not in lower)


# ---- topic and context ----------------------------------------------------------------


def _topic(document: Document, sentences: list[ReadSentence]) -> Entity | None:
    """The entity that the title names: a subject of the first sentences, or a product."""
    base = _BRACKETS.sub("", document.title).strip()
    words = {w.strip(",") for w in base.split() if w[:1].isupper() and not w.endswith(".")}
    for item in sentences[:3]:
        for clause in item.clauses[:2]:
            if clause.subject is None or clause.subject.plural_list:
                continue
            core = clause.subject.tokens[: clause.subject.core or None]
            names = {t.text for t in core if t.text[0].isupper()}
            group = name_kind([t.text for t in core]) == "group" and names <= words
            if not (clause.verb.copular or clause.verb.passive or group):
                continue  # a story's hero, not what an article is about
            most = len(names) * 2 > len(words) or base.startswith(f"{render(core)},")
            if names and ((names <= words and most) or (words and words <= names)):
                return _entity(render(core), clause.subject.plural)
            common = {t.lower for t in core if t.lower != "the"}
            if core[0].lower == "the" and len(common) > 1 and common == {*base.lower().split()}:
                return _entity(render(core), clause.subject.plural)
    product = _without_document_nouns(base)
    mentioned = product and product != base and product in document.text
    return _entity(product, False) if mentioned else None


def _without_document_nouns(title: str) -> str:
    """As in "Tarn 40 user manual" gives "Tarn 40"; empty when nothing but common words is left."""
    nouns = lexicon().sets["product_suffix_nouns"]
    words = [w.strip(":") for w in re.split(r"[\s–—]+", title)]
    cut = next((k for k, w in enumerate(words) if w.lower() in nouns), len(words))
    kept = words[:cut] or words[cut + 1 :]
    while kept and kept[-1].lower() in _TITLE_WORDS:
        kept = kept[:-1]
    while kept and kept[0].lower() in _TITLE_WORDS:
        kept = kept[1:]
    named = any(w[:1].isupper() for w in kept[:1]) and len(kept) <= 5
    return " ".join(kept) if named else ""


def _entity(name: str, plural: bool) -> Entity:
    words = [word for word in name.split(" ") if word[:1].isupper()] or [name]
    return Entity(name, name_kind(words), name_gender(words), plural, True, seen=0, subject=0)


def _folder(document: Document) -> str:
    """The folder behind a title that many documents have: " (go)" for "Getting Started"."""
    above = folders(document.origin)
    common = "-".join(re.findall("[a-z]+", document.title.lower())) in _COMMON_TITLES
    return f" ({above[-1]})" if common and above else ""


def context_phrase(title: str, topic: Entity | None) -> str:
    """How a question names its document: "according to ...", "in ..." or "regarding ..."."""
    if topic is not None and topic.named:
        kind = topic.kind or noun_kind(topic.name.split(" ")[-1].lower())
        if kind == "work":
            return f"in {topic.name}"
        return f"for {topic.name}" if kind is None else f"regarding {topic.name}"
    name = document_name(title)
    if name:
        return f"according to {name}"
    clean = " ".join(title.split())
    if len(clean.split()) > 6 or any(mark in clean for mark in _STORY_MARKS):
        return f'according to "{clean}"'
    return f"in {clean}"


def document_name(title: str) -> str:
    """As in "the travel policy", "Regulation 12/2029"; empty when the title names no document."""
    words = " ".join(title.split()).split(" ")
    kinds = [word.strip(",.:;()").lower() for word in words]
    nouns = lexicon().sets["document_nouns"]
    at = next((k for k, w in enumerate(kinds) if w in nouns or w.removesuffix("s") in nouns), -1)
    if at < 0:
        return ""
    numbered = at + 1 < len(words) and words[at + 1][:1].isdigit()
    if numbered:
        return " ".join(words[: at + 2]).rstrip(",:;")
    if words[0] in {"The", "A", "Our"}:
        return " ".join([words[0].lower(), *words[1:]])
    common = parts_of_speech(words[0]) and not words[0].isupper()
    first = words[0].lower() if common else words[0]
    return " ".join(["the", first, *words[1:]])


def _itself(title: str, topic: Entity | None) -> Entity | None:
    """The document as an entity, so that "this policy" has a name."""
    name = document_name(title)
    if not name or (topic is not None and topic.name == name):
        return None
    nouns = {word.strip(",.:;()").lower() for word in name.split(" ")}
    kinds = {n for n in nouns if n in lexicon().sets["document_nouns"]} | {"document"}
    return Entity(name, "work", "", False, True, kinds, seen=0, subject=0)


# ---- small resolutions ----------------------------------------------------------------


def _complete_subject(clause: Clause, topic: Entity | None) -> None:
    """As in "The population was 98" in a text on Deering: "the population of Deering"."""
    subject = clause.subject
    if subject is None or topic is None or subject.first.sub or len(subject.tokens) > 3:
        return
    relational = subject.head.lemma.lower() in lexicon().sets["relational_nouns"]
    relational = relational and subject.head.text[0].islower()
    if subject.first.lower == "the" and relational and subject.tokens[-1] is subject.head:
        end = subject.head.end
        added = Token(f"of {topic.name}", "NP0", topic.name, end, end)
        added.sub = added.text
        subject.tokens = [*subject.tokens, added]


def _bind(clause: Clause) -> None:
    """Keep pronouns that the clause's own subject explains ("Anne leaves her home")."""
    if clause.subject is None:
        return
    name = render(clause.subject.tokens)
    for slot in clause.slots:
        if slot.fronted:
            continue
        for token in slot.tokens:
            if token.sub and token.sub in {name, possessive_of(name)} and token.tag[0] in "PD":
                token.sub = ""


def absolute_times(tokens: list[Token], as_of: str | None) -> list[Token]:
    """Write "last year", "yesterday" and their like as dates, from the document's date."""
    if as_of is None:
        return tokens
    today, out, at = date.fromisoformat(as_of), [], 0
    while at < len(tokens):
        token = tokens[at]
        pair = f"{token.lower} {tokens[at + 1].lower}" if at + 1 < len(tokens) else ""
        size = 1 if _relative(today, token.lower) else 2 if _relative(today, pair) else 0
        if not size:
            out.append(token)
            at += 1
            continue
        marker, text = (_relative(today, token.lower) or _relative(today, pair)).split(" ", 1)
        at += size
        owned = at < len(tokens) and tokens[at].tag == "POS"
        if not owned and not (out and out[-1].tag == "PRP"):  # "since last year" has its own
            out.append(Token(marker, "PRP", marker, token.start, token.start, token.glued))
        out.append(Token(text, "DATE", text, token.start, token.end))
    return out


def _relative(today: date, words: str) -> str:
    """The date of a relative time ("last year" in 2031: "in 2030"); empty for other words."""
    shift = {"last": -1, "this": 0, "next": 1}
    first, _, unit = words.partition(" ")
    if unit == "year" and first in shift:
        return f"in {today.year + shift[first]}"
    if unit == "month" and first in shift:
        month = today.month - 1 + shift[first]
        return f"in {MONTHS[month % 12]} {today.year + month // 12}"
    days = {"yesterday": -1, "tomorrow": 1}.get(words)  # "today" mostly means "nowadays"
    if days is None:
        return ""
    day = date.fromordinal(today.toordinal() + days)
    return f"on {day.day} {MONTHS[day.month - 1]} {day.year}"
