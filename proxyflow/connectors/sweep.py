"""Sweeping after the dead: which sessions have lost their owner, and removing those.

An owner on the same host is alive while the kernel holds its lock: no pid is ever compared, so a
reused pid or a reboot cannot mislead. Locks of another host may not be visible (NFS, Lustre), so
there the owner counts as alive while it keeps touching its record.

What is not certain to be a session of this user is left alone, whatever its name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from proxyflow.connectors.owner import RECORD, boot_id, locks, read_record, try_lock
from proxyflow.connectors.root import remove_root
from proxyflow.connectors.session import (
    NEW,
    OLD,
    SESSION_NAME,
    open_directory,
    remove_session,
    unreachable,
)
from proxyflow.errors import StoreError
from proxyflow.storage import fileio

__all__ = ["LEASE", "sweep"]

# After how long without a touch an owner whose lock cannot be seen from here counts as dead
# (seconds). Generous: a paused virtual machine or a stalled file server must not cost a run its
# data.
LEASE = 900.0


def sweep(root: str) -> list[str]:
    """Remove the sessions in `root` whose owner is dead, and nothing else.

    Returns
    -------
    list of str
        The names of the removed sessions.

    Raises
    ------
    StoreUnreachableError
        If the directory cannot be read, or a dead session not removed; the others are.
    """
    swept = []
    failure: StoreError | None = None
    try:
        entries = os.listdir(root)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreachable("look for sessions", root, error) from error
    for entry in entries:
        name = entry.removeprefix(NEW).removeprefix(OLD)
        if not SESSION_NAME.fullmatch(name):
            continue
        try:
            if _sweep_one(root, entry):
                swept.append(name)
        except OSError as error:
            failure = unreachable(f"remove session {name}", root, error)
    if failure is not None:
        raise failure
    remove_root(root)
    return swept


def _sweep_one(root: str, entry: str) -> bool:
    """Remove what is under this name if it is a dead session; return whether it was."""
    with _ours(os.path.join(root, entry)) as fd:
        if fd is None:
            return False
        with _record(fd) as lock:
            if lock is None:
                _sweep_remains(root, entry, fd)
                return False
            # Not even touched while young: its owner is about to lock it.
            if entry.startswith(NEW) and _age(root, lock) <= LEASE:
                return False
            if not _is_dead(root, entry, lock):
                return False
            remove_session(root, entry, fd)
    return True


def _sweep_remains(root: str, entry: str, fd: int) -> None:
    """Remove a directory without record if it is empty and a session was about to come or go.

    The record is the first thing in a session and the last: whatever else is in there is not ours.
    """
    if entry.startswith(OLD) or (entry.startswith(NEW) and _age(root, fd) > LEASE):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(root, entry))


@contextlib.contextmanager
def _ours(path: str) -> Iterator[int | None]:
    """Open a directory that may be a session of this user; None if it cannot be one."""
    try:
        fd = open_directory(path)
    except OSError:
        # A file or a link; another user's; or somebody else has just removed it.
        yield None
        return
    try:
        yield fd if os.fstat(fd).st_uid == os.geteuid() else None
    finally:
        os.close(fd)


@contextlib.contextmanager
def _record(fd: int) -> Iterator[int | None]:
    """Open the record in a directory; None if there is none."""
    try:
        lock = locks.open(RECORD, os.O_RDWR | os.O_NOFOLLOW, fd)
    except OSError:
        yield None
        return
    try:
        yield lock
    finally:
        locks.close(lock)


def _is_dead(root: str, entry: str, lock: int) -> bool:
    """Return whether a session has lost its owner; if so, its lock is now ours."""
    locked = try_lock(lock)
    record = read_record(lock)
    if locked is False or record is None or record.get("keep"):
        return False
    if os.fstat(lock).st_nlink == 0:
        # Another sweeper has just removed it.
        return False
    if entry.startswith(OLD):
        return True
    if locked and record.get("boot") == boot_id():
        return True
    return _age(root, lock) > LEASE


def _age(root: str, fd: int) -> float:
    """Return the seconds since a file was touched, by the clock of the file system."""
    # A file server's clock may differ from ours, so its own idea of now is asked for.
    directory = open_directory(root)
    try:
        probe = fileio.open_unnamed(directory)
        try:
            now = os.fstat(probe).st_mtime
            fileio.discard(probe, directory)
        finally:
            os.close(probe)
    except OSError:
        now = time.time()
    finally:
        os.close(directory)
    return now - os.fstat(fd).st_mtime
