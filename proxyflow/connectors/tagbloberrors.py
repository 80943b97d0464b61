"""What the errors of a tag/blob store mean to a store of objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    MissingDependencyError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
    UnsupportedError,
)
from proxyflow.storage import tagblob

__all__ = ["translated"]

_MEANINGS: tuple[tuple[type[tagblob.DDFSError], type[StoreError]], ...] = (
    (tagblob.StoreFull, StoreFullError),
    (tagblob.TooLarge, StoreFullError),
    (tagblob.BlobDamaged, CorruptObjectError),
    (tagblob.BlobNotFound, CorruptObjectError),
    (tagblob.TagDamaged, CorruptObjectError),
    (tagblob.Unsupported, UnsupportedError),
    (tagblob.DDFSError, StoreUnreachableError),
)


@contextlib.contextmanager
def translated(store: str, key: Any = None) -> Iterator[None]:
    """Raise a store's errors where a tag/blob store raises its own.

    Parameters
    ----------
    store, key
        What the errors name.

    Examples
    --------
    >>> with translated("ddfs+file:///srv/store"):
    ...     raise tagblob.StoreFull("no volume has room")
    Traceback (most recent call last):
        ...
    proxyflow.errors.StoreFullError: no volume has room; store ddfs+file:///srv/store
    """
    try:
        yield
    except tagblob.ConfigError as error:
        raise ConfigError(error.msg, remedy=error.remedy) from error
    except tagblob.MissingDependencyError as error:
        raise MissingDependencyError(error.msg, remedy=error.remedy) from error
    except tagblob.DDFSError as error:
        kind = next(ours for theirs, ours in _MEANINGS if isinstance(error, theirs))
        raise kind(error.msg, store=store, key=key, remedy=error.remedy) from error
