"""A store keeps objects under keys, hands out proxies, and says what it does and has done."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proxystore.connectors.file import FileConnector as PeerFileConnector

import proxyflow
from proxyflow import Store, extract, get_factory, is_resolved
from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.errors import (
    AuthenticationError,
    ConfigError,
    CorruptObjectError,
    InvalidKeyError,
    ObjectNotFoundError,
    ProxyTargetError,
    SerializationError,
    StoreClosedError,
)
from tests.processes import run

OBJECTS = [b"bytes", "text", 7, [1, {"two": (3.0, None)}], np.arange(100_000), bytearray(200_000)]


@pytest.fixture(params=["file", "memory", "peer"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    connectors: dict[str, Any] = {
        "file": lambda: FileConnector(str(tmp_path / "store")),
        "memory": MemoryConnector,
        "peer": lambda: PeerFileConnector(str(tmp_path / "store")),
    }
    with Store(connector=connectors[request.param]()) as store:
        yield store


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def path_of(store: Store, key: Any) -> Path:
    return Path(store.connector.store_dir, *key.filename.split("."))


def equal(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(np.array_equal(left, right))


# -- objects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: type(obj).__name__)
def test_an_object_comes_back_as_it_was(store: Store, obj: Any) -> None:
    key = store.put(obj)
    assert store.exists(key)
    assert equal(store.get(key), obj)
    assert equal(extract(store.proxy(obj)), obj)


def test_a_missing_object_is_the_default(store: Store) -> None:
    key = store.put("short-lived")
    store.evict(key)
    assert store.get(key) is None
    assert store.get(key, default="nothing") == "nothing"
    assert not store.exists(key)
    store.evict(key)


def test_batches_keep_their_order(store: Store) -> None:
    keys = store.put_batch(OBJECTS)
    store.evict(keys[2])
    assert store.exists_batch(keys) == [True, True, False, True, True, True]
    found = store.get_batch(keys, default="nothing")
    assert found[2] == "nothing"
    assert all(equal(f, o) for n, (f, o) in enumerate(zip(found, OBJECTS, strict=True)) if n != 2)
    store.evict_batch(keys)
    assert not any(store.exists_batch(keys))
    assert store.put_batch([]) == store.get_batch([]) == []


def test_what_cannot_be_pickled_is_refused_and_leaves_nothing(files: Store) -> None:
    with pytest.raises(SerializationError):
        files.put(threading.Lock())
    with pytest.raises(SerializationError):
        files.put_batch(["fine", threading.Lock()])
    assert list(files.scan()) == []


def test_a_batch_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    said = run(
        """
import resource, sys
from proxyflow import Store
from proxyflow.errors import StoreFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with Store("file://" + sys.argv[1]) as store:
    try:
        store.put_batch([b"fits", bytes(200_000)])
    except StoreFullError:
        print(len(list(store.scan())))
