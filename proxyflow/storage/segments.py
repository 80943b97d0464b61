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
opened (:func:`still_named`).

A free segment's name begins with ``.free-``. Its writer holds the exclusive lock; one whose writer
is dead can be locked, and thus removed, by anybody who needs the room.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from proxyflow.storage.background import Background
from proxyflow.storage.copying import Source
from proxyflow.storage.fileio import descriptors, names, write_frames
from proxyflow.storage.handover import Handover

__all__ = ["Segment", "SegmentPool", "finish_closing", "lease", "still_named"]

_FREE = ".free-"
# Below this size a system call that copies is faster than setting up a mapping; and while there are
# no pages yet, as long as one thread copies: several take turns at what the kernel does for a page.
_MAP_FROM = 256 << 10
_MAP_NEW_FROM = 8 << 20
# A signal undoes what is being allocated. This much takes less than a millisecond, so that even a
# profiler's timer does not come each time.
_ALLOCATED_AT_ONCE = 8 << 20
# Below this size closing takes no longer than handing it to a thread.
_CLOSE_LATER_FROM = 1 << 20
# A segment is not used for an object that would leave most of it empty.
_LARGEST_SHARE = 2
# How many segments a pool remembers; with two descriptors each, a quarter of those there may be.
_MOST = 128
_SHARE_OF_DESCRIPTORS = 8
# For how long a leased segment may get free yet (seconds), and for how long a free one is kept.
_PATIENCE = 0.5
_IDLE = 10.0

_segments: WeakSet[Segment] = WeakSet()
_closing = threading.Lock()
_forking: set[int] = set()  # the threads that hold it
_LONGEST_WAIT = 1.0


def _before_fork() -> None:
    """Wait for what is just being closed: in between, only that thread knows the descriptor."""
    # Not for ever: that thread may run a finalizer that needs a lock of whoever forks.
    if _closing.acquire(timeout=_LONGEST_WAIT):
        _forking.add(threading.get_ident())


def _after_fork() -> None:
    if threading.get_ident() in _forking:
        _forking.discard(threading.get_ident())
        _closing.release()


def _close_in_child() -> None:
    """Let go of every segment of the parent: else its pages stay for as long as the child."""
    global _closing
    _closing = threading.Lock()
    _forking.clear()
    for segment in list(_segments):
        segment.close_now()


# Before the hook of what follows, which forgets what the parent was about to close.
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_close_in_child
)
_closer = Background("proxyflow-closer")


def lease(fd: int) -> bool:
    """Keep the segment behind a descriptor from being filled again, for as long as it is open.

    Returns
    -------
    bool
        False if it is being filled: what was opened has been removed.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def still_named(opened: os.stat_result, name: str, directory: int) -> bool:
    """Return whether a name in a directory still stands for what was opened by it.

    Not where the same file got the same name again, as when an object that was removed is stored
    once more under its key: each change of its name is a change of the file.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, opened) and found.st_ctime_ns == opened.st_ctime_ns


