"""Small objects packed many to a file in memory, so that storing and reading one is a mere copy.

A file of its own costs an object three system calls to store, four to read and one to remove; for
a kilobyte that is most of the time. So each process that writes to a directory fills *arenas*:
files that it, and whoever reads, keeps mapped.

Layout of an arena, always `SIZE` bytes long::

    0       status u8: 0 ended, 1 being filled, 2 sealed | 7 zeros | magic
    64      state of each slot, u8: 0 empty, 1 live, 2 removed
    1088    entry of each slot: offset u32 | length u32 | time f64
    17472   objects, each at the next multiple of 64 bytes

**Nothing in it is ever used again**: neither the room of a removed object nor its slot. Fresh pages
cost a kilobyte a fifth of a microsecond, and for that nothing that is read can change, however late
or slow a reader is: no lease, no second look, and a removal hits what it was meant for or nothing.
What a slot holds is said by the table alone, so an object whose bytes look like one is none.

An arena's file is removed by whoever removes its last object once its writer has *sealed* it. The
writer holds a lock on it until then; one that is neither sealed nor locked is a dead process's, and
sealed by whoever notices (:func:`remove_orphans`). Before a session's directory is removed its
arenas are *ended* (:func:`end`): mappings outlive a file, but find nothing in it any more.

Only what there are pages for is touched, so a full file system is an `OSError` and never a SIGBUS;
pages are taken `STEP` bytes at a time, as they are needed. The first are there before a file has
an arena's length, and one that is shorter, or has fewer, is none.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator

from proxyflow.storage.fileio import Descriptor, names

__all__ = ["PREFIX", "SIZE", "SLOTS", "Arena", "ArenaWriter", "end", "remove_orphans"]

PREFIX = ".pack-"
"""What the name of an arena's file begins with; eight letters and digits follow."""

SIZE = 1 << 20
"""Making one costs a kilobyte's object 50 ns; not larger, as one object that stays keeps it all."""

SLOTS = 1024
"""As many as there are objects of a kilobyte; smaller ones leave the end without pages."""

STEP = 128 << 10

_ENDED, _FILLING, _SEALED = range(3)
_EMPTY, _LIVE, _REMOVED = range(3)
_LIVE_BYTE = bytes([_LIVE])
_MAGIC = b"PXFARN1\0"
_MAGIC_AT = 8
_ENTRY = struct.Struct("<IId")
_STATES = 64
_ENTRIES = _STATES + SLOTS
_DATA = _ENTRIES + SLOTS * _ENTRY.size
_ALIGNMENT = 64
_BLOCK = 512  # what `st_blocks` counts, whatever the file system's own blocks are
# After how many seconds without use an arena that holds nothing is given back.
_IDLE = 10.0


