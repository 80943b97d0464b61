"""Results: exactly what the task returned, as often as asked, and nothing left of it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
    wait,
)
from typing import Any

import futures_tasks as tasks
import numpy as np
import pytest
from futures_tasks import LARGE, left

from proxyflow import Policy, Store
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import ObjectNotFoundError, SerializationError, StoreFullError
from proxyflow_futures import ProxyExecutor


def test_result_is_exact_and_goes_with_its_future(pool: Executor, store: Store) -> None:
    """The same object each time it is asked for; the stored copy is gone when the future is."""
    executor = ProxyExecutor(pool, store, policy=LARGE)
    future = executor.submit(tasks.number, 3)
    result = future.result()
    assert type(result) is np.ndarray
    assert result is future.result(timeout=5)
    assert result.sum() == 3 * len(result)
    assert left(store) == 1
    del future
    assert left(store) == 0
    assert result.sum() == 3 * len(result)


def test_result_is_writable(pools: Any, store: Store) -> None:
    """As one that came through the pipe is; another reader does not see it."""
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    result = executor.submit(tasks.number, 3).result()
    result[:] = 5
    assert executor.submit(tasks.number, 3).result()[0] == 3


def test_small_result_does_not_touch_the_store(pool: Executor, store: Store) -> None:
    executor = ProxyExecutor(pool, store, policy=LARGE)
    future = executor.submit(tasks.echo, {"small": [1, 2, None]})
    assert future.result() == {"small": [1, 2, None]}
    assert not store.stats.as_dict()


def test_result_of_a_closed_executor_stays_good(
    make_pool: Callable[[], Executor], store: Store
) -> None:
    """At the latest when the executor closes the stored copy is gone, and the result is not."""
    with ProxyExecutor(make_pool(), store, policy=LARGE) as executor:
        futures = [executor.submit(tasks.number, value) for value in range(4)]
        read = futures[0].result()
    assert left(store) == 0
    assert futures[0].result() is read
    assert [future.result()[-1] for future in futures] == [0, 1, 2, 3]


def test_lost_result_is_told_and_keeps_no_other(
    make_pool: Callable[[], Executor], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing says that a result is gone, reads the others all the same, and closes the store."""
    monkeypatch.setenv("PROXYFLOW_STORE", f"file://{tmp_path}/store")
    executor = ProxyExecutor(make_pool(), policy=LARGE)
    futures = [executor.submit(tasks.number, value) for value in range(3)]
    wait(futures)
    lost = min(executor.store.scan(), key=lambda stored: executor.store.get(stored.key)[0])
    executor.store.evict(lost.key)
    with pytest.raises(ObjectNotFoundError, match="evicted"):
        executor.shutdown()
    assert executor.store.closed
    assert [future.result()[0] for future in futures[1:]] == [1, 2]


def test_shutdown_without_waiting(
    make_pool: Callable[[], Executor], store: Store, tmp_path: Any
) -> None:
    """What is still running is waited for in the background; then nothing is left."""
    executor = ProxyExecutor(make_pool(), store, policy=LARGE)
    go = str(tmp_path / "go")
    running = executor.submit(tasks.wait_for, np.ones(LARGE), go)
    result = executor.submit(tasks.number, 3)
    executor.shutdown(wait=False)
    (tmp_path / "go").touch()
    assert running.result(60) == 1
    assert result.result(60)[0] == 3
    for thread in threading.enumerate():
        if thread.name == "proxyflow-shutdown":
            thread.join(60)
    assert left(store) == 0
    assert result.result()[0] == 3


def test_results_can_go_by_value(pools: Any, store: Store) -> None:
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE, results=False)
    future = executor.submit(tasks.number, 3)
    assert future.result()[0] == 3
    assert left(store) == 0
    assert executor.submit(tasks.echo, np.ones(LARGE)).result().sum() == LARGE
    assert store.stats["put"].count == 1
    assert left(store) == 0


def test_types_of_the_policy_hold_for_results(pools: Any, store: Store, array: Any) -> None:
    executor = ProxyExecutor(pools["fork"], store, policy=Policy(LARGE, types=np.ndarray))
    future = executor.submit(tasks.echo, "x" * LARGE)
    assert future.result() == "x" * LARGE
    assert left(store) == 0
    future = executor.submit(tasks.echo, array)
    assert future.result().sum() == array.sum()
    assert left(store) == 1


def test_result_that_is_an_argument(pool: Executor, store: Store, array: Any) -> None:
    """Returning what one was lent is fine; the argument goes, the result stays."""
    executor = ProxyExecutor(pool, store, policy=LARGE)
    future = executor.submit(tasks.echo, [array, "kept"])
    np.testing.assert_array_equal(future.result()[0], array)
    assert left(store) == 1
    del future
    assert left(store) == 0


