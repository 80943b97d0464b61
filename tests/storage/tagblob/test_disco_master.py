"""The client against a master that knows the documented protocol only, as Disco's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from proxyflow.storage.tagblob import (
    DDFS,
    AttributeNotFound,
    BlobDamaged,
    BlobNotFound,
    Forbidden,
    ServerError,
    TagNotFound,
    Unauthorized,
    Unavailable,
)

OBJECT = "blob$584-e8d2f-3a0"


class Master(BaseHTTPRequestHandler):
    """Canned answers of a master and a node, and a record of what was asked."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str, str | None, bytes]]] = []
    answers: ClassVar[dict[tuple[str, str], list[tuple[int, str | bytes]]]] = {}

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        asked = (self.command, self.path, self.headers.get("Authorization"), body)
        self.asked.append(asked)
        queue = self.answers.get((self.command, urlsplit(self.path).path), [(404, "Not found.")])
        status, text = queue.pop(0) if len(queue) > 1 else queue[0]
        data = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture
def port() -> Iterator[int]:
    Master.asked.clear()
    Master.answers.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Master)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ddfs(port: int) -> Iterator[DDFS]:
    with DDFS(f"disco://127.0.0.1:{port}") as client:
        yield client


def answer(method: str, path: str, *answers: tuple[int, Any]) -> None:
    Master.answers[method, path] = [
        (status, value if status >= 400 or isinstance(value, bytes) else json.dumps(value))
        for status, value in answers
    ]


def test_requests_have_the_documented_form(ddfs: DDFS) -> None:
    answer("POST", "/ddfs/tag/a:b", (200, ["disco://node/ddfs/vol0/tag/00/x$1-2-3"]))
    answer("PUT", "/ddfs/tag/a:b/kind%2F1", (200, ["disco://node/..."]))
    answer("GET", "/ddfs/tags/a%3A", (200, ["a:c", "a:b", "b"]))
    ddfs.tag("a:b", [["http://a/1"]], token="secret", update=True, delayed=True)
    ddfs.setattr("tag://a:b", "kind/1", "v")
    assert ddfs.list("a:") == ["a:b", "a:c"]
    (append, attribute, _) = Master.asked
    parts = urlsplit(append[1])
    assert parse_qs(parts.query) == {"update": ["1"], "delayed": ["1"]}
    assert append[2] == "Basic dG9rZW46c2VjcmV0"
    assert json.loads(append[3]) == [["http://a/1"]]
    assert attribute[2] is None
    assert attribute[3] == b'"v"'


def test_statuses_become_errors_by_status_and_text(ddfs: DDFS) -> None:
    answer("GET", "/ddfs/tag/none", (404, "Tag not found."))
    answer("GET", "/ddfs/tag/none/attr", (404, "Tag not found."))
    answer("GET", "/ddfs/tag/some/attr", (404, "Tag attribute not found."))
    answer("GET", "/ddfs/tag/closed", (401, "Incorrect or missing token."))
    answer("POST", "/ddfs/tag/odd", (403, "Invalid url object"))
    answer("GET", "/ddfs/tag/broken", (500, "Internal server error: replication_failed"))
    answer("GET", "/ddfs/tag/page", (200, b"<html>"))
    for operation, expected in [
        (lambda: ddfs.get("none"), TagNotFound),
        (lambda: ddfs.getattr("none", "attr"), TagNotFound),
        (lambda: ddfs.getattr("some", "attr"), AttributeNotFound),
        (lambda: ddfs.get("closed"), Unauthorized),
        (lambda: ddfs.tag("odd", []), Forbidden),
        (lambda: ddfs.get("broken"), ServerError),
        (lambda: ddfs.get("page"), ServerError),
    ]:
        with pytest.raises(expected):
            operation()


def test_tokens_an_old_master_shows_are_left_out(ddfs: DDFS) -> None:
    shown = {"version": 1, "urls": [], "user-data": {}, "read-token": "r", "write-token": "w"}
    answer("GET", "/ddfs/tag/data", (200, shown))
    assert ddfs.get("data") == {"version": 1, "urls": [], "user-data": {}}


def test_a_push_goes_to_the_nodes_and_is_tagged(ddfs: DDFS, port: int) -> None:
    node = f"http://127.0.0.1:{port}/ddfs/{OBJECT}"
    stored = f"disco://127.0.0.1/ddfs/vol0/blob/7f/{OBJECT}"
    answer("GET", "/ddfs/new_blob/blob", (200, [node]))
    answer("PUT", f"/ddfs/{OBJECT}", (201, stored))
    answer("POST", "/ddfs/tag/data", (200, ["disco://node/..."]))
    tags, blobs = ddfs.push("data", [(b"bytes", "blob")], replicas=1, forceon=["node1", "node2"])
    assert (tags, blobs) == (["disco://node/..."], [[stored]])
    asked = {method: path for method, path, _, _ in Master.asked}
    assert "include=node1%2Cnode2" in asked["GET"]
    assert "replicas=1" in asked["GET"]
    assert [body for method, _, _, body in Master.asked if method == "PUT"] == [b"bytes"]


