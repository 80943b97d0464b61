"""How fast the KVS is: ``python -m benchmarks.kvs``.

The connectors ``redis://`` and ``lmdb://`` and the KVS over each engine put and get what was
measured on a real Flux, and what ProxyStore's ``RedisConnector`` puts and gets on the same Redis
server. Candidates take turns, in an order drawn anew each round, so that whatever else the machine
does meets them alike; shown are medians, and how many times as fast as ProxyStore each is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from proxyflow.connectors import open_url
from proxyflow.storage import kvs
from tests.redis_server import RedisServer, redis_server

PEER = "proxystore redis"
MIB = 1024 * 1024
SIZES = {"1 KiB": 1024, "1 MiB": MIB, "100 MiB": 100 * MIB}

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
        stores = {"redis://": server.url, "lmdb://": f"lmdb://{directory}/store"}
        connectors = {name: close.enter_context(open_url(url)) for name, url in stores.items()}
        yield [
            *(over_connector(name, connector) for name, connector in connectors.items()),
            *(over_kvs(name, handle) for name, handle in handles.items()),
            over_proxystore(server, close),
        ]


Timings = dict[str, dict[str, list[float]]]


def measure(tried: list[Candidate], rounds: int) -> Timings:
    """Return seconds by what was done and by whom."""
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
        data = os.urandom(size)
        for _ in range(rounds if size > MIB else 20 * rounds):
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


def report(timings: Timings, names: list[str]) -> None:
    """Print a table."""
    print(f"milliseconds, median (times as fast as {PEER}; flux: recorded elsewhere)")
    print(f"{'':22}" + "".join(f"{name:>20}" for name in [*names, "flux"]))
    for what, by_name in timings.items():
        medians = {name: statistics.median(by_name[name]) for name in names}
        base = medians[PEER]
        cells = [f"{medians[name] * 1e3:10.3f} ({base / medians[name]:5.2f}x)" for name in names]
        print(
            f"{what:22}"
            + "".join(f"{cell:>20}" for cell in cells)
            + f"{FLUX_SECONDS[what] * 1e3:20.3f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds for the largest values")
    parser.add_argument("--directory", help="where LMDB keeps its files; a new one by default")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as directory,
        candidates(directory) as tried,
    ):
        timings = measure(tried, options.rounds)
        report(timings, [candidate.name for candidate in tried])


if __name__ == "__main__":
    main()
