"""The sweep of `quickstart.py` on a Dask cluster: plain, with `scatter`, and with the plugin.

python examples/dask_quickstart.py [IMAGE] [--tasks N] [--workers N]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from distributed import Client, LocalCluster, as_completed
from quickstart import Query, count_left, extract_patches, load_image, nearest_patches
from tqdm import tqdm

from proxyflow import Store
from proxyflow_dask import ProxyPlugin


class Run(NamedTuple):
    """One way to run the sweep, and what it took."""

    name: str
    answers: list[np.ndarray]
    seconds: float
    grown: int
    left: int | None


def held_by_process() -> int:
    """Return the memory of its own that the process that runs this holds, in bytes."""
    with open("/proc/self/statm") as file:
        # Without the shared pages: the scheduler is in the client's process, which maps the store.
        _, resident, shared = map(int, file.read().split()[:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def sweep(
    name: str, client: Client, patches: Any, queries: list[Query], store: Store | None = None
) -> Run:
    """Run all queries; return the answers in order, the time and what the scheduler grew by."""
    before = client.run_on_scheduler(held_by_process)
    started = time.perf_counter()
    futures = [client.submit(nearest_patches, patches, query) for query in queries]
    with tqdm(total=len(futures), desc=f"{name:>12}", unit="task") as bar:
        for _ in as_completed(futures):
            bar.update()
    answers = client.gather(futures)
    seconds = time.perf_counter() - started
    grown = client.run_on_scheduler(held_by_process) - before
    del futures, _
    return Run(name, answers, seconds, grown, None if store is None else wait_empty(store))


def wait_empty(store: Store) -> int:
    """Return how many objects are left a little after the last future was released."""
    deadline = time.monotonic() + 5
    while count_left(store) and time.monotonic() < deadline:
        time.sleep(0.05)
    return count_left(store)


def run_plain(address: str, patches: np.ndarray, queries: list[Query]) -> Run:
    """Pass the patches as they are."""
    with Client(address) as client:
        return sweep("plain Dask", client, patches, queries)


def run_scattered(address: str, patches: np.ndarray, queries: list[Query]) -> Run:
    """Send the patches to all workers first."""
    with Client(address) as client:
        started = time.perf_counter()
        scattered = client.scatter(patches, broadcast=True)
        sent = time.perf_counter() - started
        run = sweep("scatter", client, scattered, queries)
        return run._replace(seconds=run.seconds + sent)


def run_with_plugin(address: str, patches: np.ndarray, queries: list[Query]) -> Run:
    """Pass the patches as they are, with the plugin."""
    with Client(address) as client, Store() as store:
        client.register_plugin(ProxyPlugin(store))
        return sweep("ProxyPlugin", client, patches, queries, store)


def table(runs: list[Run], same: list[bool]) -> str:
    """Return the runs as a table."""
    lines = [
        f"{'':>12} {'wall s':>8} {'scheduler MB':>13} {'answers equal':>14} {'objects left':>13}"
    ]
    for run, equal in zip(runs, same, strict=True):
        left = "-" if run.left is None else str(run.left)
        row = f"{run.name:>12} {run.seconds:8.2f} {run.grown / 1e6:13.1f}"
        lines.append(f"{row} {'yes' if equal else 'NO':>14} {left:>13}")
    return "\n".join(lines)


def main() -> None:
    """Run the sweep three ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="an image file; default: a sample photograph")
    parser.add_argument("--tasks", type=int, default=24, help="how many parameter sets (24)")
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=int, default=workers, help=f"how many processes ({workers})"
    )
    options = parser.parse_args()
    if options.tasks < 1 or options.workers < 1:
        parser.error("at least one task and one worker")
    try:
        image = load_image(options.image)
    except (OSError, ValueError) as error:
        parser.error(f"cannot use this image: {error}")
    warnings.filterwarnings("ignore", message="Sending large graph")

    patches = extract_patches(image)
    queries = [Query(i, 16 + i % 4, 1 + 0.01 * i) for i in range(options.tasks)]
    print(f"{len(patches):,} patches, {patches.nbytes / 1e6:.0f} MB")
    ways: list[Callable[..., Run]] = [run_plain, run_scattered, run_with_plugin]
    with LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        runs = [way(cluster.scheduler_address, patches, queries) for way in ways]
    same = [all(map(np.array_equal, run.answers, runs[0].answers)) for run in runs]
    print(table(runs, same))
    if not all(same) or any(run.left for run in runs):
        raise SystemExit("answers differ, or objects were left in the store")


if __name__ == "__main__":
    main()
