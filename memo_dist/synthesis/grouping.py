"""Groups for cross-document synthesis, found without any question and never over all pairs.

Two ways, both inside one shard and both linear in the reflections but for sorting:

- *shared names*: an inverted index from names to reflections; a name that stands in at least two
  and at most ``synthesis.group_frequency`` documents joins them. Names beyond that limit
  ("United States") say nothing;
- *parallel properties*: questions that are near neighbours (MinHash) once their names and numbers
  are masked ask for the same property of different entities.

Small groups share a call: a call may join what it finds. A document takes part in at most
``synthesis.groups_per_document`` groups of each way, rare names first, so there are never more
groups than that many times the documents.

Whatever is cut, long runs of parallel questions and the groups of a call alike, is cut by hash
(:mod:`memo_dist.synthesis.buckets`) and considered in an order that depends on the groups' own
content: a document that comes or goes changes the groups that it is in, and few others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from memo_dist.config.schema import SynthesisConfig
from memo_dist.io.hashing import short_hash
from memo_dist.synthesis.buckets import hash_buckets
from memo_dist.synthesis.neighbours import buckets
from memo_dist.synthesis.types import Group, Reflection
from memo_dist.synthesis.words import content, name_spans, names, numbers

_BAND_ROWS = 4
_LEAST_PROPERTY_WORDS = 2


def find_groups(reflections: Iterable[Reflection], settings: SynthesisConfig) -> list[Group]:
    """The groups of one shard's reflections; their order does not matter."""
    rows = sorted({row.id: row for row in reflections}.values(), key=lambda row: row.id)
    found: dict[tuple[str, ...], Group] = {}
    for members in (_shared_names(rows, settings), _parallel(rows, settings)):
        budget = Counter[str]()
        for candidates in members:
            group = _group(candidates, settings)
            spent = [budget[document] for document in group.documents]
            if len(group.documents) < 2 or max(spent) >= settings.groups_per_document:
                continue
            budget.update(group.documents)
            found.setdefault(group.reflections, group)
    ordered = sorted(found.values(), key=lambda group: (group.documents, group.reflections))
    shared = hash_buckets(
        ordered, lambda group: group.documents[0], lambda some: _fits(some, settings.pairs_per_call)
    )
    return [call for groups in shared for call in _packed(groups, settings.pairs_per_call)]


def _fits(groups: Sequence[Group], most: int) -> bool:
    return len({key for group in groups for key in group.reflections}) <= most


def _packed(groups: Iterable[Group], most: int) -> Iterator[Group]:
    """Groups joined, in order, while they hold at most ``most`` pairs together."""
    documents: set[str] = set()
    pairs: dict[str, None] = {}
    for group in groups:
        if pairs and len(pairs | dict.fromkeys(group.reflections)) > most:
            yield Group(tuple(sorted(documents)), tuple(pairs))
            documents, pairs = set(), {}
        documents.update(group.documents)
        pairs |= dict.fromkeys(group.reflections)
    if pairs:
        yield Group(tuple(sorted(documents)), tuple(pairs))


def _shared_names(
    rows: Sequence[Reflection], settings: SynthesisConfig
) -> Iterator[list[Reflection]]:
    """The reflections of each linking name, the rarest name first."""
    index: dict[str, list[Reflection]] = defaultdict(list)
    documents: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name in {name.casefold() for name in names(f"{row.question} {row.answer}")}:
            index[name].append(row)
            documents[name].update(row.sources)
    linking = [name for name, ids in documents.items() if 2 <= len(ids) <= settings.group_frequency]
    for name in sorted(linking, key=lambda name: (len(documents[name]), -len(name), name)):
        yield index[name]


def _parallel(rows: Sequence[Reflection], settings: SynthesisConfig) -> Iterator[list[Reflection]]:
    """Runs of reflections that ask for the same property, of at most one group's documents.

    A long run is cut by the documents' hashes, as units are: documents of one unit meet each other.
    """

    def fits(some: Sequence[Reflection]) -> bool:
        return len({row.sources for row in some}) <= settings.group_documents

    rows = [row for row in rows if len(row.sources) == 1]
    masked = [_property(row.question) for row in rows]
    parts = {
        tuple(row.id for row in part): part
        for members in buckets(masked, _BAND_ROWS)
        for part in hash_buckets([rows[index] for index in members], _document, fits)
    }
    yield from (parts[key] for key in sorted(parts, key=short_hash))


def _document(row: Reflection) -> str:
    return row.sources[0]


def _property(question: str) -> frozenset[str]:
    """Content words without names and numbers; empty when too few are left to mean something."""
    parts, end = [], 0
    for start, stop in name_spans(question):
        parts.append(question[end:start])
        end = stop
    words = content(" ".join([*parts, question[end:]])) - numbers(question)
    return words if len(words) >= _LEAST_PROPERTY_WORDS else frozenset()


def _group(rows: Iterable[Reflection], settings: SynthesisConfig) -> Group:
    """Cut to the first documents, and in turn to an equal number of pairs of each."""
    by_document: dict[str, list[Reflection]] = defaultdict(list)
    for row in rows:
        if len(row.sources) == 1:
            by_document[row.sources[0]].append(row)
    documents = sorted(by_document)[: settings.group_documents]
    share = max(1, settings.pairs_per_call // max(1, len(documents)))
    chosen = [row.id for document in documents for row in by_document[document][:share]]
    return Group(tuple(documents), tuple(chosen))
