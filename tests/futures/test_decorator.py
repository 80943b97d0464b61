"""``@proxied``: task functions that send their own large arguments as proxies."""

from __future__ import annotations

import gc
import inspect
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import futures_tasks as tasks
import numpy as np
import proxied_tasks as proxied_functions
import pytest
from futures_tasks import LARGE, left

from proxyflow import Proxy, Store, get_factory, is_resolved, proxied
from proxyflow_futures import ProxyExecutor


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/store") as store:
        yield store


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


def default_store_is_empty() -> bool:
    return left(proxied_functions.total.store) == 0


# -- calling -----------------------------------------------------------------------------------


def test_plain_call_works_as_before(array: Any) -> None:
    """It passes what it is given and returns what it gets; nothing is opened or stored."""
    assert proxied_functions.total(array, b=array, scale=2) == array.sum() * 4
    assert Echo()(array) is array

    @proxied(store="file:///nowhere/to/be/found")
    def untouched(a: Any, /, self: Any = 1, **function: Any) -> Any:
        return a, self, function

    assert untouched(array, self=2, function=3) == (array, 2, {"function": 3})


class Echo:
    @proxied(policy=LARGE)
    def __call__(self, a: Any) -> Any:
        return a


def test_looks_like_the_function() -> None:
    total = proxied_functions.total
    assert (total.__name__, total.__doc__) == ("total", "Add everything up.")
    assert list(inspect.signature(total).parameters) == ["a", "b", "scale"]
    assert "total" in repr(total)
    assert "predict" in repr(proxied_functions.Model(1).predict)


def test_proxy_that_comes_by_any_route(store: Store, array: Any, pools: Any) -> None:
    """A plain call, a plain executor, a ProxyExecutor: the function gets the object."""
    mine = store.proxy(array)
    total = proxied_functions.total
    assert total(mine, [mine][0]) == array.sum() * 2
    assert proxied_functions.bare([mine]) == "list"
    for pool in (pools["fork"], pools["spawn"], pools["loky"], pools["distributed"]):
        fresh = store.proxy(array)
        assert pool.submit(total, fresh).result() == array.sum()
        assert not is_resolved(fresh)
        executor = ProxyExecutor(pool, store, policy=LARGE)
        assert executor.submit(total, array, [mine]).result() == array.sum() * 2
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(total, store.proxy(array)).result() == array.sum()
    assert store.exists(get_factory(mine).key)


def test_function_decides_what_it_receives(store: Store, pools: Any, array: Any) -> None:
    """Its own rule holds, whatever the executor around it would do."""
    one, two = store.proxy(array), store.proxy(array + 1)
    assert proxied_functions.lazily(one, two) == (True, False)
    assert proxied_functions.all_lazily(one, two) == (True, True)
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE, resolve="eager")
    submit = executor.submit
    assert submit(proxied_functions.lazily, array, array + 1).result() == (True, False)
    assert submit(proxied_functions.all_lazily, array, array + 1).result() == (True, True)
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE, resolve="lazy")
    assert executor.submit(proxied_functions.total, array).result() == array.sum()


# -- submitting --------------------------------------------------------------------------------


def test_submit_and_map(pool: Executor, array: Any) -> None:
    """Large arguments go as proxies on every kind of pool, and are evicted after completion."""
    total, number = proxied_functions.total, proxied_functions.number
    assert total.submit(pool, array, b=[array], scale=2).result() == array.sum() * 4
    assert list(total.map(pool, [array] * 4, range(4))) == [array.sum() + i for i in range(4)]
    assert list(total.map(pool, (array + i for i in range(9)), chunksize=4)) == [
        array.sum() + i * len(array) for i in range(9)
    ]
    assert proxied_functions.lazily.submit(pool, array, array + 1).result() == (True, False)
    assert proxied_functions.all_lazily.submit(pool, array, array + 1).result() == (True, True)
    future = number.submit(pool, 3)
    assert future.result()[-1] == 3
    assert left(number.store) == 1
    del future
    with pytest.raises(LookupError, match="on purpose"):
        proxied_functions.fail.submit(pool, array).result()
    assert proxied_functions.number_by_value.submit(pool, 4).result()[0] == 4
    assert default_store_is_empty()


def test_to_a_dask_client(cluster: Any, array: Any) -> None:
    """A client will do where an executor is expected; its futures are Dask's."""
    assert proxied_functions.total.submit(cluster, array).result() == array.sum()
    futures = proxied_functions.total.map(cluster, [array] * 2)
    assert cluster.gather(futures) == [array.sum()] * 2
    del futures
    # What a task was given goes when the scheduler forgets the task.
    until(default_store_is_empty)


