"""Reaching a server: URLs, passwords, sockets, TLS, and what it costs to ask."""

from __future__ import annotations

import contextlib
import pickle
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyflow.storage import kvs
from tests.redis_server import RedisServer, redis_server
from tests.storage.kvs.network import listening, put

TLS = Path(__file__).parent / "tls"
MIB = 1024 * 1024


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
        "redis://host?timeout=inf",
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


@pytest.mark.parametrize("scheme", ["unix", "redis+unix"])
def test_a_socket_of_this_host(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}/redis.sock?db=2"
    with redis_server(unixsocket=str(tmp_path / "redis.sock")) as server:
        with kvs.open(url) as handle:
            put(handle, "a", 1)
            assert handle.url == url
        with kvs.open(f"{server.url}/2") as handle:
            assert kvs.get(handle, "a") == 1
    with pytest.raises(kvs.UnreachableError):
        kvs.open(url)


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
