"""What a function carries is replaced like an argument, and the function never knows."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import futures_tasks as tasks
import numpy as np
import pytest
from futures_recorder import record
from futures_tasks import LARGE, left

from proxyflow import Store, proxied
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import ObjectNotFoundError, StoreFullError
from proxyflow_futures import ProxyExecutor
from tests.processes import run


class Full(FileConnector):
    """Has no room."""

    def put_source(self, source: Any) -> Any:
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
        (functools.partial(array.sum, axis=0), (), total),
        (functools.partial(scaled, array), (2.0,), 2 * total),
    ]


@pytest.mark.parametrize("case", range(9))
def test_partials_methods_and_callable_objects(
    pool: Executor, store: Store, array: Any, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every kind of pool; a few kilobytes go through its pipe, and nothing is left behind."""
    function, args, expected = carriers(array)[case]
    sizes = record(pool, monkeypatch)
    executor = ProxyExecutor(pool, store, policy=LARGE)
    assert executor.submit(function, *args).result() == expected
    assert store.stats["put"].count == 1
    assert max(sizes) < 4000
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


def test_defaults_where_the_executor_pickles_them(pools: Any, store: Store, array: Any) -> None:
    """A function without a name takes its defaults along."""
    executor = ProxyExecutor(pools["loky"], store, policy=LARGE)
    first = executor.submit(lambda x, a=array: float(a.sum()) + x, 1)
    second = executor.submit(lambda x, *, a=array + 1: float(a.sum()) + x, 1)
    assert first.result() == array.sum() + 1
    assert second.result() == (array + 1).sum() + 1
    assert store.stats["put"].count == 2
    assert left(store) == 0


SCRIPT = """
import pickle, sys
import numpy as np
from loky import ProcessPoolExecutor
from proxyflow import Store
from proxyflow_futures import ProxyExecutor

weights = np.ones(100_000)

def weigh(x):
    return float(weights.sum()) + x

def call(x):
    return weigh(x)

with Store() as store, ProxyExecutor(ProcessPoolExecutor(1), store, policy="100 kB") as executor:
    print(executor.submit(call, 1).result(), store.stats["put"].count)
"""


def test_what_functions_of_a_script_refer_to() -> None:
    """Where they travel by value, so do the globals that they and their helpers name."""
    assert run(SCRIPT) == "100001.0 1"


def test_what_cannot_be_pickled_fails_as_without_us(pools: Any, store: Store, array: Any) -> None:
    """A closure in a plain process pool: the pool's own error, and nothing left."""

    def closure() -> float:
        return float(array.sum())

    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    with pytest.raises((AttributeError, pickle.PicklingError), match="closure"):
        executor.submit(closure).result(60)
    assert left(store) == 0


def test_small_functions_go_as_they_are(pools: Any, store: Store) -> None:
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE, results=False)
    assert executor.submit(functools.partial(tasks.echo, 3)).result() == 3
    assert executor.submit([1, 2, 3].index, 2).result() == 1
    assert store.stats["put"].count == 0


def test_a_full_store_sends_the_function_whole(pools: Any, array: Any, tmp_path: Path) -> None:
    """A slow task is worth more than none, and it is the user's line that is named."""
    with Store(connector=Full(str(tmp_path))) as store:
        executor = ProxyExecutor(pools["fork"], store, policy=LARGE, results=False)
        with pytest.warns(RuntimeWarning, match="what a function carries is passed by") as told:
            future = executor.submit(functools.partial(tasks.total, array))
        assert future.result() == array.sum()
        assert told[0].filename == __file__


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


# -- as without us ---------------------------------------------------------------------------------


@pytest.fixture(params=["fork", "loky", "proxy-fork", "proxy-loky", "proxy-distributed"])
def either(request: pytest.FixtureRequest, pools: dict[str, Executor], store: Store) -> Executor:
    """Plain pools, and the same pools in a ProxyExecutor: the same tests for both."""
    pool = pools[request.param.removeprefix("proxy-")]
    return ProxyExecutor(pool, store, policy=LARGE) if "proxy" in request.param else pool


def test_what_was_one_object_is_one_object(either: Executor, store: Store, array: Any) -> None:
    """However often a function carries it: what is written to one is seen in the other."""
    model = tasks.Model(array)
    assert either.submit(functools.partial(tasks.same, array, array)).result()
    assert not either.submit(functools.partial(tasks.same, array, array.copy())).result()
    assert either.submit(functools.partial(model.holds, model.weights)).result()
    assert left(store) == 0


def test_a_map_for_its_effects(either: Executor, store: Store, array: Any, tmp_path: Path) -> None:
    """All calls are made, whether or not anybody takes their results."""
    results = either.map(functools.partial(tasks.touch_file, array, tmp_path), range(50))
    if "Proxy" in type(either).__name__:
        wait(list(either._submitter._running))  # type: ignore[attr-defined]
    else:
        list(results)
    assert len(list(tmp_path.glob("done-*"))) == 50


@pytest.mark.parametrize("unpicklable", [tasks.Unpicklable(), multiprocessing.Lock()])
def test_errors_of_pickling_are_the_futures(
    pools: Any, store: Store, array: Any, unpicklable: Any
) -> None:
    """They come where the plain pool reports them, whatever they are."""
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    function = functools.partial(tasks.kinds, array, unpicklable)
    expected = type(pools["fork"].submit(function).exception(60))
    assert type(executor.submit(function).exception(60)) is expected is RuntimeError
    assert left(store) == 0


@pytest.mark.parametrize("results", [True, False])
def test_coroutine_functions(pools: Any, store: Store, array: Any, results: bool) -> None:
    """An executor that awaits them still does."""
    executor = ProxyExecutor(pools["distributed"], store, policy=LARGE, results=results)
    assert executor.submit(tasks.total_later, 1).result(60) == 1
    assert executor.submit(tasks.total_later, array).result(60) == array.sum()
    function = functools.partial(tasks.total_later, array)
    assert executor.submit(function).result(60) == array.sum()
    doubled = executor.submit(tasks.doubled_later, array).result(60)
    assert (doubled == 2 * array).all()
    del doubled


def test_threads_get_the_callers_own_object(array: Any) -> None:
    """A method changes the object it is called on, also where arguments go through a store."""
    model = tasks.Model(array)
    with ProxyExecutor(ThreadPoolExecutor(1), policy=LARGE) as executor:
        assert [executor.submit(model.rename, name).result() for name in "ab"] == ["model", "a"]
    assert model.name == "b"


def test_functions_of_a_script_keep_their_globals() -> None:
    """By name through two executors; and by value, all of a function's helpers with one another."""
    assert run(KEEPS_GLOBALS) == "set initialised\nTrue 4.0"


KEEPS_GLOBALS = """
import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import loky
import numpy as np
from proxyflow_futures import ProxyExecutor

a, b, c = np.ones(80_000), np.ones(80_000), np.ones(80_000)
mode, verbose = "not", False

def initialise():
    global mode
    mode = "initialised"

def tell(array, word=""):
    return word, mode

def is_verbose():
    return verbose

def make(big):
    def task():
        global verbose
        verbose = True
        return is_verbose(), float(a[0] + b[0] + c[0] + big[0])
    return task

big = np.ones(200_000)
pool = ProcessPoolExecutor(1, initializer=initialise, mp_context=get_context("fork"))
with ProxyExecutor(ProxyExecutor(pool)) as executor:
    print(*executor.submit(functools.partial(tell, big, word="set")).result())
with ProxyExecutor(loky.ProcessPoolExecutor(1)) as executor:
    print(*executor.submit(make(big)).result())
"""
