"""A session as a directory: the owner's record, its lock, and sweeping after the dead.

Layout of a store's root directory::

    ROOT/
      k3v5qa2mbx/           one session: everything one run stored
        .owner              who owns it; the owner holds a lock on this file while it lives
        Zr1b...             objects

An owner on the same host is alive while the kernel holds its lock: no pid is ever compared, so a
reused pid or a reboot cannot mislead. Locks of another host may not be visible (NFS, Lustre), so
there the owner counts as alive while it keeps touching its record.

The lock is a shared one: other processes may hold the session besides the one that started it, and
it ends when the last of them closes it. A sweeper asks for an exclusive lock, which it gets only
when all of them are gone.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import functools
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator

from proxyflow.errors import StoreClosedError, StoreFullError, StoreUnreachableError
from proxyflow.periodic import Periodic

__all__ = ["SessionDirectory", "SessionHold", "new_name", "sweep"]

SESSION_NAME = re.compile(r"[a-z2-7]{10}")
_OWNER = ".owner"
_UNFINISHED = ".new-"

# How often an owner touches its record, and after how long without a touch an owner whose lock
# cannot be seen from here counts as dead (seconds). Generous: a paused virtual machine or a
# stalled file server must not cost a run its data.
RENEWAL = 60.0
LEASE = 900.0


def new_name(length: int) -> str:
    """Return a random name in lower-case base 32, 5 bits a character."""
    return base64.b32encode(os.urandom(length))[:length].decode().lower()


@functools.cache
def _boot_id() -> str:
    """Return what tells this boot of this host from every other."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return f"{socket.gethostname()}"


class SessionDirectory:
    """One session's directory, owned or joined.

    Use :meth:`create` or :meth:`join`; `fd` is an open descriptor of the directory, so that names
    in it are looked up without walking the path again, and cannot be led elsewhere by a symlink.
    """

    def __init__(
        self, root: str, name: str, fd: int, lock: int | None = None, *, made_root: bool = False
    ) -> None:
        self.root = root
        self.name = name
        self.fd = fd
        self._lock = lock
        self._made_root = made_root
        self._keep = False
        self._pid = os.getpid()

    @classmethod
    def create(cls, root: str, *, name: str | None = None, keep: bool = False) -> SessionDirectory:
        """Start a session in `root` and own it.

        Parameters
        ----------
        root
            The store's directory; made (mode 0700) when missing.
        name
            The session's name; by default a new one.
        keep
            Whether the session outlives its owner: nobody sweeps it.

        Raises
        ------
        StoreUnreachableError
            If the directory cannot be made or written.
        StoreFullError
            If there is no room even for the record.
        """
        try:
            return cls._create(root, name or new_name(10), keep)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFullError("no room to start a session", store=root) from error
            raise StoreUnreachableError(
                f"cannot start a session: {error.strerror}",
                store=root,
                remedy="check that the directory exists and may be written",
            ) from error

    @classmethod
    def _create(cls, root: str, name: str, keep: bool) -> SessionDirectory:
        # The directory appears under its name only with the lock already held, so a sweeper never
        # meets a session that looks dead because it is being born.
        unfinished = os.path.join(root, _UNFINISHED + name)
        made_root = _is_ours_to_remove(root)
        while True:
            os.makedirs(root, mode=0o700, exist_ok=True)
            # The root may vanish in between: its maker removes it when it is empty.
            with contextlib.suppress(FileNotFoundError):
                os.mkdir(unfinished, 0o700)
                break
        lock = os.open(
            os.path.join(unfinished, _OWNER),
            os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC,
            0o600,
        )
        try:
            _try_lock(lock, fcntl.LOCK_SH)
            os.write(lock, json.dumps(_record(keep, made_root)).encode())
            os.rename(unfinished, os.path.join(root, name))
            fd = _open_directory(os.path.join(root, name))
        except BaseException:
            os.close(lock)
            raise
        directory = cls(root, name, fd, lock, made_root=made_root)
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
            If the directory cannot be opened from here.
        """
        if not SESSION_NAME.fullmatch(name):
            raise StoreClosedError(f"not the name of a session: {name!r}", store=root)
        try:
            return cls(root, name, _open_directory(os.path.join(root, name)))
        except FileNotFoundError:
            raise StoreClosedError(
                f"session {name} has ended, or its directory is not on this host",
                store=root,
                remedy="keep the store open while proxies are in use, and use a directory that "
                "every process of the run can reach",
            ) from None
        except OSError as error:
            raise StoreUnreachableError(
                f"cannot join session {name}: {error.strerror}", store=root
            ) from error

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
        try:
            lock = os.open(_OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fd)
        except OSError as error:
            raise StoreClosedError(f"session {name} is being removed", store=root) from error
        directory._lock = lock
        locked = _try_lock(lock, fcntl.LOCK_SH)
        if locked is None:
            directory.close(remove=False)
            raise StoreUnreachableError("the file system has no locks", store=root)
        # A sweeper unlinks the record under its lock; whoever opened it before holds nothing.
        if not locked or os.fstat(lock).st_nlink == 0:
            directory.close(remove=False)
            raise StoreClosedError(f"session {name} is being removed", store=root)
        record = _read_record(lock)
        directory._made_root = bool(record.get("made_root"))
        directory._keep = bool(record.get("keep"))
        _owned.add(directory)
        return directory

    @property
    def owner(self) -> bool:
        """Whether this object ends the session; never true in a forked child."""
        return self._lock is not None and self._pid == os.getpid()

    @property
    def path(self) -> str:
        """Path of the directory."""
        return os.path.join(self.root, self.name)

    def close(self, *, remove: bool = True) -> None:
        """Let go of the directory; its last owner removes it with everything in it."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        try:
            if remove and not self._keep and self._is_last_owner():
                _remove_tree(self.path, fd)
                if self._made_root:
                    _remove_if_empty(self.root)
        finally:
            os.close(fd)
            self.release_lock()
        _owned.discard(self)

    def _is_last_owner(self) -> bool:
        """Return whether no other process holds the session; the lock is then exclusive."""
        # Where there are no locks nobody can hold a session besides the process that started it.
        return self.owner and self._lock is not None and _try_lock(self._lock) is not False

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.release_lock()

    def release_lock(self) -> None:
        """Close this process's copy of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def touch(self) -> None:
        """Tell other hosts that the owner lives."""
        if self.owner and self._lock is not None:
            os.utime(self._lock)


class SessionHold:
    """A session kept alive from outside: it ends with this hold, or with its owner if that is later.

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
            directory.close()


