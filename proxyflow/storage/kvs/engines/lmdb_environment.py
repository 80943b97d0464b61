"""One LMDB environment for each directory and process: opened late, grown, and closed for forks.

What LMDB asks for (http://www.lmdb.tech/doc/) is kept here: an environment is opened once in a
process, is not carried across fork(), and its map is resized while no transaction runs.
"""

from __future__ import annotations

import errno
import os
import resource
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from proxyflow.storage.kvs import fork
from proxyflow.storage.kvs.engines.lmdb_reserve import Reserve
from proxyflow.storage.kvs.errors import (
    AccessDeniedError,
    DamagedError,
    KVSError,
    MissingLibraryError,
    StorageFullError,
    UnreachableError,
)

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Environment", "environment_at"]

T = TypeVar("T")

# Address space only; the file is as large as what it holds.
FIRST_MAP_BYTES = 256 * 1024 * 1024

# Transactions that read at the same time, of all processes together.
MAX_READERS = 2048

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _lmdb() -> ModuleType:
    try:
        import lmdb
    except ImportError as error:
        raise MissingLibraryError(
            "lmdb:// needs the package lmdb", remedy="pip install 'proxyflow[lmdb]'"
        ) from error
    return lmdb


class _Gate:
    """Lets many in together, or one alone."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._inside = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                self._free.notify_all()

    def close(self) -> None:
        """Let nobody in, and wait until nobody is inside."""
        with self._free:
            self._free.wait_for(lambda: not self._alone)
            self._alone = True
            self._free.wait_for(lambda: not self._inside)

    def open(self) -> None:
        with self._free:
            self._alone = False
            self._free.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self.open()


class Environment:
    """The transactions of one directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.url = f"lmdb://{path}"
        self.reserve = Reserve(path)
        self._lmdb = _lmdb()
        self._gate = _Gate()
        self._env: Any = None
        self._users = 0
        fork.track(self)

    # -- transactions -----------------------------------------------------------------------

    def run(self, body: Callable[[Any], T], *, write: bool) -> T:
        """Return what `body` makes of a transaction; it is committed, or aborted if it raises.

        `body` is called again if the map had to grow first.
        """
        lmdb = self._lmdb
        while True:
            self._open()
            map_bytes = 0
            try:
                with self._gate.shared():
                    if self._env is None:
                        continue  # closed for a fork in this instant
                    map_bytes = self._env.info()["map_size"]
                    return self._transact(body, write)
            except lmdb.MapFullError:
                # Pages that a killed reader was looking at are kept until its slot is cleared.
                if not self.clear_dead_readers():
                    self._resize(map_bytes, 2 * map_bytes)
            except lmdb.MapResizedError:
                # Another process has grown it; 0 takes over its size.
                self._resize(map_bytes, 0)
            except lmdb.ReadersFullError as error:
                if not self.clear_dead_readers():
                    raise self._translated(error) from error
            except lmdb.Error as error:
                raise self._translated(error) from error

    def _transact(self, body: Callable[[Any], T], write: bool) -> T:
        # A frame of its own: once the gate is left, nothing may hold on to the transaction.
        with self._env.begin(write=write, buffers=True) as transaction:
            return body(transaction)

    def check_room(self, transaction: Any, *, refill: bool) -> None:
        """Refuse, from within it, a transaction that takes the room removals need."""
        self.reserve.check(self._env, transaction, refill=refill)

    def clear_dead_readers(self) -> int:
        """Give back the slots of killed processes, and the pages they held; return how many."""
        self._open()
        with self._gate.shared():
            return 0 if self._env is None else int(self._env.reader_check())

    # -- opening, growing, closing ----------------------------------------------------------

    def _open(self) -> None:
        if self._env is not None:
            return
        with self._gate.alone():
            if self._env is None:
                self._env = self._opened()

    def _opened(self) -> Any:
        try:
            env = self._lmdb.open(
                self.path, map_size=FIRST_MAP_BYTES, max_readers=MAX_READERS, mode=0o600
            )
        except self._lmdb.Error as error:
            raise self._translated(error) from error
        env.reader_check()
        return env

    def _resize(self, seen: int, size: int) -> None:
        with self._gate.alone():
            if self._env is None or self._env.info()["map_size"] != seen:
                return  # somebody else was here first
            try:
                self._env.set_mapsize(size)
            except self._lmdb.Error as error:
                # The old map is gone as well; the next transaction opens it anew.
                self._close()
                raise self._translated(error) from error

    def _close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def acquire(self) -> None:
        """Count one more handle."""
        self._users += 1

    def release(self) -> None:
        """Count one handle less; the last one closes the environment."""
        with _opening:
            self._users -= 1
            if self._users == 0:
                with self._gate.alone():
                    self._close()

    # -- forking ----------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close the environment, to be opened again on both sides.

        A child that inherited it could neither use nor close it: closing would free the slots in
        which the parent's readers are registered, and writers reuse the pages they still look at.
        """
        self._gate.close()
        self._close()

    def after_fork_in_parent(self) -> None:
        """Let transactions in again; the first one opens the environment."""
        self._gate.open()

    def after_fork_in_child(self) -> None:
        """Begin with a gate of its own: those who wait at this one are threads of the parent."""
        self._gate = _Gate()

    # -- errors -----------------------------------------------------------------------------

    def _translated(self, error: Exception) -> KVSError:
        lmdb = self._lmdb
        text = str(error)
        damaged = (
            lmdb.CorruptedError,
            lmdb.InvalidError,
            lmdb.PageNotFoundError,
            lmdb.PanicError,
            lmdb.VersionMismatchError,
        )
        if isinstance(error, damaged):
            return DamagedError(f"the database is damaged or none at all: {text}", store=self.url)
        if isinstance(error, lmdb.ReadersFullError):
            return KVSError("too many transactions are reading at once", store=self.url)
        # LMDB passes on the system's errors by their text alone.
        if any(os.strerror(number) in text for number in FULL) or self._is_short_write(text):
            return StorageFullError(
                f"the commit does not fit: {text}", store=self.url, remedy="free some space"
            )
        if os.strerror(errno.EACCES) in text or os.strerror(errno.EROFS) in text:
            return AccessDeniedError(text, store=self.url)
        return KVSError(f"LMDB failed: {text}", store=self.url)

    def _is_short_write(self, text: str) -> bool:
        """Tell whether an I/O error means that a commit was written in part for lack of room."""
        if os.strerror(errno.EIO) not in text:
            return False
        disk = os.statvfs(self.path)
        used = os.stat(os.path.join(self.path, "data.mdb")).st_size
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        room = disk.f_bavail * disk.f_frsize
        if limit != resource.RLIM_INFINITY:
            room = min(room, limit - used)
        return room < NEARLY_FULL_BYTES


# Less than this after a failed write is no room: the write that failed took what there was.
NEARLY_FULL_BYTES = 1024 * 1024

_environments: weakref.WeakValueDictionary[tuple[int, int], Environment] = (
    weakref.WeakValueDictionary()
)
_opening = threading.Lock()


def _forget_opening() -> None:
    # A thread of the parent may have held the lock.
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_forget_opening)


def environment_at(path: str) -> Environment:
    """Return the process's environment for a directory, which is made if it is missing."""
    path = os.path.abspath(path)
    url = f"lmdb://{path}"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
    except PermissionError as error:
        raise AccessDeniedError(str(error), store=url) from error
    except OSError as error:
        raise UnreachableError(f"no directory can be made there: {error}", store=url) from error
    with _opening:
        key = (status.st_dev, status.st_ino)
        environment = _environments.get(key)
        if environment is None:
            environment = _environments[key] = Environment(path)
        environment.acquire()
        return environment
