"""Other stores than directories: connectors that move their objects, and have no sessions."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_tasks as tasks
import numpy as np
import pytest
from dask_shop import Cluster, until
from distributed import Client, wait
from proxystore.connectors.file import FileConnector

from proxyflow import Store, get_factory
from proxyflow.errors import ConfigError
from proxyflow_dask import ProxyPlugin
from proxyflow_dask.attachment import Attachment
from tests.stores import any_store_url

__all__ = ["any_store_url"]

N = 50_000


def array(value: float = 1.0) -> np.ndarray:
    return np.full(N, value)


@pytest.fixture
def moving_store(tmp_path: Path) -> Iterator[Store]:
    """Provide a store on a peer's connector, which copies what it reads."""
    with Store(connector=FileConnector(str(tmp_path / "peer"))) as store:
        yield store


def files(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory / "peer") if not name.endswith(".ready")]


def gets(dask_worker: Any = None) -> int:
    from proxyflow.recipe import open_stores

    return sum(store.stats["get"].count for store in open_stores() if not store.maps)


def test_any_connector_serves(shared_cluster: Cluster, moving_store: Store, tmp_path: Path) -> None:
    """Arguments go through a connector of ProxyStore, and are evicted in their time."""
    with Client(shared_cluster.address) as client:
        client.register_plugin(ProxyPlugin(moving_store, threshold="100 kB"))
        futures = client.map(tasks.total, [array(i) for i in range(4)])
        assert client.gather(futures) == [float(N * i) for i in range(4)]
        assert len(files(tmp_path)) == 4
        del futures
        until(lambda: not files(tmp_path))


def test_each_of_our_connectors_serves(shared_cluster: Cluster, any_store_url: str) -> None:
    """Arguments and results, alone and nested, exact; all evicted when Dask forgets the tasks."""
    with Client(shared_cluster.address) as client:
        client.register_plugin(ProxyPlugin(any_store_url, threshold="100 kB", results=True))
        attachment = Attachment.of(client)
        assert attachment is not None
        assert attachment.use is not None
        owner = attachment.use.owner
        futures = client.map(tasks.total, [array(i) for i in range(4)])
        assert client.gather(futures) == [float(N * i) for i in range(4)]
        grown = client.submit(tasks.grow, array(7))
        for _ in range(2):
            assert float(grown.result()[0]) == 8
        assert client.submit(tasks.total, grown).result() == 8 * N
        assert len(list(owner.store.scan())) > 0
        del futures, grown
        gc.collect()
        until(lambda: not list(owner.store.scan()) and len(owner) == 0)


def test_a_lost_worker_with_each_connector(own_cluster: Cluster, any_store_url: str) -> None:
    """Its result is computed again from the arguments that are still stored."""
    with Client(own_cluster.address) as client:
        client.register_plugin(ProxyPlugin(any_store_url, threshold="100 kB"))
        made = client.submit(tasks.grow, array(1))
        wait(made)
        (address,) = client.who_has(made)[made.key]
        os.kill(client.run(os.getpid, workers=[address])[address], signal.SIGKILL)
        assert client.submit(tasks.total, made).result() == 2 * N


def test_reading_ahead(shared_cluster: Cluster, moving_store: Store, tmp_path: Path) -> None:
    """While a task waits to run, its proxies are resolved in the background."""
    gate = tmp_path / "gate"
    with Client(shared_cluster.address) as client:
        client.register_plugin(ProxyPlugin(moving_store, threshold="100 kB"))
        worker = next(iter(client.nthreads()))
        before = client.run(gets, workers=[worker])[worker]
        blocker = client.submit(tasks.wait_for, np.ones(1), str(gate), workers=[worker])
        waiting = client.submit(tasks.kind_if_lazy, array(), workers=[worker])
        mixed = client.submit(
            tasks.kinds_in, [array(2)], named={"x": array(3)}, workers=[worker], pure=False
        )
        until(lambda: client.run(gets, workers=[worker])[worker] - before >= 3)
        gate.touch()
        assert waiting.result() == ("Proxy", True)
        assert mixed.result() == ["ndarray", "dict"]
        assert blocker.result() == 1
        assert client.run(gets, workers=[worker])[worker] - before == 3
        del waiting, mixed, blocker
        until(lambda: not files(tmp_path))


