"""When objects are evicted: not before the last task that may need them is forgotten, and then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask_tasks as tasks
import numpy as np
import pytest
from dask_shop import HERE, ROOT, Cluster, Shop, until
from distributed import Client, Future, LocalCluster, fire_and_forget, wait

import proxyflow

N = 50_000


def array(value: float = 1.0) -> np.ndarray:
    return np.full(N, value)


# -- evicted when ------------------------------------------------------------------------------


def test_released_futures(shop: Shop) -> None:
    """An object stays while a future of its task is held, done or not, and goes with the last."""
    future = shop.client.submit(tasks.total, array())
    other = shop.client.submit(tasks.total, array(), 2)
    wait([future, other])
    del other
    until(lambda: len(shop.owner) == 1)
    assert shop.count() == 1
    del future
    shop.expect_empty()


def test_cancelled(shop: Shop, tmp_path: Path) -> None:
    """Cancelling evicts, whether the task runs, waits or is done."""
    gate = str(tmp_path / "gate")
    futures = [shop.client.submit(tasks.wait_for, array(i), gate) for i in range(4)]
    assert shop.count() == 4
    shop.client.cancel(futures)
    Path(gate).touch()
    shop.expect_empty()


def test_failed(shop: Shop) -> None:
    """A failed task keeps its arguments for `retry`, until it is released."""
    future = shop.client.submit(tasks.fail, array())
    # Not `result()`: the traceback it raises refers to the future, and Dask keeps the traceback.
    assert "no, not 50000" in str(future.exception())
    assert shop.count() == 1
    del future
    shop.expect_empty()


def test_restart(own_cluster: Cluster, store_url: str) -> None:
    """`client.restart` forgets everything at once; what is submitted after it works."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    futures = shop.client.map(tasks.total, [array(i) for i in range(3)])
    wait(futures)
    shop.client.restart()
    shop.expect_empty()
    assert shop.client.submit(tasks.total, array(2)).result() == 2 * N
    del futures
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.files())


def test_close_with_futures_held(shared_cluster: Cluster, store_url: str) -> None:
    """Closing the client ends its session, whatever it still held."""
    shop = Shop(shared_cluster.address, store_url, threshold="100 kB")
    futures = shop.client.map(tasks.total, [array(i) for i in range(3)])
    wait(futures)
    shop.client.close()
    until(lambda: not shop.directory.exists())


def test_scheduler_closed(own_cluster: Cluster, store_url: str) -> None:
    """When the cluster has gone, closing the client leaves nothing."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    future = shop.client.submit(tasks.total, array())
    assert future.result() == N
    own_cluster.close()
    shop.client.close()
    until(lambda: not shop.directory.exists())


def test_scheduler_killed(own_cluster: Cluster, store_url: str) -> None:
    """The same when the scheduler's process is killed."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    assert shop.client.submit(tasks.total, array()).result() == N
    own_cluster.process.kill()
    own_cluster.process.wait()
    shop.client.close()
    until(lambda: not shop.directory.exists())


CLIENT = """
import sys, numpy as np
from distributed import Client, wait
from proxyflow_dask import ProxyPlugin
import dask_tasks as tasks
client = Client(sys.argv[1])
client.register_plugin(ProxyPlugin(sys.argv[2], threshold="100 kB"))
futures = client.map(tasks.grow, [np.full(50_000, float(i)) for i in range(3)])
wait(futures)
if "publish" in sys.argv:
    client.publish_dataset(kept=futures[0])
print("ready", flush=True)
sys.stdin.read()
"""


def start_client(cluster: Cluster, store_url: str, *options: str) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(ROOT / "integrations"), str(HERE)]
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, cluster.address, store_url, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()


def files(store_url: str) -> list[str]:
    directory = Path(store_url.removeprefix("file://"))
    return [p.name for p in directory.glob("*/*") if not p.name.startswith(".")]


def test_client_killed(shared_cluster: Cluster, store_url: str) -> None:
    """The scheduler ends the session of a client that was killed, without being asked."""
    process = start_client(shared_cluster, store_url)
    assert len(files(store_url)) == 3
    end(process)
    until(lambda: not Path(store_url.removeprefix("file://")).exists())