def test_to_threads(array: Any) -> None:
    """Between threads values are handed over as they are."""
    with ThreadPoolExecutor(2) as threads:
        assert Echo().__call__.submit(threads, array).result() is array
        (mapped,) = Echo().__call__.map(threads, [array])
        assert mapped is array


def test_to_a_proxy_executor(pools: Any, store: Store, array: Any) -> None:
    executor = ProxyExecutor(pools["fork"], store, policy=LARGE)
    assert proxied_functions.total.submit(executor, array).result() == array.sum()
    np.testing.assert_array_equal(
        proxied_functions.number.submit(executor, 2).result(), np.full(LARGE // 8, 2.0)
    )
    assert left(store) == 0
    assert default_store_is_empty()


def test_to_what_is_no_executor(array: Any) -> None:
    with pytest.raises(TypeError, match="neither an executor nor a Dask client"):
        proxied_functions.total.submit(array, array)


def test_unknown_option_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="resolve="):
        proxied(resolve="sometimes")(len)


def test_small_arguments_open_no_store(pools: Any, tmp_path: Path) -> None:
    @proxied(store=f"file://{tmp_path}/unused", results=False)
    def double(a: int) -> int:
        return 2 * a

    assert double(2) == 4
    assert not (tmp_path / "unused").exists()


# -- what can be decorated ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn", "loky", "distributed"])
def test_methods(pools: Any, kind: str, array: Any) -> None:
    pool = pools[kind]
    model = proxied_functions.Model(array)
    assert model.predict(array) == array.sum() * 2
    assert model.predict.submit(pool, array + 1).result() == array.sum() * 2 + len(array)
    assert list(model.predict.map(pool, [array, array])) == [array.sum() * 2] * 2
    assert list(model.predict.map(pool, [array] * 3, chunksize=2)) == [array.sum() * 2] * 3
    assert proxied_functions.Model.predict.submit(pool, model, array).result() == array.sum() * 2
    assert pool.submit(model.predict, array).result() == array.sum() * 2
    assert default_store_is_empty()


@pytest.mark.parametrize("name", ["static", "static_outside"])
def test_static_methods(pools: Any, name: str, array: Any) -> None:
    for owner in (proxied_functions.Model, proxied_functions.Model(1), proxied_functions.Derived):
        method = getattr(owner, name)
        assert method(array) == array.sum()
        for kind in ("spawn", "loky"):
            assert method.submit(pools[kind], array).result() == array.sum()
            assert list(method.map(pools[kind], [array])) == [array.sum()]
    assert default_store_is_empty()


# Since Python 3.13 a class method does not bind what is not a function.
CLASS_METHODS = ["of_class_outside", *(["of_class"] if sys.version_info < (3, 13) else [])]


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_class_methods(pools: Any, name: str, array: Any) -> None:
    for owner in (proxied_functions.Derived, proxied_functions.Derived(1)):
        method = getattr(owner, name)
        assert method(array) == ("Derived", array.sum())
        for kind in ("spawn", "loky"):
            assert method.submit(pools[kind], array).result() == ("Derived", array.sum())
            assert list(method.map(pools[kind], [array])) == [("Derived", array.sum())]
    assert default_store_is_empty()


def test_closures_and_lambdas(pools: Any, array: Any) -> None:
    """What no other process can import travels by value, on every kind of pool."""
    offset = 5

    @proxied(policy=LARGE)
    def closure(a: Any) -> float:
        return float(a.sum() + offset)

    function = proxied(policy=LARGE)(lambda a: float(a.sum() + offset))
    for kind in ("fork", "spawn", "loky", "distributed"):
        assert closure.submit(pools[kind], array).result() == array.sum() + 5
        assert function.submit(pools[kind], array).result() == array.sum() + 5
        assert list(function.map(pools[kind], [array] * 3, chunksize=2)) == [array.sum() + 5] * 3
    assert left(closure.store) == 0


def test_under_another_name_and_without_one(pools: Any, array: Any) -> None:
    """A function that was decorated aside, and a partial, which has no name."""
    for kind in ("fork", "spawn", "distributed"):
        assert proxied_functions.renamed.submit(pools[kind], array).result() == array.sum()
        result = proxied_functions.doubled.submit(pools[kind], array).result()
        np.testing.assert_array_equal(result, 2 * array)
    assert pickle.loads(pickle.dumps(proxied_functions.renamed))(array) == array.sum()


