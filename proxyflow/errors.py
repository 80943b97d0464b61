"""Everything proxyflow raises on purpose.

One tree, so that ``except ProxyflowError`` catches all of it and a narrower name just one case::

    ProxyflowError
    ├── ConfigError                  (ValueError)   a URL, option or file makes no sense
    ├── MissingDependencyError       (ImportError)  an optional package is not installed
    ├── SerializationError           (TypeError)    an object cannot be turned into bytes
    ├── ProxyTargetError             (TypeError)    an object no proxy can stand for
    └── StoreError
        ├── StoreClosedError                        the store or its run has ended
        ├── StoreFullError           (OSError)      no room left, errno ENOSPC
        ├── StoreUnreachableError    (ConnectionError)  the server or directory does not answer
        ├── UnsupportedError                        the connector cannot do this
        ├── InvalidKeyError          (ValueError)   the key is malformed or leaves the store
        ├── ObjectNotFoundError      (LookupError)  nothing is stored under the key
        ├── ObjectExistsError        (ValueError)   the key has been set already
        ├── ClaimLostError           (LookupError)  an item of a stream is not claimed any more
        ├── WaitTimeoutError         (TimeoutError) the object did not come in time
        └── CorruptObjectError                      short, damaged or unknown payload
            └── AuthenticationError                 not written by a holder of the secret

Most are also the builtin exception a reader would expect, so existing handlers keep working.
"""

from __future__ import annotations

from errno import ENOSPC
from typing import Any

__all__ = [
    "AuthenticationError",
    "ClaimLostError",
    "ConfigError",
    "CorruptObjectError",
    "InvalidKeyError",
    "MissingDependencyError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ProxyTargetError",
    "ProxyflowError",
    "SerializationError",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreUnreachableError",
    "UnsupportedError",
    "WaitTimeoutError",
]


class ProxyflowError(Exception):
    """Root of every exception proxyflow raises on purpose.

    Parameters
    ----------
    message
        What went wrong, in one sentence.
    remedy
        What the user can do about it; shown after the message. By default `usual_remedy`.

    Examples
    --------
    >>> print(ProxyflowError("the disk is full", remedy="free some space"))
    the disk is full; free some space
    """

    # What mostly helps against errors of the class.
    usual_remedy: str | None = None

    def __init__(self, message: str = "", *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual_remedy

    def _context(self) -> list[str]:
        """Return the parts shown after the message, remedy last."""
        return [self.remedy] if self.remedy else []

    def __str__(self) -> str:
        return "; ".join([self.message, *self._context()])

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process boundaries; the default would call __init__ with args only and
        # lose what was given by keyword.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[ProxyflowError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(ProxyflowError, ValueError):
    """A URL, an option or a configuration file makes no sense."""


class MissingDependencyError(ProxyflowError, ImportError):
    """An optional package that this feature stands on is not installed."""


class SerializationError(ProxyflowError, TypeError):
    """An object cannot be turned into bytes, or not back into an object."""


class ProxyTargetError(ProxyflowError, TypeError):
    """No proxy can stand for ``None``, ``True`` or ``False``: code compares these by identity."""


class StoreError(ProxyflowError):
    """A store could not do what it was asked; says which store and which key.

    Parameters
    ----------
    message
        What went wrong, in one sentence.
    store
        The store as the user knows it, normally its URL.
    key
        The key of the object concerned, if it is about one.
    remedy
        What the user can do about it.

    Examples
    --------
    >>> print(ObjectNotFoundError("no such object", store="file:///dev/shm/run1", key="k1"))
    no such object; store file:///dev/shm/run1; key 'k1'
    """

    def __init__(
        self,
        message: str = "",
        *,
        store: object = None,
        key: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.store = None if store is None else str(store)
        self.key = key

    def _context(self) -> list[str]:
        parts = [f"store {self.store}"] if self.store is not None else []
        if self.key is not None:
            parts.append(f"key {self.key!r}")
        return parts + super()._context()


class StoreClosedError(StoreError):
    """The store was closed, or the run it belonged to has ended."""

    usual_remedy = "keep the store open while its keys and proxies are in use"


class StoreFullError(StoreError, OSError):
    """There is no room left for the object; ``errno`` is ``ENOSPC``."""

    # Of the class, because OSError's own does not survive pickling.
    errno: int = ENOSPC


class StoreUnreachableError(StoreError, ConnectionError):
    """The server or directory behind the store does not answer."""


class UnsupportedError(StoreError):
    """The store's connector lacks the capability this call needs."""


class InvalidKeyError(StoreError, ValueError):
    """The key is malformed, of another connector, or would leave the store."""

    usual_remedy = "pass a key of this store as it was returned, with the store that returned it"


class ObjectNotFoundError(StoreError, LookupError):
    """Nothing is stored under the key: never was, or has been evicted."""


class ObjectExistsError(StoreError, ValueError):
    """An object that is set once has been set already."""

    usual_remedy = "set it once, and make another one for the next object"


class ClaimLostError(StoreError, LookupError):
    """An item of a stream is not claimed (any more): another consumer may be at work on it."""


class WaitTimeoutError(StoreError, TimeoutError):
    """The object did not come before the timeout."""


class CorruptObjectError(StoreError):
    """The stored bytes are short, damaged, or of an unknown format version."""

    usual_remedy = "store the object again, with the proxyflow that reads it"


class AuthenticationError(CorruptObjectError):
    """The stored bytes were not written by a holder of the store's secret."""
