"""Objects a second through a stream: appended, received as a proxy, resolved and acknowledged.

Run ``python -m benchmarks.stream [--quick] [--directory D]``. The contestants take turns, so
that whatever else the machine does meets all of them; the median of the rounds counts. The peer is
ProxyStore's StreamProducer and StreamConsumer over a Redis server on this host, its objects in
files of the same directory. Its queue hands a message to one consumer and knows no
acknowledgement: what a consumer had that died is lost. Left out if its packages are not there.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.measure import Median, missing
from benchmarks.options import Options, parser, read
from benchmarks.result import Result, Rows, Table
from proxyflow import Store, extract
from proxyflow.stream import Stream

ROUNDS = 7
SECONDS = 0.7
"""Of each round of each contestant, in a thorough run."""
BACKLOG = 50
SIZES = {"1 KiB": 1024, "1 MiB": 1024 * 1024}


@dataclass(frozen=True)
class Contestant:
    """One stream: how to append an object, and how to receive one, resolved and done with."""

    name: str
    append: Callable[[bytes], object]
    receive: Callable[[], int]


def ours(store: Store, groups: int) -> Contestant:
    """Return a stream of a maildir store; of several groups each receives every object."""
    name = f"groups{groups}"
    consumers = [store.stream(name, group=f"group{number}") for number in range(groups)]
    producer = store.stream(name)

    def receive(consumer: Stream) -> int:
        item = consumer.claim(timeout=0)
        assert item is not None
        with item:
            return len(extract(item.proxy))

    def receive_all() -> int:
        return max([receive(consumer) for consumer in consumers])

    plural = "s, each receiving all" if groups > 1 else ""
    return Contestant(f"proxyflow, {groups} group{plural}", producer.append, receive_all)


@contextlib.contextmanager
def peer(directory: str) -> Iterator[Contestant]:
    """ProxyStore over a queue in Redis."""
    warnings.filterwarnings("ignore", message="Streaming is an experimental feature")
    from proxystore.connectors.file import FileConnector
    from proxystore.proxy import resolve
    from proxystore.store import Store as PeerStore
    from proxystore.stream import StreamConsumer, StreamProducer
    from proxystore.stream.shims.redis import RedisQueuePublisher, RedisQueueSubscriber

    from tests.redis_server import redis_server

    with (
        redis_server() as server,
        PeerStore("peer", FileConnector(directory), cache_size=0, register=True) as store,
    ):
        producer = StreamProducer[bytes](
            RedisQueuePublisher("127.0.0.1", server.port), stores={"frames": store}
        )
        consumer = StreamConsumer[bytes](RedisQueueSubscriber("127.0.0.1", server.port, "frames"))

        def receive() -> int:
            proxy = consumer.next()
            resolve(proxy)
            return len(proxy)

        yield Contestant(
            "ProxyStore, Redis queue", lambda body: producer.send("frames", body), receive
        )


def rate(contestant: Contestant, body: bytes, seconds: float) -> float:
    """Return objects a second, each appended, received and done with, in turns of `BACKLOG`."""
    count = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not count:
        for _ in range(BACKLOG):
            contestant.append(body)
        for _ in range(BACKLOG):
            assert contestant.receive() == len(body)
        count += BACKLOG
    return count / elapsed


def compare(contestants: list[Contestant], size: int, options: Options) -> dict[str, float]:
    """Let all pass on objects of one size, and return their rates."""
    body = os.urandom(size)
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    seconds = SECONDS * options.share
    turns = list(contestants)
    order = random.Random(0)
    for _ in range(options.rounds(ROUNDS)):
        order.shuffle(turns)
        for contestant in turns:
            rates[contestant.name].append(rate(contestant, body, seconds))
    return {name: Median(found) for name, found in rates.items()}


def collect(options: Options) -> Result:
    """Compare the streams for each size of object."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory)
        )
        store = stack.enter_context(Store(f"maildir://{place}/ours"))
        contestants = [ours(store, groups) for groups in (1, 3)]
        absent = missing("proxystore", "redis")
        if not absent:
            contestants.append(stack.enter_context(peer(os.path.join(place, "peer"))))
        rows: Rows = {label: compare(contestants, size, options) for label, size in SIZES.items()}
    return Result(
        tables=[
            Table(
                "Append + claim + resolve + acknowledge",
                rows,
                contestants[0].name,
                "objects/s",
                1,
                "Higher is better. ProxyStore's queue knows no acknowledgement.",
            )
        ],
        left_out=[f"{name} is not installed" for name in absent],
    )


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
