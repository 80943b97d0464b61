"""Everything the KVS raises on purpose.

One tree; every branch is an ``OSError`` with the ``errno`` that Flux reports in the same place::

    KVSError                                         (OSError)
    ├── InvalidKeyError        (ValueError)           EINVAL        empty, or names no entry
    ├── InvalidURLError        (ValueError)           EINVAL        no such engine, unknown option
    ├── KeyNotFoundError       (FileNotFoundError)    ENOENT        missing, or below a value
    ├── NotDirectoryError      (NotADirectoryError)   ENOTDIR       a value where a directory is due
    ├── IsDirectoryError       (IsADirectoryError)    EISDIR        a directory where a value is due
    ├── LinkLoopError                                 ELOOP         more than ten links in a row
    ├── NamespaceExistsError   (FileExistsError)      EEXIST
    ├── NamespaceError                                ENOTSUP       unknown, or may not be removed
    ├── UnsupportedError                              ENOTSUP       this engine cannot promise that
    ├── WatchTimeoutError      (TimeoutError)         ETIMEDOUT     nothing changed in time
    ├── StorageFullError                              ENOSPC        disk full, server out of memory
    ├── AccessDeniedError      (PermissionError)      EACCES        password, user or file mode
    ├── UnreachableError       (ConnectionError)      ECONNREFUSED  no server, or it went away
    ├── ClosedError            (ValueError)           EBADF         the handle was closed
    ├── MissingLibraryError                           ENOPKG        the engine's package is missing
    └── DamagedError                                  EIO           stored bytes make no sense
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar

__all__ = [
    "AccessDeniedError",
    "ClosedError",
    "DamagedError",
    "InvalidKeyError",
    "InvalidURLError",
    "IsDirectoryError",
    "KVSError",
    "KeyNotFoundError",
    "LinkLoopError",
    "MissingLibraryError",
    "NamespaceError",
    "NamespaceExistsError",
    "NotDirectoryError",
    "StorageFullError",
    "UnreachableError",
    "UnsupportedError",
    "WatchTimeoutError",
]

# A key may be megabytes long; an error should still fit on a screen.
SHOWN_KEY_CHARS = 200


class KVSError(OSError):
    """Root of every exception the KVS raises on purpose.

    Parameters
    ----------
    message
        What went wrong, in one sentence.
    store
        The store as its user knows it: the URL, without any password.
    key
        The key concerned, if it is about one.
    remedy
        What the user can do about it.

    Examples
    --------
    >>> error = KeyNotFoundError("nothing is stored here", store="lmdb:///srv/kvs", key="a.b")
    >>> print(error)
    [Errno 2] No such file or directory: nothing is stored here; store lmdb:///srv/kvs; key 'a.b'
    >>> isinstance(error, FileNotFoundError)
    True
    """

    code: ClassVar[int] = errno.EIO

    def __init__(
        self,
        message: str = "",
        *,
        store: str | None = None,
        key: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(self.code, os.strerror(self.code))
        self.message = message
        self.store = store
        self.key = key
        self.remedy = remedy

    def __str__(self) -> str:
        said = f"[Errno {self.errno}] {self.strerror}"
        parts = [f"{said}: {self.message}" if self.message else said]
        if self.store is not None:
            parts.append(f"store {self.store}")
        if self.key is not None:
            parts.append(f"key {_shown(self.key)}")
        if self.remedy is not None:
            parts.append(self.remedy)
        return "; ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call __init__ with (errno, strerror) and lose what was given by keyword.
        context = {"store": self.store, "key": self.key, "remedy": self.remedy}
        return (_rebuild, (type(self), self.message, context))


def _rebuild(cls: type[KVSError], message: str, context: dict[str, Any]) -> KVSError:
    return cls(message, **context)


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= SHOWN_KEY_CHARS else f"{text[:SHOWN_KEY_CHARS]}... (cut)"


class InvalidKeyError(KVSError, ValueError):
    """The key is empty, or it is ``.`` where an entry has to be named."""

    code = errno.EINVAL


class InvalidURLError(KVSError, ValueError):
    """The URL names no engine, or has a part that the engine does not know."""

    code = errno.EINVAL


class KeyNotFoundError(KVSError, FileNotFoundError):
    """Nothing is stored under the key, or its path leads through a value."""

    code = errno.ENOENT


class NotDirectoryError(KVSError, NotADirectoryError):
    """The key holds a value, and a directory was asked for."""

    code = errno.ENOTDIR


class IsDirectoryError(KVSError, IsADirectoryError):
    """The key is a directory, and a value was asked for."""

    code = errno.EISDIR


class LinkLoopError(KVSError):
    """The path leads through more than ten symbolic links."""

    code = errno.ELOOP


class NamespaceExistsError(KVSError, FileExistsError):
    """A namespace of this name exists already."""

    code = errno.EEXIST


class NamespaceError(KVSError):
    """The namespace does not exist, or is ``primary`` and may not be removed."""

    code = errno.ENOTSUP


class UnsupportedError(KVSError):
    """The engine behind this handle cannot do or promise what was asked."""

    code = errno.ENOTSUP


class WatchTimeoutError(KVSError, TimeoutError):
    """The watched key did not change in time."""

    code = errno.ETIMEDOUT


class StorageFullError(KVSError):
    """No room is left: the disk is full, or the server reached its memory limit."""

    code = errno.ENOSPC


class AccessDeniedError(KVSError, PermissionError):
    """The server refused the user or password, or the files may not be opened."""

    code = errno.EACCES


class UnreachableError(KVSError, ConnectionError):
    """The server is not there, went away during the call, or does not answer in time."""

    code = errno.ECONNREFUSED


class ClosedError(KVSError, ValueError):
    """The handle was closed."""

    code = errno.EBADF


class MissingLibraryError(KVSError):
    """The package or library that the engine stands on is not installed."""

    code = errno.ENOPKG


class DamagedError(KVSError):
    """Stored bytes make no sense: damaged, evicted behind our back, or written by others."""

    code = errno.EIO