def test_a_blob_url_without_a_port_is_read_at_the_masters(ddfs: DDFS) -> None:
    url = f"disco://127.0.0.1/ddfs/vol0/blob/7f/{OBJECT}"
    answer("GET", "/ddfs/tag/data", (200, {"urls": [[url]]}))
    answer("GET", f"/ddfs/vol0/blob/7f/{OBJECT}", (200, b"bytes"))
    (blob,) = ddfs.pull("data")
    with blob:
        assert blob.read() == b"bytes"
        assert blob.url == url
        assert blob.digest is None


def test_a_busy_node_is_asked_again(ddfs: DDFS, port: int) -> None:
    answer("GET", "/ddfs/new_blob/blob", (200, [f"http://127.0.0.1:{port}/ddfs/{OBJECT}"]))
    answer("PUT", f"/ddfs/{OBJECT}", (503, "Maximum number of uploaders reached."), (201, "x"))
    assert ddfs.store_blob("blob", b"bytes") == ["x"]


def test_a_failing_node_is_excluded(ddfs: DDFS, port: int) -> None:
    address = f"http://127.0.0.1:{port}/ddfs/{OBJECT}"
    answer("GET", "/ddfs/new_blob/blob", (200, [address]))
    answer("PUT", f"/ddfs/{OBJECT}", (500, "Write failed"), (201, "x"))
    assert ddfs.store_blob("blob", b"bytes") == ["x"]
    assert "exclude=127.0.0.1" in Master.asked[2][1]


def test_retries_end_with_the_error_of_the_node(ddfs: DDFS, port: int) -> None:
    address = f"http://127.0.0.1:{port}/ddfs/{OBJECT}"
    answer("GET", "/ddfs/new_blob/blob", (200, [address]))
    answer("PUT", f"/ddfs/{OBJECT}", (500, "Write failed"))
    with pytest.raises(ServerError, match="Write failed"):
        ddfs.store_blob("blob", b"bytes", retries=2)
    assert sum(method == "PUT" for method, *_ in Master.asked) == 3
    answer("GET", "/ddfs/new_blob/blob", (200, [address]), (403, "Not enough nodes."))
    with pytest.raises(ServerError, match="Write failed"):
        ddfs.store_blob("blob", b"bytes")


def test_a_proxy_carries_everything(port: int) -> None:
    url = f"disco://node7/ddfs/vol0/blob/7f/{OBJECT}"
    proxied = f"/proxy/node7/GET/ddfs/vol0/blob/7f/{OBJECT}"
    answer("GET", "/ddfs/tag/data", (200, {"urls": [[url]]}))
    answer("GET", proxied, (200, b"bytes"))
    answer("GET", "/ddfs/new_blob/blob", (200, [f"http://node7:8990/ddfs/{OBJECT}?a=1"]))
    answer("PUT", f"/proxy/node7/PUT/ddfs/{OBJECT}", (201, url))
    with DDFS("disco://nobody.invalid", proxy=f"http://127.0.0.1:{port}") as ddfs:
        with next(ddfs.pull("data")) as blob:
            assert blob.read() == b"bytes"
        assert ddfs.store_blob("blob", b"bytes") == [url]
    assert Master.asked[-1][1].endswith("?a=1")


def test_urls_that_cannot_be_read_are_not_found(ddfs: DDFS) -> None:
    with pytest.raises(BlobNotFound):
        ddfs.open_blob(["ftp://node/x"])
    with pytest.raises(BlobNotFound):
        ddfs.open_blob([])


def test_an_embedded_store_reads_urls_of_others(local: DDFS, port: int) -> None:
    answer("GET", "/file", (200, b"bytes"))
    local.tag("data", [[f"http://127.0.0.1:{port}/file"], [f"disco://127.0.0.1:{port}/file"]])
    for blob in local.pull("data"):
        with blob:
            assert blob.read() == b"bytes"
    with pytest.raises(BlobNotFound):
        local.open_blob([f"http://127.0.0.1:{port}/none"])
    with pytest.raises(Unavailable):
        local.open_blob(["http://127.0.0.1:9/x"])
    local.chunk("chunks", [f"http://127.0.0.1:{port}/file"])
    assert [DDFS.blob_name(replicas[0]) for replicas in local.urls("chunks")] == ["file-0"]


def test_a_checksum_that_does_not_fit_is_damage(ddfs: DDFS, monkeypatch: Any) -> None:
    url = f"disco://127.0.0.1/ddfs/vol0/blob/7f/{OBJECT}"
    answer("GET", f"/ddfs/vol0/blob/7f/{OBJECT}", (200, b"bytes"))
    header = {"value": f"xxh3_128 {'ab' * 16} 5"}
    real = Master.end_headers

    def with_digest(self: Master) -> None:
        self.send_header("X-DDFS-Digest", header["value"])
        real(self)

    monkeypatch.setattr(Master, "end_headers", with_digest)
    with pytest.raises(BlobDamaged):
        ddfs.open_blob([url])
    header["value"] = "something else"
    with ddfs.open_blob([url]) as blob:
        assert blob.digest is None
