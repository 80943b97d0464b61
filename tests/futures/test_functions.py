"""What a function carries is replaced like an argument, and the function never knows."""

from __future__ import annotations

import functools
import pickle
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import futures_tasks as tasks
import numpy as np
import pytest
from futures_recorder import Recorder
from futures_tasks import LARGE, left

from proxyflow import Store, proxied
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.errors import ObjectNotFoundError, StoreFullError
from proxyflow_futures import ProxyExecutor


class Full(MemoryConnector):
    """Has no room."""

    def put_frames(self, frames: Any) -> Any:
        raise StoreFullError("no room")


class Callable_:
    """A callable object, which holds an array."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def __call__(self, x: float) -> float:
        assert type(self.weights) is np.ndarray
        return float(self.weights.sum()) + x


@proxied(policy=LARGE)
def scaled(values: Any, factor: float) -> float:
    return float(values.sum() * factor)


def carriers(array: Any) -> list[tuple[Any, tuple[Any, ...], float]]:
    """Return functions that carry an array, their arguments, and what they give."""
    total, small = float(array.sum()), np.ones(3)
    return [
        (functools.partial(tasks.total, array), (small,), total + 3),
        (functools.partial(tasks.total, b=array, scale=2), (small,), 2 * (total + 3)),
        (
            functools.partial(functools.partial(tasks.total, array), scale=2),
            (small,),
            2 * total + 6,
        ),
        (tasks.Model(array).predict, (small,), total + 3),
        (functools.partial(tasks.Model(array).predict, small), (), total + 3),
        (Callable_(array), (1.0,), total + 1),
        (array.sum, (), total),
        (functools.partial(scaled, array), (2.0,), 2 * total),
    ]


@pytest.mark.parametrize("case", range(8))
def test_partials_methods_and_callable_objects(
    pool: Executor, store: Store, array: Any, case: int
) -> None:
    """On every kind of pool; a few kilobytes go through its pipe, and nothing is left behind."""
    function, args, expected = carriers(array)[case]
    recorder = Recorder(pool)
    with ProxyExecutor(recorder, store, policy=LARGE) as executor:
        assert executor.submit(function, *args).result() == expected
    assert store.stats["put"].count == 1
    assert max(recorder.sizes) < 4000
    assert left(store) == 0


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_map_stores_what_its_function_carries_once(
    pool: Executor, store: Store, array: Any, chunksize: int
) -> None:
    """Whatever it is mapped over, and however often its tasks are all done in between."""
    executor = ProxyExecutor(pool, store, policy=LARGE)
    function = functools.partial(tasks.total, array)
    items = (float(i) for i in range(20))
    results = executor.map(function, items, chunksize=chunksize)
    assert list(results) == [array.sum() + i for i in range(20)]
    assert store.stats["put"].count == 1
    assert left(store) == 0


def test_tasks_of_a_dropped_map_keep_what_their_function_carries(store: Store, array: Any) -> None:
    """Who maps for the effects need not keep the iterator."""
    with ProxyExecutor(
        ProcessPoolExecutor(1, mp_context=get_context("spawn")), store, policy=LARGE
    ) as executor:
        executor.map(functools.partial(tasks.echo_length, array), range(4))
        futures = list(executor._submitter._running)
        assert [future.result() for future in futures] == [len(array)] * 4
    assert left(store) == 0


def test_a_changed_array_in_a_function(pools: Any, store: Store) -> None:
    """Each submit sends what the function carries at that moment."""
    array = np.zeros(LARGE)
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    futures = []
    for value in range(4):
        array[:] = value
        futures.append(executor.submit(functools.partial(tasks.overwrite, array)))
    assert [future.result() for future in futures] == [0, 1, 2, 3]
    assert array.min() == 3


def test_closures_where_the_executor_pickles_them(pools: Any, store: Store, array: Any) -> None:
    """As loky sends functions by value; what they close over goes through the store."""

    def closure(x: int) -> tuple[str, float]:
        return type(array).__name__, float(array.sum()) + x

    executor = ProxyExecutor(pools["loky"], store, policy=LARGE)
    assert executor.submit(closure, 1).result() == ("ndarray", array.sum() + 1)
    assert store.stats["put"].count == 1
    assert left(store) == 0


def test_what_cannot_be_pickled_fails_as_without_us(pools: Any, store: Store, array: Any) -> None:
    """A closure in a plain process pool: the pool's own error, and nothing left."""

    def closure() -> float:
        return float(array.sum())

    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    with pytest.raises((AttributeError, pickle.PicklingError), match="closure"):
        executor.submit(closure).result(60)
    assert left(store) == 0


def test_small_functions_go_as_they_are(pools: Any, store: Store) -> None:
    recorder = Recorder(pools["fork"])
    executor = ProxyExecutor(recorder, store, policy=LARGE, results=False)
    assert executor.submit(functools.partial(tasks.echo, 3)).result() == 3
    assert executor.submit([1, 2, 3].index, 2).result() == 1
    assert store.stats["put"].count == 0


def test_a_full_store_sends_the_function_whole(pools: Any, array: Any) -> None:
    """A slow task is worth more than none."""
    with Store(connector=Full()) as store:
        executor = ProxyExecutor(pools["fork"], store, policy=LARGE, results=False)
        with pytest.warns(RuntimeWarning, match="what a function carries is passed by value"):
            future = executor.submit(functools.partial(tasks.total, array))
        assert future.result() == array.sum()


def test_what_is_gone_fails_its_task_and_not_the_pool(
    pools: Any, store: Store, array: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened where its task runs: a process pool that cannot unpickle a task breaks."""
    executor = ProxyExecutor(pools["forkserver"], store, policy=LARGE)
    acquire = store.references.acquire

    def acquire_and_lose(obj: Any) -> Any:
        key = acquire(obj)
        store.evict(key)
        return key

    monkeypatch.setattr(store.references, "acquire", acquire_and_lose)
    with pytest.raises(ObjectNotFoundError, match="what a function carries is gone"):
        executor.submit(functools.partial(tasks.total, array)).result()
    monkeypatch.undo()
    assert executor.submit(functools.partial(tasks.total, array)).result() == array.sum()
