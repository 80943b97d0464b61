"""Objects in a Redis server: never half of one, gone with their owner, and no password anywhere."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proxyflow
from proxyflow import Store, extract
from proxyflow.connectors import open_url, redislayout
from proxyflow.connectors.redis import RedisConnector
from proxyflow.connectors.sessionkey import SessionKey
from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.storage import kvs
from tests.redis_server import RedisServer, redis_server

FORK = multiprocessing.get_context("fork")
MIB = 1 << 20


@pytest.fixture
def connector(server: RedisServer) -> Iterator[RedisConnector]:
    with RedisConnector(server.url) as connector:
        yield connector


def noise(nbytes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fields(server: RedisServer, connector: RedisConnector) -> int:
    """Return how many fields and strings a session takes in the server."""
    found = int(server.cli("HLEN", f"proxyflow:{connector.session}")[1:])
    return found + len(parts(server, connector))


def parts(server: RedisServer, connector: RedisConnector) -> list[str]:
    reply = server.cli("KEYS", f"proxyflow:{connector.session}:*").decode()
    return [line for line in reply.split("\r\n") if line.startswith("proxyflow:")]


@pytest.mark.parametrize("scheme", ["unix", "redis+unix"])
def test_a_socket_of_this_host(tmp_path: Path, scheme: str) -> None:
    """Proxies name the socket and the database; a client by TCP sees the same session."""
    with (
        redis_server(unixsocket=str(tmp_path / "redis.sock")) as server,
        open_url(f"{scheme}://{tmp_path}/redis.sock?db=2&lease=9") as owner,
        Store(owner.url) as store,
    ):
        array = noise(3 * MIB)
        proxy = pickle.loads(pickle.dumps(store.proxy(array)))
        assert (extract(proxy) == array).all()
        with RedisConnector(f"{server.url}/2", owner.session) as beside:
            assert len(list(beside.scan())) == 1
    with pytest.raises(ConfigError, match="unknown option 'db'"):
        Store("redis://localhost?db=2")


# -- large objects -----------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [MIB, MIB + 1, 70 * MIB + 3])
def test_large_objects_go_in_parts(
    server: RedisServer, connector: RedisConnector, nbytes: int
) -> None:
    data = noise(nbytes)
    before = fields(server, connector)
    key = connector.put_frames([b"header", data[:100], data[100:]])
    found = connector.get(key)
    assert found is not None
    assert found[:6] == b"header"
    assert (np.frombuffer(found[6:], np.uint8) == data).all()
    assert [each.nbytes for each in connector.scan()] == [nbytes + 6]
    connector.evict(key)
    assert fields(server, connector) == before


@pytest.mark.soak
def test_an_array_of_a_gigabyte(server: RedisServer) -> None:
    """Redis refuses strings above 512 MB."""
    with Store(server.url) as store:
        array = np.arange(1 << 27, dtype=np.float64)
        assert (store.get(store.put(array)) == array).all()


def test_what_is_read_is_the_readers_own(connector: RedisConnector) -> None:
    for nbytes in (100, 3 * MIB):
        key = connector.put(bytes(nbytes))
        view = connector.get_fresh(key)
        assert view is not None
        view[:] = b"x" * nbytes
        assert connector.get(key) == bytes(nbytes)


@pytest.mark.parametrize("sizes", [(3 * MIB, 10), (10, 3 * MIB), (3 * MIB, 3 * MIB + 5)])
def test_replacing_leaves_nothing_of_what_was(
    server: RedisServer, connector: RedisConnector, sizes: tuple[int, int]
) -> None:
    key = connector.new_key()
    for seed, nbytes in enumerate(sizes):
        connector.set(key, noise(nbytes, seed))
    assert connector.get(key) == noise(sizes[1], 1)
    connector.evict(key)
    assert fields(server, connector) == 2


def test_a_reader_of_what_is_being_replaced_gets_one_or_the_other(
    connector: RedisConnector,
) -> None:
    key = connector.new_key()
    contents = [bytes([letter]) * (3 * MIB) for letter in b"ab"]
    connector.set(key, contents[0])
    done = threading.Event()

    def replace() -> None:
        for turn in range(20):
            connector.set(key, contents[turn % 2])
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        assert connector.get(key) in contents
    writer.join()


def test_parts_that_are_damaged(server: RedisServer, connector: RedisConnector) -> None:
    key = connector.put(bytes(3 * MIB))
    part = parts(server, connector)[0]
    server.cli("SET", part, "short")
    with pytest.raises(CorruptObjectError, match="something else"):
        connector.get(key)
    server.cli("DEL", part)
    with pytest.raises(CorruptObjectError, match="noeviction"):
        connector.get(key)
    other = connector.put(b"some bytes")
    name = redislayout.object_field(other).decode()
    server.cli("HSET", f"proxyflow:{connector.session}", name, "short")
    with pytest.raises(CorruptObjectError, match="something else"):
        connector.get(other)


def test_a_batch_is_one_round_trip(connector: RedisConnector, monkeypatch: Any) -> None:
    trips: list[int] = []
    client = connector._session.client
    for name in ("exchange", "fetch"):
        original = getattr(client, name)

        def counting(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            trips.append(1)
            return original(*args, **kwargs)

        monkeypatch.setattr(client, name, counting)
    data = [bytes([n]) * 100 for n in range(200)]
    keys = connector.put_batch(data)
    assert [bytes(found or b"") for found in connector.get_batch(keys)] == data
    assert len(trips) == 2


# -- sessions ----------------------------------------------------------------------------------


def test_closing_drops_the_session(server: RedisServer) -> None:
    connector = RedisConnector(server.url)
    connector.put(bytes(3 * MIB))
    name = f"proxyflow:{connector.session}"
    connector.close()
    assert server.cli("EXISTS", name) == b":0\r\n"
    with pytest.raises(StoreClosedError, match="has ended"):
        RedisConnector.from_config(connector.config())


def test_a_killed_owners_objects_disappear(server: RedisServer) -> None:
    ours, theirs = FORK.Pipe()

    def own() -> None:
        store = Store(f"{server.url}?lease=0.4")
        theirs.send(store.proxy(noise(2 * MIB)))
        time.sleep(60)

    process = FORK.Process(target=own)
    process.start()
    proxy = ours.recv()
    # It lives for as long as it is renewed, and a reader does not keep it.
    time.sleep(1)
    assert extract(proxy).sum() == noise(2 * MIB).sum()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    session = proxyflow.get_factory(proxy).key.session
    until(lambda: server.cli("EXISTS", f"proxyflow:{session}") == b":0\r\n")
    with pytest.raises(StoreClosedError, match="longer lease"), Store(server.url) as store:
        store.wait(SessionKey(session, "a" * 8 + "0" * 8), 30)


def test_a_session_that_is_held_outlives_its_owner(server: RedisServer) -> None:
    from proxyflow.connectors.url import StoreURL

    owner = RedisConnector(server.url)
    key = owner.put(b"some bytes")
    held = RedisConnector.hold_url(StoreURL.parse(owner.url))
    owner.close()
    with RedisConnector.from_config(held.config()) as reader:
        assert reader.get(key) == b"some bytes"
    held.close()
    with pytest.raises(StoreClosedError):
        RedisConnector.hold_url(StoreURL.parse(owner.url))
    assert server.cli("EXISTS", f"proxyflow:{owner.session}") == b":0\r\n"


def test_writing_to_a_session_that_has_ended_leaves_nothing(server: RedisServer) -> None:
    owner = RedisConnector(server.url)
    joined = RedisConnector.from_config(owner.config())
    owner.close()
    with pytest.raises(StoreClosedError):
        joined.put(b"late")
    with pytest.raises(StoreClosedError):
        joined.put(bytes(3 * MIB))
    assert server.cli("EXISTS", f"proxyflow:{owner.session}") == b":0\r\n"
    joined.close()


def test_a_forked_child_does_not_end_the_session(connector: RedisConnector) -> None:
    key = connector.put(b"some bytes")

    def child() -> None:
        assert not connector.owner
        assert connector.get(key) == b"some bytes"
        connector.close()

    process = FORK.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert connector.get(key) == b"some bytes"


def test_gc_removes_what_lost_its_expiry(server: RedisServer) -> None:
    server.cli("HSET", "proxyflow:abcdefghij", "o:left", "over")
    server.cli("HSET", "proxyflow-of-somebody-else", "a", "b")
    with Store(server.url) as store:
        assert proxyflow.gc(server.url) == ["abcdefghij"]
        assert store.get(store.put([1])) == [1]
    assert server.cli("EXISTS", "proxyflow-of-somebody-else") == b":1\r\n"


# -- passwords ---------------------------------------------------------------------------------


def test_no_password_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server(requirepass="geheim") as server:
        url = server.url.replace("redis://", "redis://:$SOME_PASSWORD@")
        with pytest.raises(ConfigError, match="environment variable") as refused:
            Store(server.url.replace("redis://", "redis://:geheim@"))
        assert "geheim" not in str(refused.value)
        monkeypatch.setenv("SOME_PASSWORD", "geheim")
        with Store(url) as store:
            proxy = store.proxy([1, 2, 3])
            assert b"geheim" not in pickle.dumps(proxy)
            assert "geheim" not in repr(store) + repr(store.connector) + store.connector.url
            assert b"$SOME_PASSWORD" in pickle.dumps(proxy)
            assert extract(pickle.loads(pickle.dumps(proxy))) == [1, 2, 3]
        monkeypatch.setenv("SOME_PASSWORD", "wrong-one")
        with pytest.raises(StoreUnreachableError, match="password") as wrong:
            Store(url)
        assert "wrong-one" not in str(wrong.value)
        monkeypatch.delenv("SOME_PASSWORD")
        with pytest.raises(ConfigError, match="SOME_PASSWORD"):
            Store(url)


def test_a_user_with_just_the_rights_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the page on stores names."""
    monkeypatch.setenv("RUN_PASSWORD", "geheim")
    with redis_server() as server:
        rights = ("resetchannels", "~proxyflow:*", "&proxyflow:*", "+@all")
        assert server.cli("ACL", "SETUSER", "run", "on", ">geheim", *rights) == b"+OK\r\n"
        with Store(server.url.replace("//", "//run:$RUN_PASSWORD@")) as store:
            key = store.put(noise(2 * MIB))
            future = store.future(timeout=60)
            future.set_result([1])
            assert future.proxy() == [1]
            assert store.wait(key, 60)
            assert len(list(store.scan())) == 2
            store.evict(key)


