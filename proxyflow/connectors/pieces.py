"""Objects given in pieces: flat views of them, parts of a size, and memory to put them into."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence

from proxyflow.connectors.protocol import Buffer

__all__ = ["cut", "flat", "new_memory"]

# Below this size pages as they come are faster than huge ones.
_HUGE_FROM = 4 << 20


def flat(frames: Sequence[Buffer]) -> list[memoryview]:
    """Return pieces as flat bytes, without those that are empty.

    Examples
    --------
    >>> [len(piece) for piece in flat([b"some", b"", memoryview(b"bytes")])]
    [4, 5]
    """
    views = [memoryview(frame) for frame in frames]
    return [view.cast("B") for view in views if view.nbytes]


def cut(pieces: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """Yield the concatenation of pieces in parts of a size, without copying any.

    Examples
    --------
    >>> [sum(map(len, part)) for part in cut([memoryview(b"abcde"), memoryview(b"fg")], 3)]
    [3, 3, 1]
    """
    part: list[memoryview] = []
    room = size
    for piece in pieces:
        at = 0
        while at < piece.nbytes:
            part.append(piece[at : at + room])
            at += part[-1].nbytes
            room -= part[-1].nbytes
            if not room:
                yield part
                part, room = [], size
    if part:
        yield part


def new_memory(nbytes: int) -> memoryview:
    """Return new memory, in huge pages where that pays and the system has them."""
    if nbytes < _HUGE_FROM:
        return memoryview(bytearray(nbytes))
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            # A kernel without them; the memory is good all the same.
            return memoryview(memory)
    return memoryview(memory)
