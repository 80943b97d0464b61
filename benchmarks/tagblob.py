"""How quick the tag/blob store is, beside a Disco master and a raw upload.

Run with ``python -m benchmarks.tagblob [--quick]``. Every figure is the median of its repetitions,
in milliseconds; the contestants take turns. The reference is a Disco 0.5.4 master with one node
over loopback on a small machine; "raw" uploads the same bytes with the same HTTP library to a
server of the same library that writes them to a file, and downloads that file, without tags, names
or checksums.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measure import interleave
from benchmarks.options import Options, parser, read
from benchmarks.result import Result, Table
from proxyflow.storage.tagblob import DDFS

OURS, WIRE, RAW = "embedded", "over HTTP", "raw HTTP"
DISCO = "Disco, recorded elsewhere"
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


def repetitions(size: int) -> int:
    """Return how often to repeat what moves that many bytes."""
    return 100 if size < MIB else 40 if size < 64 * MIB else 7


Step = tuple[str, Callable[[], Any], int]
"""A row, what is done for it, and how often."""


def pull(ddfs: DDFS, tag: str) -> None:
    """Read every blob of a tag."""
    for blob in ddfs.pull(tag):
        with blob:
            blob.read()


def steps(ddfs: DDFS) -> Iterator[Step]:
    """Yield every row of one store; each is prepared when it is asked for."""
    for label, size in SIZES.items():
        data = os.urandom(size)
        tag = f"size:{size}"

        def push(tag: str = tag, data: bytes = data) -> None:
            ddfs.push(tag, [(data, "blob")])

        yield f"push {label}", push, repetitions(size)
        ddfs.put(tag, ddfs.urls(tag)[:1])
        yield f"pull {label}", lambda tag=tag: pull(ddfs, tag), repetitions(size)  # type: ignore[misc]
    many = [(os.urandom(MIB), f"blob-{number}") for number in range(MANY)]
    yield MANY_ROW, lambda: ddfs.push("many", many), 7
    ddfs.tag("small", [])
    yield "append", lambda: ddfs.tag("small", [["http://node/x"]]), 100
    ddfs.put("small", [["http://node/x"]])
    yield "get", lambda: ddfs.get("small"), 100
    yield "set attribute", lambda: ddfs.setattr("small", "key", "value"), 100
    names = iter(range(10**6))
    for number in range(101):
        ddfs.tag(f"delete:{number}", [])
    yield "delete", lambda: ddfs.delete(f"delete:{next(names)}"), 100
    ddfs.put("large", [[f"disco://node/ddfs/vol0/blob/00/b-{n}$5dc-7b-2a"] for n in range(10_000)])
    yield "append to 10,000 urls", lambda: ddfs.tag("large", [["http://node/x"]]), 50


def raw_calls(url: str, stack: contextlib.ExitStack) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield how the same libraries move the same bytes and nothing else, by row.

    A download is of what the row before has uploaded.
    """
    import urllib3

    pool = urllib3.PoolManager(retries=False)
    stack.callback(pool.clear)
    for label, size in SIZES.items():
        data = os.urandom(size)
        yield f"push {label}", lambda d=data: pool.request("PUT", url, body=d)  # type: ignore[misc]
        yield f"pull {label}", lambda: pool.request("GET", url).data
    one = os.urandom(MIB)
    yield MANY_ROW, lambda: [pool.request("PUT", url, body=one) for _ in range(MANY)]


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


def serve(root: str, stack: contextlib.ExitStack) -> tuple[DDFS, str]:
    """Start a server of ours and a raw one; return a client of the one, the URL of the other."""
    port, raw_port = free_port(), free_port()
    module = "proxyflow.storage.tagblob.server"
    command = ["-m", module, "--root", f"file://{root}/served", "--port", str(port)]
    stack.enter_context(served(*command, port=port))
    stack.enter_context(served("-c", RAW_SERVER, root, str(raw_port), port=raw_port))
    return (
        stack.enter_context(DDFS(f"disco://127.0.0.1:{port}")),
        f"http://127.0.0.1:{raw_port}/raw",
    )


def collect(options: Options) -> Result:
    """Measure every row."""
    rows: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory)
        )
        ddfs, raw_url = serve(root, stack)
        raw = dict(raw_calls(raw_url, stack))
        embedded = steps(DDFS(f"file://{root}/embedded", durable=False))
        for (row, ours, usual), (_, over_http, _) in zip(embedded, steps(ddfs), strict=True):
            calls = {OURS: ours, WIRE: over_http}
            if row in raw:
                calls[RAW] = raw[row]
            rows[row] = dict(interleave(calls, rounds=options.rounds(usual)))
            reference = REFERENCE[row]
            if reference is not None:
                rows[row][DISCO] = reference / 1e3
    note = f"{DISCO.partition(',')[0]}: one node over loopback on another machine."
    return Result(tables=[Table("Tags and blobs", rows, OURS, note=note)])


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
