"""The KVS of a Flux instance, behind the same handle as the other engines.

The semantics are Flux's own. Beyond them there is no `compare_and_swap`: Flux has none. A reader on
another broker may be behind a commit, values read together need not be of one moment, and a commit
without ``FLUX_KVS_SYNC`` may be lost if the broker crashes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from proxyflow.storage.kvs.backend import (
    FLUX_KVS_SYNC,
    MakeDirectory,
    Operation,
    Put,
    State,
    Symlink,
    Unlink,
)
from proxyflow.storage.kvs.engines.flux_calls import FluxCalls
from proxyflow.storage.kvs.errors import (
    ClosedError,
    InvalidKeyError,
    IsDirectoryError,
    KeyNotFoundError,
    NotDirectoryError,
    StorageFullError,
    UnsupportedError,
)
from proxyflow.storage.kvs.keys import PRIMARY, Names, to_text
from proxyflow.storage.kvs.values import Content

__all__ = ["FluxBackend"]

# Flux refuses more, after having encoded all of it.
MAX_VALUE_BYTES = 1 << 30


def _key(names: Names) -> str:
    return ".".join(map(to_text, names)) or "."


class FluxBackend:
    """The broker that the environment, or the URL, names.

    Parameters
    ----------
    url
        ``flux://``, followed by the instance's ``FLUX_URI`` unless that is in the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._calls: FluxCalls | None = FluxCalls(url, url.partition("://")[2] or None)
        # An error in reaching the broker is one of `open`, not of the first call.
        self._calls.handle()

    def _opened(self) -> FluxCalls:
        if self._calls is None:
            raise ClosedError("the handle was closed", store=self.url)
        return self._calls

    # -- reading ----------------------------------------------------------------------------

    def state(self, namespace: str, names: Names) -> State | None:
        """Return what is under a key; Flux tells a value's size only by sending all of it."""
        try:
            (stored,) = self.read(namespace, [names])
        except IsDirectoryError:
            return State(True, 0, b"")
        if stored is None:
            return None
        return State(False, len(stored), hashlib.blake2b(stored).digest())

    def read(self, namespace: str, keys: Sequence[Names]) -> list[bytes | None]:
        """Return the values of keys, all asked for at once; ``None`` where nothing is."""
        calls = self._opened()
        with ExitStack() as held:
            futures = [
                held.enter_context(calls.held(calls.lookup(namespace, _key(names)), _key(names)))
                for names in keys
            ]
            return [
                self._value(calls, future, _key(names))
                for future, names in zip(futures, keys, strict=True)
            ]

    @staticmethod
    def _value(calls: FluxCalls, future: Any, key: str) -> bytes | None:
        try:
            return calls.raw_value(future, key)
        except KeyNotFoundError:
            return None

    def readinto(self, namespace: str, names: Names, target: memoryview, offset: int) -> int:
        """Fill `target` from `offset` of a value on; all of the value is sent."""
        (stored,) = self.read(namespace, [names])
        if stored is None:
            raise KeyNotFoundError("nothing is stored here", store=self.url, key=_key(names))
        piece = memoryview(stored)[offset : offset + target.nbytes]
        target[: piece.nbytes] = piece
        return piece.nbytes

    def children(self, namespace: str, names: Names) -> list[tuple[str, bool]]:
        """Return the sorted names in a directory, and whether each is a directory itself."""
        calls = self._opened()
        future = calls.lookup(namespace, _key(names), calls.lib.FLUX_KVS_READDIR)
        with calls.answered(future, _key(names)):
            return calls.listing(future, _key(names))

    # -- writing ----------------------------------------------------------------------------

    def commit(self, namespace: str, operations: Sequence[Operation], flags: int) -> None:
        """Apply operations in order, all or nothing."""
        calls = self._opened()
        if flags & FLUX_KVS_SYNC and namespace != PRIMARY:
            raise InvalidKeyError(
                "FLUX_KVS_SYNC is for the primary namespace only", store=self.url, key=namespace
            )
        with calls.transaction() as transaction:
            for operation in operations:
                self._stage(calls, transaction, operation)
            calls.commit(transaction, namespace, flags)

    def _stage(self, calls: FluxCalls, transaction: Any, operation: Operation) -> None:
        key = _key(operation.names)
        if not operation.names:
            raise InvalidKeyError("the root cannot be replaced", store=self.url, key=key)
        match operation:
            case Put(content=content):
                if sum(piece.nbytes for piece in content) > MAX_VALUE_BYTES:
                    raise StorageFullError(
                        "Flux takes no value above 1 GiB",
                        store=self.url,
                        key=key,
                        remedy="put it under several keys",
                    )
                calls.txn_put(transaction, key, b"".join(content))
            case MakeDirectory():
                calls.txn_mkdir(transaction, key)
            case Unlink():
                calls.txn_unlink(transaction, key)
            case Symlink(target=target):
                calls.txn_symlink(transaction, key, _key(target))

    def swap(
        self,
        namespace: str,
        names: Names,
        expected: Callable[[bytes | None], bool],
        content: Content | None,
    ) -> bool:
        """Fail: Flux cannot do this."""
        raise UnsupportedError(
            "Flux cannot compare and swap",
            store=self.url,
            key=_key(names),
            remedy="let one process write the key, or use lmdb:// or redis://",
        )

    # -- watching, namespaces ---------------------------------------------------------------

    def watch(self, namespace: str, names: Names) -> _Watcher:
        """Return a watcher of the key itself."""
        return _Watcher(self._opened(), namespace, _key(names))

    def namespace_create(self, namespace: str, owner: int | None, flags: int) -> None:
        """Make a namespace; NamespaceExistsError if there is one."""
        uid = os.getuid() if owner is None else owner
        self._opened().namespace_create(namespace, uid, flags)

    def namespace_remove(self, namespace: str) -> None:
        """Remove a namespace in the background; a missing one is no error."""
        self._opened().namespace_remove(namespace)

    def namespace_list(self) -> list[str]:
        """Return the names of all namespaces, ``primary`` first."""
        others = sorted(set(self._opened().namespaces()) - {PRIMARY})
        return [PRIMARY, *others]

    def dropcache(self) -> None:
        """Nothing is remembered here, and brokers drop what they do not need by themselves."""

    def close(self) -> None:
        """Let go of the handles; Flux closes them when their threads have ended."""
        self._calls = None