def test_result_is_an_argument_of_the_next_task(pool: Executor, store: Store) -> None:
    """A result passed on is stored once: its content is there already."""
    executor = ProxyExecutor(pool, store, policy=LARGE)
    future = executor.submit(tasks.number, 3)
    assert executor.submit(tasks.total, future.result()).result() == 3 * (LARGE // 8)
    assert "put" not in store.stats.as_dict()
    del future
    assert left(store) == 0


def test_result_that_cannot_be_pickled(pool: Executor, store: Store, array: Any) -> None:
    """The error says which part it is, and nothing is left."""
    executor = ProxyExecutor(pool, store, policy=LARGE)
    with pytest.raises(SerializationError, match="generator"):
        executor.submit(tasks.unpicklable_result, array).result()
    assert left(store) == 0


class SmallConnector(FileConnector):
    """A store in which no large object finds room."""

    def put_source(self, source: Any) -> Any:
        if source.nbytes > LARGE:
            raise StoreFullError("no room", store=self.store_dir)
        return super().put_source(source)

    def set_source(self, key: Any, source: Any) -> None:
        if source.nbytes > LARGE:
            raise StoreFullError("no room", store=self.store_dir, key=key)
        super().set_source(key, source)


def echo_warnings(value: Any) -> Any:
    import warnings

    warnings.simplefilter("ignore", RuntimeWarning)
    return value


def test_full_store_falls_back_to_passing_by_value(tmp_path: Any, array: Any) -> None:
    """A run goes on, slower and with a warning, when there is no room."""
    large = np.concatenate([array, array])
    with (
        Store(connector=SmallConnector(str(tmp_path / "store"))) as store,
        ProxyExecutor(ProcessPoolExecutor(1), store, policy=LARGE) as executor,
    ):
        with pytest.warns(RuntimeWarning, match="by value.*no room"):
            future = executor.submit(echo_warnings, large)
        np.testing.assert_array_equal(future.result(), large)
        assert left(store) == 0
        assert executor.submit(tasks.total, array[: len(array) // 2]).result() > 0


class DeadlyConnector(FileConnector):
    """A store that kills a worker right after it has stored its result."""

    def set_source(self, key: Any, source: Any) -> None:
        super().set_source(key, source)
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)


def test_worker_killed_between_storing_and_reporting(tmp_path: Any) -> None:
    """What it stored is known by its key, and removed."""
    with Store(connector=DeadlyConnector(str(tmp_path / "store"))) as store:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
        with ProxyExecutor(pool, store, policy=LARGE) as executor:
            assert isinstance(executor.submit(tasks.number, 3).exception(60), BrokenExecutor)
        assert left(store) == 0


def test_forked_worker_does_not_evict_its_parents_results(
    make_pool: Callable[[], Executor], store: Store
) -> None:
    """A child has a copy of the parent's futures; letting go of them there means nothing."""
    executor = ProxyExecutor(make_pool(), store, policy=LARGE)
    future = executor.submit(tasks.number, 3)
    wait([future])
    assert left(store) == 1
    pid = os.fork()
    if pid == 0:
        del future
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    assert left(store) == 1
    assert future.result()[0] == 3
    executor.shutdown()
    assert left(store) == 0


# -- behaves as the plain executor -------------------------------------------------------------


@pytest.fixture(params=["plain", "wrapped"])
def either(request: pytest.FixtureRequest, pool: Executor, store: Store) -> Executor:
    """Return the plain pool, and the same pool in a ProxyExecutor: the same tests for both."""
    return pool if request.param == "plain" else ProxyExecutor(pool, store, policy=LARGE)


def test_future_is_a_concurrent_future(either: Executor, array: Any) -> None:
    future = either.submit(tasks.total, array)
    assert isinstance(future, Future)
    done, pending = wait([future], 60)
    assert (done, pending) == ({future}, set())
    assert future.done()
    assert not future.cancelled()
    assert not future.running()
    assert not future.cancel()
    assert future.exception() is None
    assert future.result() == array.sum()
    assert "finished" in repr(future)


def test_exception_and_traceback(either: Executor, array: Any) -> None:
    """The task's exception, with where it was raised."""
    future = either.submit(tasks.fail, array)
    with pytest.raises(tasks.Failure) as info:
        future.result(60)
    assert info.value.args == ("on purpose", len(array))
    assert future.exception() is not None
    text = "".join(__import__("traceback").format_exception(info.value))
    assert "futures_tasks.py" in text
    assert 'raise Failure("on purpose", len(a))' in text


def test_large_exception(either: Executor, array: Any) -> None:
    error = either.submit(tasks.fail_with_large, array).exception(60)
    assert type(error) is tasks.Failure
    assert error.args[0].sum() == LARGE


def test_done_callbacks_in_order(either: Executor, array: Any) -> None:
    """Each is called once, in the order they were added, with the future they were added to."""
    called: list[tuple[int, Any]] = []
    future = either.submit(tasks.nap, array, 0.1)
    for i in range(3):
        future.add_done_callback(lambda done, i=i: called.append((i, done)))
    assert future.result(60) == 0
    finished = threading.Event()
    future.add_done_callback(lambda done: called.append((3, done)))
    future.add_done_callback(lambda done: finished.set())
    assert finished.wait(60)
    assert sorted(called, key=lambda item: item[0]) == [(i, future) for i in range(4)]


def test_as_completed(either: Executor) -> None:
    futures = {either.submit(tasks.number, i): i for i in range(6)}
    found = {futures[future]: future.result()[0] for future in as_completed(futures, 60)}
    assert found == {i: i for i in range(6)}


def test_awaited_in_an_event_loop(either: Executor, array: Any) -> None:
    async def main() -> None:
        future = either.submit(tasks.total, array)
        assert await asyncio.wrap_future(future) == array.sum()
        results = await asyncio.gather(
            *(asyncio.wrap_future(either.submit(tasks.number, i)) for i in range(4))
        )
        assert [result[0] for result in results] == [0, 1, 2, 3]
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(either, tasks.total, array) == array.sum()

    asyncio.run(main())


def test_timeout_of_a_result(either: Executor, array: Any) -> None:
    future = either.submit(tasks.nap, array, 0.3)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    assert future.result(60) == 0


@pytest.fixture(params=["plain", "wrapped"])
def new(request: pytest.FixtureRequest, make_pool: Any, store: Store) -> Executor:
    """Return a plain pool, or one in a ProxyExecutor, for tests that end or break it."""
    pool = make_pool()
    return pool if request.param == "plain" else ProxyExecutor(pool, store, policy=LARGE)


def test_running_and_cancelled(new: Executor, store: Store, tmp_path: Any) -> None:
    """A running task cannot be cancelled, a waiting one can; nothing of either is left."""
    go = str(tmp_path / "go")
    array = np.ones(LARGE)
    # Every worker is busy, and what a process pool hands out ahead is, too.
    busy = [new.submit(tasks.wait_for, array, go) for _ in range(6)]
    waiting = [new.submit(tasks.nap, array + 1, 0) for _ in range(30)]
    while not (tmp_path / "go.running").exists():
        assert not busy[0].done()
    assert busy[0].running()
    assert not busy[0].cancel()
    assert waiting[-1].cancel()
    assert waiting[-1].cancelled()
    assert not waiting[-1].running()
    with pytest.raises(BaseException) as info:  # noqa: PT011 - of three executors, two classes
        waiting[-1].result(0)
    assert type(info.value).__name__ == "CancelledError"
    (tmp_path / "go").touch()
    assert [future.result(60) for future in busy] == [1] * 6
    assert [future.result(60) for future in waiting[:-1]] == [2] * 29
    new.shutdown()
    assert left(store) == 0


def test_after_shutdown(new: Executor, store: Store, array: Any) -> None:
    new.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        new.submit(tasks.total, array)
    assert left(store) == 0
    new.shutdown()


def test_shutdown_cancels_what_waits(make_pool: Any, store: Store, tmp_path: Any) -> None:
    """shutdown(cancel_futures=True) ends what runs, cancels what does not, and leaves nothing."""
    executor = ProxyExecutor(make_pool(), store, policy=LARGE)
    go = str(tmp_path / "go")
    futures = [executor.submit(tasks.wait_for, np.full(LARGE, float(i)), go) for i in range(30)]
    while not (tmp_path / "go.running").exists():
        assert not futures[0].done()
    (tmp_path / "go").touch()
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert any(future.cancelled() for future in futures)
    assert futures[0].result() == 0
    assert left(store) == 0


def test_dead_worker(new: Executor, store: Store, array: Any) -> None:
    """Every task of a broken pool fails, and nothing of them is left."""
    # Both workers are there before one dies: ProcessPoolExecutor does not watch those it starts
    # until the next task ends.
    result, *_ = started = [new.submit(tasks.number, 1), new.submit(tasks.nap, array, 0.2)]
    wait(started, 60)
    new.submit(tasks.nap, array, 0).result(60)
    running = new.submit(tasks.nap, array + 1, 60)
    for future in (new.submit(tasks.die, array), running):
        with pytest.raises(BrokenExecutor):
            future.result(30)
    with pytest.raises(BrokenExecutor):
        new.submit(tasks.total, array).result(60)
    assert result.result()[0] == 1
    new.shutdown()
    assert left(store) == 0


def test_killed_worker(new: Executor, store: Store, array: Any) -> None:
    with pytest.raises(BaseException) as info:  # noqa: PT011 - of two executors, two classes
        new.submit(tasks.be_killed, array).result(60)
    assert "abruptly" in str(info.value) or "terminated" in str(info.value)
    new.shutdown()
    assert left(store) == 0


def test_function_that_cannot_be_pickled(new: Executor, store: Store, array: Any) -> None:
    lock = threading.Lock()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        new.submit(lambda a: lock, array).result(60)
    assert left(store) == 0
    assert new.submit(tasks.total, array).result(60) == array.sum()
    new.shutdown()


def test_argument_that_cannot_be_pickled(new: Executor, store: Store, array: Any) -> None:
    with pytest.raises((pickle.PicklingError, TypeError)):
        new.submit(tasks.total, array, threading.Lock()).result(60)
    with pytest.raises((pickle.PicklingError, TypeError)):
        new.submit(tasks.total, {array.tobytes(): 1, 2: threading.Lock()}).result(60)
    assert left(store) == 0
    new.shutdown()