""",
        tmp_path / "store",
    )
    assert said == "0"


def test_every_reader_has_an_array_of_its_own(store: Store) -> None:
    """Writing to it changes neither what is stored nor what others read."""
    array = np.arange(100_000)
    key = store.put(array)
    first, second = store.get(key), store.get(key)
    first[:] = -1
    assert np.array_equal(second, array)
    assert np.array_equal(store.get(key), array)


def test_a_scan_lists_keys_and_sizes(files: Store) -> None:
    small, large = files.put(b"x"), files.put(bytes(100_000))
    found = {stored.key: stored.nbytes for stored in files.scan()}
    assert set(found) == {small, large}
    assert 100_000 < found[large] < 101_000


def test_a_forged_key_is_refused_naming_store_and_key(files: Store) -> None:
    forged = type(files.put(b"x"))("../../etc/passwd")
    for operation in (files.get, files.exists, files.evict):
        with pytest.raises(InvalidKeyError, match=r"passwd") as caught:
            operation(forged)
        assert caught.value.key == forged
        assert str(files.connector.store_dir) in str(caught.value)


# -- proxies ---------------------------------------------------------------------------------------


def test_a_proxy_stands_for_the_object_under_its_key(store: Store) -> None:
    proxy = store.proxy([1, 2, 3])
    key = get_factory(proxy).key
    assert not is_resolved(proxy)
    assert store.get(key) == [1, 2, 3]
    assert extract(pickle.loads(pickle.dumps(proxy))) == [1, 2, 3]
    assert store.proxy(proxy) is proxy
    again = store.proxy_from_key(key)
    store.evict(key)
    with pytest.raises(ObjectNotFoundError, match="evicted") as caught:
        extract(again)
    assert caught.value.key == key
    assert caught.value.store == store.name


def test_proxies_come_in_batches(store: Store) -> None:
    proxies = store.proxy_batch(["a", None, "b"], skip_nonproxiable=True)
    assert [extract(proxy) for proxy in proxies] == ["a", None, "b"]


@pytest.mark.parametrize("target", [None, True, False])
def test_what_code_compares_by_identity_has_no_proxy(files: Store, target: Any) -> None:
    with pytest.raises(ProxyTargetError):
        files.proxy(target)
    assert files.proxy(target, skip_nonproxiable=True) is target
    assert list(files.scan()) == []


def test_factories_are_equal_if_they_get_the_same_object(files: Store) -> None:
    key, other = files.put("x"), files.put("x")
    factory, same = (get_factory(files.proxy_from_key(key)) for _ in range(2))
    assert factory == same
    assert hash(factory) == hash(same)
    assert factory != get_factory(files.proxy_from_key(other))
    assert factory != "factory"
    assert key.filename in repr(factory)
    assert str(files.connector.store_dir) in repr(factory)


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "arguments", "compressed"),
    [
        ("file://{}", {}, False),
        ("file://{}?compress=1", {}, True),
        ("file://{}?compress=1", {"compress": False}, False),
        ("file://{}", {"compress": True}, True),
        ("memory://", {}, False),
        ("memory://?compress=1", {}, True),
    ],
)
def test_compression_is_off_on_the_same_host_unless_asked_for(
    tmp_path: Path, url: str, arguments: dict[str, Any], compressed: bool
) -> None:
    with Store(url.format(tmp_path / "store"), **arguments) as store:
        store.put(bytes(1_000_000))
        assert (next(iter(store.scan())).nbytes < 100_000) is compressed


def test_compression_is_on_where_bytes_are_moved(tmp_path: Path) -> None:
    with Store(connector=PeerFileConnector(str(tmp_path / "peer"))) as store:
        key = store.put(bytes(1_000_000))
        assert len(store.connector.get(key)) < 100_000
        assert store.get(key) == bytes(1_000_000)


def test_options_travel_with_the_store(tmp_path: Path) -> None:
    """A worker that joins writes and verifies as the owner does."""
    with Store(tmp_path / "store", compress=True, verify=True) as store:
        assert set(store.config()["url"].split("?")[1].split("#")[0].split("&")) == {
            "compress=1",
            "verify=1",
        }
        joined = Store.from_config(store.config())
        joined.put(bytes(1_000_000))
        assert next(iter(store.scan())).nbytes < 100_000
    peer = PeerFileConnector(str(tmp_path / "peer"))
    with Store(connector=peer, compress=False, cache="1 MiB") as store:
        config = store.config()
        assert config == {
            "connector": "proxystore.connectors.file:FileConnector",
            "config": peer.config(),
            "compress": False,
            "cache": "1048576",
        }
        assert Store.from_config(config).config() == config


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"url": "memory://", "connector": "a:B"},
        {"url": "memory://", "secret": "s"},
        {"connector": "proxyflow.connectors.memory:Missing"},
        {"url": "memory://", "cache": "much"},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Store.from_config(config)


def test_a_store_has_a_url_or_a_connector() -> None:
    with MemoryConnector() as connector, pytest.raises(ConfigError, match="not both"):
        Store("memory://", connector=connector)


@pytest.mark.parametrize("url", [7, b"memory://", ["memory://"]])
def test_what_is_no_url_is_refused(url: Any) -> None:
    """By an error that shows it, not by one from the depths of URL parsing."""
    with pytest.raises(ConfigError, match="neither the URL"):
        Store(url)


@pytest.mark.parametrize("connector", ["memory://", object(), MemoryConnector])
def test_what_is_no_connector_is_refused(connector: Any) -> None:
    """Its class is none either: it has all the methods, and fails at the first call of one."""
    with pytest.raises(ConfigError, match="not a connector"):
        Store(connector=connector)


def test_a_refused_option_opens_nothing(tmp_path: Path) -> None:
    for options in ({"cache": "much"}, {"secret": ""}, {"secret": 5}):
        with pytest.raises(ConfigError):
            Store(tmp_path / "store", **options)
    assert os.listdir(tmp_path) == []


# -- damage and forgery ----------------------------------------------------------------------------


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_executed_is_checked_on_every_read(files: Store) -> None:
    key = files.put({"array": np.arange(100_000)})
    damage(path_of(files, key), 150)
    with pytest.raises(CorruptObjectError) as caught:
        files.get(key)
    assert caught.value.key == key
    assert str(files.connector.store_dir) in str(caught.value)


def test_what_is_copied_is_checked_what_is_mapped_if_asked_for(tmp_path: Path) -> None:
    """A small array is copied, a large one mapped: opening it takes no time."""
    with Store(tmp_path / "store") as store:
        small, large = store.put(np.arange(1000)), store.put(np.arange(100_000))
        for key in (small, large):
            damage(path_of(store, key), -1)
        with pytest.raises(CorruptObjectError):
            store.get(small)
        assert store.get(large)[-1] != 99_999
        checking = Store(store.config()["url"], verify=True)
        with pytest.raises(CorruptObjectError, match="frame 1 is damaged"):
            checking.get(large)


def test_a_short_object_is_noticed(store: Store) -> None:
    """Wherever it was cut off."""
    if isinstance(store.connector, MemoryConnector):
        key = store.put(b"x")
        store.connector.set(key, store.connector.get(key)[:-1])
    else:
        key = store.put(np.arange(100_000))
        store.connector.set(key, store.connector.get(key)[:-1])
    with pytest.raises(CorruptObjectError):
        store.get(key)
    store.connector.set(key, b"")
    with pytest.raises(CorruptObjectError):
        store.get_batch([key])


class Bomb:
    """Unpickling this leaves a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.trace,))


