"""Put, get and evict of arrays in shared memory, next to ProxyStore, Ray and plain files.

Run with ``python -m benchmarks.store [--quick] [--directory D]``. "get" happens in another process,
before a page of the array is touched; "get + sum" reads all of it. The contestants take turns;
medians in milliseconds, and how many times ours they are. Memory is that of a writer and of a
reader of their own, as a share of the array.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contestants import OURS, PEER, RAY, WRITE, holders
from benchmarks.footprint import Footprint, Watch, peak_resident, reset_peak
from benchmarks.goals import Goal
from benchmarks.holding import GET, PUT, READ, compare
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Result, Table
from benchmarks.sizes import GIB, KIB, MIB, has_room, label
from proxyflow import Store
from proxyflow.recipe import open_store

__all__ = ["collect"]

ROUNDS = {KIB: 41, MIB: 21, 100 * MIB: 11, GIB: 3}
SMALL, LARGE = KIB, 100 * MIB
"""The sizes that goals are about; a quick run does without the larger ones."""

Rows = dict[str, dict[str, Any]]


def collect(options: Options) -> Result:
    """Measure times, then memory, and compare with the goals."""
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory or SHARED_MEMORY)
        )
        contestants, left_out = holders(directory, stack)
        rows: Rows = {}
        for nbytes, rounds in ROUNDS.items():
            if nbytes > LARGE and options.quick:
                continue
            if not has_room(nbytes, directory):
                left_out.append(f"objects of {label(nbytes)}: too little memory is free")
                continue
            array = np.random.default_rng(0).random(nbytes // 8)
            for operation, medians in compare(contestants, array, options.rounds(rounds)).items():
                rows[f"{label(nbytes)} {operation}"] = medians
            del array
    nbytes = 128 * MIB if options.quick else GIB
    with tempfile.TemporaryDirectory(
        prefix="benchmark-", dir=options.directory or SHARED_MEMORY
    ) as directory:
        shares = memory(f"shm://{directory}", nbytes)
    goals = time_goals(rows) + memory_goals(shares, label(nbytes))
    return Result(
        tables=[
            Table("Arrays in shared memory", rows, OURS),
            Table(
                f"Memory of {OURS} with an array of {label(nbytes)}, over the array",
                {who: share.by_name() for who, share in shares.items()},
                unit="percent",
                factor=100,
                note="The writer's own array is not counted, as it was there before.",
            ),
        ],
        goals=goals,
        left_out=left_out,
    )


class Share(NamedTuple):
    """By how much a process grew, over the size of the object."""

    anonymous_peak: float
    resident_peak: float
    proportional_after: float

    def by_name(self) -> dict[str, float]:
        """Return the shares by what they are called in a table."""
        return {field.replace("_", ", "): share for field, share in self._asdict().items()}


def memory(url: str, nbytes: int) -> dict[str, Share]:
    """Return what putting and getting a large array takes of memory."""
    context = multiprocessing.get_context("spawn")

    def growth(act: Callable[..., Any], *args: Any) -> tuple[Share, Any, Callable[[], None]]:
        here, there = context.Pipe()
        process = context.Process(target=_on_command, args=(there, act, *args))
        process.start()
        here.recv()
        pid = process.pid
        assert pid is not None
        before = Footprint.of(pid)
        reset_peak(pid)
        with Watch([pid]) as watch:
            here.send("go")
            outcome = here.recv()
        after = Footprint.of(pid)
        share = Share(
            (watch.anonymous[pid] - before.anonymous) / nbytes,
            (peak_resident(pid) - before.resident) / nbytes,
            (after.proportional - before.proportional) / nbytes,
        )

        def end() -> None:
            here.send("end")
            process.join()

        return share, outcome, end

    writer, written, end_writer = growth(_writer, url, nbytes)
    reader, _, end_reader = growth(_reader, *written)
    end_reader()
    end_writer()
    return {"writer": writer, "reader": reader}


def _on_command(commands: Connection, make: Callable[..., Any], *args: Any) -> None:
    """Prepare, and do it when told; what was made lives until the end is told."""
    act = make(*args)
    commands.send("ready")
    commands.recv()
    held, answer = act()
    commands.send(answer)
    commands.recv()
    del held


def _writer(url: str, nbytes: int) -> Callable[[], tuple[Any, Any]]:
    store = Store(url)
    # Everything imported and warm before the first look.
    store.get(store.put(np.ones(MIB)))
    array = np.random.default_rng(0).random(nbytes // 8)

    def put() -> tuple[Any, Any]:
        return store, (store.recipe, store.put(array))

    return put


def _reader(recipe: Any, key: Any) -> Callable[[], tuple[Any, Any]]:
    store = open_store(recipe)
    with Store("memory://") as warm:
        warm.get(warm.put(np.ones(MIB))).sum()

    def get() -> tuple[Any, Any]:
        array = store.get(key)
        return array, float(array.sum())

    return get


def time_goals(rows: Rows) -> list[Goal]:
    """Return the goals about time."""
    large, small = label(LARGE), label(SMALL)
    gets = [float(medians[OURS]) for row, medians in rows.items() if row.endswith(f" {GET}")]
    put, summed = rows[f"{large} {PUT}"], rows[f"{large} {READ}"]
    goals = [
        Goal("get at any size", max(gets) * 1e3, 0.3, False, "ms"),
        Goal(
            f"get + sum of {large} over a mapped file's",
            summed[OURS] / summed[WRITE],
            1.5,
            False,
        ),
    ]
    if PEER in put:
        both = [rows[f"{small} {PUT}"], rows[f"{small} {GET}"]]
        ratio = sum(row[PEER] for row in both) / sum(row[OURS] for row in both)
        goals += [
            Goal(f"put of {large}, faster than ProxyStore's", put[PEER] / put[OURS], 10, True),
            Goal(f"put + get of {small}, faster than ProxyStore's", ratio, 3, True),
        ]
    if RAY in put:
        goals.append(Goal(f"put of {large}, faster than Ray's", put[RAY] / put[OURS], 1, True))
    return goals


def memory_goals(shares: dict[str, Share], size: str) -> list[Goal]:
    """Return the goals about memory."""
    return [
        Goal(
            f"anonymous memory of the {who}, {size}",
            shares[who].anonymous_peak * 100,
            bound,
            False,
            "percent",
        )
        # None, but for what a process allocates for itself while it reads.
        for who, bound in (("writer", 5), ("reader", 0.1))
    ]


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