class Segment:
    """A file in memory that one process fills, again and again.

    Parameters
    ----------
    fd
        The file, open for reading and writing.
    free_name
        What it is called while it stands for no object.
    nbytes
        Its length; there are pages for all of it.

    Attributes
    ----------
    allocated : int
        How many bytes there are pages for.
    since : float
        When it was taken back, by ``time.monotonic``.
    """

    __slots__ = ("__weakref__", "_length", "_mapping", "allocated", "fd", "free_name", "since")

    def __init__(self, fd: int, free_name: str, nbytes: int) -> None:
        self.fd = fd
        self.free_name = free_name
        self.allocated = _in_pages(nbytes)
        self.since = 0.0
        self._length = nbytes
        self._mapping: mmap.mmap | None = None
        _segments.add(self)

    @classmethod
    def new(cls, directory: int) -> Segment:
        """Return one without any pages, locked."""
        name = _new_name()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        segment = cls(os.open(name, flags, 0o600, dir_fd=directory), name, 0)
        segment.lock()
        return segment

    def lock(self) -> bool:
        """Keep everybody from mapping it; False if somebody does."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fill(self, source: Source) -> None:
        """Make this its content.

        Raises
        ------
        OSError
            If there is no room (``ENOSPC``).
        """
        nbytes = source.nbytes
        pages = _in_pages(nbytes)
        if nbytes > self.allocated:
            self._unmap()
            self._resize(0)
            self.allocated = 0
            if nbytes >= _MAP_NEW_FROM:
                self._allocate(pages)
        if nbytes < _MAP_FROM or nbytes > self.allocated:
            self._write(source)
        else:
            self._copy(source)
        # Of what lies beyond the end, the kernel keeps the rest of the last page.
        self.allocated = pages

    def _allocate(self, nbytes: int) -> None:
        """Get pages: where there is no room for them, copying into a mapping would kill."""
        for start in range(0, nbytes, _ALLOCATED_AT_ONCE):
            os.posix_fallocate(self.fd, start, min(_ALLOCATED_AT_ONCE, nbytes - start))
        self._length = self.allocated = nbytes
        self._mapping = mmap.mmap(self.fd, nbytes)

    def _write(self, source: Source) -> None:
        self._resize(min(self._length, source.nbytes))
        write_frames(self.fd, source.frames)
        self._length = source.nbytes

    def _copy(self, source: Source) -> None:
        """Copy it into pages that are there already."""
        if self._mapping is None:
            self._resize(self.allocated)
            flags = mmap.MAP_SHARED | _POPULATE
            self._mapping = mmap.mmap(self.fd, self.allocated, flags=flags)
        self._resize(source.nbytes)
        with memoryview(self._mapping) as whole, whole[: source.nbytes] as target:
            source.copy_into(target)

    def _resize(self, nbytes: int) -> None:
        if nbytes != self._length:
            os.ftruncate(self.fd, nbytes)
            self._length = nbytes

    def publish(self, name: str, directory: int) -> None:
        """Give it an object's name, replacing what has that name.

        Raises
        ------
        FileNotFoundError
            If somebody has removed it, who needed the room.
        """
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.rename(self.free_name, name, src_dir_fd=directory, dst_dir_fd=directory)

    def withdraw(self, name: str, directory: int) -> None:
        """Give it its own name back; there is no such object then.

        Raises
        ------
        FileNotFoundError
            If another process has removed the object, or replaced it.
        """
        if self.fd < 0:
            # In a forked child it is the parent's.
            raise FileNotFoundError(name)
        os.rename(name, self.free_name, src_dir_fd=directory, dst_dir_fd=directory)
        if not self._is_as_published(os.stat(self.free_name, dir_fd=directory)):
            os.unlink(self.free_name, dir_fd=directory)
            raise FileNotFoundError(name)

    def _is_as_published(self, named: os.stat_result) -> bool:
        """Whether a file is this one, with all its pages, as every published one has.

        Another process may have got it when the object was removed, and stored another one of
        another length in it under the same name.
        """
        return os.path.samestat(named, os.fstat(self.fd)) and named.st_size == self._length

    def is_removed(self) -> bool:
        """Whether its file has no name any more."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError:
            # Another thread has withdrawn and closed it in the midst of this.
            return False

    def discard(self, directory: int) -> None:
        """Remove the file of a segment that is not published, and let go of it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.free_name, dir_fd=directory)
        self.close()

    def close(self) -> None:
        """Let go of it; large ones in the background, as giving back pages takes its time."""
        if self.allocated < _CLOSE_LATER_FROM:
            self.close_now()
        else:
            _closer.run(self._close_undisturbed)

    def _close_undisturbed(self) -> None:
        with _closing:
            self.close_now()

    def close_now(self) -> None:
        """Let go of it."""
        self._unmap()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # An exception of a signal handler may come anywhere. Bound early, as in `Descriptor`.
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            close(fd)

    def _unmap(self) -> None:
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            # Where copying into it was interrupted, a thread may still be at it, or the exception
            # know a view of it; it then goes with the last of them. In a child that was forked
            # meanwhile nobody lets go of it.
            with contextlib.suppress(BufferError):
                mapping.close()


_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


def _new_name() -> str:
    return _FREE + secrets.token_hex(8)


def _in_pages(nbytes: int) -> int:
    """Return how many bytes the pages have that so many bytes take."""
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


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
        name = _new_name()
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
        return self._handover.leave(name, through=_new_name())

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
            if name.startswith(_FREE):
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


def finish_closing() -> None:
    """Wait until segments that this process has let go of have given back their pages."""
    _closer.wait()
