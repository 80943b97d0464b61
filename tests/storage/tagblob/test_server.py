"""The server: the HTTP interface of a Disco master, request by request."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from proxyflow.storage.tagblob import (
    DDFS,
    BlobDamaged,
    BlobExists,
    StoreFull,
    TooLarge,
    TruncatedUpload,
    Unavailable,
    Unsupported,
    server,
)
from proxyflow.storage.tagblob.http_client import HttpClient
from tests.s3_server import free_port, wait_for_port
from tests.storage.tagblob.serving import run_server


class Client:
    """Bare HTTP, as another implementation would speak it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._pool = urllib3.PoolManager(retries=False)

    def __call__(
        self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        if token is not None:
            encoded = base64.b64encode(f"token:{token}".encode()).decode()
            headers["Authorization"] = f"Basic {encoded}"
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.port}{path}"
        return self._pool.request(method, url, body=body, headers=headers)

    def json(self, *arguments: Any, **options: Any) -> Any:
        answer = self(*arguments, **options)
        assert answer.status in (200, 201), answer.data
        assert answer.headers["Content-Type"].startswith("application/json")
        return json.loads(answer.data)

    def close(self) -> None:
        self._pool.clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[Client]:
    options = ["--volumes", "2", "--max-blob", "3000000", "--max-tag-body", "100000"]
    with run_server(f"file://{root}/store", *options, "--uploads", "2") as port:
        client = Client(port)
        yield client
        client.close()


def path_of(url: str) -> str:
    assert url.startswith("disco://127.0.0.1/ddfs/")
    return url.removeprefix("disco://127.0.0.1")


# -- tags -------------------------------------------------------------------------------------


def test_a_tag_by_hand(client: Client, tag: str) -> None:
    (url,) = client.json("POST", f"/ddfs/tag/{tag}", b'[["http://a/1", "http://b/1"]]')
    assert path_of(url).startswith("/ddfs/vol0/tag/")
    found = client.json("GET", f"/ddfs/tag/{tag}")
    assert list(found) == ["version", "id", "last-modified", "user-data", "urls"]
    assert found["urls"] == [["http://a/1", "http://b/1"]]
    assert client.json("GET", f"/ddfs/tag/{tag}/ddfs:urls") == found["urls"]
    client.json("PUT", f"/ddfs/tag/{tag}", b'[["tag://other"]]')
    client.json("PUT", f"/ddfs/tag/{tag}/ddfs:urls", b'[["tag://another"]]')
    client.json("PUT", f"/ddfs/tag/{tag}/kind%2Fx", b'"log"')
    assert client.json("GET", f"/ddfs/tag/{tag}/kind/x") == "log"
    assert client.json("GET", f"/ddfs/tag/{tag}")["user-data"] == {"kind/x": "log"}
    assert client.json("DELETE", f"/ddfs/tag/{tag}/kind/x") == "deleted"
    assert client.json("GET", f"/ddfs/tags/{tag}") == [tag]
    assert tag in client.json("GET", "/ddfs/tags")
    assert tag in client.json("GET", "/ddfs/tags/")
    assert client.json("DELETE", f"/ddfs/tag/{tag}") == "deleted"
    assert client.json("DELETE", f"/ddfs/tag/{tag}") == "deleted"


