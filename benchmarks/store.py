"""Put, get and evict of arrays under shared memory, next to ProxyStore and a plain write.

Run with ``python -m benchmarks.store [--rounds N] [--directory D]``. "get" happens in another
process, before a page of the array is touched; "get + sum" reads all of it. The contestants take
turns; medians in milliseconds, and how many times ours they are. Peak memory is what a process of
its own adds to its resident set (VmHWM) for one array of 256 MiB, as a multiple of the array.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import Goal, report
from benchmarks.measure import missing, table
from proxyflow import Store
from proxyflow.recipe import open_store

SIZES = {"1 KiB": 1 << 10, "1 MiB": 1 << 20, "100 MiB": 100 << 20}
OURS, PEER, WRITE = "proxyflow", "ProxyStore", "write()"


def reader_seconds(recipe: Any, key: Any) -> tuple[float, float]:
    """Get an object of ours; return the seconds for that, and for getting and summing it."""
    store = open_store(recipe)
    started = time.perf_counter()
    array = store.get(key)
    got = time.perf_counter() - started
    array.sum()
    return got, time.perf_counter() - started


def peer_reader_seconds(config: Any, key: Any) -> tuple[float, float]:
    """Do the same with ProxyStore."""
    store = _peer_store(config)
    started = time.perf_counter()
    array = store.get(key)
    got = time.perf_counter() - started
    array.sum()
    return got, time.perf_counter() - started


_peer: dict[str, Any] = {}


def _peer_store(directory: str) -> Any:
    if directory not in _peer:
        from proxystore.connectors.file import FileConnector
        from proxystore.store import Store as PeerStore

        connector = FileConnector(directory, clear=False)
        # Without its cache: every get reads.
        _peer[directory] = PeerStore(f"peer-{os.getpid()}", connector, cache_size=0)
    return _peer[directory]


def plain_write(directory: str, array: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Return a call that writes an array's bytes to a new file."""
    path = os.path.join(directory, "plain")

    def write() -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        view = memoryview(array).cast("B")
        while view:
            view = view[os.write(fd, view) :]
        os.close(fd)

    return write


def measure_size(
    name: str, nbytes: int, store: Store, directory: str, pool: ProcessPoolExecutor, rounds: int
) -> dict[str, dict[str, float]]:
    """Return the medians of all rows of one size."""
    array = np.random.default_rng(0).random(nbytes // 8)
    peer = None if missing("proxystore") else _peer_store(os.path.join(directory, "peer"))
    repeat = max(1, min(200, (4 << 20) // nbytes))
    rows: dict[str, dict[str, float]] = {}

    def put_evict(target: Any) -> tuple[Callable[[], None], Callable[[], None]]:
        keys: list[Any] = []

        def put() -> None:
            for _ in range(repeat):
                keys.append(target.put(array))

        def evict() -> None:
            while keys:
                target.evict(keys.pop())

        return put, evict

    puts: dict[str, Callable[[], None]] = {}
    evicts: dict[str, Callable[[], None]] = {}
    for contestant, target in ((OURS, store), (PEER, peer)):
        if target is not None:
            puts[contestant], evicts[contestant] = put_evict(target)
    write = plain_write(directory, array)

    samples: dict[str, dict[str, list[float]]] = {"put": {}, "evict": {}}
    for _ in range(rounds + 1):
        for contestant in puts:
            for row, call in (("put", puts[contestant]), ("evict", evicts[contestant])):
                started = time.perf_counter()
                call()
                seconds = (time.perf_counter() - started) / repeat
                samples[row].setdefault(contestant, []).append(seconds)
        started = time.perf_counter()
        write()
        samples["put"].setdefault(WRITE, []).append(time.perf_counter() - started)
        os.unlink(os.path.join(directory, "plain"))
    for row, by_contestant in samples.items():
        rows[f"{name} {row}"] = {
            contestant: float(np.median(values[1:])) for contestant, values in by_contestant.items()
        }

    gets: dict[str, list[tuple[float, float]]] = {OURS: [], PEER: []}
    key = store.put(array)
    peer_key = peer.put(array) if peer is not None else None
    for _ in range(max(rounds, 15) + 2):
        gets[OURS].append(pool.submit(reader_seconds, store.recipe, key).result())
        if peer is not None:
            config = os.path.join(directory, "peer")
            gets[PEER].append(pool.submit(peer_reader_seconds, config, peer_key).result())
    store.evict(key)
    if peer is not None:
        peer.evict(peer_key)
    for index, row in enumerate(("get", "get + sum")):
        rows[f"{name} {row}"] = {
            contestant: float(np.median([pair[index] for pair in pairs[2:]]))
            for contestant, pairs in gets.items()
            if pairs
        }
    return rows


def peak_of(task: Callable[..., None], *args: Any) -> float:
    """Return how many bytes a task adds to the peak resident set of a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(sender, task, *args))
    process.start()
    peak: float = receiver.recv()
    process.join()
    return peak


def _report_peak(sender: Any, task: Callable[..., None], *args: Any) -> None:
    array = np.ones(1)
    with Store("memory://") as store:
        # Everything imported and warm before the first look.
        store.get(store.put(array))
    before = _resident("VmRSS")
    task(*args)
    sender.send(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def write_large(url: str, nbytes: int) -> None:
    """Make an array and put it."""
    with Store(url) as store:
        store.put(np.ones(nbytes // 8))


def read_large(recipe: Any, key: Any) -> None:
    """Get an array and touch all of it."""
    open_store(recipe).get(key).sum()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", default="/dev/shm", help="where to measure (/dev/shm)")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="benchmark-", dir=options.directory)
    url = f"file://{directory}/ours"
    rows: dict[str, dict[str, float]] = {}
    try:
        with (
            Store(url) as store,
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            for name, nbytes in SIZES.items():
                rows |= measure_size(name, nbytes, store, directory, pool, options.rounds)
            print(table("milliseconds (times ours)", rows, OURS))
            nbytes = 256 << 20
            key = store.put(np.ones(nbytes // 8))
            reader = peak_of(read_large, store.recipe, key) / nbytes
            store.evict(key)
        writer = peak_of(write_large, url, nbytes) / nbytes
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    small = rows["1 KiB put"], rows["1 KiB get"]
    goals = [
        Goal("get of 100 MiB", rows["100 MiB get"][OURS] * 1e6, 200, False, "microseconds"),
        Goal("peak memory of the writer, arrays", writer, 1.1, False),
        Goal("peak memory of the reader, arrays", reader, 1.1, False),
        Goal(
            "put of 100 MiB over write()",
            rows["100 MiB put"][OURS] / rows["100 MiB put"][WRITE],
            1.3,
            False,
        ),
    ]
    if PEER in small[0]:
        ratio = sum(row[PEER] for row in small) / sum(row[OURS] for row in small)
        goals.append(Goal("put + get of 1 KiB, faster than ProxyStore", ratio, 1.5, True))
    print(report(goals))


if __name__ == "__main__":
    main()
