"""Put and get throughput over the size of an array, up to the limits of the machine.

Run with ``python -m benchmarks.throughput [--quick]``. Everything is in shared memory; reading
happens in another process. "get" ends before a byte of the array is touched, "get + sum" when all
of it has been read. The limits: copying into memory that is there already, by one thread, and
summing a mapped file. The contestants take turns.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack

import numpy as np

from benchmarks.contestants import FILE, OURS, WRITE, holders, memcpy
from benchmarks.holding import GET, PUT, READ, compare
from benchmarks.limits import COPY
from benchmarks.measure import Median
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Panel, Plot, Result, Table
from benchmarks.sizes import GIB, KIB, MIB, has_room, label

__all__ = ["collect"]

SIZES = [KIB << shift for shift in range(0, 21, 2)]
QUICK_SIZES = [KIB, 32 * KIB, MIB, 32 * MIB]
# Rounds for objects of up to so many bytes.
ROUNDS = {MIB: 21, 64 * MIB: 11, 256 * MIB: 5, GIB: 4}
_GIGABYTE, _MILLISECOND = 1e9, 1e-3

Curves = dict[str, dict[float, float]]


def collect(options: Options) -> Result:
    """Measure every size there is room for."""
    rows: dict[str, dict[int, dict[str, Median]]] = {PUT: {}, GET: {}, READ: {}}
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory or SHARED_MEMORY)
        )
        found, left_out = holders(directory, stack)
        # In memory, files are the same as shm://; one curve would hide the other.
        contestants = [*(holder for holder in found if holder.name != FILE), memcpy()]
        for nbytes in QUICK_SIZES if options.quick else SIZES:
            if not has_room(nbytes, directory):
                left_out.append(f"objects of {label(nbytes)}: too little memory is free")
                continue
            array = np.random.default_rng(0).random(nbytes // 8)
            rounds = next(rounds for most, rounds in ROUNDS.items() if nbytes <= most)
            for operation, medians in compare(contestants, array, options.rounds(rounds)).items():
                if operation in rows:
                    rows[operation][nbytes] = medians
    tables = [
        Table(
            f"{operation} in shared memory",
            {label(nbytes): medians for nbytes, medians in by_size.items()},
            OURS,
        )
        for operation, by_size in rows.items()
    ]
    return Result(tables=tables, plots=_plots(rows), left_out=left_out)


def _plots(rows: dict[str, dict[int, dict[str, Median]]]) -> list[Plot]:
    limits = (WRITE, COPY)
    return [
        Plot(
            "throughput",
            "Throughput of put, and of get + sum in another process, over the size of an array",
            tuple(
                Panel(operation, "GB/s", _rates(rows[operation]), limits)
                for operation in (PUT, READ)
            ),
        ),
        Plot(
            "get",
            "Time of a get in another process, before a byte is touched, over the size",
            (Panel(GET, "ms", _milliseconds(rows[GET]), limits),),
        ),
    ]


def _rates(by_size: dict[int, dict[str, Median]]) -> Curves:
    curves: Curves = {}
    for nbytes, medians in by_size.items():
        for name, median in medians.items():
            rate = median.map(lambda seconds, size=nbytes: size / seconds / _GIGABYTE)  # type: ignore[misc]
            curves.setdefault(name, {})[nbytes] = rate
    return curves


def _milliseconds(by_size: dict[int, dict[str, Median]]) -> Curves:
    curves: Curves = {}
    for nbytes, medians in by_size.items():
        for name, median in medians.items():
            curves.setdefault(name, {})[nbytes] = median.map(lambda one: one / _MILLISECOND)
    return curves


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