def test_what_a_stranger_wrote_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with (
        Store(tmp_path / "store", secret="shared") as store,
        Store(store.config()["url"], secret="guessed") as stranger,
        Store(store.config()["url"]) as nobody,
    ):
        assert store.get(store.put("text")) == "text"
        for writer in (stranger, nobody):
            key = writer.put(Bomb(str(trace)))
            with pytest.raises(AuthenticationError) as caught:
                store.get(key)
            assert caught.value.key == key
            with pytest.raises(AuthenticationError):
                extract(store.proxy_from_key(key))
        with pytest.raises(AuthenticationError, match="secret"):
            nobody.get(store.put("text"))
        assert "shared" not in repr(store) + str(store.config()) + str(pickle.dumps(store.proxy(1)))
    assert not trace.exists()


def test_the_secret_may_come_from_the_environment(tmp_path: Path) -> None:
    """A reader without it is refused; one that has it reads a plain proxy."""
    script = "import pickle, sys; print(sum(pickle.load(open(sys.argv[1], 'rb'))))"
    with Store(tmp_path / "store", secret=b"shared") as store:
        (tmp_path / "proxy").write_bytes(pickle.dumps(store.proxy([1, 2, 3])))
        assert run(script, tmp_path / "proxy", PROXYFLOW_SECRET="shared") == "6"
        for environment in ({}, {"PROXYFLOW_SECRET": "other"}):
            with pytest.raises(AssertionError, match="AuthenticationError"):
                run(script, tmp_path / "proxy", **environment)


