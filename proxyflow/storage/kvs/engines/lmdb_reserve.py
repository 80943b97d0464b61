"""Room that is kept for removing: in LMDB that takes pages before it gives any back.

A transaction that removes something copies the pages on the way to it. Where the disk is full there
are none, and what would make room could not be done. So a file beside the database holds some room:
a removal that meets a full disk lets go of it and is done again. What is added may not take that
room: it goes to the reserve again first, and what the reserve lacks then has to be free within the
database, which never gets smaller.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from proxyflow.storage.kvs.errors import StorageFullError

__all__ = ["Reserve"]

LARGEST_BYTES = 16 * 1024 * 1024
# Of the whole disk.
SHARE = 32
PAGE_BYTES = 4096

_FULL = (errno.ENOSPC, errno.EDQUOT)
_META_PAGES = 2


class Reserve:
    """The room that is kept beside the database in `directory`, for all its processes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     reserve = Reserve(directory)
    ...     empty = reserve.lacks() > 0
    ...     reserve.refill()
    ...     empty, reserve.lacks()
    (True, 0)
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, "reserve")
        self._impossible = False
        self._size = 0

    def lacks(self) -> int:
        """Return how many bytes are not there that should be."""
        if self._impossible:
            return 0
        if not self._size:
            disk = os.statvfs(self._directory)
            share = disk.f_blocks * disk.f_frsize // SHARE
            self._size = min(LARGEST_BYTES, share // PAGE_BYTES * PAGE_BYTES)
        return max(0, self._size - self._held())

    def _held(self) -> int:
        try:
            return os.stat(self._path).st_size
        except FileNotFoundError:
            return 0

    def refill(self) -> None:
        """Take what is lacking, or as much of it as there is."""
        lacking = self.lacks()
        lacking = lacking and min(lacking, self._room())
        if not lacking:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            # No room even for its name, or no descriptor.
            return
        try:
            os.posix_fallocate(fd, self._held(), lacking)
        except OSError as error:
            # Where files cannot be made so, or not so large, there is no reserve.
            self._impossible = error.errno not in _FULL
        finally:
            os.close(fd)

    def _room(self) -> int:
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize // PAGE_BYTES * PAGE_BYTES

    def release(self) -> None:
        """Give the room away: called with a writing transaction open, to which it goes then."""
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)

    def check(self, environment: Any, transaction: Any, *, refill: bool) -> None:
        """Refuse a transaction that adds something if too little would be left for removals.

        With `refill` the reserve takes first what it lacks of the disk.

        Raises
        ------
        StorageFullError
            If the reserve is not whole, and what it lacks is not free within the database.
        """
        if refill:
            self.refill()
        lacking = self.lacks()
        if lacking and _free_bytes(environment, transaction) < lacking:
            raise StorageFullError(
                "no room is left but what removing takes",
                store=f"lmdb://{self._directory}",
                remedy="free some space",
            )


def _free_bytes(environment: Any, transaction: Any) -> int:
    """Return how much of the database's file will hold nothing."""
    used = transaction.stat(environment.open_db(None, txn=transaction, create=False))
    pages = used["branch_pages"] + used["leaf_pages"] + used["overflow_pages"] + _META_PAGES
    return int((environment.info()["last_pgno"] + 1 - pages) * used["psize"])
