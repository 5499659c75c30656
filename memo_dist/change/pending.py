"""A ``forget`` that has begun: what its moments share until the receipt is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from memo_dist.change.fingerprint import Fingerprint
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.memory.tombstones import Tombstone

PENDING = "forgetting.json"


@dataclass(frozen=True)
class Pending:
    """A forgetting that has begun.

    Attributes:
        time, why: of the first command.
        started: seconds since the epoch.
        withheld: seconds until the tombstones were there.
        documents: their tombstones.
        fingerprints: of their texts.
        weights: {shard: hash of its weights} before.
    """

    time: str
    why: str
    started: float
    withheld: float
    documents: list[Tombstone]
    fingerprints: list[Fingerprint]
    weights: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the file."""
        atomic.write_json(folder / PENDING, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Pending | None:
        """What is in the file; None: nothing is pending.

        Raises:
            UsageError: the file is damaged.
        """
        path = folder / PENDING
        if not path.exists():
            return None
        try:
            row = atomic.read_json(path)
            row["documents"] = [Tombstone(**one) for one in row["documents"]]
            row["fingerprints"] = [Fingerprint.from_json(one) for one in row["fingerprints"]]
            return cls(**row)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"'{path}' cannot be read ({error!r}); remove it and run `memo-dist forget` again"
            ) from error

    @staticmethod
    def clear(folder: Path) -> None:
        """The forgetting has ended."""
        (folder / PENDING).unlink()

    @classmethod
    def refuse(cls, folder: Path) -> None:
        """Refuse another change while documents are being forgotten.

        Raises:
            UsageError: says how to end it.
        """
        pending = cls.load(folder)
        if pending is not None:
            ids = " ".join(one.id for one in pending.documents)
            raise UsageError(
                f"documents of this run are being forgotten; end that first: `memo-dist forget"
                f" {folder.parent} {ids}`"
            )
