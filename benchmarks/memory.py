"""Memory of scheduler, writer and reader while a task in Dask has a large array.

Run with ``python -m benchmarks.memory [--quick]``. The scheduler, the client (the writer) and the
worker (the reader) are processes of their own, new for each measurement: what an allocator keeps
would hide what the next one takes. By how much each has grown is looked at while the task holds
the array, after having read all of it; the peaks are those until then. The client's own array was
there before, and is not counted.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster

from benchmarks import dask as in_dask
from benchmarks.dask_tasks import hold, process_id, warm_up
from benchmarks.footprint import Footprint, peak_resident, reset_peak
from benchmarks.measure import Median, missing
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Panel, Plot, Result, Table
from benchmarks.sizes import MIB, label
from proxyflow_dask import ProxyPlugin

__all__ = ["collect"]

NBYTES, QUICK_NBYTES = 100 * MIB, 10 * MIB
WARM_BYTES = 2 * MIB
ROUNDS = 3
OURS, PLAIN, PEER = in_dask.OURS, in_dask.PLAIN, in_dask.PEER
PEAK = "peak, resident"
NOTE = """\
resident: all that is mapped and in memory; proportional (PSS): shared pages divided among those who
share them; private (USS): what nobody else has; anonymous: heap, no shared memory. The writer's own
array was there before. What lies in shared memory and is mapped by nobody is counted nowhere."""
_LIMIT_SECONDS = 60

Grown = dict[str, dict[str, float]]
"""Bytes by process and by what is counted."""


def client_of(who: str, cluster: Any, directory: str, stack: ExitStack) -> Client:
    """Return the client of a contestant."""
    if who == PEER:
        return in_dask.peer_client(cluster, directory, stack)
    client = stack.enter_context(Client(cluster, set_as_default=False))
    if who == OURS:
        client.register_plugin(ProxyPlugin())
    return client


def grown(who: str, nbytes: int) -> Grown:
    """Send an array to one task in a new cluster; return by how much each process grew."""
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=SHARED_MEMORY)
        )
        cluster = stack.enter_context(
            SubprocessCluster(
                n_workers=1,
                scheduler_kwargs={"dashboard": False},
                worker_kwargs={"nthreads": 1, "dashboard": False},
            )
        )
        client = client_of(who, cluster, os.path.join(directory, "peer"), stack)
        client.submit(warm_up).result()
        # Everything imported, and each code path taken once.
        client.submit(hold, np.random.default_rng(0).random(WARM_BYTES // 8), "").result()
        array = np.random.default_rng(1).random(nbytes // 8)
        pids = {
            "scheduler": client.run_on_scheduler(process_id),
            "writer": os.getpid(),
            "reader": client.submit(process_id).result(),
        }
        before = {name: Footprint.of(pid) for name, pid in pids.items()}
        for pid in pids.values():
            reset_peak(pid)
        future = client.submit(hold, array, directory)
        _wait_for(Path(directory, "held"))
        found = {name: _growth(pid, before[name]) for name, pid in pids.items()}
        Path(directory, "seen").touch()
        future.result()
        return found


def _growth(pid: int, before: Footprint) -> dict[str, float]:
    # The peak first: looking at the rest takes memory too.
    peak = peak_resident(pid) - before.resident
    return {PEAK: peak, **Footprint.of(pid).since(before)._asdict()}


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the task has not begun")
        time.sleep(0.01)


def _in_child(sender: Connection, who: str, nbytes: int) -> None:
    sender.send(grown(who, nbytes))


def measure(who: str, nbytes: int) -> Grown:
    """Do it in a process of its own, which is the writer."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(sender, who, nbytes))
    process.start()
    # Ours closed, the end of the child is the end of the pipe.
    sender.close()
    found: Grown = receiver.recv()
    process.join()
    return found


def collect(options: Options) -> Result:
    """Measure all contestants in turns."""
    nbytes = QUICK_NBYTES if options.quick else NBYTES
    absent = missing("proxystore_ex")
    contestants = [OURS, PLAIN] if absent else [OURS, PLAIN, PEER]
    samples: dict[str, dict[str, list[float]]] = {}
    for _ in range(1 if options.quick else options.rounds(ROUNDS)):
        for who in contestants:
            for process, counted in measure(who, nbytes).items():
                for name, value in counted.items():
                    row = samples.setdefault(f"{process}: {name}", {})
                    row.setdefault(who, []).append(value)
    rows = {
        row: {who: Median(values) for who, values in by_who.items()}
        for row, by_who in samples.items()
    }
    size = label(nbytes)
    return Result(
        tables=[
            Table(
                f"Growth for one array of {size} that a task in Dask holds",
                rows,
                unit="MiB",
                factor=1 / MIB,
                note=NOTE,
            )
        ],
        plots=[
            Plot(
                "memory",
                f"Growth of each process for one array of {size} that a task in Dask holds",
                tuple(
                    Panel(title, "MiB", _bars(rows, name))
                    for title, name in (
                        ("peak of resident memory", PEAK),
                        ("while the task holds it (PSS)", "proportional"),
                    )
                ),
                bars=True,
            )
        ],
        left_out=[f"{name} is not installed" for name in absent],
    )


def _bars(rows: dict[str, dict[str, Any]], counted: str) -> dict[str, dict[str, float]]:
    bars: dict[str, dict[str, float]] = {}
    for row, by_who in rows.items():
        process, _, name = row.partition(": ")
        if name == counted:
            for who, value in by_who.items():
                bars.setdefault(who, {})[process] = value / MIB
    return bars


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
