"""Keys of objects that are files, and what to raise when a file does not answer as it should.

Keys come out of pickles and are not to be trusted: one that does not have the exact form of a key
is refused before it gets near the file system.
"""

from __future__ import annotations

import errno
import itertools
import re
from typing import Any, NamedTuple

from proxyflow.connectors.session import SESSION_NAME, new_name
from proxyflow.errors import (
    InvalidKeyError,
    StoreClosedError,
    StoreError,
    StoreUnreachableError,
)
from proxyflow.forking import renew_in_child

__all__ = [
    "OBJECT_NAME",
    "PACKED_NAME",
    "STORED_NAME",
    "FileKey",
    "FileKeySeries",
    "KeyMaker",
    "closed",
    "ended",
    "failure",
    "not_an_object",
    "split_key",
]

# A random number of the process that makes it, and a counter: a random number for each name would
# take longer than the rest of a small submit.
OBJECT_NAME = re.compile(r"[a-z2-7]{8}[0-9a-f]{8}")

# The name of an object that is packed with others (`proxyflow.storage.arena`): its arena, a letter
# that no other name has there, and its slot.
PACKED_NAME = re.compile(r"([a-z2-7]{8})p([0-9a-f]{7})")

STORED_NAME = re.compile(r"[a-z2-7]{8}[0-9a-fp][0-9a-f]{7}")
"""Both of them."""

# Neither part can hold a separator, a leading dot or a NUL, so no key that matches can name
# anything but an object.
_KEY = re.compile(rf"({SESSION_NAME.pattern})\.({STORED_NAME.pattern})")

# How a name answers that stands for a link, a socket or a directory.
_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR})


class FileKey(NamedTuple):
    """Key of an object in a :class:`FileConnector`.

    Parameters
    ----------
    filename
        Session and object name, separated by a dot.
    """

    filename: str


class FileKeySeries:
    """Keys of one session by number, in a name space of their own.

    Parameters
    ----------
    prefix
        What the keys begin with: the session, a dot, and a name of eight characters.

    Examples
    --------
    >>> FileKeySeries("k3v5qa2mbx.abcdefgh")(31)
    FileKey(filename='k3v5qa2mbx.abcdefgh0000001f')
    """

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    @classmethod
    def of(cls, session: str) -> FileKeySeries:
        """Return a new series of a session."""
        return cls(f"{session}.{new_name(8)}")

    def __call__(self, number: int) -> FileKey:
        """Return the key of a number."""
        return FileKey(f"{self._prefix}{number:08x}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (FileKeySeries, (self._prefix,))


class KeyMaker:
    """Makes keys of one session, each only once, whatever the processes and threads.

    Parameters
    ----------
    session
        The session.

    Examples
    --------
    >>> make = KeyMaker("k3v5qa2mbx")
    >>> make() != make()
    True
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Start anew: a forked child would count on from where its parent is."""
        self._series = FileKeySeries.of(self._session)
        self._count = itertools.count()

    def __call__(self) -> FileKey:
        """Return a new key."""
        return self._series(next(self._count))


def split_key(key: Any, store: str, form: re.Pattern[str] = _KEY) -> tuple[str, str]:
    """Return session and object name.

    Parameters
    ----------
    key
        What is said to be a key.
    store
        The store, for the error.
    form
        What a key looks like, with groups for session and name.

    Raises
    ------
    InvalidKeyError
        If it is not a key.

    Examples
    --------
    >>> split_key(FileKey("k3v5qa2mbx.abcdefgh0000001f"), "/store")
    ('k3v5qa2mbx', 'abcdefgh0000001f')
    >>> split_key(FileKey("../../etc/passwd"), "/store")
    Traceback (most recent call last):
        ...
    proxyflow.errors.InvalidKeyError: not a key of this store; store /store; key ...
    """
    filename = key[0] if isinstance(key, tuple) and len(key) == 1 else None
    match = form.fullmatch(filename) if isinstance(filename, str) else None
    if match is None:
        raise InvalidKeyError("not a key of this store", store=store, key=key)
    return match[1], match[2]


def closed(store: str, key: tuple[str] | None = None) -> StoreClosedError:
    """Return the error of using a store after closing it."""
    return StoreClosedError("the store has been closed", store=store, key=key)


def ended(store: str, key: tuple[str]) -> StoreClosedError:
    """Return the error of a session whose directory is gone."""
    return StoreClosedError(
        f"session {key[0].partition('.')[0]} has ended: its directory is gone",
        store=store,
        key=key,
        remedy="keep the store that started the run open until its tasks are done",
    )


def not_an_object(store: str, key: tuple[str]) -> InvalidKeyError:
    """Return the error of a name that stands for something that is not a plain file."""
    return InvalidKeyError(
        "not an object but a link, a directory or a device",
        store=store,
        key=key,
        remedy="remove it, and let nobody else write to the store's directory",
    )


def failure(error: OSError, store: str, key: FileKey) -> StoreError:
    """Return the error to raise for what the file system said."""
    if error.errno in _NOT_A_FILE:
        return not_an_object(store, key)
    remedy = None
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "raise the limit of open files (ulimit -n), or keep fewer files open"
    return StoreUnreachableError(
        f"the store's directory does not answer: {error.strerror}",
        store=store,
        key=key,
        remedy=remedy,
    )
