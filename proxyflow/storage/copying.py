"""Copying memory as fast as the machine can, and what can be copied to where it will lie."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Buffer", "Pieces", "Source", "copy", "copy_pieces", "usable_cpus"]

Buffer = bytes | bytearray | memoryview

# Starting a thread takes as long as copying about a megabyte.
_SHARE = 8 << 20
_MOST_THREADS = 4


class Source(Protocol):
    """What is to be stored: as pieces to write, or copied to where it will lie."""

    nbytes: int
    """Its length."""

    @property
    def frames(self) -> Sequence[Buffer]:
        """All of it, in pieces."""
        ...

    def copy_into(self, target: memoryview) -> None:
        """Write all of it into flat memory of its length."""
        ...


class Pieces:
    """A source that is there in pieces.

    Parameters
    ----------
    frames
        All of it.

    Examples
    --------
    >>> memory = bytearray(4)
    >>> Pieces([b"two", b"!"]).copy_into(memoryview(memory))
    >>> memory
    bytearray(b'two!')
    """

    __slots__ = ("frames", "nbytes")

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self.frames = frames
        self.nbytes = sum(memoryview(frame).nbytes for frame in frames)

    def copy_into(self, target: memoryview) -> None:
        """Write all of it into flat memory of its length."""
        copy_pieces(target, self.frames)


def copy_pieces(target: memoryview, pieces: Sequence[Buffer]) -> None:
    """Copy pieces one after the other into flat memory."""
    at = 0
    for piece in pieces:
        source = memoryview(piece).cast("B")
        copy(target[at : at + source.nbytes], source)
        at += source.nbytes


def copy(target: memoryview, source: memoryview) -> None:
    """Copy one piece of flat memory into another one of the same length.

    Where NumPy is loaded anyway, pieces of some 16 MiB or more are copied by up to four threads,
    and other threads of the process go on meanwhile: one copies 100 MiB in 5.5 ms, four in 2.6.

    Examples
    --------
    >>> target = bytearray(5)
    >>> copy(memoryview(target), memoryview(b"bytes"))
    >>> target
    bytearray(b'bytes')
    """
    numpy: Any = sys.modules.get("numpy")
    # Copying between memoryviews keeps the GIL, so that threads would take turns.
    if target.nbytes < 2 * _SHARE or numpy is None or sys.is_finalizing():
        target[:] = source
        return
    threads = min(_MOST_THREADS, usable_cpus(), target.nbytes // _SHARE)
    into, out_of = numpy.frombuffer(target, numpy.uint8), numpy.frombuffer(source, numpy.uint8)
    step = -(-len(into) // threads)
    parts = [slice(start, start + step) for start in range(0, len(into), step)]
    helpers = [_start(numpy.copyto, into[part], out_of[part]) for part in parts[1:]]
    numpy.copyto(into[parts[0]], out_of[parts[0]])
    for part, helper in zip(parts[1:], helpers, strict=True):
        if helper is None:
            numpy.copyto(into[part], out_of[part])
        else:
            helper.join()


def _start(function: Any, *args: Any) -> threading.Thread | None:
    """Run a function in a thread; None where there is none to be had."""
    try:
        thread = threading.Thread(target=function, args=args, name="proxyflow-copy", daemon=True)
        thread.start()
    except RuntimeError:
        return None
    return thread


def usable_cpus() -> int:
    """Return on how many processors this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
