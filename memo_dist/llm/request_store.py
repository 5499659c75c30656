"""The request store: the attempts of closed request journals, sorted by the requests' keys.

While a step runs, each partition appends to a journal of its own. Once the work is cut in another
way (the corpus was revised, the number of partitions changed), the journals are closed into one
file, in which any partition finds what was answered. The file is sorted, so a look-up is a binary
search in it and needs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from memo_dist.io.atomic import write_with
from memo_dist.io.checked_lines import from_line
from memo_dist.llm.records import Attempt


class RequestStore:
    """Reads a store file; one that does not exist is empty."""

    def __init__(self, path: Path) -> None:
        self._stream: BinaryIO | None = path.open("rb") if path.exists() else None
        self._size = path.stat().st_size if path.exists() else 0

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def history(self, key: str) -> list[Attempt]:
        """The attempts of a request that is settled, in order; else none."""
        if self._stream is None:
            return []
        _seek_line(self._stream, self._first(self._stream, key))
        found: list[Attempt] = []
        for line in self._stream:
            attempt = _attempt(line)
            if attempt is None and not found:
                continue  # a damaged line before the request's own
            if attempt is None or attempt.key != key or attempt.attempt != len(found):
                break
            found.append(attempt)
        return found if found and found[-1].final else []

    def _first(self, stream: BinaryIO, key: str) -> int:
        """The least offset from which on no line begins whose key is less than ``key``."""
        low, high = 0, self._size
        while low < high:
            middle = (low + high) // 2
            _seek_line(stream, middle)
            if _next_key(stream, key) >= key:
                high = middle
            else:
                low = middle + 1
        return low


def close_journals(journals: Sequence[Path], store: Path) -> None:
    """Move the attempts of ``journals`` into the store file; the journals are gone afterwards.

    Of a request that several files hold, the first file where it is settled counts. A kill at any
    moment loses nothing: the journals go last, and closing them again changes nothing.

    Memory: about 300 bytes a request.

    Raises:
        OSError: the disk is full; store and journals are as before.
    """
    present = [path for path in journals if path.exists()]
    if not present:
        return
    with ExitStack() as stack:
        paths = [store, *present] if store.exists() else present
        streams = [stack.enter_context(path.open("rb")) for path in paths]
        places = _places(streams)

        def write(out: BinaryIO) -> None:
            for key in sorted(places):
                place = places[key]
                for offset in place.offsets:
                    streams[place.file].seek(offset)
                    out.write(streams[place.file].readline())

        write_with(store, write)
    for path in present:
        path.unlink()


@dataclass(slots=True)
class _Place:
    """The lines of one request in one file."""

    file: int
    offsets: list[int] = field(default_factory=list)
    final: bool = False


def _places(streams: Sequence[BinaryIO]) -> dict[str, _Place]:
    chosen: dict[str, _Place] = {}
    for file, stream in enumerate(streams):
        for key, place in _places_in(stream, file).items():
            if key not in chosen or (place.final and not chosen[key].final):
                chosen[key] = place
    return chosen


def _places_in(stream: BinaryIO, file: int) -> dict[str, _Place]:
    """As a journal reads itself: of two lines of one attempt the first holds."""
    found: dict[str, _Place] = {}
    for offset, line in _lines(stream):
        attempt = _attempt(line)
        if attempt is None:
            continue
        place = found.setdefault(attempt.key, _Place(file))
        if attempt.attempt == len(place.offsets):
            place.offsets.append(offset)
            place.final = attempt.final
    return found


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the whole lines."""
    offset = 0
    for line in stream:
        if line.endswith(b"\n"):
            yield offset, line
        offset += len(line)


def _attempt(line: bytes) -> Attempt | None:
    row = from_line(line)
    return None if row is None else Attempt.from_row(row)


def _seek_line(stream: BinaryIO, offset: int) -> None:
    """Go to the first line that begins at ``offset`` or after it."""
    stream.seek(max(0, offset - 1))
    if offset:
        stream.readline()


def _next_key(stream: BinaryIO, otherwise: str) -> str:
    """The key of the next believable line; ``otherwise`` where there is none."""
    for line in stream:
        attempt = _attempt(line)
        if attempt is not None:
            return attempt.key
    return otherwise
