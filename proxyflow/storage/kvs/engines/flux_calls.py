"""The functions of ``libflux-core`` that the KVS needs, with their errors as exceptions.

The bindings' own ``flux.kvs`` cuts bytes at the first NUL, and leaves the future of a failed
look-up behind until the process aborts. The C functions under it do neither, so they are called
directly; see the manual pages flux_kvs_lookup(3), flux_kvs_txn_create(3) and flux_kvs_commit(3).
"""

from __future__ import annotations

import errno
import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxyflow.storage.kvs.errors import (
    AccessDeniedError,
    InvalidKeyError,
    IsDirectoryError,
    KeyNotFoundError,
    KVSError,
    LinkLoopError,
    MissingLibraryError,
    NamespaceError,
    NamespaceExistsError,
    NotDirectoryError,
    StorageFullError,
    UnreachableError,
)

__all__ = ["FluxCalls"]

# How long the broker may stay silent.
TIMEOUT_SECONDS = 60.0

_ERRORS: dict[int, type[KVSError]] = {
    errno.EACCES: AccessDeniedError,
    errno.ECONNREFUSED: UnreachableError,
    errno.ECONNRESET: UnreachableError,
    errno.EEXIST: NamespaceExistsError,
    errno.EFBIG: StorageFullError,
    errno.EHOSTUNREACH: UnreachableError,
    errno.EINVAL: InvalidKeyError,
    errno.EISDIR: IsDirectoryError,
    errno.ELOOP: LinkLoopError,
    errno.ENOENT: KeyNotFoundError,
    errno.ENOSPC: StorageFullError,
    errno.ENOSYS: UnreachableError,
    errno.ENOTDIR: NotDirectoryError,
    errno.ENOTSUP: NamespaceError,
    errno.EPERM: AccessDeniedError,
    errno.EPIPE: UnreachableError,
    errno.ETIMEDOUT: UnreachableError,
}


