"""What is stored within a scope is evicted at its end: that and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proxyflow import Store, extract
from proxyflow.errors import InvalidKeyError


@pytest.fixture
def stores() -> Iterator[tuple[Store, Store]]:
    with Store("memory://") as first, Store("memory://") as second:
        yield first, second


def count(store: Store) -> int:
    return len(list(store.scan()))


def test_a_scope_evicts_what_was_made_in_it(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    before = store.put("before")
    with store.scope() as same:
        assert same is store
        store.put("a")
        store.put_batch(["b", "c"])
        extract(store.proxy("d"))
        store.future().set_result("e")
        store.evict(store.put("f"))
        assert count(store) == 6
    after = store.put("after")
    assert {stored.key for stored in store.scan()} == {before, after}


def test_scopes_nest(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    with store.scope():
        outer = store.put("outer")
        with store.scope():
            inner = store.put("inner")
        assert store.exists_batch([outer, inner]) == [True, False]
        store.put("outer again")
    assert count(store) == 0


def test_a_scope_is_one_stores(stores: tuple[Store, Store]) -> None:
    """What another store was given in it belongs to that store's own scope, if there is one."""
    first, second = stores
    with second.scope():
        with first.scope():
            mine, other = first.put("first"), second.put("second")
        assert not first.exists(mine)
        assert second.exists(other)
        assert count(second) == 1
    assert count(second) == 0
    with first.scope():
        kept = second.put("without a scope")
    assert second.exists(kept)


def test_a_scope_is_one_threads(stores: tuple[Store, Store]) -> None:
    store, _ = stores
    keys: list[Any] = []
    with store.scope():
        thread = threading.Thread(target=lambda: keys.append(store.put("of another thread")))
        thread.start()
        thread.join()
        store.put("of this thread")
    assert {stored.key for stored in store.scan()} == set(keys)


def test_an_error_in_a_scope_passes_through(stores: tuple[Store, Store]) -> None:
    store, _ = stores

    def fail() -> None:
        with store.scope():
            store.put(1 / 1)
            store.put(1 / 0)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(store) == 0


def test_a_store_may_be_closed_within_a_scope() -> None:
    with Store("memory://") as store, store.scope():
        store.put("x")
        store.close()


def test_an_eviction_that_fails_does_not_keep_the_others(stores: tuple[Store, Store]) -> None:
    from proxyflow.scope import note

    store, _ = stores

    def fail() -> None:
        with store.scope():
            store.put("first")
            note(store, ["no key"])
            store.put("last")

    with pytest.raises(InvalidKeyError):
        fail()
    assert count(store) == 0
