"""How fast the KVS is: ``python -m benchmarks.kvs``.

The connectors ``redis://`` and ``lmdb://`` and the KVS over each engine put and get what was
measured on a real Flux, and what ProxyStore's ``RedisConnector`` puts and gets on the same Redis
server. Candidates take turns, in an order drawn anew each round, so that whatever else the machine
does meets them alike; shown are medians, and how many times ours over Redis they are.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Median, missing
from benchmarks.options import Options, parser, read
from benchmarks.result import Result, Table
from proxyflow.connectors import open_url
from proxyflow.storage import kvs
from tests.redis_server import NoRedisError, RedisServer, redis_server

OURS, PEER = "redis://", "ProxyStore redis"
FLUX = "Flux, recorded elsewhere"
MIB = 1024 * 1024
SIZES = {"1 KiB": 1024, "1 MiB": MIB, "100 MiB": 100 * MIB}
ROUNDS = 7
"""For the largest values; for the others twenty times as many."""

# Medians on Flux 0.88, one broker, loopback; on another machine, so good for the magnitude only.
FLUX_SECONDS = {
    "1 KiB put+commit": 0.0006,
    "1 KiB get": 0.0003,
    "1 MiB put+commit": 0.045,
    "1 MiB get": 0.033,
    "100 MiB put+commit": 5.5,
    "100 MiB get": 4.3,
    "1000 keys put+commit": 0.018,
}


@dataclass
class Candidate:
    """Something that stores bytes."""

    name: str
    put: Callable[[bytes], object]
    get: Callable[[object], bytes | None]
    drop: Callable[[object], None]
    put_many: Callable[[list[bytes]], object]


def over_kvs(name: str, handle: kvs.Handle) -> Candidate:
    """Return the KVS over one engine."""

    def put(data: bytes) -> object:
        kvs.put(handle, "bench.value", data)
        kvs.commit(handle)
        return "bench.value"

    def get(key: object) -> bytes:
        return bytes(kvs.get(handle, str(key), raw=True))

    def drop(key: object) -> None:
        kvs.put_unlink(handle, str(key))
        kvs.commit(handle)

    def put_many(values: list[bytes]) -> object:
        for number, data in enumerate(values):
            kvs.put(handle, f"many.k{number}", data)
        kvs.commit(handle)
        return "many"

    return Candidate(name, put, get, drop, put_many)


def over_connector(name: str, connector: Any) -> Candidate:
    """Return a connector."""

    def drop(keys: object) -> None:
        for key in keys if type(keys) is list else [keys]:
            connector.evict(key)

    return Candidate(name, connector.put, connector.get, drop, connector.put_batch)


def over_proxystore(server: RedisServer, close: contextlib.ExitStack) -> Candidate:
    """Return ProxyStore's connector to the same server."""
    from proxystore.connectors.redis import RedisConnector as PeerConnector

    connector = PeerConnector("127.0.0.1", server.port)
    close.callback(connector.close)
    return over_connector(PEER, connector)


@contextlib.contextmanager
def candidates(directory: str) -> Iterator[list[Candidate]]:
    """Open all of them."""
    with contextlib.ExitStack() as close:
        server = close.enter_context(redis_server())
        urls = {"kvs lmdb": f"lmdb://{directory}/kvs", "kvs redis": server.url}
        handles = {name: close.enter_context(kvs.open(url)) for name, url in urls.items()}
        stores = {OURS: server.url, "lmdb://": f"lmdb://{directory}/store"}
        connectors = {name: close.enter_context(open_url(url)) for name, url in stores.items()}
        peers = [] if missing("proxystore") else [over_proxystore(server, close)]
        yield [
            *(over_connector(name, connector) for name, connector in connectors.items()),
            *(over_kvs(name, handle) for name, handle in handles.items()),
            *peers,
        ]


Timings = dict[str, dict[str, list[float]]]


def measure(tried: list[Candidate], options: Options) -> Timings:
    """Return seconds by what was done and by whom."""
    rounds = options.rounds(ROUNDS)
    timings: Timings = {}
    order = random.Random(0)
    tried = list(tried)

    def timed(what: str, name: str, call: Callable[[Any], Any], argument: object) -> Any:
        start = time.perf_counter()
        result = call(argument)
        seconds = time.perf_counter() - start
        timings.setdefault(what, {}).setdefault(name, []).append(seconds)
        return result

    for label, size in SIZES.items():
        if options.quick and size > MIB:
            continue
        data = os.urandom(size)
        for _ in range(rounds if size > MIB else options.rounds(20 * ROUNDS)):
            order.shuffle(tried)
            for candidate in tried:
                key = timed(f"{label} put+commit", candidate.name, candidate.put, data)
                found = timed(f"{label} get", candidate.name, candidate.get, key)
                assert found == data
                candidate.drop(key)
    values = [os.urandom(64) for _ in range(1000)]
    for _ in range(rounds):
        order.shuffle(tried)
        for candidate in tried:
            keys = timed("1000 keys put+commit", candidate.name, candidate.put_many, values)
            candidate.drop(keys)
    return timings


def collect(options: Options) -> Result:
    """Measure all of them."""
    absent = [f"{name} is not installed" for name in missing("proxystore")]
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as directory:
        try:
            with candidates(directory) as tried:
                timings = measure(tried, options)
        except NoRedisError:
            return Result(left_out=["everything: there is no Redis server to be found"])
    rows: dict[str, dict[str, float]] = {}
    for what, by_name in timings.items():
        rows[what] = {
            candidate.name: Median(by_name[candidate.name])
            for candidate in sorted(tried, key=lambda one: one.name != OURS)
        }
        rows[what][FLUX] = FLUX_SECONDS[what]
    note = "Flux: one broker on another machine, good for the magnitude only."
    return Result(
        tables=[Table("Values in stores and engines", rows, OURS, note=note)], left_out=absent
    )


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
