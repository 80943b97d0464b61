"""Arrays as arguments of tasks: the plain process pool, `ProxyExecutor`, ProxyStore, joblib, Ray.

Run with ``python -m benchmarks.executor [--quick] [--start METHOD]``. Each contestant has two
workers; they take turns. The task touches the first and the last element, so the rows show what
passing costs; "+ sum" rows read the whole array. In the row "by map" the array is one that the
contestant may know to be one: executors map over it, with Ray it is put once. Medians in
milliseconds, and how many times ours they are. joblib is in the rows of large arrays, which it maps
from files in shared memory.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.goals import Goal
from benchmarks.measure import interleave
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.pools import JOBLIB, OURS, PLAIN, Pool, pools
from benchmarks.result import Result, Rows, Table
from benchmarks.sizes import KIB, MIB, label
from proxyflow import Store

__all__ = ["collect", "total", "touch"]

START = "forkserver"
LARGE, QUICK_LARGE = 100 * MIB, 10 * MIB
ROUNDS = {KIB: 1000, 100 * KIB: 300, MIB: 100}
LARGE_ROUNDS = 7
SHARING = 32
"""Tasks that get one array."""
NEEDED = {
    "100 MiB, one task": 4,
    "100 MiB to 32 tasks": 40,
    "100 MiB to 32 tasks by map": 100,
    "1 MiB, one task": 2,
}
"""How many times our time the plain pool's has to be, at least."""


def touch(array: np.ndarray[Any, Any]) -> float:
    """Do as little as a task can with an array."""
    return float(array[0] + array[-1])


def total(array: np.ndarray[Any, Any]) -> float:
    """Read all of an array."""
    return float(array.sum())


def doubled(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return as much as was given."""
    return array * 2


def collect(options: Options, start: str = START) -> Result:
    """Measure all rows."""
    rows: Rows = {}
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory or SHARED_MEMORY)
        )
        store = stack.enter_context(Store(f"file://{directory}/ours"))
        context = multiprocessing.get_context(start)
        found, left_out = pools(directory, store, context, stack)

        def measure(name: str, call: Callable[[Pool], Callable[[], Any]], rounds: int) -> None:
            contestants = dict(found)
            if rounds > LARGE_ROUNDS:
                # A call of joblib's takes ten milliseconds, in which the others' processes sleep.
                contestants.pop(JOBLIB, None)
            calls = {who: call(pool) for who, pool in contestants.items()}
            warmup = 2 if rounds > LARGE_ROUNDS else 1
            rows[name] = interleave(calls, rounds=options.rounds(rounds), warmup=warmup)

        def row(name: str, task: Callable[..., Any], array: Any, tasks: int, rounds: int) -> None:
            measure(name, lambda pool: lambda: pool.run(task, [array] * tasks), rounds)

        for nbytes, rounds in ROUNDS.items():
            array = np.random.default_rng(0).random(nbytes // 8)
            row(f"{label(nbytes)}, one task", touch, array, 1, rounds)
        nbytes = QUICK_LARGE if options.quick else LARGE
        large, array = label(nbytes), np.random.default_rng(0).random(nbytes // 8)
        row(f"{large}, one task", touch, array, 1, LARGE_ROUNDS)
        row(f"{large}, one task + sum", total, array, 1, LARGE_ROUNDS)
        row(f"{large}, one task, back", doubled, array, 1, LARGE_ROUNDS)
        row(f"{large} to {SHARING} tasks", touch, array, SHARING, 3)
        measure(
            f"{large} to {SHARING} tasks by map",
            lambda pool: lambda: pool.run_shared(touch, array, SHARING),
            3,
        )
        row("1 KiB, 200 tasks", touch, np.random.default_rng(0).random(KIB // 8), 200, 15)
        left = sum(1 for _ in store.scan())
    return Result(
        tables=[Table("An array as the argument of a task", rows, OURS)],
        goals=goals(rows, left),
        left_out=left_out,
    )


def goals(rows: Rows, left: int) -> list[Goal]:
    """Return what is promised, of the rows that were measured; `left` objects were not evicted."""
    gains = {row: medians[PLAIN] / medians[OURS] for row, medians in rows.items()}
    latency = 1 / gains["1 KiB, one task"]
    return [
        *(
            Goal(f"{row}, faster than the {PLAIN}", gains[row], least, True)
            for row, least in NEEDED.items()
            if row in gains
        ),
        Goal(f"latency of 1 KiB over the {PLAIN}", latency, 1.1, False),
        Goal("objects left in the store", left, 0, False, "objects"),
    ]


def main() -> None:
    """Measure and print."""
    command = parser(__doc__)
    command.add_argument("--start", default=START, help="fork, forkserver (default) or spawn")
    arguments = command.parse_args()
    print(collect(read(arguments), arguments.start).text())


if __name__ == "__main__":
    main()
