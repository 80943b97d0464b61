"""One conformance suite for connectors, for those here and those of other packages.

It says in tests what :mod:`proxyflow.connectors.protocol` says in words. Needs pytest.
"""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import pytest

from proxyflow.connectors.protocol import Key
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import InvalidKeyError, StoreClosedError
from proxyflow.forgedkeys import forged_keys
from proxyflow.storage.copying import Pieces

__all__ = ["ConnectorConformance"]

F = TypeVar("F", bound=Callable[..., None])

_MIB = 1 << 20
# A deadline that only a hang reaches.
_LONG = 60.0
# More pieces than one gather write takes on any system (IOV_MAX is 1024 on Linux).
_MANY = 3000

_SIZES = [0, 1, 255, 65535, 65536, 65537, _MIB + 1]


def _needs(*attributes: str) -> Callable[[F], F]:
    """Mark a test that only connectors with these attributes are put to."""

    def mark(test: F) -> F:
        test.__dict__["needs"] = attributes
        return test

    return mark


def _data(size: int, seed: int = 1) -> bytes:
    """Return bytes in which no part looks like another one, always the same."""
    return random.Random(seed).randbytes(size)


class ConnectorConformance:
    """Everything a connector has to do, as tests.

    Derive a class from it that names the connector and has a fixture `connector`, which yields an
    empty one and closes it. A test of an optional capability takes part if the connector has it.

    Attributes
    ----------
    connector_type
        The connector's class.
    shared
        Whether a connector made by ``from_config(config())`` sees the same objects.
    across_processes
        Whether it does so in another process.
    checks_keys
        Whether a key that the connector cannot have made is refused, or taken for one under which
        nothing is stored. ProxyStore's connectors trust every key.
    copies
        Whether an object that is changed after it was put leaves what is stored as it is.

    Examples
    --------
    >>> import pytest
    >>> from proxyflow.connectors.memory import MemoryConnector
    >>> class TestMemoryConnector(ConnectorConformance):
    ...     connector_type = MemoryConnector
    ...     across_processes = False
    ...
    ...     @pytest.fixture
    ...     def connector(self):
    ...         with MemoryConnector() as connector:
    ...             yield connector
    """

    connector_type: ClassVar[type]
    shared: ClassVar[bool] = True
    across_processes: ClassVar[bool] = True
    checks_keys: ClassVar[bool] = True
    copies: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not hasattr(cls, "connector_type"):
            return
        for name in dir(cls):
            for attribute in getattr(getattr(cls, name), "needs", ()):
                # One of the flags above, or a method or property of the connector.
                owner = cls if attribute in ConnectorConformance.__annotations__ else None
                found = getattr(owner or cls.connector_type, attribute, None)
                if not found:
                    # What is not callable is no test.
                    setattr(cls, name, None)

    # -- objects -------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", _SIZES)
    def test_get_returns_what_was_put(self, connector: Any, size: int) -> None:
        data = _data(size)
        key = connector.put(data)
        assert bytes(connector.get(key)) == data
        assert connector.exists(key)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_can_be_put(self, connector: Any, kind: Any) -> None:
        assert bytes(connector.get(connector.put(kind(b"some bytes")))) == b"some bytes"

    def test_buffers_of_other_items_than_bytes_can_be_put(self, connector: Any) -> None:
        data = _data(8 * 100)
        assert bytes(connector.get(connector.put(memoryview(data).cast("d")))) == data

    @_needs("copies")
    def test_what_is_stored_does_not_change_with_the_object(self, connector: Any) -> None:
        data = bytearray(b"before")
        key = connector.put(data)
        data[:] = b"after!"
        assert bytes(connector.get(key)) == b"before"

    def test_a_missing_object_is_none_and_no_error(self, connector: Any) -> None:
        key = connector.put(b"short-lived")
        connector.evict(key)
        assert connector.get(key) is None
        assert not connector.exists(key)
        connector.evict(key)

    def test_evicting_one_object_leaves_its_equal(self, connector: Any) -> None:
        first, second = connector.put(b"equal"), connector.put(b"equal")
        assert first != second
        connector.evict(first)
        assert bytes(connector.get(second)) == b"equal"

    def test_a_key_is_a_small_named_tuple_that_travels(self, connector: Any) -> None:
        key = connector.put(b"x")
        assert isinstance(key, tuple)
        assert hasattr(key, "_fields")
        copy = pickle.loads(pickle.dumps(key))
        assert copy == key
        assert hash(copy) == hash(key)
        assert bytes(connector.get(copy)) == b"x"
        assert len(pickle.dumps(key)) < 300

    def test_batches_keep_their_order(self, connector: Any) -> None:
        objs = [_data(size) for size in _SIZES]
        keys = connector.put_batch(objs)
        assert len(set(keys)) == len(objs)
        connector.evict(keys[1])
        expected = [objs[0], None, *objs[2:]]
        found = connector.get_batch(keys)
        assert [data if data is None else bytes(data) for data in found] == expected

    def test_an_empty_batch_is_a_batch(self, connector: Any) -> None:
        assert list(connector.put_batch([])) == []
        assert list(connector.get_batch([])) == []

    # -- threads -------------------------------------------------------------------------------

    def test_threads_do_not_disturb_each_other(self, connector: Any) -> None:
        def work(seed: int) -> None:
            for round_ in range(20):
                data = _data(1000 + round_, seed)
                key = connector.put(data)
                assert bytes(connector.get(key)) == data
                connector.evict(key)
                assert connector.get(key) is None

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    @_needs("new_key", "set")
    def test_a_reader_sees_all_of_an_object_or_nothing(self, connector: Any) -> None:
        data = _data(_MIB)
        seen: list[bytes] = []
        done = threading.Event()
        keys = [connector.new_key() for _ in range(20)]

        def read() -> None:
            while not done.is_set():
                for key in keys:
                    found = connector.get(key)
                    if found is not None:
                        seen.append(b"" if bytes(found) == data else b"partial")

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(4)]
            try:
                for key in keys:
                    connector.set(key, data)
            finally:
                done.set()
            for reader in readers:
                reader.result()
        assert not any(seen)

    # -- keys ----------------------------------------------------------------------------------

    @_needs("checks_keys")
    def test_no_forged_key_finds_anything(self, connector: Any) -> None:
        for key in forged_keys(connector.put(b"real")):
            for operation in (connector.get, connector.exists, connector.evict):
                with contextlib.suppress(InvalidKeyError):
                    assert not operation(key), (operation, key)

    @_needs("checks_keys", "set")
    def test_nothing_is_stored_outside_through_a_forged_key(self, connector: Any) -> None:
        for key in forged_keys(connector.put(b"real")):
            with contextlib.suppress(InvalidKeyError):
                connector.set(key, b"planted")
                assert bytes(connector.get(key)) == b"planted"
                connector.evict(key)

    @_needs("checks_keys")
    def test_a_refusal_names_store_and_key(self, connector: Any) -> None:
        with pytest.raises(InvalidKeyError) as caught:
            connector.get("no key at all")
        assert caught.value.key == "no key at all"
        assert caught.value.store

    # -- keys made before their objects --------------------------------------------------------

    @_needs("new_key", "set")
    def test_a_new_key_has_no_object_until_it_is_set(self, connector: Any) -> None:
        key, other = connector.new_key(), connector.new_key()
        assert key != other
        assert connector.get(key) is None
        assert not connector.exists(key)
        connector.set(key, b"set later")
        assert bytes(connector.get(key)) == b"set later"
        assert connector.get(other) is None
        connector.evict(key)
        assert not connector.exists(key)

    @_needs("new_series", "set")
    def test_a_number_stands_for_one_key_of_a_series(self, connector: Any) -> None:
        series, other = connector.new_series(), connector.new_series()
        keys = {series(0), series(1), series(2**31), other(0), other(1)}
        assert len(keys) == 5
        assert not any(map(connector.exists, keys))
        connector.set(series(1), b"set later")
        # Where the number arrives, the series has been pickled.
        assert bytes(connector.get(pickle.loads(pickle.dumps(series))(1))) == b"set later"
        connector.evict(series(1))

    # -- frames --------------------------------------------------------------------------------

    @_needs("put_frames")
    @pytest.mark.parametrize("count", [0, 1, 2, _MANY])
    def test_frames_become_one_object(self, connector: Any, count: int) -> None:
        frames = [_data(size % 40, size) for size in range(count)]
        assert bytes(connector.get(connector.put_frames(frames))) == b"".join(frames)

    @_needs("put_frames")
    def test_frames_may_be_empty_or_large_or_of_other_items(self, connector: Any) -> None:
        large = _data(_MIB)
        frames = [
            b"",
            bytearray(b"head"),
            memoryview(large).cast("I"),
            b"",
            memoryview(b"tail"),
            b"",
        ]
        assert bytes(connector.get(connector.put_frames(frames))) == b"head" + large + b"tail"

    @_needs("put_frames_batch")
    def test_objects_in_frames_are_stored_together_or_not_at_all(self, connector: Any) -> None:
        large = _data(_MIB)
        objs: list[Any] = [[b"", b"head", memoryview(large).cast("I")], [], [b"tail"]]
        keys = connector.put_frames_batch(objs)
        found = [bytes(data) for data in connector.get_batch(keys)]
        assert found == [b"head" + large, b"", b"tail"]
        for key in keys:
            connector.evict(key)
        with pytest.raises(TypeError):
            connector.put_frames_batch([[b"good"], ["no bytes"]])
        assert not hasattr(connector, "scan") or list(connector.scan()) == []

    @_needs("set_frames", "new_key")
    def test_frames_can_be_set_under_a_key_made_before(self, connector: Any) -> None:
        key = connector.new_key()
        connector.set_frames(key, [b"some ", b"bytes"])
        assert bytes(connector.get(key)) == b"some bytes"

    @_needs("put_source", "set_source", "new_key")
    @pytest.mark.parametrize("size", _SIZES)
    def test_what_writes_itself_into_memory_is_an_object(self, connector: Any, size: int) -> None:
        put = connector.put_source(Pieces([_data(size), b"tail"]))
        assert bytes(connector.get(put)) == _data(size) + b"tail"
        connector.evict(put)
        # Now there may be pages of one that is gone, to copy it to.
        made_before = connector.new_key()
        connector.set_source(made_before, Pieces([_data(size, 1)]))
        assert bytes(connector.get(made_before)) == _data(size, 1)

    # -- views ---------------------------------------------------------------------------------

    @_needs("get_view")
    @pytest.mark.parametrize("size", _SIZES)
    def test_a_view_is_the_object_in_plain_bytes(self, connector: Any, size: int) -> None:
        view = connector.get_view(connector.put(_data(size)))
        assert (view.nbytes, view.format, view.ndim, view.readonly) == (size, "B", 1, False)
        assert view == _data(size)

    @_needs("get_view")
    def test_there_is_no_view_of_a_missing_object(self, connector: Any) -> None:
        key = connector.put(b"short-lived")
        connector.evict(key)
        assert connector.get_view(key) is None

    @_needs("get_view")
    @pytest.mark.parametrize("size", [10, _MIB])
    def test_writing_to_a_view_changes_nothing_else(self, connector: Any, size: int) -> None:
        key = connector.put(_data(size))
        before, view = connector.get_view(key), connector.get_view(key)
        view[:] = bytes(size)
        assert view == bytes(size)
        assert before == _data(size)
        assert connector.get_view(key) == _data(size)
        assert bytes(connector.get(key)) == _data(size)

    @_needs("get_view")
    @pytest.mark.parametrize("size", [10, _MIB])
    def test_a_view_outlives_its_object_and_its_connector(self, connector: Any, size: int) -> None:
        kept, evicted = connector.put(_data(size, 1)), connector.put(_data(size, 2))
        views = [connector.get_view(kept), connector.get_view(evicted)]
        connector.evict(evicted)
        connector.close()
        assert views == [_data(size, 1), _data(size, 2)]
        views[0][0] ^= 1
        assert views[0] != _data(size, 1)

    # -- listing -------------------------------------------------------------------------------

    @_needs("scan")
    def test_a_scan_lists_what_is_stored(self, connector: Any) -> None:
        assert list(connector.scan()) == []
        keys = connector.put_batch([_data(size) for size in _SIZES])
        connector.evict(keys.pop())
        found = {stored.key: stored.nbytes for stored in connector.scan()}
        assert found == dict(zip(keys, _SIZES, strict=False))
        for stored in connector.scan():
            assert abs(stored.modified - time.time()) < 86400

    @_needs("scan")
    def test_a_scan_copes_with_what_comes_and_goes_meanwhile(self, connector: Any) -> None:
        stay = set(connector.put_batch([b"stays"] * 20))
        done = threading.Event()

        def come_and_go() -> None:
            while not done.is_set():
                connector.evict(connector.put(b"goes"))

        def look() -> None:
            for _ in range(20):
                assert stay <= {stored.key for stored in connector.scan()}

        with ThreadPoolExecutor(4) as pool:
            changes = [pool.submit(come_and_go) for _ in range(2)]
            looks = [pool.submit(look) for _ in range(2)]
            try:
                for each in looks:
                    each.result()
            finally:
                done.set()
            for change in changes:
                change.result()

    # -- waiting -------------------------------------------------------------------------------

    @_needs("wait", "new_key")
    def test_a_wait_ends_at_once_or_when_its_time_is_over(self, connector: Any) -> None:
        assert connector.wait(connector.put(b"there"), 0)
        assert connector.wait(connector.put(b"there"))
        assert not connector.wait(connector.new_key(), 0)
        started = time.monotonic()
        assert not connector.wait(connector.new_key(), 0.1)
        assert time.monotonic() - started >= 0.1

    @_needs("wait", "new_key")
    def test_everybody_who_waits_is_woken(self, connector: Any) -> None:
        key = connector.new_key()
        ready = threading.Barrier(5)

        def wait() -> bool:
            ready.wait()
            return bool(connector.wait(key, _LONG))

        with ThreadPoolExecutor(4) as pool:
            waits = [pool.submit(wait) for _ in range(4)]
            ready.wait()
            connector.evict(connector.put(b"something else"))
            connector.set(key, b"here it is")
            assert [waiting.result() for waiting in waits] == [True] * 4

    @_needs("wait", "new_key", "session")
    def test_a_wait_ends_with_the_session(self, connector: Any) -> None:
        joined = self._joined(connector)
        with ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(c.wait, c.new_key(), _LONG) for c in (connector, joined)]
            connector.close()
            for waiting in waits:
                assert isinstance(waiting.exception(), StoreClosedError)
        joined.close()

    # -- sessions, configuration, URLs ---------------------------------------------------------

    def _joined(self, connector: Any) -> Any:
        config = pickle.loads(pickle.dumps(connector.config()))
        return self.connector_type.from_config(config)  # type: ignore[attr-defined]

    @_needs("shared")
    def test_the_configuration_opens_the_same_store(self, connector: Any) -> None:
        joined = self._joined(connector)
        assert bytes(joined.get(connector.put(b"from here"))) == b"from here"
        assert bytes(connector.get(joined.put(b"from there"))) == b"from there"

    @_needs("url", "from_url")
    def test_the_url_opens_the_same_session(self, connector: Any) -> None:
        key = connector.put(b"from here")
        url = StoreURL.parse(connector.url)
        assert str(url) == connector.url
        joined = self.connector_type.from_url(url)  # type: ignore[attr-defined]
        assert joined.url == connector.url
        assert bytes(joined.get(key)) == b"from here"
        joined.close()

    @_needs("session")
    def test_only_the_owner_ends_the_session(self, connector: Any) -> None:
        joined = self._joined(connector)
        assert (connector.owner, joined.owner) == (True, False)
        assert joined.session == connector.session
        key = joined.put(b"stored by a worker")
        joined.close()
        assert bytes(connector.get(key)) == b"stored by a worker"

    @_needs("session")
    def test_nothing_is_left_when_the_owner_has_closed(self, connector: Any) -> None:
        joined = self._joined(connector)
        key = connector.put(b"x")
        connector.close()
        assert joined.get(key) is None
        with pytest.raises(StoreClosedError):
            joined.put(b"too late")
        with pytest.raises(StoreClosedError):
            self._joined(connector)
        joined.close()

    @_needs("session")
    def test_a_closed_connector_says_so(self, connector: Any) -> None:
        key = connector.put(b"x")
        connector.close()
        connector.close()
        for operation in (connector.get, connector.exists, connector.evict):
            with pytest.raises(StoreClosedError):
                operation(key)
        with pytest.raises(StoreClosedError):
            connector.put(b"x")
        assert "closed" in repr(connector)

    @_needs("session")
    def test_a_forked_child_ends_nothing(self, connector: Any) -> None:
        key = connector.put(b"x")
        child = multiprocessing.get_context("fork").Process(target=connector.close)
        child.start()
        child.join()
        assert child.exitcode == 0
        assert connector.owner
        assert bytes(connector.get(key)) == b"x"

    # -- other processes -----------------------------------------------------------------------

    @_needs("across_processes")
    def test_another_process_reads_and_writes_the_same_store(self, connector: Any) -> None:
        key = connector.put(_data(_MIB))
        with _process() as pool:
            data, theirs = pool.submit(_exchange, type(connector), connector.config(), key).result()
        assert data == _data(_MIB)
        # The other process has ended by now.
        assert bytes(connector.get(theirs)) == b"from there"
        assert bytes(connector.get(key)) == _data(_MIB)

    @_needs("across_processes", "wait", "new_key")
    def test_a_wait_ends_when_another_process_sets_the_object(self, connector: Any) -> None:
        key = connector.new_key()
        with _process() as pool:
            setting = pool.submit(_set, type(connector), connector.config(), key)
            assert connector.wait(key, _LONG)
            setting.result()
        assert bytes(connector.get(key)) == b"from there"


@contextlib.contextmanager
def _process() -> Iterator[ProcessPoolExecutor]:
    """Yield another process that shares nothing with this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def _exchange(kind: Any, config: dict[str, Any], key: Key) -> tuple[bytes, Key]:
    connector = kind.from_config(config)
    data, theirs = bytes(connector.get(key)), connector.put(b"from there")
    if hasattr(connector, "session"):
        connector.close()
    return data, theirs


def _set(kind: Any, config: dict[str, Any], key: Key) -> None:
    kind.from_config(config).set(key, b"from there")
