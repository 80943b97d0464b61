"""Files of removed objects, left to whichever process of the session stores something next.

A task's result is written by one process and removed by another one. The pages of what a process
has written itself it uses again (`proxyflow.storage.segments`); these would go, and the next result
would have to wait for fresh ones. So a removed file gets one of a few names, its *place*, under
which whoever needs it may claim it.

Nothing depends on a file in a place: it may be removed at any time, by anybody. Who claims one
locks it exclusively, so that it is nobody's mapping; gives it a name of its own; and then looks
whether that name stands for what was locked, as in between another file may have got the place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

__all__ = ["Handover"]

_PLACES = tuple(f".left-{number}" for number in range(8))
# Below this size fresh pages cost less than looking for used ones.
_LEAST = 1 << 20
_BLOCK = 512  # what `st_blocks` counts, whatever the file system's own blocks are


class Handover:
    """The places of one directory.

    Parameters
    ----------
    directory
        Its descriptor.
    capacity
        How many bytes to leave in all of them together.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path:
    ...     directory = os.open(path, os.O_RDONLY)
    ...     handover = Handover(directory, capacity=4 << 20)
    ...     with open(f"{path}/an-object", "wb") as file:
    ...         written = file.write(bytes(2 << 20))
    ...     handover.leave("an-object", through="removed")
    ...     os.listdir(path)
    ...     fd, nbytes = handover.claim(1 << 20, 2 << 20, as_name="mine")
    ...     os.listdir(path), nbytes == written
    ...     os.close(fd)
    ...     os.close(directory)
    True
    ['.left-0']
    (['mine'], True)
    """

    def __init__(self, directory: int, capacity: int) -> None:
        self._directory = directory
        self._capacity = capacity

    def leave(self, name: str, *, through: str) -> bool:
        """Remove a file by giving it a place; return False, and let it be, if there is none for it.

        Parameters
        ----------
        name
            What it is called.
        through
            What it is called on its way: a name that means nothing to anybody.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """
        size = self._status(name).st_size
        if not _LEAST <= size <= self._capacity:
            return False
        found = self._occupied()
        place = next((place for place in _PLACES if place not in found), None)
        if place is None or size + sum(s.st_size for s in found.values()) > self._capacity:
            return False
        # Whoever claims it must not find it under its own name any more.
        self._rename(name, through)
        try:
            # A link, as a new name would replace what somebody else may have left there by now. One
            # who needed the room may have removed this, and a link takes room for a file itself.
            with contextlib.suppress(OSError):
                os.link(through, place, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        finally:
            self._remove(through)
        return True

    def claim(self, least: int, most: int, *, as_name: str) -> tuple[int, int] | None:
        """Take a file that nobody maps out of its place.

        Parameters
        ----------
        least, most
            How many bytes it is to have.
        as_name
            The name it gets.

        Returns
        -------
        tuple of int, or None
            Its descriptor, locked exclusively, and its size; None if there is none.
        """
        if least < _LEAST:
            return None
        for place in _PLACES:
            fd = self._lock(place, least, most)
            if fd is None:
                continue
            if self._take(place, fd, as_name):
                return fd, os.fstat(fd).st_size
            os.close(fd)
        return None

    def _lock(self, place: str, least: int, most: int) -> int | None:
        try:
            fd = os.open(place, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        status = os.fstat(fd)
        # All of its pages are there: copying to where one is missing kills when memory is full.
        if least <= status.st_size <= min(most, status.st_blocks * _BLOCK):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
        os.close(fd)
        return None

    def _take(self, place: str, fd: int, name: str) -> bool:
        try:
            self._rename(place, name)
            if os.path.samestat(self._status(name), os.fstat(fd)):
                return True
        except FileNotFoundError:
            # One who needed the room has removed it, in its place or under its new name.
            return False
        self._remove(name)
        return False

    def trim(self, idle: float) -> bool:
        """Remove what was left more than so many seconds ago; return whether anything is there."""
        found = self._occupied()
        before = time.time() - idle
        # Its change of name was its last one.
        old = [place for place, status in found.items() if status.st_ctime < before]
        for place in old:
            self._remove(place)
        return len(old) < len(found)

    def clear(self) -> None:
        """Remove everything."""
        for place in _PLACES:
            self._remove(place)

    def _occupied(self) -> dict[str, os.stat_result]:
        found = {}
        for place in _PLACES:
            with contextlib.suppress(FileNotFoundError):
                found[place] = self._status(place)
        return found

    def _status(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._directory, follow_symlinks=False)

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)
