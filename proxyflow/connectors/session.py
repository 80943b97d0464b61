"""A session as a directory: everything one run stored, and whose it is.

Layout of a store's root directory::

    ROOT/
      .made-by-proxyflow    so it is removed with its last session
      k3v5qa2mbx/           one session
        .owner              its record; the owner holds a lock on this file while it lives
        r1bz...             objects
      .new-c5w2...          a session being made
      .old-x7dq...          a session being removed

Both steps that matter are a single rename: a session appears with its owner's lock already held,
so nobody takes it for an orphan while it is born; and it is out of reach, and recognisable as
waste, before its first object goes.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import shutil
import stat

from proxyflow.connectors.owner import (
    RECORD,
    locks,
    new_record,
    read_record,
    try_lock,
    write_record,
)
from proxyflow.connectors.root import MOST_REMOVALS, make_root, remove_root, vanishes
from proxyflow.errors import StoreClosedError, StoreError, StoreFullError, StoreUnreachableError
from proxyflow.periodic import Periodic
from proxyflow.storage import arena
from proxyflow.storage.fileio import Descriptor, names

__all__ = [
    "NEW",
    "OLD",
    "SESSION_NAME",
    "SessionDirectory",
    "SessionHold",
    "new_name",
    "no_session",
    "open_directory",
    "private_directory",
    "remove_session",
    "unreachable",
]

SESSION_NAME = re.compile(r"[a-z2-7]{10}")
NEW = ".new-"
OLD = ".old-"

# How often an owner touches its record, for hosts that cannot see its lock (seconds).
RENEWAL = 60.0


def new_name(length: int) -> str:
    """Return a random name in lower-case base 32, 5 bits a character."""
    return base64.b32encode(os.urandom(length))[:length].decode().lower()


def no_session(name: str, store: object) -> StoreClosedError:
    """Return the error of what cannot be the name of a session."""
    return StoreClosedError(
        f"not the name of a session: {name!r}",
        store=store,
        remedy="what follows the # in a URL is one; copy all of the store's name",
    )


class SessionDirectory:
    """One session's directory, owned or joined.

    Use :meth:`create` or :meth:`join`; :meth:`opened` gives a descriptor of the directory, so that
    names in it are looked up without walking the path again, and cannot be led elsewhere by a
    symlink.
    """

    def __init__(self, root: str, name: str, fd: int, lock: int | None = None) -> None:
        self.root = root
        self.name = name
        self._descriptor: Descriptor | None = Descriptor(fd)
        self._lock = lock
        self._pid = os.getpid()

    @classmethod
    def create(
        cls, root: str, *, name: str | None = None, keep: bool = False, durable: bool = False
    ) -> SessionDirectory:
        """Start a session in `root` and own it.

        Parameters
        ----------
        root
            The store's directory; made (mode 0700) when missing.
        name
            The session's name; by default a new one.
        keep
            Whether the session outlives its owner: nobody sweeps it.
        durable
            Whether the session's directory has reached the disk on return.

        Raises
        ------
        StoreUnreachableError
            If the directory cannot be made or written.
        StoreFullError
            If there is no room even for the record.
        """
        try:
            return cls._create(root, name or new_name(10), keep, durable)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFullError(
                    "no room to start a session",
                    store=root,
                    remedy="free some space there, or choose another directory",
                ) from error
            raise unreachable("start a session", root, error) from error

    @classmethod
    def _create(cls, root: str, name: str, keep: bool, durable: bool) -> SessionDirectory:
        unfinished = _make_unfinished(root, name)
        lock = fd = -1
        try:
            lock = locks.open(os.path.join(unfinished, RECORD), os.O_CREAT | os.O_EXCL | os.O_RDWR)
            try_lock(lock, shared=True)
            write_record(lock, new_record(keep=keep))
            fd = open_directory(unfinished)
            if durable:
                os.fsync(lock)
            os.rename(unfinished, os.path.join(root, name))
            if durable:
                _sync(root)
        except BaseException:
            for descriptor, close in ((fd, os.close), (lock, locks.close)):
                if descriptor >= 0:
                    close(descriptor)
            shutil.rmtree(unfinished, ignore_errors=True)
            remove_root(root)
            raise
        directory = cls(root, name, fd, lock)
        _owned.add(directory)
        return directory

    @classmethod
    def join(cls, root: str, name: str) -> SessionDirectory:
        """Open a session that another process owns.

        Raises
        ------
        StoreClosedError
            If there is no such session any more.
        StoreUnreachableError
            If the directory cannot be opened from here, or belongs to another user.
        """
        if not SESSION_NAME.fullmatch(name):
            raise no_session(name, root)
        try:
            fd = open_directory(os.path.join(root, name))
        except FileNotFoundError:
            raise StoreClosedError(
                f"session {name} has ended, or its directory is not on this host",
                store=root,
                remedy="keep the store open while proxies are in use, and use a directory that "
                "every process of the run can reach",
            ) from None
        except OSError as error:
            raise unreachable(f"join session {name}", root, error) from error
        if os.geteuid() not in (0, os.fstat(fd).st_uid):
            # Whoever may rename things in the root could put a directory in the session's place,
            # and what is in it gets unpickled.
            os.close(fd)
            raise StoreUnreachableError(f"session {name} belongs to another user", store=root)
        return cls(root, name, fd)

    @classmethod
    def hold(cls, root: str, name: str) -> SessionDirectory:
        """Open a session that another process owns, and own it as well.

        It then ends when the last of its owners closes it or dies.

        Raises
        ------
        StoreClosedError
            If the session has ended, or is being removed right now.
        StoreUnreachableError
            If the directory cannot be opened, or its file system has no locks.
        """
        directory = cls.join(root, name)
        gone = StoreClosedError(f"session {name} is being removed", store=root)
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW
            lock = directory._lock = locks.open(RECORD, flags, directory.opened().fd)
        except OSError as error:
            raise gone from error
        _owned.add(directory)
        locked = try_lock(lock, shared=True)
        # Whoever removes a session unlinks the record under an exclusive lock: one that was opened
        # just before is nobody's any more.
        if not locked or os.fstat(lock).st_nlink == 0:
            directory._let_go()
            raise (
                gone
                if locked is not None
                else StoreUnreachableError("the file system has no locks", store=root)
            )
        return directory

    @property
    def owner(self) -> bool:
        """Whether this object ends the session; never true in a forked child."""
        return self._lock is not None and self._pid == os.getpid()

    @property
    def closed(self) -> bool:
        """Whether the directory has been let go of."""
        return self._descriptor is None

    def opened(self) -> Descriptor:
        """Return the directory's descriptor, to be held for as long as its number is used.

        Raises
        ------
        StoreClosedError
            If the directory has been let go of.
        """
        descriptor = self._descriptor
        if descriptor is None:
            raise StoreClosedError("the store has been closed", store=self.root)
        return descriptor

    def close(self, *, remove: bool = True) -> None:
        """Let go of the directory.

        Parameters
        ----------
        remove
            Whether the last owner removes it with everything in it; if not, it stays until
            somebody removes it by hand.

        Raises
        ------
        StoreUnreachableError
            If it cannot be removed.
        """
        descriptor = self._descriptor
        if descriptor is None:
            return
        try:
            if self.owner and remove:
                if self._is_last_owner():
                    remove_session(self.root, self.name, descriptor.fd)
                    remove_root(self.root)
            elif self.owner and self._lock is not None:
                write_record(self._lock, new_record(keep=True))
        except OSError as error:
            raise unreachable(f"end session {self.name}", self.root, error) from error
        finally:
            self._let_go()

    def _is_last_owner(self) -> bool:
        """Return whether no other process holds the session; the lock is then exclusive."""
        assert self._lock is not None
        # Where there are no locks nobody holds a session but the process that started it.
        return try_lock(self._lock) is not False

    @property
    def kept(self) -> bool:
        """Whether the session is to outlive its owners."""
        return self._lock is not None and bool((read_record(self._lock) or {}).get("keep"))

    def _let_go(self) -> None:
        self._descriptor = None
        _owned.discard(self)
        self._release_lock()

    def _release_lock(self) -> None:
        lock, self._lock = self._lock, None
        # In a forked child the number may be another file's by now.
        if lock is not None and self._pid == os.getpid():
            locks.close(lock)

    def touch(self) -> None:
        """Tell other hosts that the owner lives."""
        if self.owner and self._lock is not None:
            os.utime(self._lock)


class SessionHold:
    """Keeps a session alive from outside: it ends with this hold or its owner, the later one.

    Parameters
    ----------
    roots
        The directories the session has a part in.
    name
        Name of the session.

    Raises
    ------
    StoreClosedError
        If the session has ended.
    StoreUnreachableError
        If it cannot be held from here.
    """

    def __init__(self, roots: list[str], name: str) -> None:
        self._directories: list[SessionDirectory] = []
        try:
            for root in roots:
                self._directories.append(SessionDirectory.hold(root, name))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go; removes the session if nobody else holds it. Closing twice is no error."""
        for directory in self._directories:
            directory.close(remove=not directory.kept)


