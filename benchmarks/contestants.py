"""Stores that can be compared: how each puts, evicts, and reads in another process.

Each puts into shared memory; each is read by a process that did not put. Whoever is not installed
is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks import ray_cluster
from benchmarks.limits import COPY, Array, plain_map, plain_write
from benchmarks.measure import missing
from proxyflow import Store
from proxyflow.recipe import open_store

__all__ = [
    "FILE",
    "OURS",
    "PEER",
    "RAY",
    "WRITE",
    "Holder",
    "Seconds",
    "holders",
    "memcpy",
    "of_peer",
    "of_store",
    "timed_reads",
]

OURS, FILE = "proxyflow shm://", "proxyflow file://"
PEER, RAY = "ProxyStore file", "Ray"
WRITE = "write() + mmap"

Seconds = tuple[float, float]
"""Of a get, and of a get and of summing what was got."""


@dataclass(frozen=True)
class Holder:
    """Something that holds objects.

    `read` gets some objects in another process and returns the seconds each took; without it, there
    is nothing to read.
    """

    name: str
    put: Callable[[Any], Any]
    evict: Callable[[Any], object]
    read: Callable[[list[Any]], list[Seconds]] | None = None


def timed_reads(get: Callable[[Any], Array], keys: Sequence[Any]) -> list[Seconds]:
    """Get each of some arrays and sum it."""
    taken = []
    for key in keys:
        started = time.perf_counter()
        array = get(key)
        got = time.perf_counter() - started
        array.sum()
        taken.append((got, time.perf_counter() - started))
        # The next one begins with nothing held.
        del array
    return taken


def read_ours(recipe: Any, keys: Sequence[Any]) -> list[Seconds]:
    """Read objects of a store of ours; runs in the reader."""
    return timed_reads(open_store(recipe).get, keys)


_peers: dict[str, Any] = {}


def peer_store(directory: str) -> Any:
    """Return ProxyStore's store in a directory, one for each process."""
    if directory not in _peers:
        from proxystore.connectors.file import FileConnector
        from proxystore.store import Store as PeerStore

        connector = FileConnector(directory, clear=False)
        # Without its cache: every get reads.
        _peers[directory] = PeerStore(f"peer-{os.getpid()}", connector, cache_size=0)
    return _peers[directory]


def read_peer(directory: str, keys: Sequence[Any]) -> list[Seconds]:
    """Read objects of ProxyStore; runs in the reader."""
    return timed_reads(peer_store(directory).get, keys)


def read_plain(nbytes: dict[str, int], paths: Sequence[str]) -> list[Seconds]:
    """Map plain files; runs in the reader."""
    return timed_reads(lambda path: plain_map(path, nbytes[path]), paths)


def of_store(name: str, store: Store, pool: ProcessPoolExecutor) -> Holder:
    """Return a store of ours."""
    recipe = store.recipe
    return Holder(
        name, store.put, store.evict, lambda keys: pool.submit(read_ours, recipe, keys).result()
    )


def of_peer(directory: str, pool: ProcessPoolExecutor) -> Holder:
    """Return ProxyStore's files."""
    store = peer_store(directory)
    return Holder(
        PEER,
        store.put,
        store.evict,
        lambda keys: pool.submit(read_peer, directory, keys).result(),
    )


def of_files(directory: str, pool: ProcessPoolExecutor) -> Holder:
    """Return plain files: no more than `write` and `mmap`."""
    lengths: dict[str, int] = {}

    def put(array: Array) -> str:
        path = os.path.join(directory, f"plain-{len(lengths)}")
        plain_write(path, array)
        lengths[path] = array.nbytes
        return path

    def evict(path: str) -> None:
        os.unlink(path)
        del lengths[path]

    return Holder(
        WRITE, put, evict, lambda paths: pool.submit(read_plain, dict(lengths), paths).result()
    )


def memcpy() -> Holder:
    """Return a copy into memory that is there: no single thread can put faster."""
    ready: dict[int, Array] = {}

    def put(array: Array) -> int:
        if array.nbytes not in ready:
            # The one of another size is not needed again.
            ready.clear()
            ready[array.nbytes] = np.ones_like(array)
        np.copyto(ready[array.nbytes], array)
        return array.nbytes

    return Holder(COPY, put, lambda key: None)


def of_ray(stack: ExitStack) -> Holder:
    """Start Ray and return its object store; an actor reads."""
    # One worker reads; the other is for what Ray itself may want to run.
    ray = ray_cluster.start(stack, 2)

    class Reader:
        def read(self, references: list[Any]) -> list[Seconds]:
            return timed_reads(ray.get, references)

    reader = ray.remote(Reader).remote()

    # An object goes when no reference to it is left; there is nothing to call.
    return Holder(
        RAY,
        ray.put,
        lambda reference: None,
        lambda references: list(ray.get(reader.read.remote(list(references)))),
    )


def holders(directory: str, stack: ExitStack) -> tuple[list[Holder], list[str]]:
    """Open all stores that there are; return them, and who is left out."""
    context = get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
    ours = stack.enter_context(Store(f"shm://{directory}/shm"))
    files = stack.enter_context(Store(f"file://{directory}/file"))
    found = [of_store(OURS, ours, pool), of_store(FILE, files, pool)]
    absent = missing("proxystore", "ray")
    if "proxystore" not in absent:
        found.append(of_peer(f"{directory}/peer", pool))
    if "ray" not in absent:
        found.append(of_ray(stack))
    found.append(of_files(directory, pool))
    return found, [f"{name} is not installed" for name in absent]
