"""Turning the plugin on and off, for which clients and workers, and what can go wrong in that."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import dask_tasks as tasks
import numpy as np
import pytest
from dask_shop import HERE, ROOT, Cluster, Shop, until
from distributed import Client, LocalCluster
from distributed.core import Status

from proxyflow import Store
from proxyflow.errors import (
    ConfigError,
    MissingDependencyError,
    StoreUnreachableError,
    UnsupportedError,
)
from proxyflow_dask import ProxyPlugin, private
from proxyflow_dask.attachment import Attachment
from proxyflow_dask.worker import WorkerPart

N = 50_000


def array(value: float = 1.0) -> np.ndarray:
    return np.full(N, value)


def test_asynchronous_client(shared_cluster: Cluster, store_url: str) -> None:
    """Everything is awaited, and works the same."""

    async def run() -> None:
        async with Client(shared_cluster.address, asynchronous=True) as client:
            await client.register_plugin(ProxyPlugin(store_url, threshold="100 kB", results=True))
            future = client.submit(tasks.grow, array())
            assert float((await future)[0]) == 2
            assert [float(r[0]) for r in await client.gather([future])] == [2]
            await client.unregister_scheduler_plugin("proxyflow")
            assert await client.submit(tasks.total, array(3)) == 3 * N

    asyncio.run(run())
    until(lambda: not Path(store_url.removeprefix("file://")).exists())


def test_registering_again_changes_nothing(shop: Shop, store_url: str) -> None:
    """The same settings give the same session; others apply from then on."""
    shop.client.register_plugin(ProxyPlugin(store_url, threshold="100 kB"))
    attachment = Attachment.of(shop.client)
    assert attachment is not None
    assert [use.owner for use in attachment.uses.values()] == [shop.owner]
    shop.client.register_plugin(ProxyPlugin(store_url, threshold="1 GB"))
    assert shop.client.submit(tasks.total, array()).result() == N
    assert shop.count() == 0
    assert len(attachment.uses) == 2


@pytest.mark.parametrize("kind", ["scheduler", "worker"])
def test_unregistering(shop: Shop, kind: str) -> None:
    """From then on nothing is replaced; what has been is still evicted in its time."""
    held = shop.client.submit(tasks.total, array())
    getattr(shop.client, f"unregister_{kind}_plugin")("proxyflow")
    assert shop.client.submit(tasks.total, array(2)).result() == 2 * N
    assert held.result() == N
    assert shop.count() == 1
    with pytest.raises(ValueError, match="nothing of the kind"):
        shop.client.unregister_worker_plugin("nothing of the kind")
    del held
    shop.expect_empty()


def test_closing_gives_the_client_its_methods_back(shared_cluster: Cluster, store_url: str) -> None:
    """Nothing of the plugin stays in a closed client."""
    shop = Shop(shared_cluster.address, store_url)
    shop.client.close()
    assert Attachment.of(shop.client) is None
    assert "submit" not in vars(shop.client)


def test_workers_that_join_later(own_cluster: Cluster, store_url: str) -> None:
    """A worker started after the plugin was registered has what it needs."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    before = set(shop.client.nthreads())
    paths = [str(ROOT), str(ROOT / "integrations"), str(HERE)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", own_cluster.address]
        + ["--nthreads", "1", "--no-dashboard", "--no-nanny"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: set(shop.client.nthreads()) - before)
        (late,) = set(shop.client.nthreads()) - before
        future = shop.client.submit(tasks.total, array(), workers=[late])
        assert future.result() == N
        assert shop.client.run(open_stores, workers=[late]) == {late: 1}
        del future
        shop.expect_empty()
        shop.client.close()
        until(lambda: not shop.directory.exists())
    finally:
        worker.terminate()
        worker.wait()


def test_a_lost_connection(own_cluster: Cluster, store_url: str) -> None:
    """The client comes back as a new one: nothing that it stored before is left or relied on."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    client = shop.client
    lost = client.submit(tasks.total, array())
    assert lost.result() == N

    async def break_connection() -> None:
        client.scheduler_comm.comm.abort()

    client.sync(break_connection)
    until(lambda: shop.use() is not None and shop.use().owner is not shop.owner)
    assert lost.cancelled()
    del lost  # Dask counts the key as wanted for as long as there is a future of it.
    shop.owner = shop.use().owner
    again = client.submit(tasks.total, array())
    assert again.result() == N
    assert shop.count() == 1
    assert len(shop.files()) == 1
    del again
    shop.expect_empty()
    client.close()
    until(lambda: not shop.directory.exists())


def test_a_lost_connection_while_others_want_the_result(
    own_cluster: Cluster, store_url: str
) -> None:
    """What another client holds can be computed again, and goes when that client lets go of it."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    with Client(own_cluster.address, set_as_default=False) as other:
        shop.client.publish_dataset(total=shop.client.submit(tasks.total, array(2)))
        held = other.get_dataset("total")
        held.result()

        async def break_connection() -> None:
            shop.client.scheduler_comm.comm.abort()

        shop.client.sync(break_connection)
        until(lambda: shop.use() is not None and shop.use().owner is not shop.owner)
        (worker,) = next(iter(other.who_has([held]).values()))
        os.kill(other.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)
        until(lambda: worker not in other.nthreads())
        assert held.result() == 2 * N
        other.unpublish_dataset("total")
        del held
        until(lambda: not shop.files())
    shop.client.close()


def test_adaptive_cluster(store_url: str) -> None:
    """Workers that come when there is work, and go when there is none."""
    with LocalCluster(
        n_workers=0, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2)
        shop = Shop(cluster.scheduler_address, store_url, threshold="100 kB")
        for turn in range(2):
            futures = shop.client.map(tasks.total, [array(turn * 10 + i) for i in range(4)])
            assert shop.client.gather(futures) == [(turn * 10 + i) * N for i in range(4)]
            del futures
            shop.expect_empty()
            until(lambda: not shop.client.nthreads())
        shop.client.close()


def open_stores() -> int:
    from proxyflow.recipe import open_stores

    return len(open_stores())


def test_workers_close_the_store_when_the_session_ends(
    shared_cluster: Cluster, store_url: str
) -> None:
    """Workers serve many runs; none of them leaves an open store behind."""
    with Client(shared_cluster.address) as watcher:
        until(lambda: set(watcher.run(open_stores).values()) == {0})
        shop = Shop(shared_cluster.address, store_url)
        assert set(watcher.run(open_stores).values()) == {1}
        shop.client.close()
        until(lambda: set(watcher.run(open_stores).values()) == {0})


def test_workers_that_close_do_not_complain(shared_cluster: Cluster, store_url: str) -> None:
    """A worker that closes has removed its plugins when it is told that the session has ended."""
    with Client(shared_cluster.address) as watcher:
        shop = Shop(shared_cluster.address, store_url)
        name = shop.owner.topic
        watcher.run(lambda dask_worker: dask_worker.plugins.pop(name).teardown(dask_worker))
        shop.client.close()
        until(
            lambda: (
                not watcher.run_on_scheduler(
                    lambda dask_scheduler: name in dask_scheduler.worker_plugins
                )
            )
        )
        watcher.run(lambda: None)  # comes after what was sent before
        lines = [text for log in watcher.get_worker_logs().values() for _, text in log]
        assert not [text for text in lines if name in text and "failed" in text]


def test_a_worker_that_is_closing_removes_its_plugins_itself() -> None:
    """It is then about to remove each that it had, and what is gone by then is an error in its log.

    That comes to light where client and cluster close together, as at the end of a program.
    """
    part = WorkerPart("session", ("url", "file:///nowhere"))
    worker: Any = SimpleNamespace(status=Status.closing, plugins={part.name: part})
    private._dismiss(part.name, worker)
    assert worker.plugins == {part.name: part}


def test_a_cluster_of_threads(store_url: str) -> None:
    """Scheduler, workers and client in one process share one store."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(ProxyPlugin(store_url, threshold="100 kB", results=True))
        made = client.submit(tasks.grow, array())
        assert client.submit(tasks.total, made).result() == 2 * N
        del made
    until(lambda: not Path(store_url.removeprefix("file://")).exists())


def test_memory_store_serves_a_cluster_of_threads_only(shared_cluster: Cluster) -> None:
    """A store the workers cannot reach is refused when the plugin is registered."""
    with Client(shared_cluster.address) as client:
        with pytest.raises(StoreUnreachableError, match=r"worker tcp://.* cannot use the store"):
            client.register_plugin(ProxyPlugin("memory://"))
        assert Attachment.of(client) is None
        assert client.submit(tasks.total, array()).result() == N


def test_a_refused_registration_leaves_nothing(own_cluster: Cluster, store_url: str) -> None:
    """Neither a directory nor a session the scheduler holds; and it can be tried again."""
    with Client(own_cluster.address) as client:
        worker = list(client.nthreads())[:1]
        client.run(lose_sight_of_stores, workers=worker)
        with pytest.raises(StoreUnreachableError, match=f"worker {worker[0]} cannot use the store"):
            client.register_plugin(ProxyPlugin(store_url, threshold="100 kB"))
        assert client.run_on_scheduler(sessions_known) == []
        until(lambda: not Path(store_url.removeprefix("file://")).exists())
        client.run(see_stores_again, workers=worker)
        client.register_plugin(ProxyPlugin(store_url, threshold="100 kB"))
        assert client.submit(tasks.total, array()).result() == N
        assert len(client.run_on_scheduler(sessions_known)) == 1


def lose_sight_of_stores() -> None:
    """Make this process one of another host."""
    from proxyflow import recipe

    def open_store(recipe: Any) -> None:
        raise StoreUnreachableError("no such directory here")

    recipe.seeing = recipe.open_store  # type: ignore[attr-defined]
    recipe.open_store = open_store  # type: ignore[assignment]


def see_stores_again() -> None:
    from proxyflow import recipe

    recipe.open_store = vars(recipe).pop("seeing")


def sessions_known(dask_scheduler: Any = None) -> list[str]:
    return list(dask_scheduler.plugins["proxyflow"]._sessions)


def test_a_worker_that_cannot_import_proxyflow(own_cluster: Cluster, store_url: str) -> None:
    """One sentence tells which process lacks the package."""
    with Client(own_cluster.address) as client:
        workers = list(client.nthreads())
        client.run(forbid_import, workers=workers[:1])
        with pytest.raises(MissingDependencyError, match=f"worker {workers[0]} cannot import"):
            client.register_plugin(ProxyPlugin(store_url))
        client.run_on_scheduler(forbid_import)
        with pytest.raises(MissingDependencyError, match="the scheduler cannot import proxyflow"):
            client.register_plugin(ProxyPlugin(store_url))


def forbid_import() -> None:
    """Make this process one in which the package is not installed."""
    for name in [name for name in sys.modules if name.startswith("proxyflow_dask")]:
        del sys.modules[name]
    # However it is installed, on the path or by a finder of its own.
    sys.modules["proxyflow_dask"] = None  # type: ignore[assignment]


def test_an_unknown_version_of_distributed(shared_cluster: Cluster, monkeypatch: Any) -> None:
    """A private part that has gone is named, and which versions have it."""
    monkeypatch.delattr(Client, "_register_worker_plugin")
    with (
        Client(shared_cluster.address) as client,
        pytest.raises(UnsupportedError, match=r"no _register_worker_plugin; use a version of dask"),
    ):
        private.check_client(client)
    monkeypatch.undo()
    monkeypatch.setattr(Client, "_graph_to_futures", lambda self, dsk, keys: None)
    problem = r"_graph_to_futures takes \['dsk', 'keys'\]"
    with Client(shared_cluster.address) as client, pytest.raises(UnsupportedError, match=problem):
        private.check_client(client)


# -- configuration -----------------------------------------------------------------------------


def test_dask_configuration(shared_cluster: Cluster, store_url: str) -> None:
    """The plugin takes from Dask's configuration what it is not told."""
    with (
        dask.config.set({"proxyflow": {"store": store_url, "threshold": "100 kB"}}),
        Client(shared_cluster.address) as client,
    ):
        client.register_plugin(ProxyPlugin())
        attachment = Attachment.of(client)
        assert attachment is not None
        assert attachment.use is not None
        assert attachment.use.owner.store.name.startswith(store_url)
        assert attachment.use.rules.policy.nbytes == 100_000


def test_preload_and_environment(shared_cluster: Cluster, store_url: str) -> None:
    """Without a line of code: a program that knows nothing of proxyflow uses it."""
    program = """
import sys, numpy as np
from distributed import Client
import dask_tasks as tasks
from proxyflow_dask.attachment import Attachment
with Client(sys.argv[1]) as client:
    future = client.submit(tasks.total, np.full(50_000, 7.0))
    print(future.result(), sum(1 for _ in Attachment.of(client).use.owner.store.scan()))
"""
    paths = [str(ROOT), str(ROOT / "integrations"), str(HERE)]
    output = subprocess.check_output(
        [sys.executable, "-W", "ignore", "-c", program, shared_cluster.address],
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "DASK_DISTRIBUTED__CLIENT__PRELOAD": "['proxyflow_dask.preload']",
            "DASK_PROXYFLOW__STORE": store_url,
            "DASK_PROXYFLOW__THRESHOLD": "100 kB",
        },
    )
    assert output.split() == ["350000.0", "1"]
    until(lambda: not Path(store_url.removeprefix("file://")).exists())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"threshold": "much"}, "not a size"),
        ({"resolve": "sometimes"}, "resolve='sometimes' is unknown"),
        ({"results": "perhaps"}, "results='perhaps'"),
        ({"treshold": "1 MiB"}, "unknown setting proxyflow.treshold"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str], problem: str) -> None:
    """They are refused when the plugin is made, wherever they come from."""
    with dask.config.set({"proxyflow": settings}), pytest.raises(ConfigError, match=problem):
        ProxyPlugin()
    if "treshold" not in settings:
        with pytest.raises(ConfigError, match=problem):
            ProxyPlugin(**settings)  # type: ignore[arg-type]


