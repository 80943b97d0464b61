"""Keys of objects that a session and a name are enough for: of servers and databases.

Keys come out of pickles and are not to be trusted: one that does not have the exact form of a key
is refused before it gets near the store.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple

from proxyflow.connectors.filekey import OBJECT_NAME
from proxyflow.connectors.session import SESSION_NAME, new_name
from proxyflow.errors import InvalidKeyError
from proxyflow.forking import renew_in_child

__all__ = ["SessionKey", "SessionKeyMaker", "SessionKeySeries", "check_key", "may_change"]

# A name made before its object is told by its end: who reads the object knows that it may be
# replaced. Those of a series are for results, each of which is set once.
_AHEAD = "w"
_NAME = re.compile(rf"{OBJECT_NAME.pattern}{_AHEAD}?")


class SessionKey(NamedTuple):
    """Key of an object: its session and its name in it."""

    session: str
    name: str


class SessionKeySeries:
    """Keys of one session by number, in a name space of their own.

    Parameters
    ----------
    session
        The session.
    prefix
        What their names begin with: eight characters.

    Examples
    --------
    >>> SessionKeySeries("k3v5qa2mbx", "abcdefgh")(31)
    SessionKey(session='k3v5qa2mbx', name='abcdefgh0000001f')
    """

    __slots__ = ("_prefix", "_session")

    def __init__(self, session: str, prefix: str) -> None:
        self._session = session
        self._prefix = prefix

    @classmethod
    def of(cls, session: str) -> SessionKeySeries:
        """Return a new series of a session."""
        return cls(session, new_name(8))

    def __call__(self, number: int) -> SessionKey:
        """Return the key of a number."""
        return SessionKey(self._session, f"{self._prefix}{number:08x}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (SessionKeySeries, (self._session, self._prefix))


class SessionKeyMaker:
    """Makes keys of one session, each only once, whatever the processes and threads.

    Parameters
    ----------
    session
        The session.

    Examples
    --------
    >>> make = SessionKeyMaker("k3v5qa2mbx")
    >>> make() != make()
    True
    >>> may_change(make()), may_change(make.ahead())
    (False, True)
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Start anew: a forked child would count on from where its parent is."""
        self._prefix = new_name(8)
        self._count = itertools.count()

    def __call__(self) -> SessionKey:
        """Return a new key."""
        # A series of its own, written out: many small objects are put by the thousand.
        return SessionKey(self._session, f"{self._prefix}{next(self._count):08x}")

    def ahead(self) -> SessionKey:
        """Return a new key that is made before its object."""
        return SessionKey(self._session, f"{self._prefix}{next(self._count):08x}{_AHEAD}")


def may_change(key: SessionKey) -> bool:
    """Return whether the object of a key may be replaced by another one."""
    return key.name.endswith(_AHEAD)


def check_key(key: Any, store: str) -> None:
    """Refuse what is not a key.

    Raises
    ------
    InvalidKeyError
        If it is not.

    Examples
    --------
    >>> check_key(SessionKey("k3v5qa2mbx", "abcdefgh0000001f"), "redis://host")
    >>> check_key(SessionKey("k3v5qa2mbx", "owner"), "redis://host")
    Traceback (most recent call last):
        ...
    proxyflow.errors.InvalidKeyError: not a key of this store; store redis://host; key ...
    """
    if not (
        isinstance(key, SessionKey)
        and all(isinstance(part, str) for part in key)
        and SESSION_NAME.fullmatch(key.session)
        and _NAME.fullmatch(key.name)
    ):
        raise InvalidKeyError("not a key of this store", store=store, key=key)