class _Watcher:
    """Waits for the answers to a look-up that goes on.

    Flux ends such a look-up when the key is removed, or turns from a value into a directory; then
    the next one begins.
    """

    def __init__(self, calls: FluxCalls, namespace: str, key: str) -> None:
        self._calls = calls
        self._namespace = namespace
        self._key = key
        self._directory = False
        self._future: Any = None

    def _begin(self) -> Any:
        lib = self._calls.lib
        flags = lib.FLUX_KVS_WATCH | lib.FLUX_KVS_WAITCREATE | lib.FLUX_KVS_WATCH_FULL
        if self._directory:
            flags |= lib.FLUX_KVS_READDIR
        return self._calls.checked(self._calls.lookup(self._namespace, self._key, flags))

    def wait(self, timeout: float | None) -> bool:
        calls = self._calls
        if self._future is None:
            self._future = self._begin()
        seconds = -1.0 if timeout is None else max(timeout, 0.0)
        if calls.lib.flux_future_wait_for(self._future, seconds) < 0:
            number = calls.ffi.errno
            if number == errno.ETIMEDOUT:
                return False
            self._end()
            raise calls.error(number, self._key)
        try:
            calls.checked(calls.lib.flux_future_get(self._future, calls.ffi.NULL), self._key)
            calls.lib.flux_future_reset(self._future)
        except KeyNotFoundError:
            self._end()
        except IsDirectoryError:
            self._directory = True
            self._end()
        except NotDirectoryError:
            self._directory = False
            self._end()
        return True

    def _end(self) -> None:
        future, self._future = self._future, None
        if future is not None:
            self._calls.lib.flux_kvs_lookup_cancel(future)
            self._calls.lib.flux_future_destroy(future)

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
