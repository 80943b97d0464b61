"""What proxies, executors and task functions promise holds whatever the store is."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import proxyflow
from proxyflow import Proxy, Store, extract, get_factory, is_resolved, proxied
from proxyflow.errors import InvalidKeyError, ObjectNotFoundError, StoreClosedError
from proxyflow_futures import ProxyExecutor
from tests.stores import any_store_url

__all__ = ["any_store_url"]

LARGE = 200_000
SPAWN = get_context("spawn")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def left(store: Store) -> int:
    return sum(1 for _ in store.scan())


def array(seed: int = 0, nbytes: int = 2_000_000) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(nbytes // 8)


def total(value: Any, factor: int = 1) -> float:
    assert type(value) is np.ndarray
    value *= factor
    return float(value.sum())


def lazily(value: Proxy[Any]) -> tuple[bool, float]:
    return is_resolved(value), float(value.sum())


def nested(values: dict[str, list[Any]]) -> float:
    return float(sum(value.sum() for value in values["a"]))


def doubled(value: Any) -> Any:
    return value * 2


def fail(value: Any) -> None:
    raise ValueError("no")


def got(store: Store, key: Any) -> Any:
    return store.get(key)


def look(proxy: Any) -> tuple[bool, float]:
    return is_resolved(proxy), float(proxy.sum())


# -- proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"x" * 10, "text", [1, {"a": None}], array(), array(1, 9_000_000)[::2]]
)
def test_objects_come_back_as_they_were(any_store_url: str, value: Any) -> None:
    with Store(any_store_url) as store:
        key = store.put(value)
        found = store.get(key)
        assert type(found) is type(value)
        assert np.array_equal(found, value)
        assert [each.key for each in store.scan()] == [key]
        store.evict(key)
        assert store.get(key, "gone") == "gone"


def test_proxy_in_another_process(any_store_url: str) -> None:
    """It arrives unresolved, in under 400 bytes, and resolves through its own connection."""
    with Store(any_store_url) as store, ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        proxy = store.proxy(array())
        assert len(pickle.dumps(proxy)) < 400
        assert pool.submit(look, proxy).result() == (False, array().sum())
        store.evict(get_factory(proxy).key)
        with pytest.raises(ObjectNotFoundError, match="not in the store"):
            pool.submit(look, proxy).result()


def test_a_reader_that_writes_changes_nothing_but_its_own(any_store_url: str) -> None:
    with Store(any_store_url) as store:
        key = store.put(array())
        for _ in range(3):
            found = store.get(key)
            assert (found == array()).all()
            found[:] = 0


def test_a_future_is_waited_for(any_store_url: str) -> None:
    with Store(any_store_url) as store:
        future = store.future(timeout=30)
        setter = threading.Timer(0.1, lambda: future.set_result(array()))
        setter.start()
        assert extract(future.proxy()).sum() == array().sum()
        setter.join()


def test_an_object_set_again_is_the_new_one(any_store_url: str) -> None:
    """To who has read the old one in this process or in another, whatever each of them keeps."""
    with Store(any_store_url) as store, ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        key = store.new_key()
        for value in ("first", "second", "third"):
            store.write(store.encode(value), key)
            assert (store.get(key), store.get_batch([key])) == (value, [value])
            assert pool.submit(got, store, key).result() == value
            assert pool.submit(got, store, key).result() == value


def test_a_future_evicted_and_set_again_has_the_new_result(any_store_url: str) -> None:
    with Store(any_store_url) as store, ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        future = store.future(timeout=30)
        for value in ("first", "second"):
            future.set_result(value)
            assert future.result() == pool.submit(future.result).result() == value
            future.evict()


def test_a_wait_for_an_object_of_another_session_ends_with_that(any_store_url: str) -> None:
    with Store(any_store_url) as store, ThreadPoolExecutor(1) as pool:
        with Store(any_store_url) as other:
            key = other.new_key()
            assert not store.wait(key, 0.1)
            waiting = pool.submit(store.wait, key, 60)
        with pytest.raises(StoreClosedError):
            waiting.result()


@pytest.mark.parametrize("key", [[1], ("a", []), {}])
def test_a_key_that_cannot_be_hashed_is_refused(any_store_url: str, key: Any) -> None:
    with Store(any_store_url) as store:
        for operation in (store.get, store.evict):
            with pytest.raises(InvalidKeyError):
                operation(key)


def test_the_parts_of_a_key_are_it_or_are_refused(any_store_url: str) -> None:
    """As they may come out of a pickle."""
    with Store(any_store_url) as store:
        parts = tuple(store.put("value"))
        for operation in (store.exists, store.get, store.evict):
            with contextlib.suppress(InvalidKeyError):
                assert operation(parts) in (True, "value", None)


# -- executors ---------------------------------------------------------------------------------


def test_executor(any_store_url: str) -> None:
    """Arguments exact, nested, lazy and written to; results; failures; nothing left."""
    with (
        Store(any_store_url) as store,
        ProxyExecutor(ProcessPoolExecutor(2), store, policy=LARGE) as executor,
    ):
        value, other = array(), array(1)
        futures = [executor.submit(total, value, n) for n in range(4)]
        assert [f.result() for f in futures] == pytest.approx([n * value.sum() for n in range(4)])
        assert executor.submit(lazily, value).result() == (False, value.sum())
        found = executor.submit(nested, {"a": [value, other]}).result()
        assert found == pytest.approx(value.sum() + other.sum())
        result = executor.submit(doubled, value)
        assert (result.result() == value * 2).all()
        assert (result.result() == value * 2).all()
        with pytest.raises(ValueError, match="no"):
            executor.submit(fail, value).result()
        sums = list(executor.map(total, (array(n) for n in range(12))))
        assert sums == pytest.approx([array(n).sum() for n in range(12)])
        del result, futures
        until(lambda: left(store) == 0)


def test_task_function(any_store_url: str) -> None:
    task = proxied(store=any_store_url, policy=LARGE)(doubled)
    with ProcessPoolExecutor(2) as pool:
        assert (task.submit(pool, array()).result() == array() * 2).all()
        results = list(task.map(pool, [array(1), array(2)]))
    assert [r.sum() for r in results] == pytest.approx([array(n).sum() * 2 for n in (1, 2)])


_RUN = """
import os, sys, time
import numpy as np
from concurrent.futures import ProcessPoolExecutor
from proxyflow import Store
from proxyflow_futures import ProxyExecutor

def task(value, path):
    open(path, "w").close()
    time.sleep(60)

store = Store(sys.argv[1])
executor = ProxyExecutor(ProcessPoolExecutor(1), store, policy="1 kB")
executor.submit(task, np.ones(100_000), sys.argv[2])
print(store.session, flush=True)
while True:
    time.sleep(1)
"""


def test_a_killed_run_leaves_nothing(any_store_url: str, tmp_path: Any) -> None:
    """And of its living neighbour nothing is taken."""
    lease = "?lease=0.5" if any_store_url.startswith("redis") else ""
    started = tmp_path / "started"
    with Store(any_store_url) as store:
        kept = store.put(array())
        run = subprocess.Popen(
            [sys.executable, "-c", _RUN, any_store_url + lease, str(started)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert run.stdout is not None
        session = run.stdout.readline().strip()
        until(started.exists)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()
        if lease:
            joined = any_store_url + lease + "#" + session
            until(lambda: _has_ended(joined))
        else:
            assert proxyflow.gc(any_store_url) == [session]
        assert store.get(kept).sum() == array().sum()


def _has_ended(url: str) -> bool:
    try:
        Store(url).close()
    except proxyflow.errors.StoreClosedError:
        return True
    return False