def test_flags_of_an_append(client: Client, tag: str) -> None:
    for query in ("?update=1", "?update=1&delayed=1", "?update=1", "?update=&delayed="):
        client.json("POST", f"/ddfs/tag/{tag}{query}", b'[["tag://x"]]')
    assert client.json("GET", f"/ddfs/tag/{tag}")["urls"] == [["tag://x"], ["tag://x"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/ddfs/tag/{tag}:none", None, 404),
        ("GET", "/ddfs/tag/{tag}:none/attr", None, 404),
        ("GET", "/ddfs/tag/{tag}/attr", None, 404),
        ("GET", "/ddfs/tag/{tag}/ddfs:other", None, 404),
        ("PUT", "/ddfs/tag/{tag}/ddfs:other", b'"x"', 404),
        ("POST", "/ddfs/tag/{tag}/attr", b"[]", 404),
        ("DELETE", "/ddfs/tag/{tag}:none/attr", None, 404),
        ("GET", "/ddfs/tag/bad%20name", None, 403),
        ("POST", "/ddfs/tag/bad%20name", b"[]", 403),
        ("POST", "/ddfs/tag/" + "x" * 512, b"[]", 403),
        ("GET", "/ddfs/tag/%FF", None, 403),
        ("POST", "/ddfs/tag/{tag}", b"", 403),
        ("POST", "/ddfs/tag/{tag}", b"[", 403),
        ("POST", "/ddfs/tag/{tag}", b"[" * 50_000, 403),
        ("POST", "/ddfs/tag/{tag}", b"\xff", 403),
        ("POST", "/ddfs/tag/{tag}", b'{"a": 1}', 403),
        ("POST", "/ddfs/tag/{tag}?update=1", b"[[]]", 403),
        ("PUT", "/ddfs/tag/{tag}", b'["http://a/1"]', 403),
        ("PUT", "/ddfs/tag/{tag}/attr", b"1", 403),
        ("PUT", "/ddfs/tag/{tag}/attr", b"not json", 403),
        ("PUT", "/ddfs/tag/{tag}/attr", b'"' + b"v" * 5000 + b'"', 403),
        ("PUT", "/ddfs/tag/{tag}/" + "n" * 1025, b'"v"', 403),
        ("PUT", "/ddfs/tag/{tag}/ddfs:read-token", b"7", 403),
        ("POST", "/ddfs/tag/{tag}", b" " * 100_001, 413),
        ("GET", "/ddfs/new_blob/bad%20name", None, 403),
        ("GET", "/ddfs/new_blob/", None, 403),
        ("GET", "/ddfs/new_blob/blob?replicas=3", None, 403),
        ("GET", "/ddfs/new_blob/blob?replicas=x", None, 403),
        ("GET", "/ddfs/new_blob/blob?include=vol7", None, 403),
        ("GET", "/ddfs/new_blob/blob?exclude=vol0,vol1", None, 403),
        ("GET", "/ddfs/vol0/blob/00/../../../etc/passwd", None, 404),
        ("GET", "/ddfs/vol0/blob/00/x$1-2-3", None, 404),
        ("GET", "/ddfs/vol0/blob/ff/x$1-2-3", None, 404),
        ("GET", "/ddfs/vol9/blob/ff/x$1-2-3", None, 404),
        ("GET", "/ddfs/vol0/tag/ff/x$1-2-3", None, 404),
        ("GET", "/ddfs/vol0/tag/junk", None, 404),
        ("GET", "/nothing/here", None, 404),
        ("PATCH", "/ddfs/tag/{tag}", b"[]", 405),
    ],
)
def test_statuses(
    client: Client, tag: str, method: str, path: str, body: bytes | None, status: int
) -> None:
    client.json("PUT", f"/ddfs/tag/{tag}", b"[]")
    answer = client(method, path.format(tag=tag), body)
    assert answer.status == status, answer.data
    if status != 405:
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert b"/store" not in answer.data
    assert client.json("GET", f"/ddfs/tag/{tag}")["urls"] == []


def test_tokens_are_basic_authorization(client: Client, tag: str) -> None:
    client.json("POST", f"/ddfs/tag/{tag}", b"[]", token="secret:\u00fc")
    assert client("GET", f"/ddfs/tag/{tag}").status == 401
    assert client("GET", f"/ddfs/tag/{tag}", token="secret").status == 401
    assert client("GET", f"/ddfs/tag/{tag}", Authorization="Bearer secret").status == 401
    assert client("GET", f"/ddfs/tag/{tag}", Authorization="Basic ***").status == 401
    other_user = base64.b64encode("user:secret:\u00fc".encode()).decode()
    assert client("GET", f"/ddfs/tag/{tag}", Authorization=f"Basic {other_user}").status == 401
    assert client("DELETE", f"/ddfs/tag/{tag}").status == 401
    assert client("POST", f"/ddfs/tag/{tag}", b"[]").status == 401
    found = client.json("GET", f"/ddfs/tag/{tag}", token="secret:\u00fc")
    assert "read-token" not in found
    assert "write-token" not in found