# -- the end ---------------------------------------------------------------------------------------


def test_a_closed_store_says_so(store: Store) -> None:
    key, proxy = store.put("x"), store.proxy("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.connector, "put", None, raising=False)
        store.close()
        store.close()
        assert store.closed
        for operation in (
            lambda: store.put("x"),
            lambda: store.put_batch(["x"]),
            lambda: store.get(key),
            lambda: store.get_batch([key]),
            lambda: store.exists(key),
            lambda: store.evict(key),
            lambda: store.wait(key, 1),
            lambda: store.future(),
            lambda: store.proxy("x"),
            lambda: list(store.scan()),
            store.sweep,
        ):
            with pytest.raises(StoreClosedError):
                operation()
        assert "(closed)" in repr(store)
    with pytest.raises((StoreClosedError, ObjectNotFoundError)):
        extract(proxy)


def test_what_was_read_outlives_the_store(store: Store) -> None:
    array = np.arange(100_000)
    key, proxy = store.put(array), store.proxy(array)
    read, resolved = store.get(key), extract(proxy)
    store.close()
    read[0] = resolved[0] = 5
    assert read.sum() == resolved.sum() == array.sum() + 5
    assert extract(proxy)[0] == 5


def test_nothing_is_left_of_a_closed_store(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        store.put_batch(OBJECTS)
        future = store.future()
        future.set_result("x")
    assert os.listdir(tmp_path) == []


def test_a_store_that_nobody_closed_is_closed_at_exit(tmp_path: Path) -> None:
    run("import sys, proxyflow; proxyflow.Store(sys.argv[1]).put('x')", (tmp_path / "a").as_uri())
    assert os.listdir(tmp_path) == []


def test_closing_under_readers_gives_them_the_object_or_an_error(tmp_path: Path) -> None:
    for _ in range(5):
        store = Store(tmp_path / "store")
        keys = store.put_batch([bytes([n]) * 100_000 for n in range(8)])
        started = threading.Barrier(9)

        def read(n: int, store: Store = store, keys: Any = keys, started: Any = started) -> None:
            started.wait()
            while True:
                try:
                    data = store.get(keys[n])
                    store.evict(store.put(data))
                except StoreClosedError:
                    return
                assert data in (None, bytes([n]) * 100_000)

        with ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read, n) for n in range(8)]
            started.wait()
            store.close()
            for reader in readers:
                reader.result()
        assert os.listdir(tmp_path) == []


# -- what it tells ---------------------------------------------------------------------------------


def test_a_store_shows_where_it_is_and_whose(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        url = f"{(tmp_path / 'store').as_uri()}#{store.session}"
        assert repr(store) == f"<Store {url} (owner)>"
        joined = Store.from_config(store.config())
        assert repr(joined) == f"<Store {url} (joined)>"
        assert (store.maps, store.name) == (True, url)
    with Store(connector=PeerFileConnector(str(tmp_path / "peer"))) as store:
        assert repr(store) == f"<Store FileConnector(directory={tmp_path}/peer) (owner)>"


def test_stats_count_operations_bytes_and_seconds(store: Store) -> None:
    assert repr(store.stats) == "<StoreStats nothing yet>"
    key = store.put(bytes(range(256)) * 400)
    for _ in range(3):
        store.get(key)
    store.evict(key)
    counts = {name: totals.count for name, totals in store.stats.as_dict().items()}
    assert counts == {"put": 1, "get": 3, "evict": 1}
    assert store.stats["get"].nbytes == 3 * store.stats["put"].nbytes > 0
    assert all(totals.seconds > 0 for totals in store.stats.as_dict().values())
    assert "get 3x" in repr(store.stats)
    assert store.stats["never"].count == 0


def test_the_public_names_are_there() -> None:
    for name in proxyflow.__all__:
        assert hasattr(proxyflow, name)