@pytest.mark.parametrize(
    "url",
    [
        "unix:///redis.sock?db=0&password=geheim",
        "redis://:geheim@127.0.0.1:1/0?unknown=1",
        "redis://:geheim@127.0.0.1:1/0?lease=soon",
        "redis://:geheim@127.0.0.1:1/0?timeout=1&timeout=2",
        "redis://:geheim?@127.0.0.1:1/0",
        "redis://:#geheim@127.0.0.1:1/0",
        "redis://:/geheim@127.0.0.1:1/0",
        "redis:geheim@127.0.0.1",
    ],
)
@pytest.mark.parametrize("opened", [Store, kvs.open])
def test_no_error_shows_a_password_that_was_written_elsewhere(
    opened: Callable[[str], Any], url: str
) -> None:
    """As redis-py takes it, as an option; or not quoted, so that the rest of the URL is another."""
    with pytest.raises((StoreError, ConfigError, kvs.KVSError)) as refused:
        opened(url)
    assert "geheim" not in "".join(traceback.format_exception(refused.value, limit=0))


@pytest.mark.parametrize("lease", ["0", "-1", "nan", "inf", "soon"])
def test_a_lease_that_makes_no_sense(lease: str) -> None:
    """It is refused before the server is asked; renewing it would never rest."""
    with pytest.raises(ConfigError, match="lease"):
        Store(f"redis://127.0.0.1:1?lease={lease}")


