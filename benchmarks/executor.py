"""Arrays as arguments of tasks: the plain process pool, `ProxyExecutor`, ProxyStore's executor.

Run with ``python -m benchmarks.executor [--rounds N] [--start METHOD]``. Each contestant has a pool
of two workers; they take turns. The task touches the first and the last element, so the rows show
what passing costs; "+ sum" rows read the whole array. Medians in milliseconds, and how many times
ours they are.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.goals import Goal, report
from benchmarks.measure import interleave, missing, table
from proxyflow import Store
from proxyflow_futures import ProxyExecutor

OURS, PLAIN, PEER = "ProxyExecutor", "plain pool", "ProxyStore"


def touch(array: np.ndarray[Any, Any]) -> float:
    """Do as little as a task can with an array."""
    return float(array[0] + array[-1])


def total(array: np.ndarray[Any, Any]) -> float:
    """Read all of an array."""
    return float(array.sum())


def doubled(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return as much as was given."""
    return array * 2


def one(executor: Executor, task: Callable[..., Any], array: Any) -> Callable[[], Any]:
    """Return a call that passes an array to one task."""
    return lambda: executor.submit(task, array).result()


def many(executor: Executor, task: Callable[..., Any], array: Any, tasks: int) -> Callable[[], Any]:
    """Return a call that passes the same array to many tasks at once."""

    def call() -> list[Any]:
        futures = [executor.submit(task, array) for _ in range(tasks)]
        return [future.result() for future in futures]

    return call


def is_array(value: Any) -> bool:
    """Return what ProxyStore's executor asks of each value."""
    return isinstance(value, np.ndarray)


def peer_executor(pool: Executor, directory: str) -> Any:
    """Return ProxyStore's wrapper of an executor."""
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store as PeerStore
    from proxystore.store.executor import StoreExecutor

    store = PeerStore(f"peer-{os.getpid()}", FileConnector(directory), register=True)
    return StoreExecutor(pool, store, should_proxy=is_array)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--start", default="forkserver", help="fork, forkserver (default) or spawn")
    options = parser.parse_args()
    context = multiprocessing.get_context(options.start)
    rows: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        store = stack.enter_context(Store(f"file://{directory}/ours"))

        def pool() -> ProcessPoolExecutor:
            return stack.enter_context(ProcessPoolExecutor(2, mp_context=context))

        executors: dict[str, Any] = {OURS: ProxyExecutor(pool(), store), PLAIN: pool()}
        if not missing("proxystore"):
            executors[PEER] = peer_executor(pool(), f"{directory}/peer")

        def row(name: str, make: Callable[[Any], Callable[[], Any]], rounds: int) -> None:
            calls = {contestant: make(executor) for contestant, executor in executors.items()}
            rows[name] = interleave(calls, rounds=rounds, warmup=2)

        for name, nbytes, rounds in (
            ("1 KiB", 1 << 10, 300),
            ("100 KiB", 100 << 10, 200),
            ("1 MiB", 1 << 20, 50),
            ("100 MiB", 100 << 20, options.rounds),
        ):
            array = np.random.default_rng(0).random(nbytes // 8)
            row(f"{name}, one task", lambda e, a=array: one(e, touch, a), rounds)
        row("100 MiB, one task + sum", lambda e: one(e, total, array), options.rounds)
        row("100 MiB, one task, back", lambda e: one(e, doubled, array), options.rounds)
        row("100 MiB to 32 tasks", lambda e: many(e, touch, array, 32), 3)
        small = np.random.default_rng(0).random(128)
        row("1 KiB, 200 tasks", lambda e: many(e, touch, small, 200), 15)
        left = sum(1 for _ in store.scan())

    print(table("milliseconds (times ours)", rows, OURS))

    def gain(name: str) -> float:
        return rows[name][PLAIN] / rows[name][OURS]

    print(
        report(
            [
                Goal("100 MiB, faster than the plain pool", gain("100 MiB, one task"), 4, True),
                Goal("100 MiB to 32 tasks, faster", gain("100 MiB to 32 tasks"), 40, True),
                Goal("1 MiB, faster", gain("1 MiB, one task"), 2, True),
                Goal(
                    "latency of 1 KiB over the plain pool", 1 / gain("1 KiB, one task"), 1.1, False
                ),
                Goal("objects left in the store", left, 0, False, "objects"),
            ]
        )
    )


if __name__ == "__main__":
    main()