def test_client_and_cluster_killed_together(own_cluster: Cluster, store_url: str) -> None:
    """When nobody is left, whoever comes next to the store sweeps up."""
    process = start_client(own_cluster, store_url)
    own_cluster.process.send_signal(signal.SIGKILL)
    own_cluster.process.wait()
    end(process)
    proxyflow.gc(store_url)
    assert files(store_url) == []


# -- not evicted before ------------------------------------------------------------------------


def worker_with(client: Client, future: Future) -> tuple[str, int]:
    """Return address and process of the worker that holds a result."""
    address = next(iter(client.who_has(future)[future.key]))
    return address, client.run(os.getpid, workers=[address])[address]


def test_a_lost_result_is_computed_again(own_cluster: Cluster, store_url: str) -> None:
    """A killed worker's results are made again from arguments that had been used already."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    made = shop.client.submit(tasks.grow, array(1))
    wait(made)
    os.kill(worker_with(shop.client, made)[1], signal.SIGKILL)
    assert shop.client.submit(tasks.total, made).result() == 2 * N
    assert shop.count() == 1
    del made
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.files())


def test_a_worker_killed_while_it_runs_a_task(
    own_cluster: Cluster, store_url: str, tmp_path: Path
) -> None:
    """The task runs elsewhere, with the same arguments."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    gate = tmp_path / "gate"
    future = shop.client.submit(tasks.wait_for, array(), str(gate))
    until(lambda: any(shop.client.processing().values()))
    address = next(a for a, keys in shop.client.processing().items() if keys)
    os.kill(shop.client.run(os.getpid, workers=[address], wait=True)[address], signal.SIGKILL)
    gate.touch()
    assert future.result() == N
    del future
    shop.expect_empty()
    shop.client.close()


def test_retries(shop: Shop, tmp_path: Path) -> None:
    """`retries=` runs a task again with its arguments."""
    marker = str(tmp_path / "marker")
    future = shop.client.submit(tasks.fail_until, array(), marker, 2, retries=3)
    assert future.result() == N
    assert shop.count() == 1


def test_retry(shop: Shop, tmp_path: Path) -> None:
    """`client.retry` does so after the task had failed for good."""
    future = shop.client.submit(tasks.fail_until, array(), str(tmp_path / "marker"), 1)
    assert str(future.exception()) == "not yet"
    future.retry()
    assert future.result() == N


def test_fire_and_forget(shop: Shop, tmp_path: Path) -> None:
    """A task nobody holds a future of keeps its arguments until it has run."""
    gate = tmp_path / "gate"
    runs = tmp_path / "runs"
    runs.mkdir()
    blocked = shop.client.submit(tasks.wait_for, array(7), str(gate), pure=False)
    fire_and_forget(shop.client.submit(tasks.note_run, array(), str(runs)))
    gate.touch()
    until(lambda: list(runs.iterdir()))
    del blocked
    shop.expect_empty()


@pytest.mark.parametrize("task", [tasks.total, tasks.fail])
def test_fire_and_forget_of_a_task_that_is_done(shop: Shop, task: Callable[..., Any]) -> None:
    """Plain Dask keeps such a task for ever: forgetting is what follows a run, and that is over."""
    future = shop.client.submit(task, array(), retries=0)
    wait(future)
    fire_and_forget(future)
    del future
    shop.expect_empty()


def test_published_result_outlives_its_client(shared_cluster: Cluster, store_url: str) -> None:
    """What another client can ask for keeps its objects after its owner was killed."""
    process = start_client(shared_cluster, store_url, "publish")
    end(process)
    until(lambda: len(files(store_url)) == 1)
    # Neither a sweeper nor a new session of the same store takes it away.
    assert proxyflow.gc(store_url) == []
    with Client(shared_cluster.address) as client:
        kept = client.get_dataset("kept")
        os.kill(worker_with(client, kept)[1], signal.SIGKILL)
        assert client.submit(tasks.total, kept).result() == N
        assert len(files(store_url)) == 1
        client.unpublish_dataset("kept")
        del kept
        until(lambda: not Path(store_url.removeprefix("file://")).exists())


