"""Large arguments in a Dask cluster: proxyflow beside plain Dask, `scatter` and proxystore-ex.

    python -m benchmarks.dask [--quick]

Four worker processes of one thread each, one cluster for all, one client for each contestant; the
contestants take turns. The content differs in every call, as Dask computes nothing twice.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from distributed import Client, LocalCluster

from benchmarks.dask_tasks import add_one, first, first_of_all, warm_up
from benchmarks.goals import Goal
from benchmarks.leftovers import empty
from benchmarks.measure import interleave, missing
from benchmarks.options import SHARED_MEMORY, Options, parser, read
from benchmarks.result import Result, Rows, Table
from benchmarks.sizes import KIB, MIB, has_room, label
from proxyflow_dask import ProxyPlugin

OURS, PLAIN, PEER = "proxyflow", "plain Dask", "proxystore-ex"
WITH_RESULTS, SCATTER = "results=True", "scatter"
WORKERS = 4
SHARING = 32
"""Tasks that get the same array."""

Array = np.ndarray[Any, Any]
LARGE, QUICK_LARGE = 100 * MIB, 10 * MIB

NEEDED = {
    "submit 1 KiB": 1 / 1.1,
    "submit 100 MiB": 3.0,
    "100 tasks of 1 MiB": 1.0,
    "100 MiB to 32 tasks": 15.0,
    "list of 8 x 10 MiB": 1.8,
}
"""How many times our time plain Dask's has to be, at least."""

