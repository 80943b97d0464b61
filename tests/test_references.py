"""Who still needs each object; what nobody needs is evicted."""

from __future__ import annotations

import gc
import logging
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyflow import Store
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.errors import SerializationError, StoreFullError, StoreUnreachableError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/store") as store:
        yield store


class Unreliable(MemoryConnector):
    """Full, or out of reach, when it is told to be."""

    failure: Exception | None = None

    def put_frames(self, frames: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        return super().put_frames(frames)

    def evict(self, key: Any) -> None:
        if self.failure is not None:
            raise self.failure
        super().evict(key)


class Interruptible(MemoryConnector):
    """Interrupts who evicts from it."""

    def evict(self, key: Any) -> None:
        raise KeyboardInterrupt


def stored(store: Store) -> int:
    return sum(1 for _ in store.scan())


def test_equal_content_is_stored_once(store: Store) -> None:
    """However many tasks get the same array, or an equal one, it is written once."""
    array = np.arange(1000)
    keys = [store.references.acquire(array), store.references.acquire(array.copy())]
    assert keys[0] == keys[1]
    assert stored(store) == 1
    assert store.stats["put"].count == 1


def test_evicted_when_the_last_one_lets_go(store: Store) -> None:
    references = store.references
    keys = [references.acquire("text") for _ in range(3)]
    references.release(keys[:2])
    assert store.get(keys[0]) == "text"
    references.release(keys[2:])
    assert stored(store) == 0
    assert len(references) == 0


def test_array_changed_in_between_is_another_object(store: Store) -> None:
    """What the first task was given must not change because the array did."""
    array = np.zeros(1000)
    before = store.references.acquire(array)
    array[500] = 1
    after = store.references.acquire(array)
    assert before != after
    assert store.get(before)[500] == 0
    assert store.get(after)[500] == 1


def test_equal_but_not_the_same_kind(store: Store) -> None:
    """Values that compare equal and are different things are different objects."""
    values = [1, 1.0, True, b"1", "1", np.float32(1), np.zeros(2), np.zeros((2, 1))]
    keys = [store.references.acquire(value) for value in values]
    assert len(set(keys)) == len(values)
    assert [type(store.get(key)) for key in keys] == [type(value) for value in values]


def test_released_object_is_stored_anew(store: Store) -> None:
    references = store.references
    first = references.acquire("text")
    references.release([first])
    second = references.acquire("text")
    assert store.get(second) == "text"
    assert store.get(first) is None or first == second


def test_unknown_key_is_not_ours_to_evict(store: Store) -> None:
    """What the user put there himself stays, whoever releases it."""
    key = store.put("mine")
    store.references.release([key, key])
    assert store.get(key) == "mine"


def test_adopted_result_is_evicted_on_release(store: Store) -> None:
    """A result that a worker stored goes like an argument; equal content refers to it."""
    payload = store.encode("result")
    key = store.write(payload, store.new_key())
    store.references.adopt(key, payload.digest, payload.glimpse)
    assert store.references.acquire("result") == key
    store.references.release([key])
    assert store.exists(key)
    store.references.release([key])
    assert not store.exists(key)


def test_one_for_each_store(store: Store) -> None:
    """Two executors that share a store share what they put there."""
    assert store.references is store.references
    with Store("memory://") as other:
        assert other.references is not store.references


def test_threads_share_and_let_go(store: Store) -> None:
    """What a thread holds exists as long as it holds it; in the end nothing is left."""
    references = store.references
    values = [np.full(1000, i) for i in range(4)]
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        held: list[tuple[Any, int]] = []
        start.wait(30)
        for _ in range(200):
            if held and chance.random() < 0.5:
                key, i = held.pop(chance.randrange(len(held)))
                assert store.get(key)[0] == i
                references.release([key])
            else:
                i = chance.randrange(4)
                held.append((references.acquire(values[i]), i))
        references.release([key for key, _ in held])

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(8)]:
            future.result(60)
    assert stored(store) == 0
    assert len(references) == 0


def test_threads_that_come_at_once_write_once() -> None:
    """The second thread waits for the write of the first instead of writing the same bytes."""
    writing, go_on = threading.Event(), threading.Event()

    class Slow(MemoryConnector):
        def put_frames(self, frames: Any) -> Any:
            writing.set()
            assert go_on.wait(30)
            return super().put_frames(frames)

    with Store(connector=Slow()) as store, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(store.references.acquire, "text") for _ in range(4)]
        assert writing.wait(30)
        go_on.set()
        assert len({future.result(30) for future in futures}) == 1
        assert store.stats["put"].count == 1


LARGE = 9 << 20


@pytest.fixture
def memory() -> Iterator[Store]:
    """A store that large objects are copied into, and digested on the way."""
    with Store("shm://") as store:
        assert store.writes_in_place
        yield store


def test_large_objects_that_look_alike_are_told_apart(memory: Store) -> None:
    """A change that no glimpse shows makes another object; equal content does not."""
    references = memory.references
    array = np.zeros(LARGE, np.uint8)
    first = references.acquire(array)
    array[12_345] = 1
    second = references.acquire(array)
    assert first != second
    assert references.acquire(array.copy()) == second
    assert references.acquire(np.zeros(LARGE, np.uint8)) == first
    assert [memory.get(key)[12_345] for key in (first, second)] == [0, 1]
    assert memory.stats["put"].count == 2
    references.release([first, first, second, second])
    assert stored(memory) == len(references) == 0
    # Nothing is remembered of what is gone.
    assert memory.get(references.acquire(array)) is not None