def test_a_tag_object_fetched_by_path_shows_no_tokens_and_wants_one(
    client: Client, tag: str
) -> None:
    (old,) = client.json("POST", f"/ddfs/tag/{tag}", b'[["http://a/1"]]')
    (new,) = client.json("PUT", f"/ddfs/tag/{tag}/ddfs:read-token", b'"s3cr3t"')
    for url in (old, new):
        assert client("GET", path_of(url)).status == 401
        answer = client("GET", path_of(url), token="s3cr3t")
        assert answer.status == 200
        assert b"token" not in answer.data
        assert json.loads(answer.data)["id"] == url.rsplit("/", 1)[1]


# -- blobs ------------------------------------------------------------------------------------


def put_address(client: Client, name: str, replicas: int = 1) -> str:
    return str(client.json("GET", f"/ddfs/new_blob/{name}?replicas={replicas}")[0])


def test_a_blob_by_hand(client: Client) -> None:
    addresses = client.json("GET", "/ddfs/new_blob/blob?replicas=2")
    assert len(addresses) == 2
    for address in addresses:
        assert address.startswith(f"http://127.0.0.1:{client.port}/ddfs/blob$")
        answer = client("PUT", address, b"bytes")
        assert answer.status == 201
        path = path_of(json.loads(answer.data))
        assert client("GET", path).data == b"bytes"
        head = client("HEAD", path)
        assert head.headers["Content-Length"] == "5"
        part = client("GET", path, Range="bytes=1-2")
        assert (part.status, part.data) == (206, b"yt")
        assert client("GET", path, Range="bytes=9-").status == 416


def test_a_blob_is_written_once(client: Client) -> None:
    address = put_address(client, "once")
    path = path_of(json.loads(client("PUT", address, b"first").data))
    answer = client("PUT", address, b"second")
    assert answer.status == 500
    assert answer.headers["X-DDFS-Error"] == BlobExists.__name__
    assert client("GET", path).data == b"first"


def test_a_blob_name_must_come_from_the_server(client: Client) -> None:
    address = put_address(client, "mine")
    base, _, query = address.partition("?")
    forged = [
        base,
        f"{base}x?{query}",
        base.replace("mine$", "other$") + f"?{query}",
        address.replace("volume=vol", "volume=vol9"),
        address.replace("expires=", "expires=9"),
        address.replace("expires=", "expires=x"),
        address.replace("signature=", "signature=%C3%BC"),
    ]
    for url in forged:
        answer = client("PUT", url, b"bytes")
        assert answer.status == 403, url
    assert client("PUT", f"http://127.0.0.1:{client.port}/ddfs/plain", b"bytes").status == 403
    assert client("PUT", address, b"bytes").status == 201


def test_included_volumes_are_named_in_the_addresses(client: Client) -> None:
    (address,) = client.json("GET", "/ddfs/new_blob/blob?include=vol1")
    assert "volume=vol1" in address
    (address,) = client.json("GET", "/ddfs/new_blob/blob?exclude=vol1&replicas=")
    assert "volume=vol0" in address


def test_a_blob_above_the_limit_is_refused(client: Client, root: Path) -> None:
    answer = client("PUT", put_address(client, "large"), b"x" * 3_000_001)
    assert answer.status == 413
    # The same when nobody says beforehand how much there is.
    chunks = (b"x" * 100_000 for _ in range(31))
    answer = client("PUT", put_address(client, "large"), chunks)
    assert answer.status == 413
    assert answer.headers["X-DDFS-Error"] == TooLarge.__name__
    assert not list(root.rglob("large$*"))
    assert client("PUT", put_address(client, "exact"), b"x" * 3_000_000).status == 201


