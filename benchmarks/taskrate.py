"""Tasks a second over the size of their argument, in process pools and in Dask.

Run with ``python -m benchmarks.taskrate [--quick]``. Each task of a batch gets an array of its own
that nobody has seen before, and touches its first and last element. Pools have two workers, the
Dask cluster four. The contestants take turns.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks import dask as in_dask
from benchmarks import pools as in_pools
from benchmarks.executor import START, touch
from benchmarks.leftovers import empty
from benchmarks.measure import interleave
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Panel, Plot, Result, Table
from benchmarks.sizes import KIB, MIB, has_room, label
from proxyflow import Store

__all__ = ["collect"]

SIZES = [KIB, 16 * KIB, 128 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB]
QUICK_SIZES = [KIB, 128 * KIB, 2 * MIB]
ROUNDS = 7
# Tasks at once: many small ones, of large ones no more than these bytes, but some for each worker.
_MOST, _FEWEST, _BATCH_BYTES = 64, 4, 64 * MIB

# How often to look whether somebody takes a changed array for the one before; also the warm-up.
_CHECKS = 2

Array = np.ndarray[Any, Any]
Batch = Callable[[list[Array]], list[float]]
Rates = dict[int, dict[str, float]]

_fresh: Iterator[int] = itertools.count(1)


def batch(nbytes: int) -> int:
    """Return how many tasks to run at once with arrays of a size."""
    return max(_FEWEST, min(_MOST, _BATCH_BYTES // nbytes))


def measure(
    contestants: Mapping[str, Batch], options: Options, directory: str, tidy: Callable[[], None]
) -> Rates:
    """Return tasks a second by size and contestant, tidying up after each size."""
    sizes = QUICK_SIZES if options.quick else SIZES
    noise = np.random.default_rng(1).random(max(sizes) // 8)
    rates: Rates = {}
    for nbytes in sizes:
        tasks = batch(nbytes)
        # What is left behind in every round until it is tidied up.
        if has_room(nbytes * tasks, directory, copies=4 * ROUNDS):
            rates[nbytes] = dict(_measure_size(contestants, noise, nbytes, tasks, options))
        tidy()
    return rates


def _measure_size(
    contestants: Mapping[str, Batch], noise: Array, nbytes: int, tasks: int, options: Options
) -> dict[str, float]:
    # One batch for all, as one for every turn would take gigabytes; its first elements change from
    # turn to turn, so that nothing is recognised as seen before.
    made = [noise[: nbytes // 8].copy() for _ in range(tasks)]

    def renew() -> None:
        for array in made:
            array[0] = next(_fresh)

    def call(run: Batch) -> Callable[[], object]:
        def again() -> object:
            renew()
            return run(made)

        return again

    for name, run in contestants.items():
        for _ in range(_CHECKS):
            renew()
            if run(made) != [touch(array) for array in made]:
                raise RuntimeError(f"wrong results: {name} with {label(nbytes)}")
    calls = {name: call(run) for name, run in contestants.items()}
    seconds = interleave(calls, rounds=options.rounds(ROUNDS), warmup=0)
    return {name: median.map(lambda one: tasks / one) for name, median in seconds.items()}


def pool_rates(options: Options) -> tuple[Rates, list[str]]:
    """Return the rates of process pools."""
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory or SHARED_MEMORY)
        )
        store = stack.enter_context(Store(f"shm://{directory}/ours"))
        context = multiprocessing.get_context(START)
        found, left_out = in_pools.pools(directory, store, context, stack)

        def batched(pool: in_pools.Pool) -> Batch:
            return lambda given: pool.run(touch, given)

        calls = {name: batched(pool) for name, pool in found.items()}
        return measure(calls, options, directory, lambda: empty(f"{directory}/peer")), left_out


def dask_rates(options: Options) -> tuple[Rates, list[str]]:
    """Return the rates of Dask clients."""
    with ExitStack() as stack:
        cluster = in_dask.cluster_of(in_dask.WORKERS, stack)
        contestants, left_out = in_dask.contestants_on(cluster, stack)
        # Results are numbers: replacing large ones changes nothing.
        contestants.pop(in_dask.WITH_RESULTS)

        def batched(who: in_dask.Contestant) -> Batch:
            return lambda given: in_dask.submit_each(who, given)

        calls = {name: batched(who) for name, who in contestants.items()}

        def tidy() -> None:
            for who in contestants.values():
                who.tidy()

        return measure(calls, options, options.directory or SHARED_MEMORY, tidy), left_out


def collect(options: Options) -> Result:
    """Measure pools, then Dask."""
    tables, panels, left_out = [], [], []
    for title, ours, rates_of in (
        (f"process pools of {in_pools.WORKERS} workers", in_pools.OURS, pool_rates),
        (f"Dask, {in_dask.WORKERS} workers", in_dask.OURS, dask_rates),
    ):
        rates, absent = rates_of(options)
        left_out += [reason for reason in absent if reason not in left_out]
        tables.append(
            Table(
                f"Task rate in {title}",
                {f"{label(size)}, {batch(size)} tasks": row for size, row in rates.items()},
                ours,
                "tasks/s",
                1,
                "Higher is better.",
            )
        )
        curves: dict[str, dict[float, float]] = {}
        for size, row in rates.items():
            for name, rate in row.items():
                curves.setdefault(name, {})[size] = rate
        panels.append(Panel(title, "tasks/s", curves))
    plot = Plot(
        "taskrate", "Tasks a second over the size of the array each one gets", tuple(panels)
    )
    return Result(tables=tables, plots=[plot], left_out=left_out)


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
