"""The engine on a server: refusals, silence and death are specific errors, and soon."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxyflow.storage import kvs
from proxyflow.storage.kvs import values
from tests.redis_server import RedisServer, redis_server

TLS = Path(__file__).parent / "tls"
MIB = 1024 * 1024


def put(handle: kvs.Handle, key: str, value: object) -> None:
    kvs.put(handle, key, value)
    kvs.commit(handle)


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Answer each connection to a port with `serve`, for the length of a ``with`` body."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def guarded(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=guarded, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


def forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


# -- who we are -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """Run a server with a password."""
    with redis_server(requirepass="s3cret/pass") as server:
        yield server


def test_a_password_in_the_url_or_in_the_environment(
    guarded: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVS_TEST_PASSWORD", "s3cret/pass")
    for userinfo in (":s3cret%2Fpass", "default:s3cret%2Fpass", ":$KVS_TEST_PASSWORD"):
        with kvs.open(f"redis://{userinfo}@127.0.0.1:{guarded.port}/1") as handle:
            put(handle, "a", 1)
            assert kvs.get(handle, "a") == 1


def test_a_wrong_password_is_refused_and_never_shown(
    guarded: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"127.0.0.1:{guarded.port}"
    for url in (f"redis://{where}", f"redis://:wr0ng@{where}", f"redis://user:wr0ng@{where}"):
        with pytest.raises(kvs.AccessDeniedError) as caught:
            kvs.open(url)
        said = f"{caught.value} {caught.value!r} {pickle.loads(pickle.dumps(caught.value))}"
        assert "check the user and password" in said
        assert "wr0ng" not in said
    monkeypatch.delenv("KVS_TEST_PASSWORD", raising=False)
    with pytest.raises(kvs.InvalidURLError, match="the environment has no KVS_TEST_PASSWORD"):
        kvs.open(f"redis://:$KVS_TEST_PASSWORD@{where}")


def test_what_a_handle_shows_of_its_url(guarded: RedisServer) -> None:
    with kvs.open(f"redis://default:s3cret%2Fpass@127.0.0.1:{guarded.port}/1?timeout=5") as handle:
        assert handle.url == f"redis://default:***@127.0.0.1:{guarded.port}/1?timeout=5"
        with pytest.raises(kvs.KeyNotFoundError) as caught:
            kvs.get(handle, "no")
        assert "s3cret" not in f"{caught.value} {handle!r} {kvs.get_dir(handle)!r}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3c/ret@host",
        "redis://:s3cret@host:port",
        "redis://host/one",
        "redis://host/-1",
        "redis://host?timeout=0",
        "redis://host?timeout=soon",
        "redis://host?speed=1",
        "redis://host?speed",
        "redis://host#1",
        "redis://user@host",
        "s3cret://host",
        "",
    ],
)
def test_urls_that_mean_nothing(url: str) -> None:
    with pytest.raises(kvs.InvalidURLError) as caught:
        kvs.open(url)
    assert "s3c" not in str(caught.value).replace("'s3cret' is no engine", "")


def test_a_database_that_the_server_does_not_have(redis_url: str) -> None:
    with pytest.raises(kvs.KVSError, match="DB index is out of range"):
        kvs.open(f"{redis_url}/99")


# -- where the server is --------------------------------------------------------------------


def test_a_socket_of_this_host(tmp_path: Path) -> None:
    with redis_server(unixsocket=str(tmp_path / "redis.sock")) as server:
        with kvs.open(f"unix://{tmp_path}/redis.sock?db=2") as handle:
            put(handle, "a", 1)
        with kvs.open(f"{server.url}/2") as handle:
            assert kvs.get(handle, "a") == 1
    with pytest.raises(kvs.UnreachableError):
        kvs.open(f"unix://{tmp_path}/redis.sock")


def test_tls(server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS large values go the same way; a certificate that nobody vouches for is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")

    def serve(connection: socket.socket) -> None:
        with (
            context.wrap_socket(connection, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", server.port)) as outside,
        ):
            # TLS is not for two threads at a time: what is to be said goes first.
            inside.settimeout(0.02)
            while True:
                try:
                    data = inside.recv(65536)
                    if not data:
                        return
                    outside.sendall(data)
                except TimeoutError:
                    outside.settimeout(0.02)
                    with contextlib.suppress(TimeoutError):
                        inside.setblocking(True)
                        inside.sendall(outside.recv(MIB))
                    inside.settimeout(0.02)

    body = random.Random(1).randbytes(2 * MIB)
    with listening(serve) as port:
        with pytest.raises(kvs.UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            kvs.open(f"rediss://localhost:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "certificate.pem"))
        with kvs.open(f"rediss://localhost:{port}") as handle:
            put(handle, "a", body)
            assert kvs.get(handle, "a", raw=True) == body
            values = kvs.watch(handle, "a", timeout=60)
            assert len(next(values)) > 0
            with kvs.open(redis_url) as other:
                put(other, "a", 1)
            assert next(values) == 1
            values.close()  # type: ignore[attr-defined]


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(kvs.UnreachableError, match="Connection refused"):
        kvs.open(f"redis://127.0.0.1:{port}")


def test_a_server_that_says_nothing() -> None:
    with (
        listening(lambda connection: None) as port,
        pytest.raises(kvs.UnreachableError, match=r"did not answer within 0\.2 s"),
    ):
        kvs.open(f"redis://127.0.0.1:{port}?timeout=0.2")


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 100_000, b"$3\r\nlonger\r\n", b""],
)
def test_a_server_that_is_none(said: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)

    with listening(serve) as port, pytest.raises(kvs.UnreachableError):
        kvs.open(f"redis://127.0.0.1:{port}?timeout=5")


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (b"LOADING Redis is loading the dataset in memory", kvs.UnreachableError),
        (b"MISCONF Redis is configured to save RDB snapshots", kvs.StorageFullError),
        (b"READONLY You can't write against a read only replica.", kvs.UnsupportedError),
        (b"ERR something else", kvs.KVSError),
    ],
)
def test_refusals(refusal: bytes, error: type[kvs.KVSError]) -> None:
    def serve(connection: socket.socket) -> None:
        while connection.recv(100):
            connection.sendall(b"-" + refusal + b"\r\n")

    with listening(serve) as port, pytest.raises(error, match=refusal.decode()[:10]):
        kvs.open(f"redis://127.0.0.1:{port}?timeout=5")


# -- a server that goes away ----------------------------------------------------------------


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


# -- a server without room ------------------------------------------------------------------


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
            kvs.put(far, "a", bytes(40 * MIB))
            with pytest.raises(kvs.UnreachableError):
                kvs.commit(far)
        assert server.cli("KEYS", "*").count(b"kvs:p:") == 2
        assert b"keys=2,expires=2" in server.cli("INFO", "keyspace")
        with kvs.open(server.url) as handle:
            put(handle, "a", bytes(40 * MIB))
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


# -- what it costs --------------------------------------------------------------------------


def commands_run(server: RedisServer) -> dict[str, int]:
    lines = server.cli("INFO", "commandstats").decode().splitlines()
    stats = [line.removeprefix("cmdstat_").split(":", 1) for line in lines if "calls=" in line]
    return {name: int(rest.split("calls=")[1].split(",")[0]) for name, rest in stats}


def test_round_trips(server: RedisServer, redis_url: str) -> None:
    """A thousand keys are one or two scripts; so are a thousand reads."""
    with kvs.open(redis_url) as handle:
        keys = [f"d.sub.k{number}" for number in range(1000)]
        for scripts in (2, 1):  # the second commit knows the directories
            server.cli("CONFIG", "RESETSTAT")
            for key in keys:
                kvs.put(handle, key, scripts)
            kvs.commit(handle)
            assert commands_run(server).get("evalsha") in range(1, scripts + 2)
        server.cli("CONFIG", "RESETSTAT")
        assert kvs.get_many(handle, keys) == [1] * 1000
        assert commands_run(server)["evalsha"] == 1


def test_more_keys_than_the_server_takes_at_once(redis_url: str) -> None:
    """It would close the connection without a word."""
    with kvs.open(redis_url) as handle:
        for number in range(350_000):
            kvs.put(handle, f"k{number}", 1)
        with pytest.raises(kvs.UnsupportedError, match="100,000 keys at a time"):
            kvs.commit(handle)
        assert list(kvs.get_dir(handle)) == []


def test_listing_costs_only_its_own_children(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        for number in range(2000):
            kvs.put(handle, f"d.below.k{number}", number)
            kvs.put(handle, f"beside.k{number}", number)
        kvs.put(handle, "d.a", 1)
        kvs.commit(handle)
        server.cli("CONFIG", "RESETSTAT")
        assert kvs.get_dir(handle, "d").list_all() == (["a"], ["below"])
        ran = commands_run(server)
        assert ran["hgetall"] == 1
        assert ran["hget"] <= 4
        assert set(ran) <= {"hgetall", "hget", "evalsha", "eval", "config", "info", "script"}


def test_nothing_is_left_of_what_was_removed(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        kvs.namespace_create(handle, "n")
        for namespace in ("primary", "n"):
            for number in range(5):
                kvs.put(handle, f"a.b{number}.c", bytes(40 * MIB if number == 1 else 10_000))
                kvs.put(handle, f"a.b{number}.c", bytes(40 * MIB if number == 2 else 10_000))
            kvs.put(handle, "z", bytes(10_000))
            kvs.put(handle, "z", 1)
            kvs.commit(handle, namespace=namespace)
        kvs.compare_and_swap(handle, "z", 1, bytes(10_000))
        kvs.put_unlink(handle, "a")
        kvs.put(handle, "z.y", bytes(10_000))
        kvs.commit(handle)
        with kvs.get_dir(handle) as root:
            root.clear()
        kvs.namespace_remove(handle, "n")
    assert server.cli("DBSIZE") == b":0\r\n"


def test_scripts_that_the_server_forgot(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        put(handle, "a", bytes(10_000))
        for key in ("b", "c"):
            server.cli("SCRIPT", "FLUSH")
            put(handle, key, bytes(10_000))
            server.cli("SCRIPT", "FLUSH")
            assert len(kvs.get(handle, key, raw=True)) == 10_000


def test_sync_is_promised_only_where_it_is_kept() -> None:
    with redis_server() as server, kvs.open(server.url) as handle:
        kvs.put(handle, "a", 1)
        with pytest.raises(kvs.UnsupportedError, match="appendonly yes"):
            kvs.commit(handle, kvs.FLUX_KVS_SYNC)
        assert not kvs.exists(handle, "a")


def test_writers_that_are_always_late(redis_url: str) -> None:
    """After the timeout that is said, rather than tried for ever."""
    with (
        kvs.open(f"{redis_url}?timeout=0.3") as handle,
        kvs.open(redis_url) as other,
    ):
        put(handle, "a", 0)
        counter = itertools.count(1)

        def always(stored: bytes | None) -> bool:
            put(other, "a", next(counter))
            return True

        with pytest.raises(kvs.KVSError, match="other writers came first"):
            handle.backend.swap("primary", (b"a",), always, values.encode(1))


def test_the_client_needs_no_package(redis_url: str) -> None:
    code = """
import sys
sys.modules["redis"] = None
from proxyflow.storage import kvs
handle = kvs.open(sys.argv[1])
kvs.put(handle, "a", 1)
kvs.commit(handle)
print(kvs.get(handle, "a"), "numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, redis_url],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "1 False\n", done.stderr
