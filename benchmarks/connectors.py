"""Put and get of arrays through every connector that can be had on one host.

Run with ``python -m benchmarks.connectors [--quick] [--directory D]``. Each is a `Store` of the
URL, and gets in another process, without a cache. Beside them ProxyStore's store over a Redis
server and over files. Those in memory and those on the disk are in one table: choose by what each
promises, not by the figures alone. The contestants take turns.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.contestants import Holder, Seconds, of_peer, of_store, timed_reads
from benchmarks.holding import GET, PUT, READ, compare
from benchmarks.measure import missing
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Result, Table
from benchmarks.sizes import KIB, MIB, label
from proxyflow import Store
from tests.redis_server import NoRedisError, redis_server

__all__ = ["collect"]

OURS = "shm://"
PEER_REDIS = "ProxyStore redis"
ROUNDS = {KIB: 15, MIB: 11, 64 * MIB: 5}
QUICK_SIZES = [KIB, MIB, 8 * MIB]

LEFT_OUT = [
    "flux://: needs a Flux instance",
    "ddfs+s3://: needs object storage",
    "disco://: needs a server; see the section on tags and blobs",
]


def urls(memory: str, disk: str) -> dict[str, str]:
    """Return the URL of a store of each kind that needs no server, by scheme."""
    return {
        OURS: f"shm://{memory}/shm",
        "file:// in memory": f"file://{memory}/file",
        "file:// on disk": f"file://{disk}/file",
        "maildir://": f"maildir://{disk}/maildir",
        "lmdb://": f"lmdb://{disk}/lmdb",
        "ddfs+file://": f"ddfs+file://{disk}/ddfs",
        "filespace://": f"filespace://lab/data/folder?hub={disk}/hub",
    }


_peers: dict[int, Any] = {}


def peer_redis(port: int) -> Any:
    """Return ProxyStore's store on a Redis server, one for each process."""
    if port not in _peers:
        from proxystore.connectors.redis import RedisConnector
        from proxystore.store import Store as PeerStore

        _peers[port] = PeerStore("redis", RedisConnector("127.0.0.1", port), cache_size=0)
    return _peers[port]


def read_peer_redis(port: int, keys: list[Any]) -> list[Seconds]:
    """Read objects of that store; runs in the reader."""
    return timed_reads(peer_redis(port).get, keys)


def contestants(options: Options, stack: ExitStack) -> tuple[list[Holder], list[str]]:
    """Open all of them; return them, and who is left out."""
    memory = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="benchmark-", dir=SHARED_MEMORY)
    )
    disk = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory)
    )
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
    left_out = list(LEFT_OUT)
    places = urls(memory, disk)
    if missing("lmdb"):
        left_out.append(f"{places.pop('lmdb://').partition(':')[0]}://: lmdb is not installed")
    absent = missing("proxystore")
    left_out += [f"{name} is not installed" for name in absent]
    peers = [] if absent else [of_peer(f"{disk}/peer", pool)]
    try:
        server = stack.enter_context(redis_server())
    except NoRedisError:
        left_out.append("redis://: there is no Redis server to be found")
    else:
        places["redis://"] = server.url
        if not absent:
            store, port = peer_redis(server.port), server.port
            peers.append(
                Holder(
                    PEER_REDIS,
                    store.put,
                    store.evict,
                    lambda keys: pool.submit(read_peer_redis, port, keys).result(),
                )
            )
    found = [
        of_store(name, stack.enter_context(Store(url, cache=0)), pool)
        for name, url in places.items()
    ]
    return found + peers, left_out


def collect(options: Options) -> Result:
    """Measure every size."""
    tables = []
    with ExitStack() as stack:
        found, left_out = contestants(options, stack)
        for nbytes, rounds in zip(
            QUICK_SIZES if options.quick else ROUNDS, ROUNDS.values(), strict=True
        ):
            array = np.random.default_rng(0).random(nbytes // 8)
            operations = compare(found, array, options.rounds(rounds))
            # Many contestants, few operations: each contestant is a row.
            rows: dict[str, dict[str, float]] = {holder.name: {} for holder in found}
            for operation in (PUT, GET, READ):
                for name, median in operations[operation].items():
                    rows[name][operation] = median
            tables.append(Table(f"Arrays of {label(nbytes)}", rows))
    return Result(tables=tables, left_out=left_out)


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
