"""One object's file, opened for reading: copied or mapped, and never something else's bytes."""

from __future__ import annotations

import os

from proxyflow.storage import fileio
from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.populating import populate_ahead
from proxyflow.storage.segment import lease, still_named

__all__ = ["ObjectFile"]

# Below this size reading into fresh memory is faster than setting up and tearing down a mapping.
_MAP_FROM = 64 * 1024


class ObjectFile:
    """One object's file, opened for reading.

    In a file system kept in memory the file may be recycled while it is read
    (`proxyflow.storage.segments`). So it is leased before it is mapped or copied, and stays as it
    is; what has been read counts only if the name still stands for the file then. That alone would
    not do for a copy: before Linux 6.13 times are those of the last tick, and a file that got
    another content and the same name within one looks as if it were untouched.

    Parameters
    ----------
    fd
        The file.
    status
        Its status.
    name, directory
        What it was opened as.
    recycled
        Whether it may be recycled.
    """

    __slots__ = ("_directory", "_fd", "_name", "_recycled", "_status")

    def __init__(
        self,
        fd: int,
        status: os.stat_result,
        name: str,
        directory: Descriptor,
        *,
        recycled: bool,
    ) -> None:
        self._fd = fd
        self._status = status
        self._name = name
        self._directory = directory
        self._recycled = recycled

    def __enter__(self) -> ObjectFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    def read(self) -> bytes | None:
        """Return a copy of the object; None if it has been removed."""
        if not self._lease():
            return None
        data = fileio.read(self._fd)
        return data if self._is_the_object() else None

    def view(self) -> memoryview | None:
        """Return the object as private, writable memory, mapped if it is large.

        None if it has been removed.
        """
        if not self._lease():
            return None
        size = self._status.st_size
        view = self._map(size) if size >= _MAP_FROM else None
        if view is None:
            view = memoryview(bytearray(size))
            fileio.read_into(self._fd, view)
        return view if self._is_the_object() else None

    def _lease(self) -> bool:
        """Keep the file as it is; False if it is being filled anew, or has been since."""
        if not self._recycled:
            return True
        return lease(self._fd) and os.fstat(self._fd).st_size == self._status.st_size

    def _map(self, size: int) -> memoryview | None:
        """Return a mapping; None if there are too many."""
        view = fileio.mappings.map(self._fd, size, keep=self._recycled)
        if view is not None and self._recycled:
            # All of it is in memory.
            populate_ahead(view)
        return view

    def _is_the_object(self) -> bool:
        return not self._recycled or still_named(self._status, self._name, self._directory.fd)
