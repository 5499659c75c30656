"""Documents that a served bank must not answer from, from the moment a request said so.

``memo-dist forget`` writes tombstones, but it waits for the run's lock, and an ``update`` may hold
that for minutes. Until then the buffer's own list hides a document that was deleted or replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from memo_dist.answering import Answered
from memo_dist.memory.tombstones import Withheld

Hides = Callable[[], Mapping[str, str]]
"""Gives {document: content hash that is hidden; "": any}."""


class Hidden(Withheld):
    """What a bank withholds by its tombstones, and by a list of hidden documents."""

    def __init__(self, withheld: Withheld, hides: Hides) -> None:
        """Add ``hides``, which is read anew for every batch of answers."""
        super().__init__(withheld.folder, withheld.manifest)
        self._hides = hides
        # Several, where memories that know one document were merged.
        self._homes: dict[str, list[tuple[int, str]]] = {}
        for entry in withheld.manifest.shards:
            for row in entry.documents:
                self._homes.setdefault(row.id, []).append((entry.id, row.hash))

    def documents(self) -> Mapping[int, frozenset[str]]:
        """{shard: its documents that no answer may come from}.

        Raises:
            UsageError: see ``load_tombstones``.
        """
        found = dict(super().documents())
        for name, hidden in self._hides().items():
            for shard, content in self._homes.get(name, ()):
                if hidden in ("", content):
                    found[shard] = found.get(shard, frozenset()) | {name}
        return found


def comes_from(answered: Answered, names: Collection[str]) -> bool:
    """Whether an answer may come from one of these documents."""
    answer = answered.answer
    if not names or answer.abstained:
        return False
    return not answer.sources or not set(names).isdisjoint(answer.sources)