def test_published_result_outlives_a_closed_client(shared_cluster: Cluster, store_url: str) -> None:
    """The same when the first client left in an orderly way."""
    shop = Shop(shared_cluster.address, store_url, threshold="100 kB")
    future = shop.client.submit(tasks.grow, array(1))
    other = shop.client.submit(tasks.grow, array(5))
    wait([future, other])
    shop.client.publish_dataset(kept=future)
    shop.client.close()
    until(lambda: len(shop.files()) == 1)
    with Client(shared_cluster.address) as client:
        kept = client.get_dataset("kept")
        os.kill(worker_with(client, kept)[1], signal.SIGKILL)
        assert client.submit(tasks.total, kept).result() == 2 * N
        client.unpublish_dataset("kept")
        del kept
        until(lambda: not shop.directory.exists())


def test_scheduler_in_the_process_of_the_client(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a script with a `LocalCluster`: what the scheduler takes over is not the client's."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=False
    ) as cluster:
        shop = Shop(cluster.scheduler_address, store_url, threshold="100 kB")
        futures = {str(i): shop.client.submit(tasks.grow, array(i)) for i in range(2)}
        wait(list(futures.values()))
        shop.client.publish_dataset(**futures)
        shop.client.close()
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            client.unpublish_dataset("0")
            until(lambda: len(shop.files()) == 1)
            client.unpublish_dataset("1")
            until(lambda: not shop.directory.exists())
    assert "taking over" not in caplog.text


def test_futures_submitted_again_as_arguments(shop: Shop) -> None:
    """A task stays while another that depends on it may run, though its future is gone."""
    future = shop.client.submit(tasks.grow, array(1))
    for _ in range(5):
        future = shop.client.submit(tasks.add, future, array(1))
    assert shop.client.submit(tasks.total, future).result() == 7 * N
    assert shop.count() == 1


