"""Large results in the store: made once, mapped everywhere, gone when Dask forgets them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import dask.array as da
import dask_tasks as tasks
import numpy as np
import pytest
from dask import delayed
from dask_shop import Cluster, Shop, until
from distributed import Client, Status, get_worker, wait

N = 50_000


def array(value: float = 1.0) -> np.ndarray:
    return np.full(N, value)


def stored_results(dask_worker: Any = None) -> list[str]:
    return [type(value).__name__ for value in dask_worker.data.values()]


def test_as_often_as_asked(result_shop: Shop) -> None:
    """`result()` and `gather` give the exact object each time."""
    client = result_shop.client
    future = client.submit(tasks.grow, array())
    for _ in range(3):
        result = future.result()
        assert type(result) is np.ndarray
        assert result.sum() == 2 * N
        result[:] = 0
    assert [r.sum() for r in client.gather([future, future])] == [2 * N] * 2
    assert client.gather({"a": [future]})["a"][0].sum() == 2 * N
    kept = [name for names in client.run(stored_results).values() for name in names]
    assert kept == ["StoredResult"]


def test_dependents_anywhere(result_shop: Shop) -> None:
    """Tasks on another worker get it too, alone, in containers and by keyword."""
    client = result_shop.client
    here, there = client.nthreads()
    made = client.submit(tasks.grow, array(), workers=[here])
    assert client.submit(tasks.kind_of, made, workers=[there]).result() == "ndarray"
    kinds = client.submit(tasks.kinds_in, [made, made], named=made, workers=[there])
    assert kinds.result() == ["ndarray"] * 3
    assert client.submit(tasks.total, made, workers=[there]).result() == 2 * N


def test_chain_across_a_lost_worker(own_cluster: Cluster, store_url: str) -> None:
    """A killed worker's results are stored again under the same keys."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB", results=True)
    first = shop.client.submit(tasks.grow, array())
    second = shop.client.submit(tasks.grow, first)
    wait(second)
    assert shop.count() == 3
    for pid in shop.client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    assert shop.client.submit(tasks.grow, second).result().sum() == 4 * N
    del first, second
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.directory.exists())


def test_small_and_unpicklable_results_stay_where_they_are(result_shop: Shop) -> None:
    """What is not worth it, or cannot be, is Dask's as ever."""
    client = result_shop.client
    assert client.submit(tasks.total, array()).result() == N
    stuck = client.submit(tasks.unpicklable, array())
    assert client.submit(tasks.first_of, stuck).result() == 1
    wait(stuck)
    del stuck


def test_a_result_handed_on(result_shop: Shop) -> None:
    """A task that returns what it was given has a result of its own."""
    client = result_shop.client
    made = client.submit(tasks.grow, array())
    same = client.submit(give_back, made)
    wait(same)
    del made
    until(lambda: len(result_shop.owner) == 2)
    assert same.result().sum() == 2 * N


def give_back(value: Any) -> Any:
    return value


def test_collections(result_shop: Shop) -> None:
    """Graphs of collections run through the store, aliases and fused tasks included."""
    base = np.arange(400_000.0).reshape(400, 1000)
    x = da.from_array(base, chunks=(100, 1000)).persist()
    y = (x + 1).persist()
    np.testing.assert_array_equal(y.compute(), base + 1)
    assert (x.T @ y).sum().compute() == (base.T @ (base + 1)).sum()
    total = delayed(tasks.add_totals)(delayed(tasks.grow)(array()), delayed(array(2)))
    assert total.compute() == 4 * N
    del x, y


def test_cancelled_while_it_runs(result_shop: Shop, tmp_path: Path) -> None:
    """A result that is stored after its task was forgotten is evicted, too."""
    gate = tmp_path / "gate"
    client = result_shop.client
    future = client.submit(grow_when, array(), str(gate))
    until(lambda: any(client.processing().values()))
    client.cancel(future)
    until(lambda: len(result_shop.owner) == 0)
    gate.touch()
    # Its worker is free again only when the task has ended and its result has been stored.
    for address in client.nthreads():
        assert client.submit(tasks.total, np.ones(3), workers=[address], pure=False).result() == 3
    result_shop.expect_empty()


@pytest.mark.parametrize("times", [1, 2])
def test_submitted_again_while_it_runs(result_shop: Shop, tmp_path: Path, times: int) -> None:
    """What the forgotten run of a key stores is evicted, though the key is wanted again."""
    gate = tmp_path / "gate"
    client = result_shop.client
    worker = next(iter(client.nthreads()))
    future = client.submit(grow_when, array(), str(gate), workers=[worker])
    until(Path(f"{gate}.awaited").exists)
    for _ in range(times):
        key = future.key
        client.cancel(future)
        until(lambda: len(result_shop.owner) == 0)
        future = client.submit(grow_when, array(), str(gate), workers=[worker])
        assert future.key == key
    gate.touch()
    assert future.result().sum() == 2 * N
    del future
    result_shop.expect_empty()


