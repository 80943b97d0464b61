"""The directory a store's sessions lie in: made when missing, gone with its last session.

A directory that proxyflow made holds an empty file that says so. One that was there before, or
that something else has been put into, is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import os

from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError

__all__ = [
    "MARK",
    "MOST_REMOVALS",
    "as_directory",
    "check_local",
    "in_memory",
    "make_root",
    "remove_root",
    "vanishes",
]

MARK = ".made-by-proxyflow"

MOST_REMOVALS = 1000
"""How often others may remove a directory that is being made before we take it for impossible."""


def as_directory(path: str) -> str:
    """Return the absolute path of a directory.

    Raises
    ------
    ConfigError
        If no directory can have the name.
    """
    name = os.fspath(path)
    if not name or "\0" in name:
        raise ConfigError(f"not the name of a directory: {name!r}")
    return os.path.abspath(name)


def check_local(url: StoreURL, options: frozenset[str]) -> None:
    """Refuse a URL that does not name a directory of this host, or has unknown options.

    Raises
    ------
    ConfigError
        Saying which.
    """
    url.check_options(options)
    if url.authority not in ("", "localhost") or not url.path:
        raise ConfigError(
            f"{url} does not name a directory of this host",
            remedy=f"write three slashes: {url.scheme}:///directory",
        )


def make_root(root: str) -> None:
    """Make the directory (mode 0700) unless it exists.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    for _ in range(MOST_REMOVALS):
        try:
            os.makedirs(root, 0o700)
        except FileExistsError:
            return
        # Somebody about to remove an earlier one may have got this one.
        with contextlib.suppress(FileNotFoundError):
            _mark(root)
            return
    raise vanishes(root)


def vanishes(directory: str) -> FileNotFoundError:
    """Return the error for a directory that is not there however often it is made.

    A link to nothing exists when it is to be made and does not when it is to be used; in /proc
    nothing can be made, and the kernel calls that missing.
    """
    return FileNotFoundError(
        errno.ENOENT, "there is no directory and none can be made (a link to nothing?)", directory
    )


def remove_root(root: str) -> None:
    """Remove the directory if proxyflow made it and nothing is in it any more.

    Whoever empties it asks; of several who do so at once, one removes it.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        while os.listdir(root) == [MARK]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(root, MARK))
            try:
                os.rmdir(root)
            except FileNotFoundError:
                return
            except OSError:
                # A session was started in between. Whoever ends it needs the mark; if that has
                # happened already, it is for this one to try again.
                _mark(root)
            else:
                return


def _mark(root: str) -> None:
    os.close(os.open(os.path.join(root, MARK), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def in_memory(directory: str) -> bool:
    """Return whether a directory lies in a file system that is kept in memory (tmpfs)."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as mounts:
        for mount in mounts:
            # Field 3 is the device; the type follows the separator (see proc_pid_mountinfo(5)).
            if mount.split(" ", 3)[2] == wanted:
                return mount.partition(" - ")[2].startswith("tmpfs ")
    return False
