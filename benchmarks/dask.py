"""Large arguments in a Dask cluster: proxyflow beside plain Dask, `scatter` and proxystore-ex.

    python -m benchmarks.dask

Four worker processes of one thread each, one cluster for all, one client for each contestant; the
contestants take turns. The content differs in every call, as Dask computes nothing twice.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from benchmarks.dask_tasks import add_one, first, first_of_all, warm_up
from benchmarks.measure import interleave, missing, table
from proxyflow_dask import ProxyPlugin

KIB, MIB = 1 << 10, 1 << 20
OURS = "proxyflow"

NEEDED = {
    "submit 1 KiB": ("plain Dask", 1 / 1.1),
    "submit 100 MiB": ("plain Dask", 3.0),
    "100 tasks of 1 MiB": ("plain Dask", 1.0),
    "100 MiB to 32 tasks": ("plain Dask", 15.0),
    "list of 8 x 10 MiB": ("plain Dask", 1.8),
}
"""How many times our time the other one's has to be, at least."""

Submit = Callable[..., Any]
_fresh: Iterator[int] = itertools.count(1)
# Noise, as Dask compresses what it sends, and zeros are not what anybody sends.
_noise = np.random.default_rng(1).random(100 * MIB // 8)


def array(nbytes: int) -> np.ndarray[Any, Any]:
    """Return an array that no call has seen before."""
    made = _noise[: nbytes // 8].copy()
    made[0] = next(_fresh)
    return made


class Contestant:
    """One way to pass large arguments to tasks."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def give(self, value: Any) -> Any:
        """Return what to pass to a task for a value."""
        return value

    def give_all(self, value: Any) -> Any:
        """Return what to pass to many tasks for a value."""
        return self.give(value)


class Scatter(Contestant):
    """Sends values ahead, as Dask's documentation recommends."""

    def give(self, value: Any) -> Any:
        """Return a future of the value on one worker."""
        return self.client.scatter(value, hash=False)

    def give_all(self, value: Any) -> Any:
        """Return a future of the value on every worker."""
        return self.client.scatter(value, broadcast=True, hash=False)


def submit_one(who: Contestant, value: Any) -> None:
    """Submit one task and wait for its result."""
    who.client.submit(first, who.give(value)).result()


def submit_each(who: Contestant, values: list[Any]) -> None:
    """Submit a task for each value."""
    who.client.gather([who.client.submit(first, who.give(value)) for value in values])


def submit_shared(who: Contestant, value: Any) -> None:
    """Submit 32 tasks with one value."""
    given = who.give_all(value)
    who.client.gather([who.client.submit(first, given, i) for i in range(32)])


def submit_chain(who: Contestant, value: Any) -> None:
    """Submit five tasks, each with the large result of the one before."""
    task = who.give(value)
    for _ in range(5):
        task = who.client.submit(add_one, task)
    who.client.submit(first, task).result()


def fetch_result(who: Contestant, value: Any) -> None:
    """Submit one task and get its large result."""
    who.client.submit(add_one, who.give(value)).result()


def submit_nested(who: Contestant, values: list[Any]) -> None:
    """Submit one task with a list of values."""
    who.client.submit(first_of_all, [who.give(value) for value in values]).result()


ROWS: dict[str, tuple[Callable[[Contestant, Any], None], Callable[[], Any], int]] = {
    "submit 1 KiB": (submit_one, lambda: array(KIB), 60),
    "submit 1 MiB": (submit_one, lambda: array(MIB), 30),
    "submit 100 MiB": (submit_one, lambda: array(100 * MIB), 5),
    "100 tasks of 1 MiB": (submit_each, lambda: [array(MIB) for _ in range(100)], 5),
    "100 MiB to 32 tasks": (submit_shared, lambda: array(100 * MIB), 3),
    "chain of 5 x 100 MiB": (submit_chain, lambda: array(100 * MIB), 5),
    "result of 100 MiB": (fetch_result, lambda: array(100 * MIB), 5),
    "list of 8 x 10 MiB": (submit_nested, lambda: [array(10 * MIB) for _ in range(8)], 7),
}


def run(row: str, contestants: dict[str, Contestant]) -> dict[str, float]:
    """Return the median seconds of each contestant."""
    action, make, rounds = ROWS[row]
    prepared = {name: [make() for _ in range(rounds + 1)] for name in contestants}

    def call(name: str) -> Callable[[], None]:
        # The values are made before any clock runs.
        return lambda: action(contestants[name], prepared[name].pop())

    return interleave({name: call(name) for name in contestants}, rounds=rounds)


def contestants_on(cluster: LocalCluster, stack: ExitStack) -> dict[str, Contestant]:
    """Return the contestants, each with a client of its own."""

    def connect() -> Client:
        return stack.enter_context(Client(cluster, set_as_default=False))

    ours, with_results = connect(), connect()
    ours.register_plugin(ProxyPlugin())
    with_results.register_plugin(ProxyPlugin(results=True))
    found = {
        OURS: Contestant(ours),
        "results=True": Contestant(with_results),
        "plain Dask": Contestant(connect()),
        "scatter": Scatter(connect()),
    }
    if not missing("proxystore_ex"):
        found["proxystore-ex"] = Contestant(peer_client(cluster, stack))
    return found


def peer_client(cluster: LocalCluster, stack: ExitStack) -> Client:
    """Return proxystore-ex's client, with a store in shared memory like ours."""
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store
    from proxystore.warnings import ExperimentalWarning

    warnings.simplefilter("ignore", ExperimentalWarning)
    from proxystore_ex.plugins.distributed import Client as PeerClient

    directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
    store = stack.enter_context(Store("benchmark", FileConnector(directory), register=True))
    return stack.enter_context(
        PeerClient(cluster, set_as_default=False, ps_store=store, ps_threshold=MIB)
    )


def main() -> None:
    """Measure all rows, print the table, and which of the needed ratios are reached."""
    warnings.filterwarnings("ignore", message="Sending large graph")
    with ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None)
        )
        contestants = contestants_on(cluster, stack)
        some = contestants["plain Dask"].client
        some.gather([some.submit(warm_up, pure=False, workers=[w]) for w in some.nthreads()])
        rows = {row: run(row, contestants) for row in ROWS}
    print(table("milliseconds, and how many times ours", rows, OURS))
    for row, (other, least) in NEEDED.items():
        ratio = rows[row][other] / rows[row][OURS]
        verdict = "reached" if ratio >= least else "MISSED"
        print(f"{row}: {ratio:.2f} times as fast as {other}, needed {least:.2f}: {verdict}")


if __name__ == "__main__":
    main()
