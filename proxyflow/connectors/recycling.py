"""Sessions in shared memory use the pages of removed objects again: which, how many, how long."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

from proxyflow.connectors.trimming import trimming
from proxyflow.forking import renew_in_child
from proxyflow.storage.arena import Arena, ArenaWriter, remove_orphans
from proxyflow.storage.segment import finish_closing
from proxyflow.storage.segments import SegmentPool

if TYPE_CHECKING:
    from proxyflow.storage.copying import Source
    from proxyflow.storage.fileio import Descriptor
    from proxyflow.storage.segment import Segment

__all__ = ["Recycler", "default_capacity"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The part of what is free that may be kept for the next object.
_SHARE = 4
# Seconds between two looks at what the dead have left.
_ORPHANS_EVERY = 30.0

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def default_capacity(directory: str) -> int:
    """Return how many bytes to keep for the next object: a quarter of what is free.

    Free is what the file system, the host and the container all have left.
    """
    return min([shutil.disk_usage(directory).free, *_free_memory()]) // _SHARE


def _free_memory() -> list[int]:
    found = []
    with contextlib.suppress(OSError), open("/proc/meminfo") as meminfo:
        fields = dict(line.split(":", 1) for line in meminfo)
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    for limit, usage in _CGROUP_FILES:
        # Missing, or "max" where there is no limit.
        with contextlib.suppress(OSError, ValueError), open(limit) as most, open(usage) as used:
            found.append(max(0, int(most.read()) - int(used.read())))
    return found


class Recycler:
    """Writes the objects of one session's directory, and keeps their pages when they are gone.

    Parameters
    ----------
    directory
        The session's directory.
    capacity
        How many bytes to keep at most.

    Attributes
    ----------
    directory : Descriptor
        The session's directory.
    """

    def __init__(self, directory: Descriptor, capacity: int) -> None:
        self.directory = directory
        self._looked_for_orphans = time.monotonic()
        self._pool = SegmentPool(directory.fd, capacity)
        self._writer = ArenaWriter(directory)
        self._lock = threading.RLock()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Leave the parent's segments to the parent."""
        self._pool.forget()
        self._writer.forget()
        self._lock = threading.RLock()

    def write(self, name: str, source: Source, *, keep: bool) -> None:
        """Store an object under a name; a reader sees all of it or nothing.

        Parameters
        ----------
        name
            The name.
        source
            The object.
        keep
            Whether this process is the one to remove it, and keeps its pages then.

        Raises
        ------
        OSError
            If there is no room.
        """
        try:
            self._write(name, source, keep)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._make_room()
            self._write(name, source, keep)
        trimming.add(self)

    def _make_room(self) -> None:
        with self._lock:
            self._pool.make_room()
        finish_closing()
        self._writer.make_room()
        remove_orphans(self.directory)
        # Whoever has mapped what is now removed keeps its pages.
        trimming.look()

    def _write(self, name: str, source: Source, keep: bool) -> None:
        while not self._has_written(name, source, keep):
            # Another process of the session, which needed the room, took it for an orphan.
            continue

    def _has_written(self, name: str, source: Source, keep: bool) -> bool:
        with self._lock:
            segment = self._pool.take(source.nbytes)
        try:
            segment.fill(source)
            return self._has_published(segment, name, keep)
        except BaseException:
            self._pool.discard(segment, name)
            raise

    def _has_published(self, segment: Segment, name: str, keep: bool) -> bool:
        try:
            with self._lock:
                self._pool.publish(segment, name, keep=keep)
        except FileNotFoundError:
            segment.close()
            return False
        return True

    def pack(self, data: bytes) -> tuple[Arena, int]:
        """Store a small object with others; return the arena and the slot.

        Raises
        ------
        OSError
            If there is no room.
        """
        return self._writer.put(data)

    def remove(self, name: str) -> None:
        """Remove an object, so that its pages are used again if that is worth it.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        """
        if self._pool.withdraw(name):
            return
        if self._pool.leave(name):
            trimming.add(self)
        else:
            os.unlink(name, dir_fd=self.directory.fd)

    def trim(self) -> bool:
        """Give back what has not been used for a while; return whether there may be more."""
        with self._lock:
            more = self._pool.trim() | self._writer.trim()
            # The last look may be the last for long.
            if not more or time.monotonic() - self._looked_for_orphans > _ORPHANS_EVERY:
                self._looked_for_orphans = time.monotonic()
                with contextlib.suppress(FileNotFoundError):
                    self._pool.remove_orphans()
                    remove_orphans(self.directory)
        return more

    def close(self) -> None:
        """Let go of everything, and remove what is free."""
        trimming.discard(self)
        self._writer.close()
        with self._lock:
            self._pool.close()
