"""Operations that wait for a commit."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyflow.storage.kvs.backend import (
    FLUX_KVS_NO_MERGE,
    FLUX_KVS_SYNC,
    FLUX_KVS_TXN_COMPACT,
    MakeDirectory,
    Operation,
    Put,
    Symlink,
    Unlink,
)
from proxyflow.storage.kvs.errors import InvalidKeyError
from proxyflow.storage.kvs.keys import split, which_namespace
from proxyflow.storage.kvs.values import as_content, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxyflow.storage.kvs.handle import Handle

__all__ = ["KVSTxn", "path_prefix"]

_KNOWN_FLAGS = FLUX_KVS_NO_MERGE | FLUX_KVS_TXN_COMPACT | FLUX_KVS_SYNC


def path_prefix(path: str) -> str:
    """Return what is put before a key to make it relative to a path."""
    return "" if not path or path == "." else path.rstrip(".") + "."


class KVSTxn:
    """Operations, in order, that a commit applies as one.

    Nothing is visible before `commit`, not even to the writer. As a context manager it commits at
    the end of the body, and drops what was staged if the body raises.

    A transaction may be shared by threads. A forked child starts with an empty one: what the
    parent staged, the parent commits.

    Parameters
    ----------
    flux_handle
        What `open` returned.
    path
        All keys are relative to this path.
    namespace
        Where to commit; by default what ``FLUX_KVS_NAMESPACE`` says at that moment, else the
        primary namespace.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> with kvs.KVSTxn(handle, "run") as transaction:
    ...     transaction.put("state", "done")
    >>> kvs.get(handle, "run.state")
    'done'
    """

    def __init__(self, flux_handle: Handle, path: str = ".", namespace: str | None = None) -> None:
        self.fhdl = flux_handle
        self.path = path
        self.namespace = namespace
        self._prefix = path_prefix(path)
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._pid = os.getpid()

    def put(self, key: str, value: Any, raw: bool = False) -> None:
        """Stage a value; see `proxyflow.storage.kvs.put`."""
        self._stage(Put(split(self._full(key)), encode(value, raw=raw)))

    def put_parts(self, key: str, buffers: Iterable[Any]) -> None:
        """Stage a value given in pieces; see `proxyflow.storage.kvs.put_parts`."""
        self._stage(Put(split(self._full(key)), as_content(buffers)))

    def mkdir(self, key: str) -> None:
        """Stage an empty directory."""
        self._stage(MakeDirectory(split(self._full(key))))

    def unlink(self, key: str) -> None:
        """Stage the removal of a key and all below it."""
        self._stage(Unlink(split(self._full(key))))

    def symlink(self, key: str, target: str) -> None:
        """Stage a link; its target counts from the root of the namespace."""
        self._stage(Symlink(split(self._full(key)), split(target)))

    def _full(self, key: str) -> str:
        if key is None or key == "":
            raise InvalidKeyError("a key names at least one entry", key=key)
        return self._prefix + key

    def _stage(self, operation: Operation) -> None:
        with self._mine():
            self._operations.append(operation)

    def _mine(self) -> threading.Lock:
        """Return the lock, after leaving to the parent what is the parent's."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()
            self._operations = []
            self._pid = os.getpid()
        return self._lock

    def staged(self) -> tuple[Operation, ...]:
        """Return what waits to be committed."""
        with self._mine():
            return tuple(self._operations)

    def clear(self) -> None:
        """Drop what was staged."""
        self._take()

    def _take(self) -> list[Operation]:
        with self._mine():
            taken, self._operations = self._operations, []
            return taken

    def commit(self, flags: int = 0, namespace: str | None = None) -> None:
        """Apply what was staged, all or nothing; see `proxyflow.storage.kvs.commit`."""
        operations = self._take()
        if flags & ~_KNOWN_FLAGS:
            raise InvalidKeyError(f"unknown flags {flags:#x}", store=self.fhdl.url)
        if operations:
            where = which_namespace(self.namespace if namespace is None else namespace)
            self.fhdl.backend.commit(where, operations, flags)

    def __enter__(self) -> KVSTxn:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.clear()
