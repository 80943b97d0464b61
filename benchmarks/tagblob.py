"""How quick the tag/blob store is, beside a Disco master and a raw upload.

Run with ``python -m benchmarks.tagblob``. Every figure is the median of its repetitions, in
milliseconds. The reference is a Disco 0.5.4 master with one node over loopback on a small machine;
"raw" uploads the same bytes with the same HTTP library to a server of the same library that writes
them to a file, and downloads that file, without tags, names or checksums.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from proxyflow.storage.tagblob import DDFS

KIB, MIB = 2**10, 2**20
MANY = 64
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

RAW_SERVER = """
import asyncio, contextlib, os, sys
from aiohttp import web

async def put(request):
    # A new file each time, in pieces that are worth a thread: as quick as it gets.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(sys.argv[1] + "/raw")
    with open(sys.argv[1] + "/raw", "wb", buffering=0) as file:
        piece = bytearray()
        while data := await request.content.readany():
            piece += data
            if len(piece) >= 2**20:
                await asyncio.to_thread(file.write, piece)
                piece = bytearray()
        file.write(piece)
    return web.Response(status=201, text="ok")

async def get(request):
    return web.FileResponse(sys.argv[1] + "/raw", chunk_size=2**20)

app = web.Application()
app.router.add_put("/raw", put)
app.router.add_get("/raw", get)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""


def median_ms(action: Callable[[], Any], repetitions: int) -> float:
    """Return the median duration of an action, after doing it once to warm up."""
    action()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def repetitions(size: int) -> int:
    """Return how often to repeat what moves that many bytes."""
    return 200 if size < MIB else 50 if size < 64 * MIB else 7


def pull(ddfs: DDFS, tag: str) -> None:
    """Read every blob of a tag."""
    for blob in ddfs.pull(tag):
        with blob:
            blob.read()


def measure(ddfs: DDFS) -> dict[str, float]:
    """Return every row of the table for one store."""
    rows: dict[str, float] = {}
    for label, size in SIZES.items():
        data = os.urandom(size)
        tag = f"size:{size}"

        def push(tag: str = tag, data: bytes = data) -> None:
            ddfs.push(tag, [(data, "blob")])

        rows[f"push {label}"] = median_ms(push, repetitions(size))
        ddfs.put(tag, ddfs.urls(tag)[:1])
        rows[f"pull {label}"] = median_ms(lambda tag=tag: pull(ddfs, tag), repetitions(size))
    many = [(os.urandom(MIB), f"blob-{number}") for number in range(MANY)]
    rows[MANY_ROW] = median_ms(lambda: ddfs.push("many", many), 7)
    ddfs.tag("small", [])
    rows["append"] = median_ms(lambda: ddfs.tag("small", [["http://node/x"]]), 200)
    ddfs.put("small", [["http://node/x"]])
    rows["get"] = median_ms(lambda: ddfs.get("small"), 200)
    rows["set attribute"] = median_ms(lambda: ddfs.setattr("small", "key", "value"), 200)
    names = iter(range(10**6))
    for number in range(101):
        ddfs.tag(f"delete:{number}", [])
    rows["delete"] = median_ms(lambda: ddfs.delete(f"delete:{next(names)}"), 100)
    ddfs.put("large", [[f"disco://node/ddfs/vol0/blob/00/b-{n}$5dc-7b-2a"] for n in range(10_000)])
    rows["append to 10,000 urls"] = median_ms(lambda: ddfs.tag("large", [["http://node/x"]]), 50)
    return rows


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def served(*command: str, port: int) -> Iterator[None]:
    """Run a server as a process until the block ends."""
    process = subprocess.Popen([sys.executable, *command])
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def measure_raw(root: str) -> dict[str, float]:
    """Return what the same libraries take to move the same bytes and nothing else."""
    import urllib3

    port = free_port()
    url = f"http://127.0.0.1:{port}/raw"
    pool = urllib3.PoolManager(retries=False)
    rows = {}
    with served("-c", RAW_SERVER, root, str(port), port=port):
        for label, size in SIZES.items():
            data = os.urandom(size)
            count = repetitions(size)
            rows[f"push {label}"] = median_ms(
                lambda d=data: pool.request("PUT", url, body=d), count
            )
            rows[f"pull {label}"] = median_ms(lambda: pool.request("GET", url).data, count)
        data = os.urandom(MIB)
        rows[MANY_ROW] = median_ms(
            lambda: [pool.request("PUT", url, body=data) for _ in range(MANY)], 7
        )
    pool.clear()
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=None, help="where the stores lie (default: TMPDIR)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        embedded = measure(DDFS(f"file://{root}/embedded", durable=False))
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        raw = measure_raw(root)
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        port = free_port()
        module = "proxyflow.storage.tagblob.server"
        command = ["-m", module, "--root", f"file://{root}/served", "--port", str(port)]
        with served(*command, port=port), DDFS(f"disco://127.0.0.1:{port}") as ddfs:
            wire = measure(ddfs)
    print(f"{'median ms':24}{'embedded':>10}{'reference':>11}{'ahead':>8}{'http':>9}{'raw':>9}")
    for row, reference in REFERENCE.items():
        shown = f"{reference:11.2f}" if reference else f"{'':11}"
        ahead = f"{reference / embedded[row]:.1f}x" if reference else ""
        beside = f"{raw[row]:9.2f}" if row in raw else ""
        print(f"{row:24}{embedded[row]:10.2f}{shown}{ahead:>8}{wire[row]:9.2f}{beside}")


if __name__ == "__main__":
    main()
