"""What a store keeps of a network's bytes is bounded, private, and gone with the objects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxystore.connectors.file import FileConnector as PeerFileConnector

from proxyflow import Store
from proxyflow.cache import PayloadCache
from proxyflow.future import Outcome
from proxyflow.periodic import poll
from proxyflow.reader import CachingReader
from tests.processes import LONG


class Counting(PeerFileConnector):
    """Counts how often bytes are moved."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moved = 0
        self.meanwhile: Callable[[], Any] = lambda: None

    def get(self, key: Any) -> Any:
        self.moved += 1
        data = super().get(key)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return data


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[Counting]:
    with Counting(str(tmp_path / "store")) as connector:
        yield connector


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.booleans())))
def test_a_cache_never_exceeds_its_bound(steps: list[tuple[int, int, bool]]) -> None:
    cache = PayloadCache(100)
    for key, size, drop in steps:
        if drop:
            cache.drop(key)
            assert cache.get(key) is None
        else:
            cache.add(key, bytes(size))
            assert len(cache.get(key) or b"") == size
        held = [cache.get(each) or b"" for each in cache.held()]
        assert cache.nbytes == sum(map(len, held)) <= 100
        assert len(cache) == len(held)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


def test_the_least_recently_used_goes_first() -> None:
    cache = PayloadCache(100)
    cache.add("a", bytes(40))
    cache.add("b", bytes(40))
    cache.get("a")
    cache.add("c", bytes(40))
    assert cache.held() == ["a", "c"]
    cache.add("too large", bytes(101))
    assert cache.held() == ["a", "c"]
    cache.add("a", bytes(101))
    assert cache.held() == ["c"]


def test_bytes_are_moved_once_and_every_reader_gets_an_object_of_its_own(
    connector: Counting,
) -> None:
    with Store(connector=connector) as store:
        key = store.put(np.arange(10_000))
        first = store.get(key)
        first[:] = -1
        for _ in range(3):
            assert np.array_equal(store.get(key), np.arange(10_000))
        assert connector.moved == 1


def test_what_does_not_fit_is_moved_every_time(connector: Counting) -> None:
    with Store(connector=connector, cache="10 kB", compress=False) as store:
        large, small = store.put(bytes(20_000)), store.put(bytes(8_000))
        for _ in range(3):
            assert store.get(large) == bytes(20_000)
            assert store.get(small) == bytes(8_000)
        assert connector.moved == 3 + 1


def test_a_cache_can_be_turned_off(connector: Counting) -> None:
    with Store(connector=connector, cache=0) as store:
        key = store.put("text")
        assert [store.get(key) for _ in range(3)] == ["text"] * 3
        assert connector.moved == 3


def test_what_another_process_evicts_is_not_served_any_more(connector: Counting) -> None:
    with Store(connector=connector) as store:
        key, other = store.put("text"), store.put("other")
        assert store.get(key) == "text"
        Counting(connector.store_dir).evict(key)
        assert store.get(key) is None
        store.get(other)
        store.evict(other)
        assert store.get(other, "gone") == "gone"


def test_what_is_replaced_while_it_is_read_is_not_kept(connector: Counting) -> None:
    """A reader that began before may end after, with the old bytes in its hands."""
    with Store(connector=connector) as store:
        key = store.put("old")
        for change in (lambda: store.write(store.encode("new"), key), lambda: store.evict(key)):
            connector.meanwhile = change
            assert store.get(key) is not None
            assert len(store._reader.cache) == 0
        store.write(store.encode("newest"), key)
        assert store.get(key) == "newest"


def test_a_future_of_a_connector_that_cannot_tell_is_read_anew(connector: Counting) -> None:
    with Store(connector=connector) as store:
        future = store.future(timeout=LONG)
        future.set_result("first")
        assert future.result() == "first"
        # As another process would.
        another = Counting(connector.store_dir)
        another.evict(future.key)
        another.set(future.key, b"".join(store.encode(Outcome("second", None)).frames))
        assert future.result() == "second"


def test_a_cache_is_empty_soon_after_its_objects_are_evicted(connector: Counting) -> None:
    """Although nobody asks for them again: it would hold the memory of a whole run for ever."""
    readers = [CachingReader(connector, 1 << 20) for _ in range(2)]
    keys = [connector.put(bytes(1000)) for _ in range(5)]
    for reader in readers:
        for key in keys:
            reader.get(key)
        assert reader.cache.nbytes == 5000
    another = Counting(connector.store_dir)
    for key in keys[1:]:
        another.evict(key)
    assert poll(lambda: all(reader.cache.nbytes == 1000 for reader in readers), LONG)
    another.evict(keys[0])
    assert poll(lambda: all(reader.cache.nbytes == 0 for reader in readers), LONG)


class Moody(Counting):
    """A store that does not answer for a while."""

    silent = False

    def exists(self, key: Any) -> bool:
        if self.silent:
            raise ConnectionError("no answer")
        return super().exists(key)


def test_a_store_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    with Moody(str(tmp_path / "store")) as connector:
        reader, key = CachingReader(connector, 1000), connector.put(bytes(100))
        connector.silent = True
        reader.get(key)
        connector.evict(key)
        asked = threading.Event()
        assert not asked.wait(2.5)
        assert reader.cache.nbytes == 100
        connector.silent = False
        assert poll(lambda: reader.cache.nbytes == 0, LONG)