def raw_upload(client: Client, name: str, length: int, body: bytes) -> socket.socket:
    """Begin an upload and leave it where `body` ends."""
    address = put_address(client, name)
    target = address.partition(str(client.port))[2]
    sock = socket.create_connection(("127.0.0.1", client.port))
    head = f"PUT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


def test_a_truncated_upload_leaves_nothing(client: Client, root: Path) -> None:
    raw_upload(client, "cut", 2_000_000, b"x" * 1_500_000).close()
    # The place of the upload is free again, so whatever it left would be there by now.
    deadline = time.monotonic() + 30
    while client("PUT", put_address(client, "next"), b"x").status == 503:
        assert time.monotonic() < deadline
    assert not list(root.rglob("cut$*"))


def test_uploads_beyond_the_limit_are_told_to_come_again(client: Client) -> None:
    waiting = [raw_upload(client, f"waiting-{n}", 10, b"x") for n in range(2)]
    try:
        deadline = time.monotonic() + 30
        while client("PUT", put_address(client, "third"), b"x").status != 503:
            assert time.monotonic() < deadline
    finally:
        for sock in waiting:
            sock.sendall(b"x" * 9)
            assert sock.recv(12) == b"HTTP/1.1 201"
            sock.close()
    # The client of this package waits and comes again by itself.
    ddfs = DDFS(f"disco://127.0.0.1:{client.port}")
    ddfs.push("data", [(b"x" * 100_000, f"blob-{n}") for n in range(20)], parallel=8)
    ddfs.close()


def test_an_upload_that_stands_still_is_given_up(tmp_path: Path) -> None:
    program = (
        "import sys, asyncio\n"
        "from aiohttp import web\n"
        "from proxyflow.storage.tagblob.embedded import EmbeddedEngine\n"
        "from proxyflow.storage.tagblob.server import Limits, make_app\n"
        "app = make_app(EmbeddedEngine(sys.argv[1]), limits=Limits(idle=0.2))\n"
        "web.run_app(app, host='127.0.0.1', port=int(sys.argv[2]), print=None)\n"
    )
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(port)])
    try:
        wait_for_port(port, process)
        client = Client(port)
        sock = raw_upload(client, "slow", 10, b"x")
        sock.settimeout(60)
        answer = sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400")
        assert TruncatedUpload.__name__.encode() in answer
        sock.close()
        client.close()
    finally:
        process.terminate()
        process.wait()


