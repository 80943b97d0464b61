"""Files in memory whose pages are used again: filled, published, taken back, filled again.

Zeroing fresh pages takes the kernel four times as long as copying into pages that are there and
mapped. So what is removed by the process that wrote it becomes a *free segment*, and the next
object goes into it. What another process removes, it leaves to whichever writes next
(`proxyflow.storage.handover`).

**What a reader maps never changes.** Whoever maps a segment, or is about to, holds a *lease*: a
shared lock on a descriptor of its own, which the kernel drops when the mapping is gone or its
process is dead. The writer fills a segment only under an exclusive lock. A segment that is leased
when its object is removed is kept for a while, in case the reader is about to let go, and then
unlinked, which is always safe.

**A late reader finds nothing rather than something else.** Names are never used again: an object
is published by giving the segment its name, and removed by giving the segment its own name back.
Who has opened an object looks, once it has the lease, whether the name still stands for what it
opened (:func:`~proxyflow.storage.segment.still_named`).

A free segment's name begins with ``.free-``. Its writer holds the exclusive lock; one whose writer
is dead can be locked, and thus removed, by anybody who needs the room.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections import deque

from proxyflow.storage.fileio import descriptors, names
from proxyflow.storage.handover import Handover
from proxyflow.storage.segment import FREE, Segment, new_name

__all__ = ["SegmentPool"]

# A segment is not used for an object that would leave most of it empty.
_LARGEST_SHARE = 2
# How many segments a pool remembers; with two descriptors each, a quarter of those there may be.
_MOST = 128
_SHARE_OF_DESCRIPTORS = 8
# For how long a leased segment may get free yet (seconds), and for how long a free one is kept.
_PATIENCE = 0.5
_IDLE = 10.0


class SegmentPool:
    """The segments of one process in one directory.

    Parameters
    ----------
    directory
        Descriptor of the directory; it must stay open for as long as the pool is used.
    capacity
        How many bytes of free segments to keep at most, and to leave to other processes.

    Notes
    -----
    One thread at a time, except for :meth:`withdraw`: the garbage collector may remove an object in
    the midst of anything, so that takes no lock and leaves everything to the next who comes.

    Examples
    --------
    >>> import tempfile
    >>> from proxyflow.storage.copying import Pieces
    >>> with tempfile.TemporaryDirectory() as path:
    ...     directory = os.open(path, os.O_RDONLY)
    ...     pool = SegmentPool(directory, capacity=1 << 20)
    ...     segment = pool.take(5)
    ...     segment.fill(Pieces([b"first"]))
    ...     pool.publish(segment, "an-object")
    ...     os.listdir(path)
    ...     pool.withdraw("an-object"), "an-object" in os.listdir(path)
    ...     pool.take(5) is segment
    ...     segment.discard(directory)
    ...     pool.close()
    ...     os.close(directory)
    ['an-object']
    (True, False)
    True
    """

    def __init__(self, directory: int, capacity: int) -> None:
        self._directory = directory
        self._capacity = capacity
        self._handover = Handover(directory, capacity)
        self._most = descriptors(_SHARE_OF_DESCRIPTORS, _MOST)
        self._published: dict[str, Segment] = {}
        self._returned: deque[Segment] = deque()
        self._free: list[Segment] = []
        self._kept = 0  # bytes in free segments
        self._closed = False

    # -- filling -------------------------------------------------------------------------------

    def take(self, nbytes: int) -> Segment:
        """Return a segment to fill, which nobody maps: one that is free and fits, else a new one.

        Raises
        ------
        OSError
            If a new one cannot be made.
        """
        self._sort_returned()
        most = max(mmap.PAGESIZE, _LARGEST_SHARE * nbytes)
        best, smallest = None, 0
        # The latest first: its pages may still be in a cache.
        for position in range(len(self._free) - 1, -1, -1):
            allocated = self._free[position].allocated
            if nbytes <= allocated <= most and (best is None or allocated < smallest):
                best, smallest = position, allocated
                if allocated - nbytes < mmap.PAGESIZE:
                    break
        if best is None:
            return self._claim(nbytes, most) or Segment.new(self._directory)
        self._kept -= smallest
        return self._free.pop(best)

    def _claim(self, nbytes: int, most: int) -> Segment | None:
        name = new_name()
        claimed = self._handover.claim(nbytes, most, as_name=name)
        return None if claimed is None else Segment(claimed[0], name, claimed[1])

    def publish(self, segment: Segment, name: str, *, keep: bool = True) -> None:
        """Give a segment that was filled an object's name.

        Parameters
        ----------
        segment
            The segment.
        name
            The name.
        keep
            Whether to remember it, for its pages to be used again when it is withdrawn; else it
            becomes a file like any other.

        Raises
        ------
        FileNotFoundError
            If somebody has removed it, who needed the room.
        """
        segment.publish(name, self._directory)
        replaced = self._published.pop(name, None)
        if replaced is not None:
            replaced.close()
        if not keep:
            segment.close()
            return
        self._published[name] = segment
        if self._closed:
            # By another thread, while this one filled it.
            self.close()
            return
        if len(self._published) + len(self._free) > self._most:
            self._remember_one_less()

    def _remember_one_less(self) -> None:
        if self._free:
            self._discard_oldest()
            return
        for oldest in list(self._published)[:1]:
            segment = self._published.pop(oldest, None)
            # Unless another thread has withdrawn it meanwhile, it becomes a file like any other.
            if segment is not None:
                segment.close()

    def discard(self, segment: Segment, name: str) -> None:
        """Let go of a segment whose filling or publishing has failed, if it has no name yet."""
        if self._published.get(name) is not segment:
            segment.discard(self._directory)

    # -- taking back ---------------------------------------------------------------------------

    def withdraw(self, name: str) -> bool:
        """Remove an object; return False if it is none that this pool remembers, or not there."""
        segment = self._published.pop(name, None)
        if segment is None:
            return False
        try:
            segment.withdraw(name, self._directory)
        except FileNotFoundError:
            segment.close()
            return False
        segment.since = time.monotonic()
        self._returned.append(segment)
        if self._closed:
            self._discard_unpublished()
        return True

    def leave(self, name: str) -> bool:
        """Remove an object that another process wrote, leaving its pages to whoever needs some.

        Returns
        -------
        bool
            False if it is not worth that, and still there.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        """
        return self._handover.leave(name, through=new_name())

    def _sort_returned(self) -> None:
        """Keep what nobody maps any more, and for a moment what somebody does."""
        for _ in range(len(self._returned)):
            segment = self._next_returned()
            if segment is None:
                break
            if segment.lock():
                self._free.append(segment)
                self._kept += segment.allocated
            elif time.monotonic() - segment.since < _PATIENCE:
                self._returned.append(segment)
            else:
                segment.discard(self._directory)
        while self._free and (
            self._kept > self._capacity or len(self._free) + len(self._published) > self._most
        ):
            self._discard_oldest()

    def _discard_oldest(self) -> None:
        oldest = self._free.pop(0)
        self._kept -= oldest.allocated
        oldest.discard(self._directory)

    # -- giving back ---------------------------------------------------------------------------

    def trim(self) -> bool:
        """Give back what has not been used for a while; return whether anything is left."""
        self._sort_returned()
        self._forget_removed()
        before = time.monotonic() - _IDLE
        while self._free and self._free[0].since < before:
            self._discard_oldest()
        left = self._handover.trim(_IDLE)
        return left or bool(self._published or self._returned or self._free)

    def _forget_removed(self) -> None:
        """Let go of what another process has removed, whose pages only this one holds."""
        # Other threads and the garbage collector withdraw in the midst of this: a copy, as making a
        # list of pairs may call the collector.
        for name, segment in self._published.copy().items():
            if segment.is_removed() and self._published.pop(name, None) is segment:
                segment.close()

    def make_room(self) -> None:
        """Give back all that is free, that of dead processes included."""
        self._forget_removed()
        for segment in self._unpublished():
            # At once, not in the background: whoever asked is waiting for the room.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(segment.free_name, dir_fd=self._directory)
            segment.close_now()
        self._handover.clear()
        self.remove_orphans()

    def remove_orphans(self) -> None:
        """Remove the free segments of processes that are dead."""
        for name in names(self._directory):
            if name.startswith(FREE):
                self._remove_if_unlocked(name)

    def _remove_if_unlocked(self, name: str) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(name, flags, dir_fd=self._directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=self._directory)
            finally:
                os.close(fd)

    def _unpublished(self) -> list[Segment]:
        taken, self._free = self._free, []
        self._kept = 0
        # One by one: others are returned in the midst of this.
        while (segment := self._next_returned()) is not None:
            taken.append(segment)
        return taken

    def _next_returned(self) -> Segment | None:
        try:
            return self._returned.popleft()
        except IndexError:
            return None

    def close(self) -> None:
        """Let go of everything, and remove what is free; what is published later is not kept."""
        self._closed = True
        self._discard_unpublished()
        self.forget()

    def _discard_unpublished(self) -> None:
        for segment in self._unpublished():
            segment.discard(self._directory)

    def forget(self) -> None:
        """Let go of everything without removing any of it: in a child, it is the parent's."""
        published, self._published = self._published, {}
        for segment in [*published.values(), *self._unpublished()]:
            segment.close_now()