class Arena:
    """An arena as everybody sees it: to read from and to remove from.

    Parameters
    ----------
    name
        Its name, without `PREFIX`.
    directory
        Where it lies.
    memory
        A mapping of it.
    """

    __slots__ = ("_memory", "directory", "name")

    def __init__(self, name: str, directory: Descriptor, memory: mmap.mmap) -> None:
        self.name = name
        self.directory = directory
        self._memory = memory

    @classmethod
    def open(cls, name: str, directory: Descriptor) -> Arena:
        """Map an arena.

        Raises
        ------
        FileNotFoundError
            If there is none, or none any more, or not yet.
        OSError
            If it cannot be mapped, or is something else (``ENXIO``).
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(PREFIX + name, flags, dir_fd=directory.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), name)
            if status.st_size != SIZE or status.st_blocks * _BLOCK < STEP:
                raise FileNotFoundError(errno.ENOENT, "not an arena", name)
            arena = cls(name, directory, _map(fd))
        finally:
            os.close(fd)
        if arena._memory[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
            raise FileNotFoundError(errno.ENOENT, "not an arena", name)
        return arena

    def read(self, slot: int) -> bytes | None:
        """Return a copy of what a slot holds; None if it holds nothing."""
        memory = self._memory
        if slot >= SLOTS or memory[_STATES + slot] != _LIVE:
            return None
        start, length, _ = _ENTRY.unpack_from(memory, _ENTRIES + slot * _ENTRY.size)
        return memory[start : start + length]

    def holds(self, slot: int) -> bool:
        """Return whether a slot holds an object."""
        return slot < SLOTS and self._memory[_STATES + slot] == _LIVE

    def remove(self, slot: int) -> bool:
        """Remove what a slot holds, for everybody at once; return whether it held anything."""
        memory = self._memory
        if slot >= SLOTS or memory[_STATES + slot] != _LIVE:
            return False
        memory[_STATES + slot] = _REMOVED
        if self.finished:
            self.unlink()
        return True

    def objects(self) -> Iterator[tuple[int, int, float]]:
        """Yield slot, length and time of storing of every object."""
        states = self._memory[_STATES : _STATES + SLOTS]
        slot = states.find(_LIVE_BYTE)
        while slot >= 0:
            _, length, stored = _ENTRY.unpack_from(self._memory, _ENTRIES + slot * _ENTRY.size)
            yield slot, length, stored
            slot = states.find(_LIVE_BYTE, slot + 1)

    @property
    def in_use(self) -> bool:
        """Whether it holds any object."""
        return self._memory.find(_LIVE_BYTE, _STATES, _ENTRIES) >= 0

    @property
    def finished(self) -> bool:
        """Whether it holds nothing and never will."""
        return self._memory[0] != _FILLING and not self.in_use

    def seal(self) -> None:
        """Leave it to whoever removes the last object, at once if that has been removed."""
        if self._memory[0] == _FILLING:
            self._memory[0] = _SEALED
        if self.finished:
            self.unlink()

    def seal_if_orphan(self) -> None:
        """Seal it if nobody fills it any more: its writer was killed."""
        if self._memory[0] == _FILLING:
            # In use, or gone.
            with contextlib.suppress(OSError), _locked(self.name, self.directory):
                self.seal()

    def unlink(self) -> None:
        """Remove its file, if that is still there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(PREFIX + self.name, dir_fd=self.directory.fd)

    def close(self) -> None:
        """Unmap it, unless another thread of a free-threaded interpreter is reading."""
        with contextlib.suppress(BufferError):
            self._memory.close()


def _map(fd: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, SIZE, trackfd=False)
    return mmap.mmap(fd, SIZE)