def test_a_bug_is_an_error_500_that_shows_nothing(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from proxyflow.storage.tagblob import embedded, server\n"
        "embedded.EmbeddedEngine.names = lambda self, prefix: {}['s3cr3t']\n"
        "sys.exit(server.main(sys.argv[1:]))\n"
    )
    port = free_port()
    options = ["--root", f"file://{tmp_path}/s", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", program, *options], stderr=subprocess.PIPE)
    try:
        wait_for_port(port, process)
        client = Client(port)
        answer = client("GET", "/ddfs/tags")
        assert (answer.status, answer.data) == (500, b"Internal server error.")
        client.close()
    finally:
        process.terminate()
        _, logged = process.communicate()
    assert b"KeyError" in logged


def test_a_full_volume_behind_the_server_is_a_full_store(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "from proxyflow.storage.tagblob.server import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    port = free_port()
    options = ["--root", f"file://{tmp_path}/s", "--volumes", "2", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", program, *options], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        with DDFS(f"disco://127.0.0.1:{port}") as ddfs:
            with pytest.raises(StoreFull):
                ddfs.push("data", [(b"x" * 2**22, "large")])
            ddfs.push("data", [(b"x", "small")])
            assert len(ddfs.urls("data")) == 1
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("size", [5, 2 * 2**20])
def test_a_damaged_replica_is_skipped_by_the_client_and_repaired(
    client: Client, root: Path, size: int
) -> None:
    """Whether the server notices it or, as with larger blobs, who reads it and tells the server."""
    data = b"b" * size
    with DDFS(f"disco://127.0.0.1:{client.port}") as ddfs:
        replicas = ddfs.store_blob("damaged", data, replicas=2)
        obj = replicas[0].rsplit("/", 1)[1]
        volume = replicas[0].split("/")[4]
        (path,) = root.glob(f"store/{volume}/blob/*/{obj}")
        path.write_bytes(b"B" * size)
        with pytest.raises(BlobDamaged):
            ddfs.open_blob(replicas[:1])
        while path.read_bytes() != data:
            # Which replica is tried first is drawn anew each time.
            with ddfs.open_blob(replicas) as blob:
                assert blob.read() == data


def test_a_reported_blob_is_changed_only_if_it_is_damaged(client: Client, root: Path) -> None:
    """Anybody may ask: what is whole, has no other replica or is no blob stays as it is."""
    path = path_of(json.loads(client("PUT", put_address(client, "alone"), b"bytes").data))
    (file,) = root.glob(f"store/vol*/blob/*/{path.rsplit('/', 1)[1]}")
    assert client.json("POST", path) == "checked"
    assert file.read_bytes() == b"bytes"
    file.write_bytes(b"BYTES")
    assert client.json("POST", path) == "checked"
    assert file.read_bytes() == b"BYTES"
    file.unlink()
    assert client("POST", path).status == 404
    assert client("POST", "/ddfs/vol0/blob/00/..%2f..%2fvolume.json").status == 404
    assert client("POST", path.replace("/vol", "/vol9")).status == 404


def test_a_small_damaged_blob_is_not_given_out(client: Client, root: Path) -> None:
    """Disco's clients compare no checksum: they must not get wrong bytes, but try elsewhere."""
    path = path_of(json.loads(client("PUT", put_address(client, "whole"), b"bytes").data))
    assert client("GET", path).data == b"bytes"
    (file,) = root.glob(f"store/vol*/blob/*/{path.rsplit('/', 1)[1]}")
    file.write_bytes(b"BYTES")
    answer = client("GET", path)
    assert answer.status == 500
    assert answer.headers["X-DDFS-Error"] == "BlobDamaged"


def test_clients_and_embedded_users_see_the_same_store(client: Client, root: Path) -> None:
    embedded = DDFS(f"file://{root}/store")
    with DDFS(f"disco://127.0.0.1:{client.port}") as wire:
        wire.push("shared", [(b"by wire", "one")], update=True)
        embedded.push("shared", [(b"embedded", "two")], update=True)
        wire.push("shared", [(b"again", "one"), (b"again", "two")], update=True)
        assert all(url.startswith("disco://localhost/") for (url,) in embedded.urls("shared"))
        assert all(url.startswith("disco://127.0.0.1/") for (url,) in wire.urls("shared"))
        for ddfs in (embedded, wire):
            found = []
            for blob in ddfs.pull("shared"):
                with blob:
                    found.append(blob.read())
            assert found == [b"embedded", b"by wire"]
        with pytest.raises(Unsupported):
            wire.gc()
    assert embedded.gc(grace=0).missing == []
    assert len(embedded.urls("shared")) == 2


def test_blobs_on_volumes_that_are_not_local_are_served(s3: Any, tmp_path: Path) -> None:
    environment = {
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    with run_server(f"s3://store/{tmp_path.name}", env=environment) as port:
        client = Client(port)
        data = bytes(range(256)) * 10_000
        address = put_address(client, "remote")
        path = path_of(json.loads(client("PUT", address, data).data))
        assert client("GET", path).data == data
        part = client("GET", path, Range="bytes=1000-1499999")
        assert (part.status, part.data) == (206, data[1000:1_500_000])
        assert part.headers["Content-Range"] == f"bytes 1000-1499999/{len(data)}"
        assert client("GET", path, Range="bytes=-10").data == data[-10:]
        assert client("GET", path, Range="nonsense").data == data
        assert client("GET", path, Range="bytes=99999999-").status == 416
        assert client("HEAD", path).headers["Content-Length"] == str(len(data))
        client.close()


# -- the program ------------------------------------------------------------------------------


def test_urls_show_the_advertised_host(tmp_path: Path) -> None:
    with run_server(f"file://{tmp_path}/s", "--advertise", "node7.example") as port:
        client = Client(port)
        (address,) = client.json("GET", "/ddfs/new_blob/blob")
        assert address.startswith(f"http://node7.example:{port}/ddfs/")
        answer = client("PUT", address.replace("node7.example", "127.0.0.1"), b"x")
        url = json.loads(answer.data)
        assert url.startswith("disco://node7.example/ddfs/")
        client.json("POST", "/ddfs/tag/data", json.dumps([[url]]).encode())
        assert client.json("GET", "/ddfs/tag/data")["urls"] == [[url]]
        client.close()
    embedded = DDFS(f"file://{tmp_path}/s")
    assert embedded.urls("data") == [[url.replace("node7.example", "localhost")]]


def test_garbage_is_collected_now_and_then(tmp_path: Path) -> None:
    options = ["--gc-interval", "0.1", "--gc-grace", "0"]
    with run_server(f"file://{tmp_path}/s", *options) as port:
        with DDFS(f"disco://127.0.0.1:{port}") as ddfs:
            ddfs.tag("gone", [])
            ddfs.delete("gone")
        deadline = time.monotonic() + 30
        while (tmp_path / "s/tag/gone").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_sigterm_ends_the_server(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "proxyflow.storage.tagblob.server"]
    process = subprocess.Popen(
        [*command, "--root", f"{tmp_path}/s", "--port", str(port)], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert b"serving" in process.stderr.readline()
    wait_for_port(port, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def test_an_upload_under_way_when_the_server_ends_leaves_nothing(tmp_path: Path) -> None:
    with run_server(f"file://{tmp_path}/s") as port:
        client = Client(port)
        sock = raw_upload(client, "cut", 5_000_000, b"x" * 4_000_000)
        client.close()
    sock.close()
    assert not list(tmp_path.rglob("cut$*"))


@pytest.mark.parametrize("arguments", [["--root", "relative"], ["--root", "nosuch://x"]])
def test_a_root_that_makes_no_sense_ends_the_program(arguments: list[str]) -> None:
    assert server.main(arguments) == 1


@pytest.mark.parametrize("place", ["a port that is taken", "no port", "no host"])
def test_a_place_where_it_cannot_listen_ends_the_program(tmp_path: Path, place: str) -> None:
    """In one line that names the place, which is not said to be served before."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        options = {
            "a port that is taken": ["--port", taken],
            "no port": ["--port", "99999"],
            "no host": ["--host", "192.0.2.1", "--port", taken],
        }
        done = subprocess.run(
            [sys.executable, "-m", server.__name__, "--root", f"file://{tmp_path}/s"]
            + options[place],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"cannot listen on {'192.0.2.1' if place == 'no host' else '127.0.0.1'}:" in done.stderr


# -- the client's connections -----------------------------------------------------------------


def test_nobody_there_is_unavailable() -> None:
    ddfs = DDFS(f"disco://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable) as caught:
        ddfs.get("data")
    assert isinstance(caught.value, ConnectionError)


def test_connections_are_reused(client: Client) -> None:
    http = HttpClient()
    for _ in range(5):
        http.json("GET", f"http://127.0.0.1:{client.port}/ddfs/tags")
    pool = http._connections().connection_from_host("127.0.0.1", client.port)
    assert pool.num_connections == 1
    http.close()


def test_a_server_that_breaks_off_is_unavailable() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    answers = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"]

    def serve() -> None:
        for answer in answers:
            sock, _ = listener.accept()
            sock.recv(65536)
            sock.sendall(answer)
            sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    ddfs = DDFS(f"disco://127.0.0.1:{port}")
    for _ in answers:
        with pytest.raises(Unavailable):
            ddfs.get("data")
    ddfs.close()
    thread.join()
    listener.close()