def test_a_large_result_is_known_by_its_look(memory: Store) -> None:
    """What a task returned and the next one gets is not stored again."""
    array = np.arange(LARGE, dtype=np.uint8)
    payload = memory.encode(array)
    key = memory.write(payload, memory.new_key())
    memory.references.adopt(key, payload.digest, payload.glimpse)
    assert memory.references.acquire(array.copy()) == key
    assert memory.stats["put"].count == 1


def test_threads_that_come_at_once_with_a_large_object_write_once() -> None:
    """Only one of them may digest it while it is written; the others find it."""
    writing, go_on = threading.Event(), threading.Event()

    class Slow(SharedMemoryConnector):
        def put_source(self, source: Any) -> Any:
            writing.set()
            assert go_on.wait(30)
            return super().put_source(source)

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        connector = Slow(os.path.join(directory, "store"))
        array = np.ones(LARGE, np.uint8)
        with Store(connector=connector) as store, ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(store.references.acquire, array) for _ in range(4)]
            assert writing.wait(30)
            go_on.set()
            assert len({future.result(30) for future in futures}) == 1
            assert store.stats["put"].count == stored(store) == 1


def test_large_object_that_finds_no_room_keeps_nobody_waiting() -> None:
    """Who comes after a write that failed tries again, and so does who waited for it."""
    writing, go_on = threading.Event(), threading.Event()

    class FailsOnce(SharedMemoryConnector):
        calls = 0

        def put_source(self, source: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                writing.set()
                assert go_on.wait(30)
                raise StoreFullError("no room")
            return super().put_source(source)

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        connector = FailsOnce(os.path.join(directory, "store"))
        array = np.ones(LARGE, np.uint8)
        with Store(connector=connector) as store, ThreadPoolExecutor(2) as pool:
            first = pool.submit(store.references.acquire, array)
            assert writing.wait(30)
            second = pool.submit(store.references.acquire, array)
            go_on.set()
            with pytest.raises(StoreFullError):
                first.result(30)
            key = second.result(30)
            assert store.references.acquire(array) == key
            assert len(store.references) == stored(store) == 1


def test_failed_write_counts_nothing() -> None:
    """After a full store has been emptied, the same content can be stored."""
    connector = Unreliable()
    with Store(connector=connector) as store:
        connector.failure = StoreFullError("no room")
        for _ in range(2):
            with pytest.raises(StoreFullError):
                store.references.acquire("text")
        connector.failure = None
        assert len(store.references) == 0
        assert store.get(store.references.acquire("text")) == "text"


def test_waiting_thread_tries_itself_when_the_first_one_fails() -> None:
    """A thread that waited for another one's write is not left without an object, or hanging."""
    writing, go_on = threading.Event(), threading.Event()

    class FailsOnce(MemoryConnector):
        calls = 0

        def put_frames(self, frames: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                writing.set()
                assert go_on.wait(30)
                raise StoreFullError("no room")
            return super().put_frames(frames)

    with Store(connector=FailsOnce()) as store, ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.references.acquire, "text")
        assert writing.wait(30)
        second = pool.submit(store.references.acquire, "text")
        go_on.set()
        with pytest.raises(StoreFullError):
            first.result(30)
        assert store.get(second.result(30)) == "text"


def test_what_cannot_be_pickled_counts_nothing(store: Store) -> None:
    with pytest.raises(SerializationError):
        store.references.acquire(threading.Lock())
    assert len(store.references) == 0
    assert stored(store) == 0


@pytest.mark.parametrize("failure", [StoreUnreachableError("gone"), RuntimeError("gone")])
def test_failed_eviction_is_logged(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It happens where nobody can be told, and must not stop the rest from being evicted."""
    connector = Unreliable()
    with Store(connector=connector) as store:
        key = store.references.acquire("text")
        connector.failure = failure
        with caplog.at_level(logging.WARNING, "proxyflow"):
            store.references.release([key])
        connector.failure = None
    assert "could not evict" in caplog.text


class Releasing:
    """Lets go of an object while it is pickled, as another thread may."""

    def __init__(self, references: Any, keys: list[Any]) -> None:
        self.references = references
        self.keys = keys

    def __reduce__(self) -> Any:
        self.references.release(self.keys)
        return str, ("content",)


def test_interrupted_acquisition_is_in_nobodys_way() -> None:
    """Whoever needs the same content next stores it, and does not wait for one who never will."""
    connector = Interruptible()
    with Store(connector=connector) as store:
        references = store.references
        key = references.acquire("text")
        with pytest.raises(KeyboardInterrupt):
            references.acquire(Releasing(references, [key]))
        again: list[Any] = []
        thread = threading.Thread(
            target=lambda: again.append(references.acquire(Releasing(references, []))), daemon=True
        )
        thread.start()
        thread.join(30)
        assert [store.get(key) for key in again] == ["content"]


def test_release_after_the_end_is_no_error(store: Store) -> None:
    """A future may outlive the store; its objects went with the session."""
    key = store.references.acquire("text")
    store.close()
    store.references.release([key])


def test_forked_child_counts_for_itself(store: Store) -> None:
    """A child neither evicts what its parent counted nor relies on it."""
    references = store.references
    key = references.acquire("text")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            references.release([key])
            gc.collect()
            own = store.references.acquire("text")
            assert own != key
            store.references.release([own])
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.get(key) == "text"
    assert stored(store) == 1