class FluxCalls:
    """The library, with one handle for each thread of each process.

    Parameters
    ----------
    url
        What errors name.
    uri
        The ``FLUX_URI`` to connect to; ``None`` for the one of the environment.
    """

    def __init__(self, url: str, uri: str | None) -> None:
        self.url = url
        self._uri = uri
        try:
            self._flux: Any = importlib.import_module("flux")
            self._kvs: Any = importlib.import_module("flux.kvs")
            core: Any = importlib.import_module("_flux._core")
        except ImportError as error:
            raise MissingLibraryError(
                f"flux:// needs the bindings of Flux and its library: {error}",
                store=url,
                remedy="pip install 'proxyflow[flux]', and install Flux itself for libflux-core.so",
            ) from error
        self.ffi: Any = core.ffi
        self.lib: Any = core.lib
        self._local = threading.local()

    # -- handles ----------------------------------------------------------------------------

    def handle(self) -> Any:
        """Return this thread's handle; UnreachableError if there is no broker."""
        if getattr(self._local, "pid", None) != os.getpid():
            if hasattr(self._local, "flux"):
                # The parent's: closing it here would end the parent's session with the broker.
                _inherited.append(self._local.flux)
            try:
                self._local.flux = self._flux.Flux(*([] if self._uri is None else [self._uri]))
            except OSError as error:
                raise UnreachableError(
                    f"there is no Flux broker: {error}",
                    store=self.url,
                    remedy="run inside a Flux instance (flux start), or give its FLUX_URI",
                ) from error
            self._local.pid = os.getpid()
        return self._local.flux.handle

    def namespaces(self) -> list[str]:
        """Return the names of all namespaces."""
        self.handle()
        try:
            return list(self._kvs.namespace_list(self._local.flux))
        except OSError as error:
            raise self.error(error.errno or errno.EIO) from error

    # -- errors -----------------------------------------------------------------------------

    def error(self, number: int, key: str | None = None) -> KVSError:
        """Return the exception for an errno of Flux."""
        kind = _ERRORS.get(number, KVSError)
        return kind(f"Flux reports {os.strerror(number)}", store=self.url, key=key)

    def checked(self, result: Any, key: str | None = None) -> Any:
        """Return what a function returned, unless that says that it failed."""
        failed = result < 0 if isinstance(result, int) else result == self.ffi.NULL
        if failed:
            raise self.error(self.ffi.errno or errno.EIO, key)
        return result

    # -- futures ----------------------------------------------------------------------------

    @contextmanager
    def answered(self, future: Any, key: str | None = None) -> Iterator[Any]:
        """Wait for a future and give it back at the end, whatever happens between."""
        with self.held(future, key):
            self.wait(future, key)
            self.checked(self.lib.flux_future_get(future, self.ffi.NULL), key)
            yield future

    def wait(self, future: Any, key: str | None = None) -> None:
        """Wait until a future is answered, be it with an error; UnreachableError if it is not."""
        self.checked(self.lib.flux_future_wait_for(future, TIMEOUT_SECONDS), key)

    @contextmanager
    def held(self, future: Any, key: str | None = None) -> Iterator[Any]:
        """Give a future back at the end."""
        self.checked(future, key)
        try:
            yield future
        finally:
            self.lib.flux_future_destroy(future)

    def lookup(self, namespace: str, key: str, flags: int = 0) -> Any:
        """Return the future of a look-up."""
        return self.lib.flux_kvs_lookup(self.handle(), _text(namespace), flags, _text(key))

    # -- reading ----------------------------------------------------------------------------

    def raw_value(self, future: Any, key: str) -> bytes:
        """Return the bytes that a look-up found, NULs included."""
        self.wait(future, key)
        data = self.ffi.new("void *[1]")
        length = self.ffi.new("size_t *")
        self.checked(self.lib.flux_kvs_lookup_get_raw(future, data, length), key)
        # An empty value comes as a null pointer.
        return bytes(self.ffi.buffer(data[0], length[0])) if length[0] else b""

    def listing(self, future: Any, key: str) -> list[tuple[str, bool]]:
        """Return the names that a look-up found in a directory, and which are directories."""
        found = self.ffi.new("flux_kvsdir_t *[1]")
        self.checked(self.lib.flux_kvs_lookup_get_dir(future, found), key)
        # Belongs to the future, like the names to the iterator.
        directory = found[0]
        names = self.checked(self.lib.flux_kvsitr_create(directory))
        children = []
        try:
            while (name := self.lib.flux_kvsitr_next(names)) != self.ffi.NULL:
                is_directory = bool(self.lib.flux_kvsdir_isdir(directory, name))
                text = self.ffi.string(name).decode("utf-8", "surrogateescape")
                children.append((text, is_directory))
        finally:
            self.lib.flux_kvsitr_destroy(names)
        return sorted(children)

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Return an empty transaction of Flux, and give it back at the end."""
        transaction = self.checked(self.lib.flux_kvs_txn_create())
        try:
            yield transaction
        finally:
            self.lib.flux_kvs_txn_destroy(transaction)

    def txn_put(self, transaction: Any, key: str, data: bytes) -> None:
        """Stage bytes."""
        self.checked(
            self.lib.flux_kvs_txn_put_raw(
                transaction, 0, _text(key), self.ffi.from_buffer(data), len(data)
            ),
            key,
        )

    def txn_mkdir(self, transaction: Any, key: str) -> None:
        """Stage an empty directory."""
        self.checked(self.lib.flux_kvs_txn_mkdir(transaction, 0, _text(key)), key)

    def txn_unlink(self, transaction: Any, key: str) -> None:
        """Stage a removal."""
        self.checked(self.lib.flux_kvs_txn_unlink(transaction, 0, _text(key)), key)

    def txn_symlink(self, transaction: Any, key: str, target: str) -> None:
        """Stage a link within its namespace."""
        self.checked(
            self.lib.flux_kvs_txn_symlink(transaction, 0, _text(key), self.ffi.NULL, _text(target)),
            key,
        )

    def commit(self, transaction: Any, namespace: str, flags: int) -> None:
        """Send a transaction and wait for it."""
        future = self.lib.flux_kvs_commit(self.handle(), _text(namespace), flags, transaction)
        with self.answered(future):
            pass

    def namespace_create(self, namespace: str, owner: int, flags: int) -> None:
        """Create a namespace."""
        future = self.lib.flux_kvs_namespace_create(self.handle(), _text(namespace), owner, flags)
        with self.answered(future, namespace):
            pass

    def namespace_remove(self, namespace: str) -> None:
        """Remove a namespace."""
        future = self.lib.flux_kvs_namespace_remove(self.handle(), _text(namespace))
        with self.answered(future, namespace):
            pass


# Handles of the parent process, kept so that the collector does not close them.
_inherited: list[Any] = []


def _text(text: str) -> bytes:
    if "\0" in text:
        raise InvalidKeyError("Flux takes no NUL character in a key", key=text)
    return text.encode("utf-8", "surrogateescape")