def test_closure_over_what_cannot_be_pickled(pools: Any, array: Any) -> None:
    lock = threading.Lock()

    @proxied(policy=LARGE)
    def locked(a: Any) -> bool:
        return lock.locked()

    with pytest.raises(TypeError, match="lock"):
        locked.submit(pools["fork"], array).result()
    assert left(locked.store) == 0


def test_pickled_by_name() -> None:
    """An importable function is the same object again; its pickle is a name."""
    for module in (pickle, cloudpickle):
        assert module.loads(module.dumps(proxied_functions.total)) is proxied_functions.total
    assert len(pickle.dumps(proxied_functions.total)) < 100
    for name in ("static", "static_outside"):
        static = getattr(proxied_functions.Model, name)
        assert pickle.loads(pickle.dumps(static)) is static
    method = pickle.loads(pickle.dumps(proxied_functions.Derived.of_class_outside))
    assert method.__func__ is proxied_functions.Model.of_class_outside.__func__


# -- stores ------------------------------------------------------------------------------------


def test_functions_share_a_store(tmp_path: Path, array: Any, pools: Any) -> None:
    """Two functions of one URL have one store, which opens again when it was closed."""
    url = f"file://{tmp_path}/shared"
    one = proxied(store=url, policy=LARGE)(tasks.total)
    two = proxied(store=url, policy=LARGE)(tasks.overwrite)
    assert one.store is two.store
    futures = [one.submit(pools["fork"], array), two.submit(pools["fork"], array)]
    assert [future.result() for future in futures] == [array.sum(), 0]
    assert one.store.stats["put"].count <= 2
    one.store.close()
    assert not one.store.closed
    assert one.submit(pools["fork"], array).result() == array.sum()
    one.store.close()


def test_store_of_the_users(store: Store, array: Any, pools: Any) -> None:
    """A store may be given instead of a URL; a worker joins its session."""
    function = proxied(store=store, policy=LARGE)(lambda a: float(a.sum()))
    assert function.store is store
    assert function.submit(pools["spawn"], array).result() == array.sum()
    assert store.stats["put"].count == 1
    assert left(store) == 0


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_submitting_on_from_within_a_worker(kind: str) -> None:
    """Divide and conquer: each worker submits to a pool of its own, and counts for itself."""
    array = np.arange(LARGE, dtype=float)
    with ProcessPoolExecutor(1, mp_context=get_context(kind)) as pool:
        for _ in range(2):
            future = proxied_functions.halves.submit(pool, array, 2)
            assert future.result(120) == array.sum()
    assert left(proxied_functions.halves.store) == 0


# -- scripts -----------------------------------------------------------------------------------

SCRIPT = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from proxyflow import Proxy, proxied

OFFSET = 1


class Item:
    def __init__(self, data):
        self.data = data


@proxied(policy=100_000)
def total(item, offset=0):
    assert type(item) is Item, type(item)
    return float(item.data.sum()) + offset + OFFSET


@proxied(policy=100_000)
def make(n):
    return Item(np.ones(n))


def main():
    kind = sys.argv[1]
    item = Item(np.ones(100_000))
    if kind == "loky":
        from loky import ProcessPoolExecutor as Loky
        pool = Loky(2)
    else:
        pool = ProcessPoolExecutor(2, mp_context=get_context(kind))
    with pool:
        assert total.submit(pool, item, offset=2).result() == 100_003
        assert list(total.map(pool, [item] * 3)) == [100_001] * 3
        made = make.submit(pool, 100_000)
        assert type(made.result()) is Item
        assert made.result().data.sum() == 100_000
        del made
        function = proxied(policy=100_000)(lambda item: item.data.sum())
        assert function.submit(pool, item).result() == 100_000
    assert list(total.store.scan()) == []
    print("done", total.store.session)


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn", "loky"])
def test_functions_and_classes_of_a_script(tmp_path: Path, kind: str) -> None:
    """Those of ``__main__`` work with every start method; nothing outlives the script."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    url = f"file://{tmp_path}/store"
    done = subprocess.run(
        [sys.executable, str(script), kind],
        env={**os.environ, "PROXYFLOW_STORE": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Not empty where coverage is measured, which has remarks of its own.
    assert not [word for word in ("Traceback", "leaked", "could not") if word in done.stderr]
    assert done.stdout.startswith("done")
    assert not (tmp_path / "store").exists()


def test_function_is_let_go(array: Any) -> None:
    """A decorated closure does not keep what it closes over alive once it is gone."""

    class Held:
        pass

    def make(held: Any) -> Any:
        return proxied(policy=LARGE)(lambda a: held)

    function = make(Held())
    gone = weakref.ref(function(Proxy(lambda: array)))
    assert isinstance(gone(), Held)
    del function
    gc.collect()
    assert gone() is None