# -- servers that fail -------------------------------------------------------------------------


def test_no_server() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        failed = "connection failed.*; check that the server runs, and host and port"
        with pytest.raises(StoreUnreachableError, match=failed):
            Store(f"redis://127.0.0.1:{port}")
    failed = "connection failed.*; check that the server runs, and the path of its socket"
    with pytest.raises(StoreUnreachableError, match=failed):
        Store("redis+unix:///nowhere/redis.sock")


def test_a_server_that_is_full() -> None:
    with redis_server(maxmemory="20mb") as server, Store(server.url) as store:
        kept = store.put(noise(5 * MIB))
        for _ in range(3):
            with pytest.raises(StoreFullError, match="maxmemory"):
                store.put(noise(30 * MIB))
        # Nothing half-written is left: there is room for as much as before.
        assert len(list(store.scan())) == 1
        store.put(noise(5 * MIB, 1))
        assert store.get(kept).sum() == noise(5 * MIB).sum()


def test_a_server_that_is_killed_and_comes_back() -> None:
    """A specific error at once; what was half written is never read."""
    with redis_server(appendonly="yes", appendfsync="always") as server:
        store = Store(f"{server.url}?lease=600")
        kept = store.put(noise(MIB))
        stop = threading.Event()

        def kill() -> None:
            time.sleep(0.2)
            server.kill()
            stop.set()

        killer = threading.Thread(target=kill)
        killer.start()
        keys = []

        def write_on() -> None:
            while True:
                keys.append(store.new_key())
                store.write(store.encode(noise(8 * MIB, len(keys))), keys[-1])

        with pytest.raises(StoreUnreachableError):
            write_on()
        killer.join()
        assert stop.is_set()
        with pytest.raises(StoreUnreachableError):
            store.get(kept)
        server.start()
        assert store.get(kept).sum() == noise(MIB).sum()
        for number, key in enumerate(keys):
            found = store.get(key)
            assert found is None or (found == noise(8 * MIB, number + 1)).all()
        assert store.get(keys[-1]) is None
        store.close()


def test_what_cannot_be_written_is_not_waited_for(server: RedisServer) -> None:
    """A session that ends ends the waiting, with a reason."""
    owner = RedisConnector(server.url)
    joined = RedisConnector.from_config(owner.config())
    failures: list[StoreError] = []

    def wait() -> None:
        try:
            joined.wait(joined.new_key(), 30)
        except StoreError as error:
            failures.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    owner.close()
    waiting.join(30)
    assert [type(error) for error in failures] == [StoreClosedError]
    joined.close()
