"""Messages a second through a queue on files: put, claim and acknowledge, one after the other.

Run ``python -m benchmarks.maildir [--quick] [--directory D]``. The queues take turns, so that
whatever else the machine does meets all of them, and the median of the rounds counts. There is a
table of those that have forced something to the disk when `put` returns, and one of those that have
not, each beside ours that does the same. Peers that are not installed are named.
"""

from __future__ import annotations

import contextlib
import mailbox
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.measure import Median, missing
from benchmarks.options import Options, parser, read
from benchmarks.result import Result, Table
from proxyflow.storage.maildir import FileStore

OURS = "proxyflow FileStore"

ROUNDS = 7
SECONDS = 0.5
"""Of each round of each queue, in a thorough run."""
BACKLOG, QUICK_BACKLOG = 50, 10
"""How many messages are put before they are taken."""
NOTE = (
    "Higher is better. Behind a name: what is on the disk when put returns; where proxyflow forces "
    "something, it is the file and its directory."
)
SIZES = {"1 KiB": 1024, "1 MiB": 1024 * 1024}


@dataclass(frozen=True)
class Peer:
    """One queue: how to put a message, and how to take, read and acknowledge one."""

    name: str
    synced: str | None
    put: Callable[[bytes], object]
    take: Callable[[], bytes]


def maildir_store(directory: str, durable: bool) -> Peer:
    """Ours."""
    store = FileStore(os.path.join(directory, f"proxyflow-{durable}"), durable=durable)
    store.prepare()

    def take() -> bytes:
        message = store.claim()
        assert message is not None
        with message:
            return message.read()

    return Peer(OURS, "file, directory" if durable else None, store.put, take)


def standard_library(directory: str) -> Peer:
    """Nothing is claimed: two readers would get the same message."""
    box = mailbox.Maildir(os.path.join(directory, "mailbox"), factory=None)

    def take() -> bytes:
        # Bytes as they are: parsing an e-mail is no part of the comparison.
        key = next(box.iterkeys())
        body = box.get_bytes(key)
        box.remove(key)
        return body

    return Peer("mailbox.Maildir (claims nothing)", "file", box.add, take)


def file_queue(directory: str) -> Peer:
    """persist-queue on files, for one process; it syncs once in a hundred messages."""
    import persistqueue  # type: ignore[import-untyped]

    queue = persistqueue.Queue(os.path.join(directory, "persist-queue"))

    def take() -> bytes:
        body: bytes = queue.get()
        queue.task_done()
        return body

    return Peer("persist-queue Queue (one process)", None, queue.put, take)


def sqlite_queue(directory: str) -> Peer:
    """persist-queue on SQLite, which knows acknowledgements."""
    import persistqueue

    queue = persistqueue.SQLiteAckQueue(os.path.join(directory, "sqlite"), auto_commit=True)

    def take() -> bytes:
        body: bytes = queue.get()
        queue.ack(body)
        return body

    return Peer("persist-queue SQLiteAckQueue", "log", queue.put, take)


@contextlib.contextmanager
def peers(directory: str | None) -> Iterator[list[Peer]]:
    """Make the queues that can be made, in a directory that goes with them."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=directory) as place:
        found = [maildir_store(place, False), maildir_store(place, True), standard_library(place)]
        if not missing("persistqueue"):
            found += [file_queue(place), sqlite_queue(place)]
        yield found


def rate(peer: Peer, body: bytes, seconds: float, backlog: int) -> float:
    """Return messages a second, each put, taken and acknowledged, in turns of a backlog."""
    count = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not count:
        for _ in range(backlog):
            peer.put(body)
        for _ in range(backlog):
            assert len(peer.take()) == len(body)
        count += backlog
    return count / elapsed


def compare(size: int, options: Options) -> dict[Peer, Median]:
    """Let all queues pass on messages of one size, and return their rates."""
    # No line ends, which a mailbox would alter.
    body = os.urandom(size // 2).hex().encode()
    seconds = SECONDS * options.share
    backlog = QUICK_BACKLOG if options.quick else BACKLOG
    order = random.Random(0)
    with peers(options.directory) as queues:
        rates: dict[Peer, list[float]] = {peer: [] for peer in queues}
        for _ in range(options.rounds(ROUNDS)):
            order.shuffle(queues)
            for peer in queues:
                rates[peer].append(rate(peer, body, seconds, backlog))
    return {peer: Median(found) for peer, found in rates.items()}


def collect(options: Options) -> Result:
    """Compare the queues for each size of message."""
    tables: dict[bool, dict[str, dict[str, float]]] = {False: {}, True: {}}
    for label, size in SIZES.items():
        for peer, median in compare(size, options).items():
            name = peer.name if peer.name == OURS else f"{peer.name}, {peer.synced or 'nothing'}"
            tables[bool(peer.synced)].setdefault(label, {})[name] = median
    return Result(
        tables=[
            Table(
                f"Put + claim + acknowledge, {'forced to' if synced else 'left to reach'} the disk",
                rows,
                OURS,
                "messages/s",
                1,
                NOTE,
            )
            for synced, rows in tables.items()
        ],
        left_out=[f"{name} is not installed" for name in missing("persistqueue")],
    )


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
