"""A future's proxy waits for its object, wherever it is set and whatever it is."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxyflow import Store, extract, is_resolved
from proxyflow.errors import ObjectExistsError, StoreClosedError, UnsupportedError, WaitTimeoutError
from proxyflow.future import StoreFuture

LONG = 60.0


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = {"file": (tmp_path / "store").as_uri(), "memory": "memory://"}[request.param]
    with Store(url) as store:
        yield store


def test_a_proxy_waits_for_its_object(store: Store) -> None:
    future = store.future(timeout=LONG)
    proxy = future.proxy()
    assert not future.done()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(extract, future.proxy()) for _ in range(3)]
        waiting.append(pool.submit(future.result))
        assert not is_resolved(proxy)
        future.set_result([1, 2, 3])
        assert [each.result() for each in waiting] == [[1, 2, 3]] * 4
    assert future.done()
    assert extract(proxy) == [1, 2, 3]


@pytest.mark.parametrize("value", [None, False, ValueError("a value like any other")])
def test_any_value_can_be_set(store: Store, value: Any) -> None:
    """Also those that no proxy can stand for."""
    future = store.future(timeout=LONG)
    future.set_result(value)
    assert repr(future.result()) == repr(value)


def test_an_exception_takes_the_place_of_the_object(store: Store) -> None:
    future = store.future(timeout=LONG)
    proxy = future.proxy()
    future.set_exception(KeyError("what went wrong"))
    for _ in range(2):
        with pytest.raises(KeyError, match="what went wrong"):
            future.result()
    with pytest.raises(KeyError, match="what went wrong"):
        extract(proxy)


def test_a_wait_ends_with_an_error_that_says_what_to_do(store: Store) -> None:
    future = store.future(timeout=0.05)
    for wait in (future.result, lambda: extract(future.proxy()), lambda: future.result(0.01)):
        started = time.monotonic()
        with pytest.raises(WaitTimeoutError, match="give the future more time") as caught:
            wait()
        assert time.monotonic() - started < LONG
        assert caught.value.key == future.key
        assert isinstance(caught.value, TimeoutError)
    future.set_result("late, but there")
    assert future.result() == "late, but there"


def test_a_future_is_set_once(store: Store) -> None:
    future = store.future(timeout=LONG)
    future.set_result("first")
    with pytest.raises(ObjectExistsError, match="set already"):
        future.set_result("second")
    with pytest.raises(ObjectExistsError):
        future.set_exception(ValueError())
    assert future.result() == "first"


def test_an_evicted_future_leaves_nothing(store: Store) -> None:
    future = store.future(timeout=0.01)
    future.set_result("x")
    future.evict()
    future.evict()
    assert not future.done()
    assert list(store.scan()) == []
    with pytest.raises(WaitTimeoutError):
        future.result()


def test_waiting_ends_with_the_store(store: Store) -> None:
    proxy = store.future().proxy()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(extract, proxy)
        store.close()
        assert isinstance(waiting.exception(), StoreClosedError)


def test_a_future_shows_its_store_and_key(store: Store) -> None:
    future = store.future()
    assert str(future.key) in repr(future)
    assert store.name in repr(future)


def _set(future: StoreFuture, value: Any) -> None:
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_another_process_may_set_it_and_another_may_wait(tmp_path: Path, context: str) -> None:
    with (
        Store(tmp_path / "store") as store,
        ProcessPoolExecutor(2, multiprocessing.get_context(context)) as pool,
    ):
        value, error, back = (store.future(timeout=LONG) for _ in range(3))
        waiting = pool.submit(extract, back.proxy())
        pool.submit(_set, value, "from there").result()
        pool.submit(_set, error, KeyError("from there")).result()
        assert value.result() == "from there"
        with pytest.raises(KeyError, match="from there"):
            error.result()
        back.set_result("from here")
        assert waiting.result() == "from here"
        assert pickle.loads(pickle.dumps(value)).key == value.key


class Fixed:
    """A connector without keys in advance."""

    def __init__(self) -> None:
        self.objects: dict[Any, bytes] = {}

    def put(self, obj: bytes) -> Any:
        key = (len(self.objects),)
        self.objects[key] = obj
        return key

    def put_batch(self, objs: list[bytes]) -> list[Any]:
        return [self.put(obj) for obj in objs]

    def get(self, key: Any) -> bytes | None:
        return self.objects.get(key)

    def get_batch(self, keys: list[Any]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def exists(self, key: Any) -> bool:
        return key in self.objects

    def evict(self, key: Any) -> None:
        self.objects.pop(key, None)

    def close(self) -> None:
        self.objects.clear()

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Fixed:
        return cls()


def test_a_connector_without_keys_in_advance_has_no_futures() -> None:
    with Store(connector=Fixed()) as store:
        assert store.get(store.put("text")) == "text"
        with pytest.raises(UnsupportedError, match="keys before their objects"):
            store.future()
