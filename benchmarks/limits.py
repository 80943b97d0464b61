"""What the machine itself can do: copying, writing, mapping and waking somebody up.

Run with ``python -m benchmarks.limits [--quick]``. No store can put faster than a copy into memory
that is there already, nor read faster than summing what is mapped; the other figures show what is
lost on the way there. The contestants take turns.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from benchmarks.measure import Median, interleave
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Panel, Plot, Result, Table
from benchmarks.sizes import KIB, MIB, label

# The stubs of Python do not know that arrays are buffers.
Array: TypeAlias = Any

COPY = "memcpy, one thread"
MAPPED = "mapped, + sum"
_GIGABYTE = 1e9


def plain_write(path: str, array: Array) -> None:
    """Write an array's bytes to a new file."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        view = memoryview(array).cast("B")
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def plain_map(path: str, nbytes: int) -> Array:
    """Map a file as an array."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return np.frombuffer(mmap.mmap(fd, nbytes, prot=mmap.PROT_READ))
    finally:
        os.close(fd)


def memory_calls(nbytes: int, directory: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what can be done with so many bytes, by name."""
    source: Array = np.random.default_rng(0).random(nbytes // 8)
    ready = np.ones_like(source)
    path = os.path.join(directory, label(nbytes))
    plain_write(path, source)
    fresh = f"{path}.fresh"

    def write_new() -> None:
        plain_write(fresh, source)
        os.unlink(fresh)

    def write_again() -> None:
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, source)
        os.close(fd)

    yield COPY, lambda: np.copyto(ready, source)
    # Mapped anew each time: what malloc gives may have been used before.
    yield "memcpy, fresh pages", lambda: mmap.mmap(-1, nbytes).write(source)
    yield "write(), new file", write_new
    yield "write(), same file", write_again
    yield "mapped", lambda: plain_map(path, nbytes)
    yield MAPPED, lambda: plain_map(path, nbytes).sum()
    yield "sum in memory", source.sum


def _echo(connection: Connection) -> None:
    while (message := connection.recv_bytes()) != b"":
        connection.send_bytes(message)


@contextmanager
def waking() -> Iterator[Callable[[], object]]:
    """Provide a call that wakes another process and is woken by it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_echo, args=(there,))
    process.start()

    def ping() -> object:
        here.send_bytes(b"ping")
        return here.recv_bytes()

    try:
        yield ping
    finally:
        here.send_bytes(b"")
        process.join()


def collect(options: Options) -> Result:
    """Measure everything."""
    largest = 16 if options.quick else 256
    sizes = [KIB, 64 * KIB, MIB, largest * MIB]
    seconds: dict[int, dict[str, Median]] = {}
    with tempfile.TemporaryDirectory(
        prefix="benchmark-", dir=options.directory or SHARED_MEMORY
    ) as directory:
        for nbytes in sizes:
            calls = dict(memory_calls(nbytes, directory))
            rounds = options.rounds(200 if nbytes <= MIB else 15)
            seconds[nbytes] = interleave(calls, rounds=rounds, warmup=2)
    with waking() as ping:
        woken = interleave({"pipe": ping}, rounds=options.rounds(2000), warmup=50)
    rates: dict[str, dict[float, float]] = {}
    for nbytes, medians in seconds.items():
        for name, median in medians.items():
            # Mapping takes as long for any size: its rate says nothing.
            if name != "mapped":
                rate = median.map(lambda one, size=nbytes: size / one / _GIGABYTE)  # type: ignore[misc]
                rates.setdefault(name, {})[nbytes] = rate
    return Result(
        tables=[
            Table(
                "Copying, writing and mapping in shared memory",
                {label(nbytes): medians for nbytes, medians in seconds.items()},
                COPY,
            ),
            Table("Waking another process and being woken", {"round trip": woken}, unit="ms"),
        ],
        plots=[
            Plot(
                "limits",
                "What the machine itself can do, over the size of the object",
                (Panel("throughput", "GB/s", rates),),
            )
        ],
    )


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
