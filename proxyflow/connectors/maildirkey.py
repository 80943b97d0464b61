"""Keys of objects in maildirs, and what to raise when a maildir does not answer as it should.

Keys come out of pickles and are not to be trusted: one that does not have the exact form of a key
is refused before it gets near the file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from proxyflow.connectors.filekey import closed, ended, not_an_object, split_key
from proxyflow.connectors.session import SESSION_NAME
from proxyflow.errors import (
    ClaimLostError,
    ProxyflowError,
    SerializationError,
    StoreClosedError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.storage import maildir
from proxyflow.storage.maildir.names import unique_name

__all__ = [
    "OBJECT_NAME",
    "STREAMED",
    "MaildirKey",
    "MaildirKeySeries",
    "new_key",
    "reported",
    "split",
]

# What an object's name begins with that belongs to a stream: it lies apart from the others.
STREAMED = "s-"

# What `unique_name` makes: it sorts by time, so that a session is a queue in order.
OBJECT_NAME = re.compile(rf"({STREAMED})?[0-9a-f]{{16}}-[0-9a-f]{{16}}")
_KEY = re.compile(rf"({SESSION_NAME.pattern})\.({OBJECT_NAME.pattern})")

# How a name answers that stands for a link, a socket or a directory.
_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EINVAL})


class MaildirKey(NamedTuple):
    """Key of an object in a :class:`MaildirConnector`.

    Parameters
    ----------
    name
        Session and the name of the message, separated by a dot.
    """

    name: str


class MaildirKeySeries:
    """Keys of one session by number, in a name space of their own.

    Parameters
    ----------
    prefix
        What the keys begin with.

    Examples
    --------
    >>> MaildirKeySeries("k3v5qa2mbx.18b2f0a5c3d1e7f0-89abcdef")(31)
    MaildirKey(name='k3v5qa2mbx.18b2f0a5c3d1e7f0-89abcdef0000001f')
    """

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    @classmethod
    def of(cls, session: str) -> MaildirKeySeries:
        """Return a new series of a session."""
        return cls(f"{session}.{time.time_ns():016x}-{os.urandom(4).hex()}")

    def __call__(self, number: int) -> MaildirKey:
        """Return the key of a number."""
        return MaildirKey(f"{self._prefix}{number:08x}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (MaildirKeySeries, (self._prefix,))


def new_key(session: str) -> MaildirKey:
    """Return a key of a session that nobody else has.

    Examples
    --------
    >>> new_key("k3v5qa2mbx") < new_key("k3v5qa2mbx")
    True
    """
    return MaildirKey(f"{session}.{unique_name()}")


def split(key: Any, store: str) -> tuple[str, str]:
    """Return session and name; InvalidKeyError if it is not a key.

    Examples
    --------
    >>> split(MaildirKey("k3v5qa2mbx.18b2f0a5c3d1e7f0-89abcdef0000001f"), "/store")
    ('k3v5qa2mbx', '18b2f0a5c3d1e7f0-89abcdef0000001f')
    >>> split(MaildirKey("../../etc/passwd"), "/store")
    Traceback (most recent call last):
        ...
    proxyflow.errors.InvalidKeyError: not a key of this store; store /store; key ...
    """
    return split_key(key, store, _KEY)


@contextlib.contextmanager
def reported(store: str, session: str, key: MaildirKey | None = None) -> Iterator[None]:
    """Raise what the queue of a session says as an error of the store.

    Parameters
    ----------
    store
        The store's directory.
    session
        Name of the session.
    key
        The object it is about.
    """
    try:
        yield
    except maildir.MaildirError as error:
        raise _error(error, store, session, key) from error


def _error(
    error: maildir.MaildirError, store: str, session: str, key: MaildirKey | None
) -> ProxyflowError:
    if not os.path.isdir(os.path.join(store, session)):
        return ended(store, key or MaildirKey(session))
    if isinstance(error, maildir.StoreFullError):
        return StoreFullError(
            f"no room: {error.strerror}",
            store=store,
            key=key,
            remedy="evict what is not needed, bound the stream (maxsize), or choose a directory "
            "with more room",
        )
    if isinstance(error, maildir.ClaimLostError):
        return ClaimLostError(
            "the claim of this object is over",
            store=store,
            key=key,
            remedy="it was acknowledged or released, or recovered because its lease was over",
        )
    if isinstance(error, maildir.TopicEndedError):
        return StoreClosedError("the stream was closed for writing", store=store, key=key)
    if isinstance(error, maildir.StoreClosedError):
        return closed(store, key)
    if isinstance(error, maildir.StoreNotPreparedError):
        return StoreUnreachableError(
            f"session {session} is no maildir",
            store=store,
            key=key,
            remedy="open it with the URL scheme it was started with",
        )
    if isinstance(error, maildir.InvalidDataError):
        return SerializationError(error.message)
    if key is not None and isinstance(error, OSError) and error.errno in _NOT_A_FILE:
        return not_an_object(store, key)
    remedy = "raise the limit of open files (ulimit -n)" if _is_limit(error) else error.remedy
    return StoreUnreachableError(
        f"the store's directory does not answer: {error.message}",
        store=store,
        key=key,
        remedy=remedy,
    )


def _is_limit(error: maildir.MaildirError) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