class _NewArena(Arena):
    """An arena as its writer sees it, one thread at a time."""

    __slots__ = ("_allocated", "_end", "_file", "seen", "since", "slots")

    def __init__(self, directory: Descriptor) -> None:
        name = base64.b32encode(os.urandom(5)).decode().lower()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        # With it goes the lock, even where nobody closes the store.
        self._file = Descriptor(os.open(PREFIX + name, flags, 0o600, dir_fd=directory.fd))
        fd = self._file.fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(fd).st_nlink:
                # Somebody took it for an orphan before it was locked.
                raise FileNotFoundError(errno.ENOENT, "removed in the meantime", name)
            # In this order: by its length others know that they may touch the first pages.
            os.posix_fallocate(fd, 0, STEP)
            os.ftruncate(fd, SIZE)
            super().__init__(name, directory, _map(fd))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(PREFIX + name, dir_fd=directory.fd)
            raise
        self.slots = self.seen = 0
        self.since = time.monotonic()
        self._allocated = STEP
        self._end = _DATA
        self._memory[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] = _MAGIC
        self._memory[0] = _FILLING

    def append(self, data: bytes) -> int:
        """Store an object and return its slot; -1 if this is full or ended.

        Raises
        ------
        OSError
            If there are no pages for it.
        """
        nbytes = len(data)
        if self.slots == SLOTS or self._end + nbytes > SIZE:
            return -1
        if self._end + nbytes > self._allocated:
            self._allocate(self._end + nbytes)
            # A signal handler or the garbage collector may have stored something meanwhile.
            return self.append(data) if self._memory[0] == _FILLING else -1
        # No calls from here until the place is taken: nothing can come in between.
        slot, start = self.slots, self._end
        end = start + nbytes
        self.slots = slot + 1
        self._end = -(-end // _ALIGNMENT) * _ALIGNMENT
        memory = self._memory
        memory[start:end] = data
        _ENTRY.pack_into(memory, _ENTRIES + slot * _ENTRY.size, start, len(data), time.time())
        memory[_STATES + slot] = _LIVE
        # Looked at last: what is stored after the end has to be seen to be.
        return slot if memory[0] == _FILLING else -1

    def _allocate(self, end: int) -> None:
        """Take pages up to some place, `STEP` bytes at a time."""
        allocated = min(self._allocated + -(-(end - self._allocated) // STEP) * STEP, SIZE)
        os.posix_fallocate(self._file.fd, self._allocated, allocated - self._allocated)
        self._allocated = max(self._allocated, allocated)

    def seal(self) -> None:
        """Leave it to whoever removes the last object, and let go of the lock."""
        super().seal()
        # The mapping has a copy of the descriptor.
        fcntl.flock(self._file.fd, fcntl.LOCK_UN)
        del self._file

    def forget(self) -> None:
        """Let go of it in a forked child: not even its lock stays."""
        del self._file
        self.close()


class ArenaWriter:
    """Packs the small objects of one process in one directory; for any number of threads.

    Parameters
    ----------
    directory
        The directory.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path:
    ...     directory = Descriptor(os.open(path, os.O_RDONLY))
    ...     writer = ArenaWriter(directory)
    ...     arena, slot = writer.put(b"first")
    ...     other = Arena.open(arena.name, directory)
    ...     other.read(slot), other.remove(slot), arena.read(slot)
    ...     writer.close()
    ...     os.listdir(path)
    (b'first', True, None)
    []
    """

    def __init__(self, directory: Descriptor) -> None:
        self._directory = directory
        self._arena: _NewArena | None = None
        self._closed = False
        # Re-entrant: the garbage collector may store something in the midst of it.
        self._lock = threading.RLock()

    def forget(self) -> None:
        """Leave the parent's arena to the parent, in a forked child."""
        self._lock = threading.RLock()
        arena, self._arena = self._arena, None
        if arena is not None:
            arena.forget()

    def put(self, data: bytes) -> tuple[Arena, int]:
        """Store an object of at most a quarter of `SIZE`; return where.

        Raises
        ------
        OSError
            If there is no room.
        """
        with self._lock:
            if self._arena is not None:
                slot = self._arena.append(data)
                if slot >= 0:
                    return self._arena, slot
            self._seal()
            if self._closed:
                raise FileNotFoundError(errno.ENOENT, "this has been closed")
            arena = self._arena = _NewArena(self._directory)
            slot = arena.append(data)
        if slot < 0:
            raise FileNotFoundError(errno.ENOENT, "the directory is being removed")
        return arena, slot

    def trim(self) -> bool:
        """Give back an arena that holds nothing and is not used; return whether there is one."""
        with self._lock:
            arena = self._arena
            if arena is None:
                return False
            now = time.monotonic()
            if arena.slots != arena.seen or arena.in_use:
                arena.seen, arena.since = arena.slots, now
            elif now - arena.since > _IDLE:
                self._seal()
        return self._arena is not None

    def make_room(self) -> None:
        """Give back an arena that holds nothing."""
        with self._lock:
            if self._arena is not None and not self._arena.in_use:
                self._seal()

    def close(self) -> None:
        """Seal what is being filled, and store nothing more."""
        with self._lock:
            self._closed = True
            self._seal()

    def _seal(self) -> None:
        arena, self._arena = self._arena, None
        if arena is not None:
            arena.seal()


def end(name: str, directory: int) -> None:
    """Make an arena look empty to everybody who has it mapped; anything else is left alone.

    Parameters
    ----------
    name
        Its file's name.
    directory
        Descriptor of its directory.
    """
    with contextlib.suppress(OSError):
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            if os.fstat(fd).st_size == SIZE:
                os.pwrite(fd, bytes(_ENTRIES), 0)
        finally:
            os.close(fd)


def remove_orphans(directory: Descriptor) -> None:
    """Seal arenas that nobody fills, and remove those without objects: their writers were killed.

    Parameters
    ----------
    directory
        The directory they lie in.
    """
    for name in names(directory.fd):
        if name.startswith(PREFIX):
            # In use, gone in the meantime, or none of ours.
            with contextlib.suppress(OSError):
                _remove_orphan(name.removeprefix(PREFIX), directory)


def _remove_orphan(name: str, directory: Descriptor) -> None:
    with _locked(name, directory):
        try:
            arena = Arena.open(name, directory)
        except FileNotFoundError:
            # Its writer did not come so far as to make it an arena.
            os.unlink(PREFIX + name, dir_fd=directory.fd)
            return
        # Whoever has it mapped sees that too, and lets go of it.
        arena.seal()
        arena.close()


@contextlib.contextmanager
def _locked(name: str, directory: Descriptor) -> Iterator[None]:
    """Hold an arena's lock; OSError if its writer does, or if there is no such file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(PREFIX + name, flags, dir_fd=directory.fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
