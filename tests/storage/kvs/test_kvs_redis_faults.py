"""A server that dies, falls silent or has no room: specific errors, soon, and nothing in part."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxyflow.storage import kvs
from proxyflow.storage.kvs.engines.redis_views import PART_BYTES
from tests.redis_server import RedisServer, redis_server
from tests.storage.kvs.network import forward, listening, put

MIB = 1024 * 1024


def test_a_server_that_was_restarted(tmp_path: Path) -> None:
    """Dead connections are replaced; directories that are remembered but gone are made anew."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        with kvs.open(server.url) as handle:
            put(handle, "d.a", 1)
            put(handle, "d.b", 1)
            server.kill()
            for call in (lambda: kvs.get(handle, "d.a"), lambda: put(handle, "d.a", 1)):
                with pytest.raises(kvs.UnreachableError):
                    call()
            server.start()
            put(handle, "d.c", 1)
            assert list(kvs.get_dir(handle, "d")) == ["c"]
    finally:
        server.kill()


def test_a_commit_after_a_restart(tmp_path: Path) -> None:
    """That the kept connection is dead is seen before the commit is sent on it."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        with kvs.open(server.url) as handle:
            put(handle, "a", 1)
            server.kill()
            server.start()
            put(handle, "b", 1)
            assert list(kvs.get_dir(handle)) == ["b"]
    finally:
        server.kill()


def test_a_server_killed_while_a_value_is_on_its_way(tmp_path: Path) -> None:
    """What was committed before is there after the restart, and nothing of the rest."""
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    server.start()
    try:
        with kvs.open(server.url) as handle:
            put(handle, "before", bytes(20_000))

            passed = 0
            through = threading.Event()

            def serve(connection: socket.socket) -> None:
                nonlocal passed
                with socket.create_connection(("127.0.0.1", server.port)) as outside:
                    back = threading.Thread(target=forward, args=(outside, connection))
                    back.start()
                    while data := connection.recv(65536):
                        passed += len(data)
                        if passed > 5 * MIB:
                            through.set()
                            server.kill()
                            break
                        outside.sendall(data)
                    connection.shutdown(socket.SHUT_RDWR)
                    back.join()

            with listening(serve) as port, kvs.open(f"redis://127.0.0.1:{port}") as far:
                kvs.put(far, "small", 1)
                kvs.put(far, "large", bytes(20 * MIB))
                with pytest.raises(kvs.UnreachableError):
                    kvs.commit(far)
                assert through.is_set()
            server.start()
            assert list(kvs.get_dir(handle)) == ["before"]
            assert len(kvs.get(handle, "before", raw=True)) == 20_000
    finally:
        server.kill()


def test_a_server_that_goes_away_while_a_value_is_read(redis_url: str, server: RedisServer) -> None:
    """A value is whole or an error."""
    with kvs.open(redis_url) as handle:
        put(handle, "large", bytes(20 * MIB))

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as outside:
            back = threading.Thread(target=forward, args=(connection, outside))
            back.start()
            passed = 0
            while passed < 5 * MIB and (data := outside.recv(65536)):
                passed += len(data)
                connection.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)
            outside.shutdown(socket.SHUT_RDWR)
            back.join()

    with listening(serve) as port, kvs.open(f"redis://127.0.0.1:{port}") as far:
        for read in (kvs.get, lambda *of: kvs.readinto(*of, bytearray(20 * MIB))):
            with pytest.raises(kvs.UnreachableError):
                read(far, "large")


def test_a_connection_that_dies_when_it_is_used_again(server: RedisServer, redis_url: str) -> None:
    """A look is repeated on a new connection; a commit is not, for it may have been carried out."""
    deaf = threading.Event()

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as outside:
            back = threading.Thread(target=forward, args=(outside, connection))
            back.start()
            while data := connection.recv(65536):
                if deaf.is_set():
                    deaf.clear()
                    break
                outside.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)
            outside.shutdown(socket.SHUT_RDWR)
            back.join()

    with listening(serve) as port, kvs.open(f"redis://127.0.0.1:{port}") as far:
        put(far, "a", 1)
        deaf.set()
        assert kvs.get(far, "a") == 1
        kvs.put(far, "b", 1)
        deaf.set()
        with pytest.raises(kvs.UnreachableError):
            kvs.commit(far)


def test_a_watch_ends_with_its_server(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        with kvs.open(server.url) as handle:
            values = kvs.watch(handle, "a", timeout=60)
            assert next(values) is kvs.MISSING
            server.kill()
            with pytest.raises(kvs.UnreachableError):
                next(values)
    finally:
        server.kill()


def test_a_watch_of_a_server_that_fell_silent(server: RedisServer, redis_url: str) -> None:
    """Asked now and then whether it is there, and believed for as long as it answers."""
    silent = threading.Event()

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as outside:
            back = threading.Thread(target=forward, args=(outside, connection))
            back.start()
            while data := connection.recv(65536):
                if not silent.is_set():
                    outside.sendall(data)
            outside.shutdown(socket.SHUT_RDWR)
            back.join()

    with listening(serve) as port, kvs.open(f"redis://127.0.0.1:{port}?timeout=0.2") as far:
        values = kvs.watch(far, "a", timeout=1)
        assert next(values) is kvs.MISSING
        with pytest.raises(kvs.WatchTimeoutError):
            next(values)
        forever = kvs.watch(far, "a")
        assert next(forever) is kvs.MISSING
        silent.set()
        with pytest.raises(kvs.UnreachableError, match="did not answer"):
            next(forever)


def test_a_watch_stays_with_the_process_that_began_it(redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        values = kvs.watch(handle, "a", timeout=60)
        assert next(values) is kvs.MISSING
        pid = os.fork()
        if pid == 0:
            try:
                next(values)
            except kvs.ClosedError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        put(handle, "a", 1)
        assert next(values) == 1
        values.close()  # type: ignore[attr-defined]


def test_a_call_that_is_interrupted(server: RedisServer, redis_url: str) -> None:
    """Its reply, when it comes, is not taken for that of another call."""

    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with kvs.open(redis_url) as handle:
            put(handle, "a", "of a")
            put(handle, "b", "of b")
            server.cli("CLIENT", "PAUSE", "500")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                kvs.get(handle, "a")
            assert kvs.get(handle, "b") == "of b"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_more_threads_than_connections_are_kept(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        put(handle, "a", 1)
        server.cli("CLIENT", "PAUSE", "300")
        with ThreadPoolExecutor(24) as pool:
            assert list(pool.map(lambda _: kvs.get(handle, "a"), range(24))) == [1] * 24
        assert kvs.get(handle, "a") == 1


def test_a_user_who_may_not_watch(server: RedisServer, redis_url: str) -> None:
    server.cli("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-@pubsub")
    with kvs.open(f"redis://reader:pw@127.0.0.1:{server.port}") as handle:
        assert not kvs.exists(handle, "a")
        with pytest.raises(kvs.AccessDeniedError, match="NOPERM"):
            next(kvs.watch(handle, "a"))


def test_a_server_without_memory() -> None:
    """A commit is refused as a whole; removing still works, and makes room."""
    with redis_server(maxmemory="60mb") as server, kvs.open(server.url) as handle:
        put(handle, "a", bytes(12 * MIB))
        kvs.put(handle, "small", 1)
        kvs.put(handle, "large", bytes(100 * MIB))
        with pytest.raises(kvs.StorageFullError, match="raise maxmemory"):
            kvs.commit(handle)
        assert list(kvs.get_dir(handle)) == ["a"]
        # The server goes on up to one value beyond its limit; what it took is never reachable.
        server.cli("CONFIG", "SET", "maxmemory", "1")
        kvs.put_unlink(handle, "a")
        kvs.put(handle, "b", 1)
        with pytest.raises(kvs.StorageFullError):
            kvs.commit(handle)
        assert list(kvs.get_dir(handle)) == ["a"]
        kvs.put_unlink(handle, "a")
        kvs.commit(handle)
        assert list(kvs.get_dir(handle)) == []


def test_a_commit_that_is_refused_gives_its_memory_back() -> None:
    """What was sent of it would else keep a full server full for an hour."""
    with redis_server(maxmemory="40mb") as server, kvs.open(server.url) as handle:
        for _ in range(2):
            kvs.put(handle, "large", bytes(60 * MIB))
            with pytest.raises(kvs.StorageFullError):
                kvs.commit(handle)
            assert server.cli("DBSIZE") == b":0\r\n"
        put(handle, "fits", bytes(20 * MIB))


def test_a_commit_that_another_writer_came_before_leaves_nothing(
    server: RedisServer, redis_url: str
) -> None:
    """Its first attempt was for a directory that is another by now; the second one counts."""
    with kvs.open(redis_url) as handle, kvs.open(redis_url) as other:
        put(handle, "d.a", 1)
        kvs.put_mkdir(other, "d")
        kvs.commit(other)
        put(handle, "d.a", bytes(2 * PART_BYTES))
        kvs.put_unlink(other, "d")
        kvs.commit(other)
        assert list(kvs.get_dir(handle)) == []
    assert server.cli("DBSIZE") == b":0\r\n"


def test_a_user_who_may_not_publish(server: RedisServer, redis_url: str) -> None:
    """As new users of servers since version 7; the commit is refused before it changes anything."""
    server.cli("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels")
    with kvs.open(f"redis://mute:pw@127.0.0.1:{server.port}") as handle:
        kvs.put(handle, "a", bytes(10_000))
        with pytest.raises(kvs.AccessDeniedError, match="ACL SETUSER"):
            kvs.commit(handle)
        assert not kvs.exists(handle, "a")
    assert server.cli("DBSIZE") == b":0\r\n"


def test_parts_that_were_sent_in_vain_expire() -> None:
    """As those of a process that was killed before its commit; the server drops them by itself."""
    with redis_server() as server:

        def serve(connection: socket.socket) -> None:
            """Let uploads through, but no commit."""
            with socket.create_connection(("127.0.0.1", server.port)) as outside:
                back = threading.Thread(target=forward, args=(outside, connection))
                back.start()
                while (data := connection.recv(65536)) and b"EVALSHA" not in data:
                    outside.sendall(data)
                at = data.rfind(b"*", 0, data.find(b"EVALSHA"))
                outside.sendall(data[:at])
                outside.shutdown(socket.SHUT_WR)
                back.join()
                connection.shutdown(socket.SHUT_RDWR)

        with listening(serve) as port, kvs.open(f"redis://127.0.0.1:{port}") as far:
            kvs.put(far, "a", bytes(2 * PART_BYTES))
            with pytest.raises(kvs.UnreachableError):
                kvs.commit(far)
        assert server.cli("KEYS", "*").count(b"kvs:p:") == 2
        assert b"keys=2,expires=2" in server.cli("INFO", "keyspace")
        with kvs.open(server.url) as handle:
            put(handle, "a", bytes(2 * PART_BYTES))
        assert b"keys=5,expires=2" in server.cli("INFO", "keyspace")


def test_a_part_that_vanishes_before_the_commit(server: RedisServer, redis_url: str) -> None:
    """As an eviction would have it; here everything is removed between upload and commit."""

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as outside:
            back = threading.Thread(target=forward, args=(outside, connection))
            back.start()
            while data := connection.recv(65536):
                at = data.find(b"EVALSHA")
                if b"SET" in data[: max(at, 0)]:
                    start = data.rindex(b"*", 0, at)
                    outside.sendall(data[:start])
                    deadline = time.monotonic() + 60
                    while b":0" in server.cli("DBSIZE") and time.monotonic() < deadline:
                        time.sleep(0.001)
                    server.cli("FLUSHALL")
                    data = data[start:]
                outside.sendall(data)
            outside.shutdown(socket.SHUT_RDWR)
            back.join()

    with listening(serve) as port, kvs.open(f"redis://127.0.0.1:{port}") as far:
        kvs.put(far, "a", bytes(10_000))
        with pytest.raises(kvs.StorageFullError, match="dropped parts"):
            kvs.commit(far)
        assert not kvs.exists(far, "a")


def test_a_part_that_was_evicted(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        put(handle, "a", bytes(10_000))
        keys = server.cli("KEYS", "*").split(b"\r\n")
        (part,) = [key for key in keys if key.startswith(b"kvs:p:")]
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"*2\r\n$3\r\nDEL\r\n$%d\r\n%s\r\n" % (len(part), part))
            assert connection.recv(10) == b":1\r\n"
        with pytest.raises(kvs.DamagedError, match="noeviction"):
            kvs.get(handle, "a")
        with pytest.raises(kvs.DamagedError, match="noeviction"):
            kvs.readinto(handle, "a", bytearray(100), 50)


def test_keys_of_others_in_our_place(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        root = "\0" * 15 + "\1"
        server.cli("SET", "kvs:d:" + root, "not a directory")
        with pytest.raises(kvs.DamagedError, match="something else writes keys"):
            kvs.get(handle, "a")
        server.cli("DEL", "kvs:d:" + root)
        server.cli("HSET", "kvs:d:" + root, "a", "?what")
        with pytest.raises(kvs.DamagedError, match="no known kind"):
            kvs.get(handle, "a")
