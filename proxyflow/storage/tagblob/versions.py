"""A small object that any number of processes change atomically.

It is kept as numbered versions in a directory: who creates number N+1 first has changed version N,
and everybody else starts again from there. The highest number is the object. Exclusive creation is
all this needs, so it is right on local disks and on object stores alike; where the area has locks,
they spare the repetition.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from .area import Area, present, reported
from .errors import Unavailable
from .names import hash_dir

__all__ = ["LockHeld", "Version", "Versions"]

#: Older versions beyond this many go as newer ones come, so that directories stay small.
KEEP = 4
#: Where nothing locks, how old a superseded version must be to go. A writer creates its version
#: within `_FRESH` seconds of loading the one before; the rest is for the request itself.
SETTLED = 3600.0
_FRESH = 60.0
_PATIENCE = 60.0
#: Between attempts; long enough for eight writers to take turns rather than to trip each other.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0


class LockHeld(Exception):  # noqa: N818 - never leaves the package
    """Somebody else is changing the object, and who asked does not want to wait."""


class Version(NamedTuple):
    """One stored version; number 0 with no data stands for "never written"."""

    number: int
    data: bytes | None


class Versions:
    """The versioned objects below one area.

    Parameters
    ----------
    area
        Where they are.
    wait
        Whether a change waits while somebody else makes one, or raises LockHeld.

    Examples
    --------
    >>> import tempfile
    >>> from .area_local import LocalArea
    >>> with tempfile.TemporaryDirectory() as root:
    ...     versions = Versions(LocalArea(root))
    ...     _ = versions.change("counter", lambda data: b"%d" % (int(data or b"0") + 1))
    ...     versions.change("counter", lambda data: b"%d" % (int(data or b"0") + 1))
    Version(number=2, data=b'2')
    """

    def __init__(self, area: Area, *, wait: bool = True) -> None:
        self.area = area
        self._wait = wait

    def load(self, directory: str) -> Version:
        """Return the highest version."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with present(self.area.url, directory):
                number = self._highest(directory)
                if number == 0:
                    return Version(0, None)
                # The file goes when four writers were faster than this reader: look again.
                with suppress(FileNotFoundError):
                    return Version(number, self.area.read(_path(directory, number)))
            if time.monotonic() > deadline:
                raise Unavailable("too many writers", store=self.area.url, name=directory)

    def change(self, directory: str, change: Callable[[bytes | None], bytes | None]) -> Version:
        """Replace an object's data by what `change` makes of it.

        `change` gets ``None`` for an object never written, returns ``None`` to leave the object as
        it is, and may run several times.

        Raises
        ------
        Unavailable
            Other writers were faster for a whole minute.
        LockHeld
            Another writer is at work, and nobody wants to wait.
        """
        deadline = time.monotonic() + _PATIENCE
        pause = _FIRST_PAUSE
        with (
            present(self.area.url, directory),
            self.area.lock(hash_dir(directory), wait=self._wait) as is_held,
        ):
            if not is_held:
                raise LockHeld
            loaded = time.monotonic()
            current = self.load(directory)
            while True:
                data = change(current.data)
                if data is None:
                    return current
                fresh = self.area.locks or time.monotonic() - loaded < _FRESH
                if fresh and self._commit(directory, current.number + 1, data):
                    return Version(current.number + 1, data)
                if time.monotonic() > deadline:
                    raise Unavailable("too many writers", store=self.area.url, name=directory)
                time.sleep(random.uniform(0, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
                loaded = time.monotonic()
                current = self.load(directory)

    def discard(self, directory: str, check: Callable[[bytes | None], object]) -> None:
        """Remove an object with all its versions, as if it had never been written.

        Only where locks keep writers apart: the numbers become free again.

        Parameters
        ----------
        check
            Gets the current data, and raises to leave the object as it is.

        Raises
        ------
        LockHeld
            As for `change`.
        """
        with (
            present(self.area.url, directory),
            self.area.lock(hash_dir(directory), wait=self._wait) as is_held,
        ):
            if not is_held:
                raise LockHeld
            check(self.load(directory).data)
            # Oldest first: a reader sees the newest until that goes too, and never an older one.
            self.area.remove(_path(directory, number) for number in self.all(directory))
            self.area.remove_directory(directory)

    def all(self, directory: str) -> list[int]:
        """Return the numbers of the versions still stored, oldest first."""
        with present(self.area.url):
            return sorted(int(name, 16) for name in self.area.names(directory))

    def read(self, directory: str, number: int) -> bytes:
        """Return one stored version; FileNotFoundError when it is gone."""
        with reported(self.area.url, directory):
            return self.area.read(_path(directory, number))

    def _highest(self, directory: str) -> int:
        names = self.area.names(directory)
        return int(max(names), 16) if names else 0

    def _commit(self, directory: str, number: int, data: bytes) -> bool:
        try:
            self.area.create(_path(directory, number), data)
        except FileExistsError:
            return False
        if number % KEEP == 0:
            self._clear(directory, number - KEEP)
        return True

    def _clear(self, directory: str, last: int) -> None:
        """Remove the versions up to `last` that no slow writer can still be about to succeed."""
        if self.area.locks:
            old = (name for name in self.area.names(directory) if int(name, 16) <= last)
            self.area.remove(f"{directory}/{name}" for name in old)
            return
        numbered = ((int(e.path.rsplit("/", 1)[1], 16), e) for e in self.area.scan(directory))
        self.area.remove(
            entry.path
            for number, entry in numbered
            if number <= last and self.is_settled(entry.modified)
        )

    def is_settled(self, modified: float) -> bool:
        """Tell whether a superseded version may be removed.

        Its number becomes free again, and a writer without a lock that loaded the version before
        would succeed in creating it. So where nothing locks, it stays until no such writer can be
        left.
        """
        return self.area.locks or modified < time.time() - SETTLED


def _path(directory: str, number: int) -> str:
    # Fixed width, so that the order of names is the order of numbers.
    return f"{directory}/{number:012x}"
