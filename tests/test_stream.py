"""What a stream promises to producers and consumers of one process, threads included."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyflow import Proxy, Store, extract, is_resolved, resolve
from proxyflow.errors import (
    AuthenticationError,
    ClaimLostError,
    ConfigError,
    ObjectNotFoundError,
    ProxyTargetError,
    SerializationError,
    StoreClosedError,
    StoreFullError,
    UnsupportedError,
    WaitTimeoutError,
)
from proxyflow.stream import Stream, StreamItem
from tests.processes import only_root, small_file_system

LONG = 60.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"maildir://{tmp_path}/store") as store:
        yield store
    assert not (tmp_path / "store").exists()


@pytest.fixture
def stream(store: Store) -> Iterator[Stream]:
    with store.stream("frames") as stream:
        yield stream


def claim(stream: Stream) -> StreamItem[Any]:
    item = stream.claim(LONG)
    assert item is not None
    return item


def stored(store: Store) -> int:
    return len(list(store.scan()))


# -- objects and proxies ---------------------------------------------------------------------------


def test_what_was_appended_arrives_as_lazy_proxies_in_order(stream: Stream) -> None:
    arrays = [np.arange(n) for n in (3, 100_000)]
    stream.extend(arrays)
    stream.append("text", metadata={"camera": 7})
    stream.close_for_writing()
    items = list(stream)
    assert all(issubclass(type(item.proxy), Proxy) for item in items)
    assert [item.metadata for item in items] == [None, None, {"camera": 7}]
    # Known from the message, before any byte of the object is looked at.
    assert items[1].proxy.shape == (100_000,)
    assert isinstance(items[1].proxy, np.ndarray)
    assert not any(is_resolved(item.proxy) for item in items)
    for item, array in zip(items, arrays, strict=False):
        np.testing.assert_array_equal(extract(item.proxy), array)
    assert extract(items[2].proxy) == "text"


def test_the_bytes_are_not_read_before_a_proxy_is_resolved(store: Store, stream: Stream) -> None:
    stream.append(bytes(1 << 20))
    with claim(stream) as item:
        assert store.stats["get"].count == 0
        assert len(extract(item.proxy)) == 1 << 20
        assert store.stats["get"].count == 1


def test_an_object_goes_when_every_group_has_acknowledged_it(store: Store, stream: Stream) -> None:
    groups = [store.stream("frames", group=name) for name in ("a", "b")]
    stream.append([1, 2, 3])
    items = [claim(group) for group in groups]
    assert items[0].key == items[1].key
    items[0].ack()
    assert stored(store) == 1
    assert extract(items[1].proxy) == [1, 2, 3]
    items[1].ack()
    assert (stored(store), stream.backlog) == (0, 0)


def test_what_was_read_outlives_its_acknowledgement(stream: Stream) -> None:
    stream.append(np.arange(1_000_000))
    with claim(stream) as item:
        array = extract(item.proxy)
    assert array[-1] == 999_999


def test_an_item_that_was_acknowledged_unread_cannot_be_read(stream: Stream) -> None:
    stream.append([1])
    item = claim(stream)
    item.ack()
    with pytest.raises(ObjectNotFoundError, match="evicted"):
        resolve(item.proxy)


def test_of_a_proxy_the_target_is_appended(store: Store, stream: Stream) -> None:
    """So that a stream can feed another one, which outlives what it was fed from."""
    upstream = store.stream("upstream")
    upstream.append([1, 2])
    with claim(upstream) as item:
        stream.append(item.proxy)
    assert extract(claim(stream).proxy) == [1, 2]


@pytest.mark.parametrize("obj", [None, True, False])
def test_what_no_proxy_can_stand_for_is_refused(store: Store, stream: Stream, obj: Any) -> None:
    with pytest.raises(ProxyTargetError):
        stream.append(obj)
    assert (stored(store), stream.backlog) == (0, 0)


def test_what_cannot_be_pickled_is_refused(store: Store, stream: Stream) -> None:
    for obj, metadata in ((threading.Lock(), None), ([1], threading.Lock())):
        with pytest.raises(SerializationError):
            stream.append(obj, metadata=metadata)
    assert (stored(store), stream.backlog) == (0, 0)


@only_root
def test_a_full_store_takes_nothing_and_keeps_what_it_has(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "small", 4),
        Store(f"maildir://{tmp_path}/small/store") as store,
        store.stream("frames", group="a") as stream,
    ):
        with pytest.raises(StoreFullError, match="evict"):
            stream.extend(os.urandom(500_000) for _ in range(100))
        appended = stored(store)
        assert 3 < appended < 9
        assert (stream.backlog, stream.waiting) == (appended, appended)
        claim(stream).ack()
        stream.append(os.urandom(500_000))


def test_the_secret_guards_what_producers_say(tmp_path: Path) -> None:
    """Metadata is unpickled, too; and what cannot be trusted here may be elsewhere."""
    with (
        Store(f"maildir://{tmp_path}/store", secret="right") as store,
        Store(store.config()["url"], secret="wrong") as forger,
    ):
        with forger.stream("frames") as stream:
            stream.append([1], metadata="forged")
        with store.stream("frames") as stream:
            with pytest.raises(AuthenticationError):
                stream.claim(0)
            assert (stream.waiting, stream.claimed) == (1, 0)
        with forger.stream("frames") as stream:
            assert claim(stream).metadata == "forged"


def test_who_only_looks_makes_no_group(store: Store) -> None:
    """Else a producer that looks at its counters would keep what nobody consumes."""
    producer = store.stream("frames", maxsize=3)
    producer.append("first")
    assert (producer.waiting, producer.claimed, producer.recover()) == (1, 0, 0)
    with store.stream("frames", group="a") as consumer:
        for number in range(10):
            producer.append(number, timeout=0)
            assert (producer.waiting, producer.claimed, producer.recover()) == (0, 0, 0)
            claim(consumer).ack()
        assert producer.groups == ["a"]


# -- consuming -------------------------------------------------------------------------------------


def test_an_item_is_acknowledged_by_success_and_released_by_failure(stream: Stream) -> None:
    stream.append("text")
    with pytest.raises(RuntimeError), claim(stream):
        raise RuntimeError
    assert (stream.waiting, stream.claimed) == (1, 0)
    with claim(stream):
        assert (stream.waiting, stream.claimed) == (0, 1)
    assert (stream.waiting, stream.claimed) == (0, 0)


@pytest.mark.parametrize("settle", ["ack", "release"])
def test_a_block_may_settle_its_item_itself(stream: Stream, settle: str) -> None:
    stream.append("text")
    with claim(stream) as item:
        getattr(item, settle)()
        assert item.settled
    assert stream.waiting == (settle == "release")


def test_what_a_block_settled_is_not_settled_again_by_its_failure(stream: Stream) -> None:
    stream.append("text")

    def work(item: StreamItem[Any]) -> None:
        with item:
            item.ack()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work(claim(stream))
    assert (stream.waiting, stream.claimed) == (0, 0)


def test_an_item_is_settled_once(stream: Stream) -> None:
    stream.append("text")
    item = claim(stream)
    item.ack()
    for settle in (item.ack, item.release):
        with pytest.raises(ClaimLostError, match="over"):
            settle()


def test_a_lease_gives_an_item_to_somebody_else(store: Store, stream: Stream) -> None:
    stream.append("text")
    slow = claim(stream)
    time.sleep(0.01)
    with store.stream("frames", lease=0.005) as other:
        assert other.recover() == 1
        assert extract(claim(other).proxy) == "text"
    with pytest.raises(ClaimLostError):
        slow.ack()
    with pytest.raises(RuntimeError), slow:
        raise RuntimeError


def test_items_can_be_acknowledged_by_the_loop(stream: Stream) -> None:
    stream.extend(["a", "b", "c"])
    stream.close_for_writing()
    for item in stream.items(ack=True):
        if extract(item.proxy) == "b":
            break
    assert [extract(item.proxy) for item in stream.items(ack=True)] == ["b", "c"]
    assert stream.backlog == 0


def test_a_loop_that_fails_gives_its_item_back(stream: Stream) -> None:
    stream.append("text")

    def loop() -> None:
        for _ in stream.items(ack=True):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        loop()
    assert (stream.waiting, stream.claimed) == (1, 0)


def test_closing_gives_back_what_is_in_hand(store: Store) -> None:
    with store.stream("frames") as stream:
        stream.extend("abc")
        first, second = claim(stream), claim(stream)
        first.ack()
    with store.stream("frames") as stream:
        assert (stream.waiting, stream.claimed) == (2, 0)
        assert extract(claim(stream).proxy) == "b"
    with pytest.raises(ClaimLostError):
        second.ack()


def test_a_forked_child_gives_nothing_back(stream: Stream) -> None:
    stream.append("text")
    item = claim(stream)

    def child() -> None:
        stream.close()
        assert item.settled
        with item:
            pass

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(LONG)
    assert process.exitcode == 0
    assert (stream.waiting, stream.claimed) == (0, 1)
    item.ack()


def test_waiting_has_an_end(stream: Stream) -> None:
    for timeout in (0, 0.01):
        with pytest.raises(WaitTimeoutError, match="nothing was appended"):
            stream.claim(timeout)
    with pytest.raises(WaitTimeoutError):
        list(stream.items(timeout=0.01))


def test_a_consumer_is_woken_by_what_it_waits_for(store: Store, stream: Stream) -> None:
    with ThreadPoolExecutor(1) as pool:
        consuming = pool.submit(lambda: [extract(item.proxy) for item in stream.items(ack=True)])
        with store.stream("frames") as producer:
            for number in range(1, 4):
                producer.append(number)
                while producer.backlog:
                    time.sleep(0)
            producer.close_for_writing()
        assert consuming.result(LONG) == [1, 2, 3]


def test_a_stream_that_ended_empty_ends_every_loop(stream: Stream) -> None:
    stream.close_for_writing()
    stream.close_for_writing()
    assert stream.ended
    assert list(stream) == []
    assert stream.claim(0) is None
    with pytest.raises(StoreClosedError, match="closed for writing"):
        stream.append("too late")


def test_threads_share_a_stream(stream: Stream) -> None:
    """Each object is received by one of them."""
    received = Counter[int]()

    def consume() -> list[int]:
        return [extract(item.proxy) for item in stream.items(ack=True)]

    with ThreadPoolExecutor(8) as pool:
        consuming = [pool.submit(consume) for _ in range(4)]
        list(pool.map(lambda n: stream.extend(range(n * 50, n * 50 + 50)), range(4)))
        stream.close_for_writing()
        for each in consuming:
            received.update(each.result(LONG))
    assert received == Counter(range(200))
    assert stream.backlog == 0


# -- groups ----------------------------------------------------------------------------------------


def test_a_group_receives_what_is_appended_after_it_was_made(store: Store, stream: Stream) -> None:
    stream.append("before any group")
    first = store.stream("frames", group="first")
    stream.append("before the second")
    second = store.stream("frames", group="second")
    stream.append("after both")
    assert stream.groups == ["first", "second"]
    assert [first.waiting, second.waiting] == [3, 1]


def test_streams_of_a_store_are_apart(store: Store) -> None:
    with store.stream("a") as a, store.stream("b") as b:
        a.append("text")
        assert (a.backlog, b.backlog) == (1, 0)
        with pytest.raises(WaitTimeoutError):
            b.claim(0)


# -- backpressure ----------------------------------------------------------------------------------


def test_appending_waits_for_room(store: Store) -> None:
    with store.stream("frames", group="a", maxsize=2) as stream:
        stream.extend("ab")
        for timeout in (0, 0.01):
            with pytest.raises(WaitTimeoutError, match="maxsize"):
                stream.append("c", timeout=timeout)
        assert (stored(store), stream.backlog) == (2, 2)
        with ThreadPoolExecutor(1) as pool:
            appending = pool.submit(stream.append, "c", timeout=LONG)
            claim(stream).ack()
            appending.result()
        assert stream.backlog == 2


def test_the_slowest_group_decides_whether_there_is_room(store: Store) -> None:
    with (
        store.stream("frames", group="slow", maxsize=1) as slow,
        store.stream("frames", group="fast", maxsize=1) as fast,
    ):
        fast.append("text")
        claim(fast).ack()
        with pytest.raises(WaitTimeoutError):
            fast.append("more", timeout=0)
        claim(slow).ack()
        fast.append("more", timeout=0)


def test_an_iterator_is_not_asked_for_more_than_there_is_room(store: Store) -> None:
    asked = iter(range(1, 100))
    with store.stream("frames", maxsize=2) as stream, pytest.raises(WaitTimeoutError):
        stream.extend(asked, timeout=0)
    assert next(asked) == 4


def test_the_end_ends_waiting_for_room(store: Store) -> None:
    with store.stream("frames", maxsize=1) as stream, ThreadPoolExecutor(1) as pool:
        stream.append("a")
        appending = pool.submit(stream.append, "b")
        stream.close_for_writing()
        assert isinstance(appending.exception(LONG), StoreClosedError)


# -- opening and closing ---------------------------------------------------------------------------


def test_a_stream_travels(store: Store) -> None:
    with store.stream("frames", group="a", maxsize=3, lease=7.0) as stream:
        copy = pickle.loads(pickle.dumps(stream))
        assert (copy.name, copy.group, copy.maxsize, copy.lease) == ("frames", "a", 3, 7.0)
        stream.append("text")
        assert extract(claim(copy).proxy) == "text"
        copy.close()


def test_an_item_does_not_travel(stream: Stream) -> None:
    stream.append("text")
    with pytest.raises(TypeError, match=r"send item\.proxy"):
        pickle.dumps(claim(stream))


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "../x", "a\0", "é", "x" * 65, 7, None]
)
def test_a_name_that_is_none_is_refused(store: Store, name: Any) -> None:
    with pytest.raises(ConfigError, match="not the name of a stream"):
        store.stream(name)
    if name is not None:
        with pytest.raises(ConfigError, match="not the name of a group"):
            store.stream("frames", group=name)


@pytest.mark.parametrize("options", [{"maxsize": 0}, {"maxsize": -1}, {"lease": 0}, {"lease": -2}])
def test_a_limit_that_is_none_is_refused(store: Store, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        store.stream("frames", **options)


@pytest.mark.parametrize("url", ["memory://", "file://{}"])
def test_a_store_without_streams_says_what_to_use(tmp_path: Path, url: str) -> None:
    with (
        Store(url.format(tmp_path / "store")) as store,
        pytest.raises(UnsupportedError, match="maildir:///"),
    ):
        store.stream("frames")


def test_a_closed_stream_says_so(stream: Stream) -> None:
    assert not stream.closed
    stream.close()
    stream.close()
    assert stream.closed
    for use in (
        lambda: stream.append("text"),
        lambda: stream.claim(0),
        lambda: list(stream),
        stream.close_for_writing,
        stream.recover,
        lambda: stream.waiting,
        lambda: stream.claimed,
        lambda: stream.backlog,
        lambda: stream.ended,
        lambda: stream.groups,
    ):
        with pytest.raises(StoreClosedError, match="stream has been closed"):
            use()
    assert "closed" in repr(stream)


def test_closing_a_stream_ends_waiting_for_it(stream: Stream) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.claim)
        while not stream.groups:
            time.sleep(0)
        stream.close()
        assert isinstance(waiting.exception(LONG), StoreClosedError)


def test_a_consumer_is_told_when_the_session_ends(tmp_path: Path) -> None:
    store = Store(f"maildir://{tmp_path}/store")
    joined = Store.from_config(store.config())
    with ThreadPoolExecutor(2) as pool:
        waits = [
            pool.submit(each.stream("frames", group=name).claim)
            for each, name in ((store, "a"), (joined, "b"))
        ]
        while len(store.stream("frames").groups) < 2:
            time.sleep(0)
        store.close()
        for waiting in waits:
            assert isinstance(waiting.exception(LONG), StoreClosedError)
    with pytest.raises(StoreClosedError):
        joined.stream("frames")
    joined.close()


def test_closing_after_the_session_has_ended_is_no_error(tmp_path: Path) -> None:
    with Store(f"maildir://{tmp_path}/store") as store:
        stream = store.stream("frames")
        stream.append("text")
        claim(stream)
    stream.close()
    assert os.listdir(tmp_path) == []


def test_the_state_is_shown(store: Store, stream: Stream) -> None:
    assert repr(stream) == f"<Stream 'frames' of {store.name}>"
    named = store.stream("frames", group="a")
    assert repr(named) == f"<Stream 'frames' of {store.name}, group 'a'>"
    stream.append("text")
    assert repr(claim(named)).startswith("<StreamItem MaildirKey(")
