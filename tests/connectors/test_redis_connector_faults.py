"""A Redis server that refuses, whose answers get lost, or that is silent: nothing else is lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from proxyflow.connectors.redis import RedisConnector
from proxyflow.connectors.redislayout import INLINE
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import StoreFullError, StoreUnreachableError
from tests.redis_server import RedisServer, redis_server
from tests.storage.kvs.network import forward, listening

MIB = 1 << 20


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lasts(server: RedisServer, connector: RedisConnector) -> int:
    """Return for how many milliseconds a session is there, if nobody renews it."""
    return int(server.cli("PTTL", f"proxyflow:{connector.session}")[1:])


def wait_for_renewal(server: RedisServer, connector: RedisConnector) -> None:
    before = lasts(server, connector)

    def renewed() -> bool:
        nonlocal before
        now, before = before, lasts(server, connector)
        assert before > 0, "the session is gone"
        return before > now

    until(renewed)


@contextmanager
def losing_answers(server: RedisServer) -> Iterator[tuple[str, threading.Event]]:
    """Forward to a server; the event has the next answer lost, and its connection with it."""
    lossy = threading.Event()

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as outside:
            there = threading.Thread(target=forward, args=(connection, outside))
            there.start()
            while answer := outside.recv(65536):
                if lossy.is_set():
                    lossy.clear()
                    break
                connection.sendall(answer)
            for end in (connection, outside):
                end.shutdown(socket.SHUT_RDWR)
            there.join()

    with listening(serve) as port:
        yield f"redis://127.0.0.1:{port}", lossy


def test_an_object_that_was_written_twice_as_the_answer_got_lost(server: RedisServer) -> None:
    """The second attempt finds what the first has written, which is no older object to clear up."""
    with losing_answers(server) as (url, lossy), RedisConnector(url) as connector:
        key = connector.new_key()
        assert not connector.exists(key)
        lossy.set()
        connector.set(key, bytes(INLINE + 1))
        assert not lossy.is_set()
        assert connector.get(key) == bytes(INLINE + 1)


def test_letting_go_of_a_session_counts_once(server: RedisServer) -> None:
    """What somebody else holds is not ended by an owner whose server's answer got lost."""
    with losing_answers(server) as (url, lossy):
        owner = RedisConnector(url)
        direct = StoreURL.parse(owner.url).replace(authority=f"127.0.0.1:{server.port}")
        with RedisConnector.hold_url(direct) as held:
            key = owner.put(b"some bytes")
            lossy.set()
            with pytest.raises(StoreUnreachableError):
                owner.close()
            assert held.get(key) == b"some bytes"


@pytest.mark.parametrize("nbytes", [100, 100_000])
def test_a_replacement_that_does_not_fit_leaves_what_was(nbytes: int) -> None:
    with redis_server(maxmemory="20mb") as server, RedisConnector(server.url) as connector:
        key = connector.new_key()
        connector.set(key, bytes(nbytes))
        with pytest.raises(StoreFullError, match="maxmemory"):
            connector.set(key, bytes(40 * MIB))
        assert connector.get(key) == bytes(nbytes)
        # Nothing is left of the other.
        connector.set(key, bytes(10 * MIB))


def test_a_server_that_refuses_for_a_while_does_not_end_the_session() -> None:
    """As one whose disk is full, or that is a replica for a moment: renewing goes on afterwards."""
    with redis_server() as server, RedisConnector(server.url, lease=8) as connector:
        key = connector.put(b"some bytes")
        server.cli("CONFIG", "RESETSTAT")
        server.cli("REPLICAOF", "127.0.0.1", "1")
        until(lambda: b"errorstat_" in server.cli("INFO", "errorstats"))
        server.cli("REPLICAOF", "NO", "ONE")
        wait_for_renewal(server, connector)
        assert connector.get(key) == b"some bytes"


def test_a_silent_server_does_not_end_the_sessions_on_others() -> None:
    with (
        redis_server() as silent,
        redis_server() as sound,
        RedisConnector(sound.url, lease=4) as connector,
    ):
        other = RedisConnector(silent.url, lease=4)
        os.kill(silent.pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                wait_for_renewal(sound, connector)
        finally:
            os.kill(silent.pid, signal.SIGCONT)
        other.close()


def test_ending_a_session_takes_no_memory_for_its_small_objects() -> None:
    """Nor does renewing it, which is the same look at its objects every few seconds."""
    with redis_server() as server:

        def peak() -> int:
            found = re.search(rb"used_memory_peak:(\d+)", server.cli("INFO", "memory"))
            assert found is not None
            return int(found[1])

        with RedisConnector(server.url) as connector:
            for _ in range(20):
                connector.put_batch([bytes(INLINE // 2)] * 200)
            before = peak()
        assert peak() - before < 4 * MIB


def test_an_object_may_take_longer_to_write_than_a_lease(server: RedisServer) -> None:
    """Over a slow link; the session is renewed by its owner meanwhile, its new parts are not."""

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as outside:
            back = threading.Thread(target=forward, args=(outside, connection))
            back.start()
            while data := connection.recv(65536):
                at = data.find(b"EVAL")
                if at > 0:
                    start = data.rindex(b"*", 0, at)
                    outside.sendall(data[:start])
                    time.sleep(3)
                    data = data[start:]
                outside.sendall(data)
            outside.shutdown(socket.SHUT_WR)
            back.join()

    with RedisConnector(server.url, lease=2) as owner, listening(serve) as port:
        far = {**owner.config(), "url": f"redis://127.0.0.1:{port}"}
        with RedisConnector.from_config(far) as writer:
            key = writer.put(bytes(2 * MIB))
        part = f"proxyflow:{owner.session}:{key.name}:*"
        names = server.cli("KEYS", part).decode().split("\r\n")[2::2]
        assert len(names) == 2
        # From now on they are the session's, and go with it.
        assert all(0 < int(server.cli("PTTL", name)[1:]) <= 2000 for name in names)
        assert owner.get(key) == bytes(2 * MIB)