def test_forgotten_before_its_worker_hears_of_it(result_shop: Shop, tmp_path: Path) -> None:
    """A result stored after the owner evicted it, by a worker told later, is evicted, too."""
    gate = tmp_path / "gate"
    client = result_shop.client
    client.run(hold_back_free_keys)
    future = client.submit(grow_when, array(), str(gate))
    until(Path(f"{gate}.awaited").exists)
    client.cancel(future)
    until(lambda: len(result_shop.owner) == 0)
    gate.touch()
    until(lambda: future.key in [k for keys in client.run(keys_in_memory).values() for k in keys])
    client.run(pass_on_free_keys)
    result_shop.expect_empty()


def hold_back_free_keys(dask_worker: Any = None) -> None:
    """Have what the scheduler says of forgotten tasks arrive late."""
    handlers = dask_worker.stream_handlers
    free, held = handlers["free-keys"], []
    handlers["free-keys"] = lambda **message: held.append(message)
    dask_worker.held_back = (free, held)


def keys_in_memory(dask_worker: Any = None) -> list[Any]:
    return list(dask_worker.data)


def pass_on_free_keys(dask_worker: Any = None) -> None:
    free, held = vars(dask_worker).pop("held_back")
    dask_worker.stream_handlers["free-keys"] = free
    for message in held:
        free(**message)


def grow_when(values: Any, path: str) -> Any:
    Path(f"{path}.awaited").touch()
    tasks.wait_for(values, path)
    return values + 1


def test_restart_while_a_task_runs(own_cluster: Cluster, store_url: str, tmp_path: Path) -> None:
    """What a worker makes while it closes is not stored: its task is forgotten already."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB", results=True)
    running = tmp_path / "running"
    future = shop.client.submit(grow_while_closing, array(), str(running))
    until(running.exists)
    shop.client.restart()
    del future
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.files())


def grow_while_closing(values: Any, path: str) -> Any:
    worker = get_worker()
    Path(path).touch()
    while worker.status is not Status.closing:
        time.sleep(0.01)
    return values + 1


def test_spilled(own_cluster: Cluster, store_url: str) -> None:
    """What a worker writes to disk under pressure is the stand-in."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB", results=True)
    made = shop.client.map(tasks.grow, [array(i) for i in range(4)])
    wait(made)
    shop.client.run(spill)
    assert [float(r[0]) for r in shop.client.gather(made)] == [1, 2, 3, 4]
    assert shop.client.submit(tasks.add_totals, *made).result() == 10 * N
    del made
    shop.expect_empty()
    shop.client.close()


def spill(dask_worker: Any = None) -> None:
    while dask_worker.data.fast:
        dask_worker.data.evict()


def test_replicated(result_shop: Shop) -> None:
    """Copies of the stand-in are as good as the first."""
    made = result_shop.client.submit(tasks.grow, array())
    wait(made)
    result_shop.client.replicate([made])
    assert len(result_shop.client.who_has(made)[made.key]) == 2
    assert made.result().sum() == 2 * N


def test_actor_with_results_on(result_shop: Shop) -> None:
    """An actor is no result to be stored."""
    actor = result_shop.client.submit(tasks.Counter, array(), actor=True).result()
    assert actor.add(array()).result() == 2 * N


def test_a_full_store_keeps_results_by_value(result_shop: Shop) -> None:
    """A result that does not fit stays in the worker."""
    result_shop.client.run(refuse_writes)
    try:
        future = result_shop.client.submit(np.full, N, 3.0)
        assert future.result().sum() == 3 * N
        assert result_shop.count() == 0
    finally:
        result_shop.client.run(allow_writes)


def refuse_writes() -> None:
    from proxyflow.errors import StoreFullError
    from proxyflow.recipe import open_stores

    def write(*args: Any) -> Any:
        raise StoreFullError("no room")

    for store in open_stores():
        store.write = write  # type: ignore[method-assign]


def allow_writes() -> None:
    from proxyflow.recipe import open_stores

    for store in open_stores():
        vars(store).pop("write", None)


def test_a_client_without_the_plugin(result_shop: Shop, shared_cluster: Cluster) -> None:
    """It reads published results as the objects they are, and so do its tasks."""
    made = result_shop.client.submit(tasks.grow, array())
    wait(made)
    result_shop.client.publish_dataset(made=made)
    with Client(shared_cluster.address, set_as_default=False) as plain:
        published = plain.get_dataset("made")
        assert plain.submit(tasks.total, published).result() == 2 * N
        assert published.result().sum() == 2 * N
        plain.unpublish_dataset("made")
