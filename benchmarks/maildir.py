"""Messages a second through a queue on files: put, claim and acknowledge, one after the other.

Run ``python -m benchmarks.maildir [--seconds S] [--directory D]``. The queues take turns, so that
whatever else the machine does meets all of them, and the median of the rounds counts. The ratio is
proxyflow's rate to the peer's, of a store that is durable if the peer is. Each line names what has
been forced to the disk when `put` returns. Peers that are not installed are named.
"""

from __future__ import annotations

import argparse
import contextlib
import mailbox
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from proxyflow.storage.maildir import FileStore

persistqueue: Any
try:
    import persistqueue
except ImportError:
    persistqueue = None

OURS = "proxyflow FileStore"

ROUNDS = 5
BACKLOG = 50
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
    queue = persistqueue.Queue(os.path.join(directory, "persist-queue"))

    def take() -> bytes:
        body: bytes = queue.get()
        queue.task_done()
        return body

    return Peer("persist-queue Queue (one process)", None, queue.put, take)


def sqlite_queue(directory: str) -> Peer:
    """persist-queue on SQLite, which knows acknowledgements."""
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
        if persistqueue is None:
            print("persist-queue is not installed: pip install persist-queue")
        else:
            found += [file_queue(place), sqlite_queue(place)]
        yield found


def rate(peer: Peer, body: bytes, seconds: float) -> float:
    """Return messages a second, each put, taken and acknowledged, in turns of `BACKLOG`."""
    count = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not count:
        for _ in range(BACKLOG):
            peer.put(body)
        for _ in range(BACKLOG):
            assert len(peer.take()) == len(body)
        count += BACKLOG
    return count / elapsed


def compare(size: int, options: argparse.Namespace) -> None:
    """Let all queues pass on messages of one size, and print how they did."""
    # No line ends, which a mailbox would alter.
    body = os.urandom(size // 2).hex().encode()
    with peers(options.directory) as queues:
        rates: dict[Peer, list[float]] = {peer: [] for peer in queues}
        for _ in range(ROUNDS):
            for peer in queues:
                rates[peer].append(rate(peer, body, options.seconds))
    medians = {peer: statistics.median(found) for peer, found in rates.items()}
    ours = {bool(peer.synced): rate for peer, rate in medians.items() if peer.name == OURS}
    for peer, median in medians.items():
        spread = f"{min(rates[peer]):.0f}-{max(rates[peer]):.0f}"
        ratio = ours[bool(peer.synced)] / median
        columns = f"{peer.synced or 'nothing':16} {median:8.0f} {spread:>13} {ratio:6.1f}"
        print(f"  {peer.name:34} {columns}")


def main() -> None:
    """Compare the queues for each size of message."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round of each queue")
    parser.add_argument("--directory", help="where the queues are made; a temporary directory")
    options = parser.parse_args()
    print(f"put + claim + ack, messages/s, median of {ROUNDS} rounds")
    for label, size in SIZES.items():
        print(f"\n{label:36} {'synced':16} {'median':>8} {'range':>13} {'ratio':>6}")
        compare(size, options)


if __name__ == "__main__":
    main()
