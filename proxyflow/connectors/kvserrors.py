"""What the errors of a KVS mean to a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    MissingDependencyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
    UnsupportedError,
)
from proxyflow.storage import kvs

__all__ = ["translated"]

_MEANINGS: tuple[tuple[type[kvs.KVSError], type[StoreError]], ...] = (
    (kvs.StorageFullError, StoreFullError),
    (kvs.ClosedError, StoreClosedError),
    (kvs.NamespaceError, StoreClosedError),
    (kvs.DamagedError, CorruptObjectError),
    (kvs.UnsupportedError, UnsupportedError),
    (kvs.KVSError, StoreUnreachableError),
)


@contextlib.contextmanager
def translated(store: str, key: Any = None) -> Iterator[None]:
    """Raise a store's errors where a KVS raises its own.

    Parameters
    ----------
    store, key
        What the errors name.

    Examples
    --------
    >>> with translated("lmdb:///tmp/run"):
    ...     raise kvs.StorageFullError("no room")
    Traceback (most recent call last):
        ...
    proxyflow.errors.StoreFullError: no room; store lmdb:///tmp/run
    """
    try:
        yield
    except kvs.InvalidURLError as error:
        raise ConfigError(_message(error), remedy=error.remedy) from error
    except kvs.MissingLibraryError as error:
        raise MissingDependencyError(_message(error), remedy=error.remedy) from error
    except kvs.KVSError as error:
        kind = next(ours for theirs, ours in _MEANINGS if isinstance(error, theirs))
        raise kind(_message(error), store=store, key=key, remedy=error.remedy) from error


def _message(error: kvs.KVSError) -> str:
    return error.message