def test_a_directory_or_an_open_store(shared_cluster: Cluster, tmp_path: Path) -> None:
    """Instead of a URL; a store that was open before stays open when the client closes."""
    with Store(tmp_path / "mine") as store:
        with Client(shared_cluster.address) as client:
            client.register_plugin(ProxyPlugin(store, threshold="100 kB"))
            future = client.submit(tasks.total, array())
            assert future.result() == N
            assert len(list(store.scan())) == 1
            del future
            until(lambda: not list(store.scan()))
        assert store.get(store.put("still open")) == "still open"
    with Client(shared_cluster.address) as client:
        # What would end the path in a URL, or be read as a code, is a name like any other.
        client.register_plugin(ProxyPlugin(tmp_path / "theirs #1? 100%41"))
        assert (tmp_path / "theirs #1? 100%41").is_dir()
    assert "theirs" in repr(ProxyPlugin(tmp_path / "theirs"))


@pytest.mark.parametrize("name", ["proxyflow_dask", "proxyflow_dask.preload"])
@pytest.mark.parametrize("missing", ["dask", "distributed"])
def test_without_dask_the_import_says_what_to_install(name: str, missing: str) -> None:
    """Who has installed proxyflow alone learns the name of the extra, not that of a module."""
    program = f"import sys; sys.modules[{missing!r}] = None; import {name}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "MissingDependencyError" in done.stderr
    assert "pip install 'proxyflow[dask]'" in done.stderr