def test_stealing(own_cluster: Cluster, store_url: str, tmp_path: Path) -> None:
    """Tasks that change workers before they run keep their arguments."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB")
    first = next(iter(shop.client.nthreads()))
    futures = [
        shop.client.submit(
            slow_total, array(i), workers=[first], allow_other_workers=True, pure=False
        )
        for i in range(20)
    ]
    assert shop.client.gather(futures) == [float(N * i) for i in range(20)]
    assert len({next(iter(where)) for where in shop.client.who_has(futures).values()}) == 2
    del futures
    shop.expect_empty()
    shop.client.close()


def slow_total(values: Any) -> float:
    import time

    time.sleep(0.1)
    return float(values.sum())


def test_worker_retirement(own_cluster: Cluster, store_url: str) -> None:
    """Results move to another worker, and can be used and made again there."""
    shop = Shop(own_cluster.address, store_url, threshold="100 kB", results=True)
    made = shop.client.map(tasks.grow, [array(i) for i in range(4)])
    wait(made)
    shop.client.retire_workers([next(iter(shop.client.nthreads()))])
    assert [float(r[0]) for r in shop.client.gather(made)] == [1, 2, 3, 4]
    assert shop.client.submit(tasks.add_totals, *made).result() == 10 * N
    del made
    shop.expect_empty()
    shop.client.close()


# -- the races ---------------------------------------------------------------------------------


def test_same_content_again_and_again(shop: Shop) -> None:
    """The last task that used a content is forgotten while the same content is submitted."""
    for i in range(150):
        assert shop.client.submit(tasks.total, array(), i).result() == N * i


def test_same_key_again_and_again(shop: Shop) -> None:
    """A key that is forgotten and submitted again is another task, whatever is reported late."""
    for _ in range(150):
        assert shop.client.submit(tasks.total, array(), key="the-same").result() == N


def test_known_key_is_not_counted_twice(shop: Shop) -> None:
    """A graph with a key that the scheduler knows already leaves nothing when all is released."""
    held = shop.client.submit(tasks.total, array(), key="known")
    futures = [
        shop.client.get({"known": (tasks.total, array(i))}, "known", sync=False) for i in range(3)
    ]
    assert shop.client.gather(futures) == [N] * 3
    until(lambda: len(shop.owner) == 1)
    del held, futures
    shop.expect_empty()


def test_unneeded_tasks_of_a_graph_are_not_stored(shop: Shop) -> None:
    """What nothing asks for is not in the store, and nothing waits for its end."""
    graph = {"x": (tasks.total, array()), "unneeded": (tasks.total, array(2))}
    future = shop.client.get(graph, "x", sync=False)
    assert future.result() == N
    assert shop.count() == 1


def test_a_refused_graph_leaves_nothing(shop: Shop) -> None:
    """A task whose dependencies the scheduler has lost is never there, and so not its objects."""
    made = shop.client.submit(tasks.grow, array(1))
    wait(made)
    shop.client.cancel(made, force=True)
    shop.expect_empty()
    future = shop.client.submit(tasks.add, made, array(3))
    until(lambda: future.status in ("cancelled", "lost", "error"))
    shop.expect_empty()


def test_failure_to_submit_leaves_nothing(shop: Shop) -> None:
    """What was stored for a call that Dask refuses is given back."""
    with pytest.raises(TypeError):
        shop.client.submit(tasks.total, array(), allow_other_workers="maybe", workers="x")
    with pytest.raises((TypeError, RuntimeError)):
        shop.client.submit(tasks.total, array(), key=object())
    shop.expect_empty()


def test_content_changed_in_place_is_another(shop: Shop) -> None:
    """The same array with other content gives another key and another result."""
    given = array()
    first = shop.client.submit(tasks.total, given)
    again = shop.client.submit(tasks.total, given)
    given[0] = 5
    second = shop.client.submit(tasks.total, given)
    assert first.key == again.key != second.key
    assert (first.result(), second.result()) == (N, N + 4)
    assert shop.count() == 2


def test_equal_calls_run_once(shop: Shop, tmp_path: Path) -> None:
    """Equal content gives the same key, and the task runs once."""
    runs = tmp_path / "runs"
    runs.mkdir()
    futures = [shop.client.submit(tasks.note_run, array(), str(runs)) for _ in range(4)]
    futures += shop.client.map(tasks.note_run, [array(), array()], [str(runs)] * 2)
    wait(futures)
    assert len({future.key for future in futures[:4]}) == 1
    assert len({future.key for future in futures[4:]}) == 1
    assert len(list(runs.iterdir())) == 2


def test_a_large_argument_is_hashed_and_serialised_once(shop: Shop, monkeypatch: Any) -> None:
    """Dask takes the digest that the store needs in any case for the key; `map` takes it once."""
    import dask.hashing

    encoded = []
    store = shop.owner.store
    encode = store.encode
    monkeypatch.setattr(store, "encode", lambda obj: encoded.append(obj) or encode(obj))
    hashed = []
    original = dask.hashing.hash_buffer

    def note(buffer: Any, *args: Any) -> Any:
        hashed.append(memoryview(buffer).nbytes)
        return original(buffer, *args)

    monkeypatch.setattr(dask.hashing, "hash_buffer", note)
    given = array()
    future = shop.client.submit(tasks.total, given)
    assert future.result() == N
    assert len(encoded) == 1
    futures = shop.client.map(tasks.total, [given] * 5 + [array(2)], pure=False)
    assert shop.client.gather(futures) == [N] * 5 + [2 * N]
    assert len(encoded) == 3
    assert max(hashed, default=0) < given.nbytes


def test_two_clients_of_one_cluster(shop: Shop, shared_cluster: Cluster, tmp_path: Path) -> None:
    """Each has its own session; a third without the plugin works as ever, on results of both."""
    other = Shop(shared_cluster.address, f"file://{tmp_path / 'other'}", threshold="100 kB")
    mine = shop.client.submit(tasks.total, array())
    theirs = other.client.submit(tasks.total, array(3))
    assert (mine.result(), theirs.result()) == (N, 3 * N)
    assert (shop.count(), other.count()) == (1, 1)
    with Client(shared_cluster.address, set_as_default=False) as plain:
        kept = plain.submit(tasks.grow, array(4))
        assert plain.submit(tasks.total, kept).result() == 5 * N
    # The same call of both is one task, which needs the object of whoever came first.
    again = other.client.submit(tasks.total, array())
    assert again.result() == N
    until(lambda: other.count() == 1)
    other.client.close()
    until(lambda: not other.directory.exists())
    assert shop.count() == 1
