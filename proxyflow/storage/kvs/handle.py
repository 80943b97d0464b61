"""A handle: what stands where code written for Flux has a ``flux.Flux()``."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from proxyflow.storage.kvs.backend import Backend
from proxyflow.storage.kvs.errors import InvalidURLError
from proxyflow.storage.kvs.transaction import KVSTxn
from proxyflow.storage.kvs.tree import Tree

__all__ = ["Handle", "open_url"]


class Handle:
    """An open KVS.

    Threads may share a handle, and a forked child may go on with the one it inherited: both see
    the same keys. What is staged on a handle, though, belongs to the thread that staged it, as it
    would with a Flux handle of its own for each thread: a commit neither publishes half of what
    another thread is about to commit, nor takes it away. A forked child starts with nothing staged.

    A handle cannot be pickled; carry its `url` and open another one.

    Examples
    --------
    >>> with open_url("memory://") as handle:
    ...     handle.url
    'memory://'
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._local = threading.local()

    @property
    def url(self) -> str:
        """The URL it was opened with; a password in it is shown as ``***``."""
        return self.backend.url

    @property
    def transaction(self) -> KVSTxn:
        """What the calling thread has staged on this handle."""
        transaction: KVSTxn | None = getattr(self._local, "transaction", None)
        if transaction is None:
            # The proxy lets the handle go although each of its threads keeps a transaction.
            transaction = self._local.transaction = KVSTxn(weakref.proxy(self))
        return transaction

    def close(self) -> None:
        """Give back what is held; what was staged and not committed is dropped."""
        self.backend.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a KVS handle cannot be pickled; carry its URL ({self.url}) and open it")

    def __repr__(self) -> str:
        return f"<kvs.Handle {self.url}>"


def open_url(url: str) -> Handle:
    """Open the KVS that a URL names.

    ========================================  ======================================================
    ``lmdb:///path``                          embedded, for all processes of a host; the default
                                              choice. ACID, each commit durable
    ``redis://[user:password@]host:port/db``  a Redis or Valkey server; ``rediss://`` with TLS,
                                              ``redis+unix:///path?db=0``, or only ``unix``,
                                              over a socket of this host
    ``flux://``                               the Flux instance of this process, or ``flux://`` and
                                              the rest of a ``FLUX_URI``
    ``memory://name``                         in this process, for tests
    ========================================  ======================================================

    A Redis URL may name an environment variable instead of the password, ``redis://:$NAME@host``;
    it is read whenever a connection is made. ``?timeout=10`` bounds, in seconds, how long the
    server may stay silent. No password appears in `Handle.url`, in a ``repr`` or in an error.

    Parameters
    ----------
    url
        The engine and where to find it.

    Raises
    ------
    InvalidURLError
        There is no such engine, or it does not know a part of the URL.
    MissingLibraryError
        The package the engine stands on is not installed.
    UnreachableError
        There is no server; or no directory can be made there.
    AccessDeniedError
        The server refused the user or password, or the directory may not be opened.

    Examples
    --------
    >>> handle = open_url("memory://")
    >>> handle
    <kvs.Handle memory://>
    """
    scheme = url.partition(":")[0]
    opener = _OPENERS.get(scheme)
    if opener is None:
        known = ", ".join(sorted(_OPENERS))
        raise InvalidURLError(f"{scheme!r} is no engine of the KVS", remedy=f"use one of {known}")
    return Handle(opener(url))


def _memory(url: str) -> Backend:
    from proxyflow.storage.kvs.engines.memory import MemoryEngine

    parts = _plain(url)
    return Tree(MemoryEngine(parts.netloc + parts.path))


def _lmdb(url: str) -> Backend:
    from proxyflow.storage.kvs.engines.lmdb import LMDBEngine

    parts = _plain(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise InvalidURLError("the path is absolute: lmdb:///path", store=url)
    return Tree(LMDBEngine(parts.path))


def _redis(url: str) -> Backend:
    from proxyflow.storage.kvs.engines.redis import RedisEngine

    return Tree(RedisEngine(url))


def _flux(url: str) -> Backend:
    from proxyflow.storage.kvs.engines.flux import FluxBackend

    return FluxBackend(url)


def _plain(url: str) -> SplitResult:
    """Split a URL that takes no options."""
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise InvalidURLError(f"{parts.scheme}:// takes no options", store=url)
    return parts


_OPENERS: dict[str, Callable[[str], Backend]] = {
    "flux": _flux,
    "lmdb": _lmdb,
    "memory": _memory,
    "redis": _redis,
    "redis+unix": _redis,
    "rediss": _redis,
    "unix": _redis,
}