_fresh: Iterator[int] = itertools.count(1)
# Noise, as Dask compresses what it sends, and zeros are not what anybody sends.
_noise = np.random.default_rng(1).random(LARGE // 8)


def array(nbytes: int) -> Array:
    """Return an array that no call has seen before."""
    made = _noise[: nbytes // 8].copy()
    made[0] = next(_fresh)
    return made


class Contestant:
    """One way to pass large arguments to tasks."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def tidy(self) -> None:
        """Remove what was left behind."""

    def give(self, value: Any) -> Any:
        """Return what to pass to a task for a value."""
        return value

    def give_all(self, value: Any) -> Any:
        """Return what to pass to many tasks for a value."""
        return self.give(value)


class Scatter(Contestant):
    """Sends values ahead, as Dask's documentation recommends.

    Unless `hash` is false, as by default, equal values have one key, as they have with us.
    """

    def __init__(self, client: Client, *, hash: bool = True) -> None:
        super().__init__(client)
        self._hash = hash

    def give(self, value: Any) -> Any:
        """Return a future of the value on one worker."""
        return self.client.scatter(value, hash=self._hash)

    def give_all(self, value: Any) -> Any:
        """Return a future of the value on every worker."""
        return self.client.scatter(value, broadcast=True, hash=self._hash)


class Peer(Contestant):
    """proxystore-ex, whose objects stay when their tasks are done."""

    def __init__(self, client: Client, directory: str) -> None:
        super().__init__(client)
        self.directory = directory

    def tidy(self) -> None:
        """Remove the objects."""
        empty(self.directory)


def submit_one(who: Contestant, values: list[Array]) -> None:
    """Submit one task and wait for its result."""
    who.client.submit(first, who.give(values[0])).result()


def submit_each(who: Contestant, values: list[Array]) -> list[float]:
    """Submit a task for each value and return the results."""
    return list(who.client.gather([who.client.submit(first, who.give(value)) for value in values]))


def submit_shared(who: Contestant, values: list[Array]) -> None:
    """Submit many tasks with one value."""
    given = who.give_all(values[0])
    who.client.gather([who.client.submit(first, given, i) for i in range(SHARING)])


def map_shared(who: Contestant, values: list[Array]) -> None:
    """Map many tasks over one value."""
    given = who.give_all(values[0])
    who.client.gather(who.client.map(first, [given] * SHARING, range(SHARING)))


def submit_chain(who: Contestant, values: list[Array]) -> None:
    """Submit five tasks, each with the large result of the one before."""
    task = who.give(values[0])
    for _ in range(5):
        task = who.client.submit(add_one, task)
    who.client.submit(first, task).result()


def fetch_result(who: Contestant, values: list[Array]) -> None:
    """Submit one task and get its large result."""
    who.client.submit(add_one, who.give(values[0])).result()


def submit_nested(who: Contestant, values: list[Array]) -> None:
    """Submit one task with a list of values."""
    who.client.submit(first_of_all, [who.give(value) for value in values]).result()


class Row(NamedTuple):
    """What is done with a value, what it is, how often, and how many times it is in memory."""

    action: Callable[[Contestant, list[Array]], object]
    value: list[Array]
    rounds: int
    copies: int = 10


def rows_with(large: int) -> dict[str, Row]:
    """Return the rows by name, with large objects of a size."""
    name, tenth = label(large), large // 10
    one = [array(large)]
    return {
        "submit 1 KiB": Row(submit_one, [array(KIB)], 300),
        "submit 1 MiB": Row(submit_one, [array(MIB)], 100),
        f"submit {name}": Row(submit_one, one, 15),
        "100 tasks of 1 MiB": Row(submit_each, [array(MIB) for _ in range(100)], 11),
        # Plain Dask has each task's copy in client, scheduler and workers.
        f"{name} to {SHARING} tasks": Row(submit_shared, one, 5, copies=5 * SHARING),
        f"{name} to {SHARING} tasks by map": Row(map_shared, one, 5, copies=3 * SHARING),
        f"chain of 5 x {name}": Row(submit_chain, one, 5, copies=30),
        f"result of {name}": Row(fetch_result, one, 5),
        f"list of 8 x {label(tenth)}": Row(submit_nested, [array(tenth) for _ in range(8)], 15),
    }


def goals(rows: Rows) -> list[Goal]:
    """Return what is promised, of the rows that were measured."""
    beside_plain = [
        Goal(f"{row}, as fast as {PLAIN}", rows[row][PLAIN] / rows[row][OURS], least, True)
        for row, least in NEEDED.items()
        if row in rows
    ]
    beside_scatter = [
        Goal(f"{row}, as fast as scatter(broadcast=True)", of[SCATTER] / of[OURS], 1, True)
        for row, of in rows.items()
        if row.endswith(f" to {SHARING} tasks")
    ]
    return beside_plain + beside_scatter


def run(row: Row, contestants: dict[str, Contestant], options: Options) -> Mapping[str, float]:
    """Return the median seconds of each contestant."""

    def call(who: Contestant) -> Callable[[], None]:
        def renewed() -> None:
            # The same arrays with another content: new ones for each call would take gigabytes.
            for values in row.value:
                values[0] = next(_fresh)
            row.action(who, row.value)

        return renewed

    calls = {name: call(who) for name, who in contestants.items()}
    medians = interleave(calls, rounds=options.rounds(row.rounds))
    for who in contestants.values():
        who.tidy()
    return medians


def contestants_on(
    cluster: LocalCluster, stack: ExitStack
) -> tuple[dict[str, Contestant], list[str]]:
    """Return the contestants, each with a client of its own, and who is left out."""

    def connect() -> Client:
        return stack.enter_context(Client(cluster, set_as_default=False))

    ours, with_results = connect(), connect()
    ours.register_plugin(ProxyPlugin())
    with_results.register_plugin(ProxyPlugin(results=True))
    found = {
        OURS: Contestant(ours),
        WITH_RESULTS: Contestant(with_results),
        PLAIN: Contestant(connect()),
        SCATTER: Scatter(connect()),
        "scatter, hash=False": Scatter(connect(), hash=False),
    }
    absent = missing("proxystore_ex")
    if not absent:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="benchmark-", dir=SHARED_MEMORY)
        )
        found[PEER] = Peer(peer_client(cluster, directory, stack), directory)
    return found, [f"{name} is not installed" for name in absent]


def peer_client(cluster: Any, directory: str, stack: ExitStack) -> Client:
    """Return proxystore-ex's client, with a store in shared memory like ours."""
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store
    from proxystore.warnings import ExperimentalWarning

    warnings.simplefilter("ignore", ExperimentalWarning)
    from proxystore_ex.plugins.distributed import Client as PeerClient

    # Each object is asked for once: a larger cache would only fill the workers' memory.
    store = stack.enter_context(
        Store("benchmark", FileConnector(directory, clear=False), cache_size=1, register=True)
    )
    return stack.enter_context(
        PeerClient(cluster, set_as_default=False, ps_store=store, ps_threshold=MIB)
    )


def cluster_of(workers: int, stack: ExitStack) -> LocalCluster:
    """Start a cluster of processes of one thread each, warm."""
    warnings.filterwarnings("ignore", message="Sending large graph")
    cluster = stack.enter_context(
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    )
    with Client(cluster, set_as_default=False) as client:
        client.gather([client.submit(warm_up, pure=False, workers=[w]) for w in client.nthreads()])
    return cluster


def collect(options: Options) -> Result:
    """Measure all rows."""
    large = QUICK_LARGE if options.quick else LARGE
    with ExitStack() as stack:
        contestants, left_out = contestants_on(cluster_of(WORKERS, stack), stack)
        rows: Rows = {}
        for name, row in rows_with(large).items():
            if has_room(row.value[0].nbytes, SHARED_MEMORY, row.copies * len(row.value)):
                rows[name] = run(row, contestants, options)
            else:
                left_out.append(f"{name}: too little memory is free")
    return Result(
        tables=[Table(f"An array as the argument of a task, {WORKERS} workers", rows, OURS)],
        goals=goals(rows),
        left_out=left_out,
    )


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
