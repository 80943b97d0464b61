"""Arguments: what a task receives, and that nothing of it is left behind."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import futures_tasks as tasks
import numpy as np
import pytest
from futures_recorder import Recorder
from futures_tasks import LARGE, left

from proxyflow import Policy, Store, get_factory, is_resolved
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.errors import AuthenticationError, ConfigError
from proxyflow_futures import ProxyExecutor

Pair = namedtuple("Pair", "first second")


class Unreachable(MemoryConnector):
    """Raises on eviction what the client of a server may, as ProxyStore's connectors do."""

    def evict(self, key: Any) -> None:
        raise RuntimeError("the server does not answer")


def test_an_eviction_that_fails_keeps_no_outcome_back(
    array: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs in the executor's own thread, which announces the outcome right after it."""
    with (
        Store(connector=Unreachable()) as store,
        ProxyExecutor(ThreadPoolExecutor(1), store, policy=LARGE) as executor,
    ):
        futures = [executor.submit(tasks.total, array + n) for n in range(3)]
        assert not wait(futures, timeout=30).not_done
        assert [future.result() for future in futures] == [(array + n).sum() for n in range(3)]
    assert "could not evict" in caplog.text


def test_task_receives_the_exact_object(pool: Executor, store: Store, array: Any) -> None:
    """Positional and keyword, top level and nested, on every kind of pool; then it is gone."""
    executor = ProxyExecutor(pool, store, policy=LARGE)
    assert executor.submit(tasks.total, array, b=array, scale=2).result() == array.sum() * 4
    value = {"list": [array], "model": tasks.Model(array + 1), "small": (1, 2)}
    assert executor.submit(tasks.nested_total, value).result() == array.sum() * 2 + len(array)
    assert left(store) == 0


def test_only_a_proxy_goes_through_the_pipe(pools: Any, store: Store, array: Any) -> None:
    """And small values go as they are: there is nothing of theirs in the store."""
    record = Recorder(pools["fork"])
    executor = ProxyExecutor(record, store, policy=LARGE)
    assert executor.submit(tasks.total, array, [array] * 10).result() == array.sum() * 11
    assert store.stats["put"].count == 1
    assert executor.submit(tasks.total, array[:100], 5).result() == array[:100].sum() + 5
    assert store.stats["put"].count == 1
    assert max(record.sizes) < 2000


def test_every_kind_of_value(pools: Any, store: Store, array: Any) -> None:
    """type(x) is in the task what it was for the caller."""
    values = [array, bytes(LARGE), bytearray(LARGE), "x" * LARGE, {"a": array}, Pair(array, 1)]
    values += [{array.tobytes()}, [array, array], tasks.Model(array), list(range(LARGE))]
    executor = ProxyExecutor(pools["forkserver"], store, policy=LARGE)
    expected = [type(value).__name__ for value in values]
    assert executor.submit(tasks.kinds, *values, last=array).result() == [*expected, "ndarray"]
    assert left(store) == 0


def test_parameter_annotated_proxy_receives_it_lazily(
    pool: Executor, store: Store, array: Any
) -> None:
    executor = ProxyExecutor(pool, store, policy=LARGE)
    assert executor.submit(tasks.lazily, array, array + 1).result() == (True, False)
    lazy = ProxyExecutor(pool, store, policy=LARGE, resolve="lazy")
    assert lazy.submit(tasks.lazily, array, array + 1).result() == (True, True)
    eager = ProxyExecutor(pool, store, policy=LARGE, resolve="eager")
    assert eager.submit(tasks.lazily, array, array + 1).result() == (False, False)


def test_identity_of_arguments(pools: Any, store: Store, array: Any) -> None:
    """f(a, a) gets one object twice, f(a, a.copy()) two, as with the plain executor."""
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    for submit in (executor.submit, pools["fork"].submit):
        assert submit(tasks.same, array, array).result()
        assert not submit(tasks.same, array, array.copy()).result()


def test_writing_to_an_argument_stays_in_the_task(pool: Executor, store: Store) -> None:
    """It changes neither the caller's array nor what another task sees of the same object."""
    array = np.full(LARGE, 7.0)
    executor = ProxyExecutor(pool, store, policy=LARGE)
    futures = [executor.submit(tasks.overwrite, array) for _ in range(6)]
    assert [future.result() for future in futures] == [7.0] * 6
    assert array.min() == 7.0


def test_callers_containers_stay_as_they_are(pools: Any, store: Store, array: Any) -> None:
    value = {"list": [array], "model": tasks.Model(array)}
    ProxyExecutor(pools["fork"], store, policy=LARGE).submit(tasks.nested_total, value).result()
    assert value["list"][0] is array
    assert value["model"].weights is array


def test_array_changed_between_two_submits(pools: Any, store: Store) -> None:
    """Each task gets the array as it was when it was submitted."""
    array = np.zeros(LARGE)
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    futures = []
    for value in range(5):
        array[:] = value
        futures.append(executor.submit(tasks.overwrite, array))
    assert [future.result() for future in futures] == [0, 1, 2, 3, 4]


def test_own_proxy_is_restored_and_stays_the_callers(
    pool: Executor, store: Store, array: Any
) -> None:
    """A proxy the user made is an argument like the object, and is not evicted by us."""
    mine = store.proxy(array)
    executor = ProxyExecutor(pool, store, policy=LARGE)
    assert executor.submit(tasks.kinds, mine, [mine], k=(mine,)).result() == [
        "ndarray",
        "list",
        "tuple",
    ]
    assert executor.submit(tasks.total, mine).result() == array.sum()
    assert not is_resolved(mine)
    assert store.exists(get_factory(mine).key)


def test_equal_arguments_are_stored_once_whoever_submits(
    pools: Any, store: Store, array: Any, tmp_path: Any
) -> None:
    """Two executors that share a store share an array; it goes with the last of their tasks."""
    one = ProxyExecutor(pools["fork"], store, policy=LARGE)
    two = ProxyExecutor(pools["forkserver"], store, policy=LARGE)
    go = [str(tmp_path / name) for name in "ab"]
    futures = [
        executor.submit(tasks.wait_for, array.copy(), path)
        for executor, path in zip((one, two), go, strict=True)
    ]
    assert left(store) == 1
    (tmp_path / "a").touch()
    assert futures[0].result(60) == 0
    assert left(store) == 1
    (tmp_path / "b").touch()
    assert futures[1].result(60) == 0
    assert left(store) == 0


def test_policy_of_the_executor(pools: Any, store: Store, array: Any) -> None:
    """Types and nesting are the policy's; a size alone will do."""
    record = Recorder(pools["fork"])
    only_text = ProxyExecutor(record, store, policy=Policy(LARGE, types=str))
    assert only_text.submit(tasks.kinds, array, "x" * LARGE).result() == ["ndarray", "str"]
    assert store.stats["put"].count == 1
    assert array.nbytes < record.sizes[0] < array.nbytes + 2000
    ProxyExecutor(record, store, policy="1 MiB").submit(tasks.total, array).result()
    assert store.stats["put"].count == 1


def test_own_store_is_closed_with_the_executor(array: Any) -> None:
    with ProxyExecutor(ProcessPoolExecutor(1), policy=LARGE) as executor:
        assert executor.submit(tasks.total, array).result() == array.sum()
    assert executor.store.closed


def test_store_that_was_given_stays_open(store: Store, array: Any) -> None:
    with ProxyExecutor(ProcessPoolExecutor(1), store, policy=LARGE) as executor:
        assert executor.submit(tasks.total, array).result() == array.sum()
        assert repr(store) in repr(executor)
    assert not store.closed


def test_executor_in_an_executor(store: Store, array: Any) -> None:
    """Wrapping twice is a waste, not an error: whoever is closest to the function decides."""
    inner = ProxyExecutor(ProcessPoolExecutor(2), store, policy=100)
    with inner, ProxyExecutor(inner, store, policy=LARGE, resolve="lazy") as outer:
        assert outer.submit(tasks.total, array.copy(), array[:50]).exception() is not None
        assert outer.submit(tasks.total, array[:50]).result() == array[:50].sum()
        assert outer.submit(tasks.lazily, array, array + 1).result() == (True, True)
        future = outer.submit(tasks.echo, array)
        assert future.result() is future.result()
        np.testing.assert_array_equal(future.result(), array)
        del future
        assert left(store) == 0


def test_task_that_submits_on(pools: Any, store: Store, array: Any) -> None:
    """A task may use an executor of its own for what it was passed."""
    executor = ProxyExecutor(pools["spawn"], store, policy=LARGE)
    assert executor.submit(tasks.in_own_pool, array).result(60) == array.sum()
    assert left(store) == 0


# -- threads -----------------------------------------------------------------------------------


def test_threads_hand_over_what_they_are_given(array: Any) -> None:
    """Within one process nothing has to move."""
    with ProxyExecutor(ThreadPoolExecutor(2)) as executor:
        assert executor.submit(tasks.same, array, array).result()
        assert executor.submit(tasks.echo, array).result() is array
        assert list(executor.map(tasks.echo, [array, array]))[1] is array
        assert not executor.store.stats.as_dict()


def test_threads_go_through_the_store_when_asked_to(store: Store) -> None:
    """An explicit policy isolates tasks of threads from each other."""
    array = np.full(LARGE, 7.0)
    with ProxyExecutor(ThreadPoolExecutor(2), store, policy=LARGE) as executor:
        futures = [executor.submit(tasks.overwrite, array) for _ in range(4)]
        assert [future.result() for future in futures] == [7.0] * 4
        assert array.min() == 7.0
        result = executor.submit(tasks.echo, array).result()
        assert result is not array
        np.testing.assert_array_equal(result, array)
    assert store.stats["put"].count > 1
    assert left(store) == 0


def test_threads_resolve_proxies_by_the_same_rule(store: Store, array: Any) -> None:
    mine = store.proxy(array)
    with ProxyExecutor(ThreadPoolExecutor(2), store) as executor:
        assert executor.submit(tasks.kinds, mine, [mine]).result() == ["ndarray", "list"]
        assert list(executor.map(tasks.total, [mine, mine])) == [array.sum()] * 2
        one, other = store.proxy(array), store.proxy(array)
        assert executor.submit(tasks.lazily, one, other).result() == (True, False)
        assert list(executor.map(tasks.lazily, [store.proxy(array)], [mine])) == [(True, False)]
    with ProxyExecutor(ThreadPoolExecutor(2), store, resolve="lazy") as executor:
        assert list(executor.map(tasks.lazily, [store.proxy(array)], [mine])) == [(True, True)]
    assert store.exists(get_factory(mine).key)


def test_many_threads_and_processes_on_one_store(store: Store) -> None:
    """8 threads submit to 4 processes; every answer is right and nothing is left."""
    arrays = [np.full(LARGE // 8, value) for value in range(4)]
    pool = ProcessPoolExecutor(4, mp_context=get_context("forkserver"))
    with ProxyExecutor(pool, store, policy=LARGE) as executor:
        start = threading.Barrier(8)

        def work(seed: int) -> None:
            start.wait(60)
            futures = [
                executor.submit(tasks.overwrite, arrays[(seed + i) % 4].copy()) for i in range(25)
            ]
            results = [executor.submit(tasks.number, seed) for _ in range(3)]
            assert [f.result(120) for f in futures] == [(seed + i) % 4 for i in range(25)]
            assert [f.result(120)[-1] for f in results] == [seed] * 3

        with ThreadPoolExecutor(8) as threads:
            done, _ = wait([threads.submit(work, seed) for seed in range(8)])
            for future in done:
                future.result()
        assert left(store) == 0


@pytest.mark.parametrize("resolve", ["", "Auto"])
def test_unknown_option_is_refused(store: Store, resolve: str) -> None:
    with pytest.raises(ValueError, match="resolve="):
        ProxyExecutor(ThreadPoolExecutor(1), store, resolve=resolve)


@pytest.mark.parametrize("store", ["file:///dev/shm/run1", ThreadPoolExecutor(1)])
def test_what_is_no_store_is_refused_at_once(store: Any) -> None:
    """And not when the first task is submitted."""
    with pytest.raises(ConfigError, match="not a store"):
        ProxyExecutor(ThreadPoolExecutor(1), store)


def test_memory_of_this_process_is_of_no_use_to_others(pools: Any) -> None:
    """A forked worker would find what was stored before it was forked, and nothing else."""
    with Store("memory://") as store, pytest.raises(ConfigError, match="memory of one process"):
        ProxyExecutor(pools["fork"], store)


@pytest.mark.parametrize("executor", [4, ThreadPoolExecutor])
def test_what_is_no_executor_is_refused_at_once(executor: Any) -> None:
    with pytest.raises(ConfigError, match="not an executor"):
        ProxyExecutor(executor)


def test_workers_that_lack_the_secret_are_told_how_to_get_it(
    tmp_path: Path, array: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They open the store by themselves, so what helps is a variable and no argument."""
    monkeypatch.delenv("PROXYFLOW_SECRET", raising=False)
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with (
        Store(tmp_path / "store", secret="known here") as store,
        ProxyExecutor(pool, store, policy=LARGE) as executor,
        pytest.raises(AuthenticationError, match="set PROXYFLOW_SECRET in every process"),
    ):
        executor.submit(tasks.total, array).result()


def test_a_refused_argument_opens_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There would be nobody to close it."""
    monkeypatch.setenv("PROXYFLOW_STORE", str(tmp_path.as_uri()) + "/run")
    for wrong in ({"policy": "much"}, {"resolve": "sometimes"}):
        with pytest.raises(ConfigError):
            ProxyExecutor(ThreadPoolExecutor(1), **wrong)
    assert list(tmp_path.iterdir()) == []


def test_submitting_is_no_slower_for_large_lists_of_numbers(
    make_pool: Callable[[], Executor], store: Store
) -> None:
    """A list of a million numbers is one object, not a million looked at one by one."""
    with ProxyExecutor(make_pool(), store, policy="1 MiB") as executor:
        assert executor.submit(len, list(range(1_000_000))).result() == 1_000_000
        assert store.stats["put"].count == 1
