"""Stands where ``libflux-core`` does: the C signatures of the real bindings over a KVS in memory.

Every function is a C function pointer of the recorded type, so a wrong number or kind of arguments
fails as it would with the real bindings. What the real library answers with a crash is noted down:
futures, transactions and iterators that are not given back, and a handle that is used outside the
thread or process that opened it.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cffi

from proxyflow.storage import kvs
from proxyflow.storage.kvs.backend import MakeDirectory, Put, Symlink, Unlink
from proxyflow.storage.kvs.keys import split
from proxyflow.storage.kvs.values import as_content

RECORD = json.loads((Path(__file__).parent / "flux_bindings.json").read_text())
STRUCTS = ("flux_future", "flux_handle", "flux_kvs_txn", "flux_kvsdir", "flux_kvsitr")


class FluxDouble:
    """The library, its bindings, and what was done wrong with them."""

    def __init__(self) -> None:
        self.store = kvs.open("memory://")
        self.misuse: list[str] = []
        self.broker_is_there = True
        self.next_errno = 0
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef("\n".join(f"typedef struct {name} {name}_t;" for name in STRUCTS))
        self._kept: list[Any] = []
        functions = {name: self._function(name) for name in RECORD["functions"]}
        self.lib = SimpleNamespace(**functions, **RECORD["constants"])

    def modules(self) -> dict[str, ModuleType]:
        """Return what is imported in the bindings' place."""
        flux, flux_kvs = ModuleType("flux"), ModuleType("flux.kvs")
        package, core = ModuleType("_flux"), ModuleType("_flux._core")
        flux.Flux = self.open  # type: ignore[attr-defined]
        flux_kvs.namespace_list = self.namespace_list  # type: ignore[attr-defined]
        core.ffi, core.lib = self.ffi, self.lib  # type: ignore[attr-defined]
        return {"flux": flux, "flux.kvs": flux_kvs, "_flux": package, "_flux._core": core}

    def left_over(self) -> list[str]:
        """Return what was not given back; handles are never."""
        return [name for name, _ in self._objects.values() if name != "flux_handle"]

    # -- objects and errors -----------------------------------------------------------------

    def _function(self, name: str) -> Any:
        signature = RECORD["functions"][name]
        answer = getattr(self, "_" + name)
        failed = -1 if signature.startswith("int") else self.ffi.NULL

        def call(*arguments: Any) -> Any:
            try:
                if self.next_errno and not signature.startswith("void"):
                    raise OSError(self.next_errno, "as the test wants it")
                return answer(*arguments)
            except OSError as error:
                self.ffi.errno = error.errno
                return failed

        function = self.ffi.callback(signature, call)
        self._kept.append(function)
        return function

    def _new(self, name: str, what: Any) -> Any:
        number = next(self._numbers) * 16
        self._objects[number] = (name, what)
        return self.ffi.cast(f"struct {name} *", number)

    def _get(self, pointer: Any) -> Any:
        number = int(self.ffi.cast("uintptr_t", pointer))
        if number not in self._objects:
            self.misuse.append(f"{pointer} was given back, or never made")
            raise OSError(errno.EINVAL, "")
        return self._objects[number][1]

    def _drop(self, pointer: Any) -> None:
        self._get(pointer)
        del self._objects[int(self.ffi.cast("uintptr_t", pointer))]

    def _text(self, pointer: Any) -> str:
        return bytes(self.ffi.string(pointer)).decode("utf-8", "surrogateescape")

    # -- handles ----------------------------------------------------------------------------

    def open(self, url: Any = None) -> SimpleNamespace:
        """As ``flux.Flux``."""
        if not self.broker_is_there:
            raise OSError(errno.ENOENT, "Unable to connect to Flux")
        handle = self._new("flux_handle", (os.getpid(), threading.get_ident()))
        return SimpleNamespace(handle=handle, url=url)

    def _check(self, handle: Any) -> None:
        if self._get(handle) != (os.getpid(), threading.get_ident()):
            self.misuse.append("a handle was used outside its thread or process")

    def namespace_list(self, flux_handle: SimpleNamespace) -> list[str]:
        """As ``flux.kvs.namespace_list``."""
        self._check(flux_handle.handle)
        if self.next_errno:
            raise OSError(self.next_errno, "as the test wants it")
        return kvs.namespace_list(self.store)[::-1]

    # -- futures ----------------------------------------------------------------------------

    def _future(self, answer: Any) -> Any:
        """Make a future; `answer` returns what there is, None as long as there is nothing."""
        return self._new("flux_future", SimpleNamespace(answer=answer, found=None))

    def _flux_future_wait_for(self, future: Any, seconds: float) -> int:
        waited = self._get(future)
        deadline = time.monotonic() + (seconds if seconds >= 0 else 60)
        while waited.found is None:
            try:
                waited.found = waited.answer()
            except OSError as error:
                waited.found = error
            if waited.found is None:
                if time.monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, "")
                time.sleep(0.001)
        return 0

    def _found(self, future: Any) -> Any:
        self._flux_future_wait_for(future, -1)
        found = self._get(future).found
        if isinstance(found, OSError):
            raise found
        return found

    def _flux_future_get(self, future: Any, _: Any) -> int:
        self._found(future)
        return 0

    def _flux_future_reset(self, future: Any) -> None:
        self._get(future).found = None

    def _flux_future_destroy(self, future: Any) -> None:
        self._drop(future)

    # -- reading ----------------------------------------------------------------------------

    def _flux_kvs_lookup(self, handle: Any, namespace: Any, flags: int, key: Any) -> Any:
        self._check(handle)
        where, name = self._text(namespace), self._text(key)
        last: list[Any] = [self]

        def answer() -> Any:
            found = self._look(where, name, flags)
            if found is None:
                if last[0] is not self:
                    raise OSError(errno.ENOENT, "the key was removed")
                return None
            if flags & self.lib.FLUX_KVS_WATCH and found == last[0]:
                return None
            last[0] = found
            return found

        return self._future(answer)

    def _look(self, namespace: str, key: str, flags: int) -> Any:
        try:
            if flags & self.lib.FLUX_KVS_READDIR:
                return ("dir", self.store.backend.children(namespace, split(key)))
            return ("value", kvs.get(self.store, key, namespace, raw=True))
        except kvs.KeyNotFoundError:
            if flags & self.lib.FLUX_KVS_WAITCREATE:
                return None
            raise

    def _flux_kvs_lookup_cancel(self, future: Any) -> int:
        self._get(future)
        return 0

    def _flux_kvs_lookup_get_raw(self, future: Any, data: Any, length: Any) -> int:
        _, value = self._found(future)
        memory = self.ffi.new("char[]", value) if value else self.ffi.NULL
        self._get(future).memory = memory
        data[0] = self.ffi.cast("void *", memory)
        length[0] = len(value)
        return 0

    def _flux_kvs_lookup_get_dir(self, future: Any, directory: Any) -> int:
        _, children = self._found(future)
        self._get(future).directory = dict(children)
        # Belongs to its future, so it is the future's address.
        directory[0] = self.ffi.cast("struct flux_kvsdir *", future)
        return 0

    def _flux_kvsdir_isdir(self, directory: Any, name: Any) -> bool:
        return bool(self._get(directory).directory[self._text(name)])

    def _flux_kvsitr_create(self, directory: Any) -> Any:
        names = [name.encode("utf-8", "surrogateescape") for name in self._get(directory).directory]
        return self._new("flux_kvsitr", SimpleNamespace(names=names[::-1], last=None))

    def _flux_kvsitr_next(self, iterator: Any) -> Any:
        going = self._get(iterator)
        if not going.names:
            return self.ffi.NULL
        going.last = self.ffi.new("char[]", going.names.pop(0))
        return self.ffi.cast("char *", going.last)

    def _flux_kvsitr_destroy(self, iterator: Any) -> None:
        self._drop(iterator)

    # -- writing ----------------------------------------------------------------------------

    def _flux_kvs_txn_create(self) -> Any:
        return self._new("flux_kvs_txn", [])

    def _flux_kvs_txn_destroy(self, transaction: Any) -> None:
        self._drop(transaction)

    def _flux_kvs_txn_put_raw(self, txn: Any, flags: int, key: Any, data: Any, length: int) -> int:
        content = as_content([bytes(self.ffi.buffer(data, length))])
        self._get(txn).append(Put(split(self._text(key)), content))
        return flags

    def _flux_kvs_txn_mkdir(self, txn: Any, flags: int, key: Any) -> int:
        self._get(txn).append(MakeDirectory(split(self._text(key))))
        return flags

    def _flux_kvs_txn_unlink(self, txn: Any, flags: int, key: Any) -> int:
        self._get(txn).append(Unlink(split(self._text(key))))
        return flags

    def _flux_kvs_txn_symlink(
        self, txn: Any, flags: int, key: Any, namespace: Any, target: Any
    ) -> int:
        if namespace != self.ffi.NULL:
            self.misuse.append("a link into another namespace")
        self._get(txn).append(Symlink(split(self._text(key)), split(self._text(target))))
        return flags

    def _flux_kvs_commit(self, handle: Any, namespace: Any, flags: int, txn: Any) -> Any:
        self._check(handle)
        operations, where = list(self._get(txn)), self._text(namespace)

        def answer() -> bool:
            self.store.backend.commit(where, operations, flags)
            return True

        return self._future(answer)

    def _flux_kvs_namespace_create(self, handle: Any, name: Any, owner: int, flags: int) -> Any:
        self._check(handle)
        namespace = self._text(name)

        def answer() -> bool:
            kvs.namespace_create(self.store, namespace, owner, flags)
            return True

        return self._future(answer)

    def _flux_kvs_namespace_remove(self, handle: Any, name: Any) -> Any:
        self._check(handle)
        namespace = self._text(name)

        def answer() -> bool:
            kvs.namespace_remove(self.store, namespace)
            return True

        return self._future(answer)
