"""One file in memory that is filled again and again, and the lease of whoever maps it.

Why, and how its writer and its readers go about it: `proxyflow.storage.segments`.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import threading
from collections.abc import Callable
from weakref import WeakSet

from proxyflow.storage.background import Background
from proxyflow.storage.copying import Source
from proxyflow.storage.fileio import write_frames

__all__ = ["FREE", "Segment", "finish_closing", "lease", "new_name", "still_named"]

FREE = ".free-"
"""What the name of a segment that holds no object begins with."""

# Below this size a system call that copies is faster than setting up a mapping; and while there are
# no pages yet, as long as one thread copies: several take turns at what the kernel does for a page.
_MAP_FROM = 256 << 10
_MAP_NEW_FROM = 8 << 20
# A signal undoes what is being allocated. This much takes less than a millisecond, so that even a
# profiler's timer does not come each time.
_ALLOCATED_AT_ONCE = 8 << 20
# Below this size closing takes no longer than handing it to a thread.
_CLOSE_LATER_FROM = 1 << 20

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
        name = new_name()
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


def new_name() -> str:
    """Return a name for a segment that holds no object."""
    return FREE + secrets.token_hex(8)


def _in_pages(nbytes: int) -> int:
    """Return how many bytes the pages have that so many bytes take."""
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def finish_closing() -> None:
    """Wait until segments that this process has let go of have given back their pages."""
    _closer.wait()
