from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from futures_tasks import LARGE

from proxyflow import Store


def _processes(method: str) -> Callable[[], Executor]:
    return lambda: ProcessPoolExecutor(2, mp_context=get_context(method))


def _loky() -> Executor:
    from loky import ProcessPoolExecutor as LokyExecutor

    return LokyExecutor(2)


POOLS: dict[str, Callable[[], Executor]] = {
    "fork": _processes("fork"),
    "forkserver": _processes("forkserver"),
    "spawn": _processes("spawn"),
    "loky": _loky,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/store") as store:
        yield store


@contextlib.contextmanager
def _distributed_leaves_sockets() -> Iterator[None]:
    """Let go of the sockets that distributed forgets to close when it starts, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Start a Dask cluster of two worker processes."""
    from distributed import Client, LocalCluster

    with _distributed_leaves_sockets():
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
        client = Client(cluster)
    yield client
    with _distributed_leaves_sockets():
        client.close()
        cluster.close()


@pytest.fixture(scope="session")
def pools(request: pytest.FixtureRequest) -> Iterator[dict[str, Executor]]:
    """Pools that are kept for the whole run, as starting one takes a while."""
    made = {name: make() for name, make in POOLS.items()}
    for pool in made.values():
        # Forked before the cluster starts its threads, which a fork would not survive for certain.
        pool.submit(abs, 1).result(60)
    cluster = request.getfixturevalue("cluster")
    yield {**made, "distributed": cluster.get_executor()}
    for pool in made.values():
        pool.shutdown()


@pytest.fixture(params=[*POOLS, "distributed"])
def pool(request: pytest.FixtureRequest, pools: dict[str, Executor]) -> Executor:
    """Return a pool of two worker processes, of every kind."""
    return pools[request.param]


@pytest.fixture(params=list(POOLS))
def make_pool(request: pytest.FixtureRequest) -> Callable[[], Executor]:
    """Return a function that makes a new pool, to be shut down or broken."""
    return POOLS[request.param]


@pytest.fixture
def array() -> Any:
    return np.arange(LARGE // 8, dtype=float)
