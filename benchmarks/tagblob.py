"""How quick the tag/blob store is, beside a Disco master and beside raw uploads.

Run with ``python -m benchmarks.tagblob [--quick] [--directory D]``. Every figure is the median of
its repetitions. The reference is a Disco 0.5.4 master with one node over loopback on a small
machine.

A raw upload is a PUT of the same bytes with the same HTTP library to a server of the same library
that writes them to a file; see `benchmarks.tagblob_raw`. It is set beside a whole push or pull

- through our server, to which a small push is one request and a pull two ("http"), and
- in Disco's requests ("disco"): three for a push, two for a pull. The raw contestant there sends as
  many, the others with nothing to move.

The contestants of a row take turns, so what else the machine does slows all of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.goals import Goal
from benchmarks.measure import Median
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Result, Rows, Table
from benchmarks.tagblob_raw import RawClient
from proxyflow.storage.tagblob import DDFS

KIB, MIB = 2**10, 2**20
MANY = 64
PARALLEL = 4
DISCO = "Disco, recorded elsewhere"
MANY_ROW = f"push {MANY} x 1 MiB"
SIZES = {"1 KiB": KIB, "1 MiB": MIB, "64 MiB": 64 * MIB}
REFERENCE: dict[str, float | None] = {
    "push 1 KiB": 3.5,
    "push 1 MiB": 19.6,
    "push 64 MiB": 1000.0,
    "pull 1 KiB": 1.25,
    "pull 1 MiB": 3.0,
    "pull 64 MiB": 94.0,
    MANY_ROW: None,
    "append": 1.2,
    "get": 0.5,
    "set attribute": 1.3,
    "delete": 1.8,
    "append to 10,000 urls": 5.1,
}
TURNS = 5
#: Blobs that a store gets before it is measured: until then each one makes new directories.
BEFORE = 1000

Action = Callable[[], Any]
Row = dict[str, Median]


def compare(
    actions: Mapping[str, Action], repetitions: int, before_turn: Action = lambda: None
) -> Row:
    """Return the median seconds of each action; they take turns of several repetitions each."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(TURNS):
        before_turn()
        for name, action in actions.items():
            action()
            for _ in range(max(1, repetitions // TURNS)):
                start = time.perf_counter()
                action()
                times[name].append(time.perf_counter() - start)
    return {name: Median(taken) for name, taken in times.items()}


def repetitions(size: int) -> int:
    """Return how often to repeat what moves that many bytes."""
    return 400 if size < MIB else 100 if size < 64 * MIB else 10


def pull(ddfs: DDFS, tag: str) -> None:
    """Read every blob of a tag."""
    for blob in ddfs.pull(tag):
        with blob:
            blob.read()


def measure_blobs(stores: Mapping[str, DDFS], raw: RawClient, options: Options) -> dict[str, Row]:
    """Return the rows that move bytes."""
    for ddfs in stores.values():
        for _ in range(BEFORE):
            ddfs.store_blob("before", b"x")
    rows: dict[str, Row] = {}
    for label, size in SIZES.items():
        data = os.urandom(size)
        tag = f"size:{size}"

        def empty() -> None:
            # Hundreds of urls in one tag are the subject of another row.
            for ddfs in stores.values():
                ddfs.put("pushed", [])

        pushes: dict[str, Action] = {
            name: lambda ddfs=ddfs, data=data: ddfs.push("pushed", [(data, "blob")])
            for name, ddfs in stores.items()
        }
        pushes |= {"raw": lambda data=data: raw.put(data), "raws": lambda data=data: raw.push(data)}
        rows[f"push {label}"] = compare(pushes, options.rounds(repetitions(size)), empty)
        pulls: dict[str, Action] = {"raw": raw.get, "raws": raw.pull}
        for name, ddfs in stores.items():
            ddfs.push(tag, [(data, "blob")])
            pulls[name] = lambda ddfs=ddfs, tag=tag: pull(ddfs, tag)
        rows[f"pull {label}"] = compare(pulls, options.rounds(repetitions(size)))
    rows[MANY_ROW] = measure_many(stores, raw, options.rounds(10))
    return rows


def measure_many(stores: Mapping[str, DDFS], raw: RawClient, rounds: int) -> Row:
    """Return the row for many blobs at once, some at a time, which the raw contestant does too."""
    many = [(os.urandom(MIB), f"blob-{number}") for number in range(MANY)]
    actions: dict[str, Action] = {
        name: lambda ddfs=ddfs: ddfs.push("many", many, parallel=PARALLEL)
        for name, ddfs in stores.items()
    }
    with ThreadPoolExecutor(PARALLEL) as pool:
        bodies = [data for data, _ in many]
        actions["raw"] = lambda: list(pool.map(raw.put, bodies))
        actions["raws"] = lambda: list(pool.map(raw.push, bodies))
        return compare(actions, rounds)


def measure_tags(stores: Mapping[str, DDFS], options: Options) -> dict[str, Row]:
    """Return the rows that move next to nothing."""

    def each(action: Callable[[DDFS], Any], count: int = 200) -> Row:
        return compare({n: lambda d=d: action(d) for n, d in stores.items()}, options.rounds(count))

    for ddfs in stores.values():
        ddfs.put("small", [["http://node/x"]])
        urls = [[f"disco://node/ddfs/vol0/blob/00/b-{n}$5dc-7b-2a"] for n in range(10_000)]
        ddfs.put("large", urls)
        for number in range(100 + TURNS):
            ddfs.tag(f"delete:{number}", [])
    names = {id(ddfs): iter(range(100 + TURNS)) for ddfs in stores.values()}
    return {
        "get": each(lambda ddfs: ddfs.get("small")),
        "append": each(lambda ddfs: ddfs.tag("small", [["http://node/x"]])),
        "set attribute": each(lambda ddfs: ddfs.setattr("attributes", "key", "value")),
        "delete": each(lambda ddfs: ddfs.delete(f"delete:{next(names[id(ddfs)])}"), 100),
        "append to 10,000 urls": each(lambda ddfs: ddfs.tag("large", [["http://node/x"]]), 50),
    }


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def served(*command: str, port: int) -> Iterator[None]:
    """Run a server as a process until the block ends."""
    process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def contestants(root: str) -> Iterator[tuple[dict[str, DDFS], RawClient]]:
    """Yield the stores by name, and the raw client."""
    with contextlib.ExitStack() as stack:
        stores = {"embedded": DDFS(f"file://{root}/embedded", durable=False)}
        for name, options in (("http", []), ("disco", ["--max-at-once", "0"])):
            port = free_port()
            where = ["--root", f"file://{root}/{name}", "--port", str(port)]
            module = "proxyflow.storage.tagblob.server"
            stack.enter_context(served(module, *where, *options, port=port))
            stores[name] = stack.enter_context(DDFS(f"disco://127.0.0.1:{port}"))
        port = free_port()
        os.mkdir(f"{root}/raw")
        stack.enter_context(served("benchmarks.tagblob_raw", f"{root}/raw", str(port), port=port))
        raw = stack.enter_context(contextlib.closing(RawClient(port)))
        yield stores, raw


def collect(options: Options) -> Result:
    """Measure every row."""
    # In memory, so that the store is compared and not the file system.
    place = tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory or SHARED_MEMORY)
    with place as root, contestants(root) as (stores, raw):
        blobs, tags = measure_blobs(stores, raw, options), measure_tags(stores, options)
    alone: Rows = {}
    for label, reference in REFERENCE.items():
        row = (blobs | tags)[label]
        alone[label] = {"embedded": row["embedded"], "over HTTP": row["http"]}
        if reference is not None:
            alone[label][DISCO] = reference / 1e3
    goals = [
        Goal(f"{label}, faster than Disco", row[DISCO] / row["embedded"], 1, at_least=True)
        for label, row in alone.items()
        if DISCO in row
    ] + [
        Goal(
            f"{label} over HTTP, over the protocol's raw requests",
            row["http"] / row["raws"],
            1.5,
            False,
        )
        for label, row in blobs.items()
    ]
    return Result(
        goals=goals,
        tables=[
            Table(
                "Tags and blobs", alone, "embedded", note="Disco: one node over loopback elsewhere."
            ),
            _beside("raw", "http", "Over HTTP, beside one raw request", blobs),
            _beside("raws", "disco", "In Disco's requests, beside as many raw ones", blobs),
        ],
    )


def _beside(raw: str, ours: str, title: str, rows: Mapping[str, Row]) -> Table:
    return Table(
        title, {label: {"raw": row[raw], "ours": row[ours]} for label, row in rows.items()}, "raw"
    )


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