class _OwnedSessions:
    """The sessions this process owns; their records are renewed while there are any."""

    def __init__(self, interval: float = RENEWAL) -> None:
        self._sessions: set[SessionDirectory] = set()
        self._renewal = Periodic("proxyflow-session-renewal", interval, self._renew)

    def add(self, session: SessionDirectory) -> None:
        self._sessions.add(session)
        self._renewal.ensure_running()

    def discard(self, session: SessionDirectory) -> None:
        self._sessions.discard(session)

    def _renew(self) -> bool:
        for session in list(self._sessions):
            # A record that cannot be touched now is tried again; the lease is long.
            with contextlib.suppress(OSError):
                session.touch()
        return bool(self._sessions)

    def forget_after_fork(self) -> None:
        """Leave the parent's sessions to the parent."""
        self._sessions = set()


_owned = _OwnedSessions()
os.register_at_fork(after_in_child=_owned.forget_after_fork)


def _make_unfinished(root: str, name: str) -> str:
    path = os.path.join(root, NEW + name)
    for _ in range(MOST_REMOVALS):
        make_root(root)
        # The root may vanish in between, with the last session but this.
        with contextlib.suppress(FileNotFoundError):
            os.mkdir(path, 0o700)
            return path
    raise vanishes(root)


def open_directory(path: str, within: int | None = None) -> int:
    """Return a descriptor of a directory; a symlink is not followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=within)


def _sync(directory: str) -> None:
    fd = open_directory(directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_session(root: str, entry: str, fd: int) -> None:
    """Remove a session's directory with everything in it.

    Parameters
    ----------
    root
        The store's directory.
    entry
        What the session's directory is called now: its name, perhaps with a prefix.
    fd
        A descriptor of it.
    """
    old = os.path.join(root, OLD + entry.removeprefix(NEW).removeprefix(OLD))
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(root, entry), old)
    _remove_tree(old, None, fd)


def _remove_tree(path: str, parent: int | None, fd: int) -> bool:
    """Remove a directory and everything in it; False if NFS still keeps something there."""
    while _remove_entries(fd):
        try:
            os.rmdir(path, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # A process of the run stored one more object in between; unless somebody has put
            # another directory in the place of this one.
            if not os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=parent)):
                raise
        else:
            return True
    return False


def _remove_entries(fd: int) -> bool:
    """Remove what is in a directory; False if NFS keeps some of it."""
    gone = [_remove_entry(name, fd) for name in names(fd) if name != RECORD]
    if not all(gone):
        # The record stays, and says to the next sweep whose this was.
        return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RECORD, dir_fd=fd)
    return True


def _remove_entry(name: str, fd: int) -> bool:
    if _is_nfs_remnant(name):
        return False
    if name.startswith(arena.PREFIX):
        arena.end(name, fd)
    # Another sweeper may be faster at each step.
    with contextlib.suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=fd)
        except (IsADirectoryError, PermissionError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise
            inner = Descriptor(open_directory(name, fd))
            return _remove_tree(name, fd, inner.fd)
    return True


def _is_nfs_remnant(name: str) -> bool:
    """Return whether NFS keeps a removed file under this name for those who have it open."""
    return name.startswith(".nfs")


def _is_private(path: str) -> bool:
    """Return whether `path` is a directory of ours that nobody else may enter, or nothing yet."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & 0o077
    )


def private_directory(parent: str) -> str:
    """Return a path in a directory everybody may write to, where nobody else could sit already."""
    path = os.path.join(parent, f"proxyflow-{os.geteuid()}")
    return path if _is_private(path) else f"{path}-{new_name(8)}"


def unreachable(what: str, root: str, error: OSError) -> StoreError:
    """Return the error to raise when the directory of a store cannot be worked with."""
    return StoreUnreachableError(
        f"cannot {what}: {error.strerror or error}",
        store=root,
        remedy="check that the directory exists and may be written",
    )