class _OwnedSessions:
    """The sessions this process owns; their records are renewed while there are any."""

    def __init__(self) -> None:
        self._sessions: set[SessionDirectory] = set()
        self._renewal = Periodic("proxyflow-session-renewal", RENEWAL, self._renew)

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
        """Drop the parent's locks in a forked child.

        A lock lives as long as any copy of its descriptor: a child that kept one would make a
        killed parent look alive for as long as the child runs.
        """
        sessions, self._sessions = self._sessions, set()
        for session in sessions:
            session.release_lock()


_owned = _OwnedSessions()
os.register_at_fork(after_in_child=_owned.forget_after_fork)


def sweep(root: str) -> list[str]:
    """Remove the sessions in `root` whose owner is dead, and nothing else.

    Returns
    -------
    list of str
        The names of the removed sessions.
    """
    swept = []
    ours = _is_ours_to_remove(root)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(root) as entries:
        for entry in list(entries):
            name = entry.name.removeprefix(_UNFINISHED)
            if not SESSION_NAME.fullmatch(name) or not entry.is_dir(follow_symlinks=False):
                continue
            with _orphan(entry.path, unfinished=name != entry.name) as fd:
                if fd is not None:
                    _remove_tree(entry.path, fd)
                    swept.append(name)
    if swept and ours:
        _remove_if_empty(root)
    return swept


def _is_ours_to_remove(root: str) -> bool:
    """Return whether proxyflow made the root directory, so that its last session removes it.

    The session that makes it says so in its record, and each later one passes that on.
    """
    try:
        names = [name for name in os.listdir(root) if SESSION_NAME.fullmatch(name)]
    except FileNotFoundError:
        return True
    for name in names:
        with contextlib.suppress(OSError), open(os.path.join(root, name, _OWNER), "rb") as file:
            if _read_record(file.fileno()).get("made_root"):
                return True
    return False


def _remove_if_empty(root: str) -> None:
    # Other sessions may live in it still; the last one removes it.
    with contextlib.suppress(OSError):
        os.rmdir(root)


@contextlib.contextmanager
def _orphan(path: str, *, unfinished: bool) -> Iterator[int | None]:
    """Yield a descriptor of the session directory if its owner is dead, holding its lock."""
    with contextlib.ExitStack() as stack:
        try:
            fd = _open_directory(path)
        except OSError:
            # Somebody else has removed it.
            yield None
            return
        stack.callback(os.close, fd)
        try:
            lock = os.open(_OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError:
            # Being removed right now; or its remover was killed just before the last step.
            lock = fd
        else:
            stack.callback(os.close, lock)
        mine = os.fstat(fd).st_uid == os.geteuid()
        yield fd if mine and _is_dead(path, fd, lock, unfinished) else None


def _is_dead(path: str, fd: int, lock: int, unfinished: bool) -> bool:
    """Return whether a session has lost its owner; if so, its lock is now ours."""
    locked = _try_lock(lock) if lock != fd else None
    if locked is False:
        return False
    record = _read_record(lock) if lock != fd else {}
    if record.get("keep"):
        return False
    if locked and not unfinished and record.get("boot") == _boot_id():
        return True
    return _age(path, lock) > LEASE


def _try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock a record; False if another process is in the way, None where there are no locks."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read_record(fd: int) -> dict[str, object]:
    try:
        record = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _age(path: str, lock: int) -> float:
    """Return the seconds since the record was touched, by the clock of the file system."""
    # A file server's clock may differ from ours, so its own idea of now is asked for.
    probe = os.path.join(os.path.dirname(path), f".probe-{new_name(10)}")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        now = os.stat(probe).st_mtime
        os.unlink(probe)
    except OSError:
        now = time.time()
    return now - os.fstat(lock).st_mtime


def _record(keep: bool, made_root: bool) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "created": time.time(),
        "keep": keep,
        "made_root": made_root,
    }


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove_tree(path: str, fd: int) -> None:
    """Remove a session's directory: objects first, the record last.

    A remover that is killed half-way leaves the record, so the next sweep finishes its work.
    """
    while True:
        for name in os.listdir(fd):
            if name != _OWNER:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_OWNER, dir_fd=fd)
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            # A process of the run stored one more object in between.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


def is_private(path: str) -> bool:
    """Return whether `path` is a directory of ours that nobody else may enter."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & 0o077
    )