def test_reading_ahead_of_what_is_gone(
    shared_cluster: Cluster, moving_store: Store, tmp_path: Path
) -> None:
    """A failed attempt in the background is the failure of the task, when it runs."""
    gate = tmp_path / "gate"
    with Client(shared_cluster.address) as client:
        client.register_plugin(ProxyPlugin(moving_store, threshold="100 kB"))
        worker = next(iter(client.nthreads()))
        blocker = client.submit(tasks.wait_for, np.ones(1), str(gate), workers=[worker])
        proxy = moving_store.proxy(array())
        moving_store.evict(get_factory(proxy).key)
        doomed = client.submit(tasks.total, [proxy, array(2)], workers=[worker])
        gate.touch()
        assert "not in the store" in str(doomed.exception())
        assert blocker.result() == 1
        del doomed
        until(lambda: not files(tmp_path))


def test_published_results_in_a_store_of_somebody_else(
    shared_cluster: Cluster, moving_store: Store, tmp_path: Path
) -> None:
    """The scheduler takes over what it can: each object goes when no task needs it."""
    with Client(shared_cluster.address) as client:
        client.register_plugin(ProxyPlugin(moving_store, threshold="100 kB"))
        future, other = client.submit(tasks.grow, array()), client.submit(tasks.grow, array(2))
        wait([future, other])
        client.publish_dataset(kept=future)
    with Client(shared_cluster.address) as client:
        assert client.get_dataset("kept").result().sum() == 2 * N
        assert len(files(tmp_path)) == 1
        client.unpublish_dataset("kept")
    until(lambda: not files(tmp_path))


def test_results_need_keys_before_objects(shared_cluster: Cluster, tmp_path: Path) -> None:
    """A connector that cannot make keys first is refused for results, in a sentence."""

    class Simple:
        """A peer's connector in its simplest form."""

        def __init__(self) -> None:
            self.inner = FileConnector(str(tmp_path / "peer"))

        def __getattr__(self, name: str) -> Any:
            if name in ("new_key", "set"):
                raise AttributeError(name)
            return getattr(self.inner, name)

        def config(self) -> dict[str, Any]:
            return {}

    with (
        Store(connector=Simple()) as store,  # type: ignore[arg-type]
        pytest.raises(ConfigError, match="cannot make the key of a result"),
        Client(shared_cluster.address) as client,
    ):
        client.register_plugin(ProxyPlugin(store, results=True))


@pytest.mark.parametrize("clients", [1, 2])
def test_one_open_store_for_several_registrations(
    own_cluster: Cluster, store_url: str, clients: int
) -> None:
    """What one has done with is not taken for what another one has."""
    with (
        Store(store_url) as store,
        Client(own_cluster.address, set_as_default=False) as one,
        Client(own_cluster.address, set_as_default=False) as two,
    ):
        one.register_plugin(ProxyPlugin(store, threshold="100 kB"))
        first = [one.submit(tasks.total, array(i)) for i in range(3)]
        other = [one, two][clients - 1]
        other.register_plugin(ProxyPlugin(store, threshold="200 kB"))
        second = [other.submit(tasks.total, array(10 + i)) for i in range(3)]
        assert one.gather(first) == [N * i for i in range(3)]
        assert other.gather(second) == [N * (10 + i) for i in range(3)]
        del first
        until(lambda: collected(store) == 3)
        for pid in other.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        assert other.gather(second) == [N * (10 + i) for i in range(3)]
        del second
        until(lambda: collected(store) == 0)


def collected(store: Store) -> int:
    """Return how many objects are stored when futures nobody has any more are gone."""
    gc.collect()
    return sum(1 for _ in store.scan())
