"""What our server does beyond Disco's protocol: used where it is announced, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from proxyflow.storage.tagblob import DDFS, Forbidden, Unauthorized
from proxyflow.storage.tagblob.extensions import EXTENSIONS_HEADER, MAX_BLOBS
from proxyflow.storage.tagblob.http_client import HttpClient
from tests.s3_server import free_port, wait_for_port
from tests.storage.tagblob.serving import run_server

AT_ONCE = 100_000


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("served")
    with run_server(f"file://{root}", "--volumes", "2", "--max-at-once", str(AT_ONCE)) as port:
        yield port


@pytest.fixture
def ddfs(port: int) -> Iterator[DDFS]:
    """Yield a client that has spoken to the server before."""
    with DDFS(f"disco://127.0.0.1:{port}") as ddfs:
        ddfs.exists("anything")
        yield ddfs


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the requests that are sent from now on, as they come."""
    sent: list[str] = []
    send = HttpClient._send

    def noted(self: HttpClient, method: str, url: str, *args: Any, **options: Any) -> Any:
        sent.append(f"{method} {url.split('/ddfs/')[1].split('?')[0].split('/')[0]}")
        return send(self, method, url, *args, **options)

    monkeypatch.setattr(HttpClient, "_send", noted)
    return sent


def pulled(ddfs: DDFS, tag: str) -> list[bytes]:
    found = []
    for blob in ddfs.pull(tag):
        with blob:
            found.append(blob.read())
    return found


def test_small_blobs_come_with_their_tag_in_one_request(
    ddfs: DDFS, tag: str, requests: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"of a file")
    _, blobs = ddfs.push(tag, [(b"one", "a"), (b"", "b"), str(tmp_path / "file")], replicas=2)
    assert requests == ["POST blobs"]
    assert ddfs.urls(tag) == blobs
    assert [len(replicas) for replicas in blobs] == [2, 2, 2]
    assert pulled(ddfs, tag) == [b"one", b"", b"of a file"]


def test_an_update_sends_what_is_missing_at_once(ddfs: DDFS, tag: str, requests: list[str]) -> None:
    ddfs.push(tag, [(b"one", "a")], update=True)
    del requests[:]
    tags, blobs = ddfs.push(tag, [(b"other", "a"), (b"two", "b")], update=True)
    assert requests == ["GET tag", "POST blobs"]
    assert pulled(ddfs, tag) == [b"two", b"one"]
    assert [*reversed(blobs)] == ddfs.urls(tag)
    assert len(tags) == 1


@pytest.mark.parametrize(
    "files",
    [
        [(bytes(AT_ONCE), "large")],
        [(b"x", f"blob-{n}") for n in range(MAX_BLOBS + 1)],
    ],
    ids=["large", "many"],
)
def test_what_is_too_much_for_one_request_comes_in_several(
    ddfs: DDFS, tag: str, requests: list[str], files: list[Any]
) -> None:
    ddfs.push(tag, files)
    assert requests[-1] == "POST tag"
    assert [len(data) for data in pulled(ddfs, tag)] == [len(data) for data, _ in files]


def test_a_stored_blob_is_one_request_whatever_its_replicas(
    ddfs: DDFS, requests: list[str]
) -> None:
    replicas = ddfs.store_blob("small", b"bytes", replicas=2, forceon=["vol1"])
    assert requests == ["POST blobs"]
    assert len(replicas) == 2
    for replica in replicas:
        with ddfs.open_blob([replica]) as blob:
            assert blob.read() == b"bytes"


def test_attributes_come_with_the_urls(ddfs: DDFS, tag: str, requests: list[str]) -> None:
    """In one change of the tag: nobody sees its urls without them."""
    ddfs.put(tag, [["http://a/1"]], attributes={"kind": "log", "of": "today"})
    assert requests == ["PUT tag"]
    assert ddfs.attrs(tag) == {"kind": "log", "of": "today"}
    assert ddfs.urls(tag) == [["http://a/1"]]


def test_a_wrong_token_is_refused(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [], token="secret")
    with pytest.raises(Unauthorized) as refused:
        ddfs.push(tag, [(b"x", "x")], token="guess")
    assert refused.value.name == tag
    assert ddfs.urls(tag, token="secret") == []
    ddfs.push(tag, [(b"x", "x")], token="secret")
    assert len(ddfs.urls(tag, token="secret")) == 1


def test_nothing_is_tagged_when_a_volume_is_not_to_be_had(ddfs: DDFS, tag: str) -> None:
    with pytest.raises(Forbidden):
        ddfs.push(tag, [(b"x", "x")], replicas=9)
    assert not ddfs.exists(tag)


@pytest.mark.parametrize("blob", ["a/b", "", "..", "a$1-2-3"])
def test_names_of_blobs_are_checked(port: int, tag: str, blob: str) -> None:
    answer = urllib3.request(
        "POST", f"http://127.0.0.1:{port}/ddfs/blobs?tag={tag}", body=f'[["{blob}", 1]]\nx'
    )
    assert answer.status == 403


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b'[["a", 1]]\n',
        b'[["a", 1]]\nxy',
        b'[["a", -1], ["b", 2]]\nx',
        b'[["a", true]]\nx',
        b'[["a", 1, 2]]\nx',
        b'{"a": 1}\nx',
        b"7\nx",
        b"[" * 50_000 + b"\n",
        b"[" + b'["a", 0],' * MAX_BLOBS + b'["a", 0]]\n',
    ],
)
def test_a_body_that_is_something_else_is_refused(port: int, tag: str, body: bytes) -> None:
    """And leaves no tag: sizes that do not add up would cut blobs at the wrong places."""
    address = f"http://127.0.0.1:{port}/ddfs"
    assert urllib3.request("POST", f"{address}/blobs?tag={tag}", body=body).status == 403
    assert urllib3.request("GET", f"{address}/tag/{tag}").status == 404


def test_a_body_above_the_limit_is_refused(port: int) -> None:
    head = b'[["a", %d]]\n' % AT_ONCE
    address = f"http://127.0.0.1:{port}/ddfs/blobs"
    assert urllib3.request("POST", address, body=head + bytes(AT_ONCE)).status == 413


def test_attributes_in_a_body_are_checked(port: int, tag: str) -> None:
    address = f"http://127.0.0.1:{port}/ddfs/tag/{tag}"
    for attributes, status in (
        ('["a"]', 403),
        ('{"a": 1}', 403),
        ('{"": "x"}', 403),
        ('{"ddfs:write-token": "x"}', 404),
    ):
        body = f'{{"urls": [], "user-data": {attributes}}}'
        assert urllib3.request("PUT", address, body=body).status == status
    assert urllib3.request("GET", address).status == 404


def test_a_server_that_announces_nothing_gets_discos_requests(
    tmp_path: Path, requests: list[str]
) -> None:
    with (
        run_server(f"file://{tmp_path}/s", "--max-at-once", "0") as port,
        DDFS(f"disco://127.0.0.1:{port}") as ddfs,
    ):
        for _ in range(2):
            del requests[:]
            ddfs.push("data", [(b"x", "x")])
            assert [request.split()[0] for request in requests] == ["GET", "PUT", "POST"]
        ddfs.put("data", [], attributes={"a": "b"})
        assert ddfs.attrs("data") == {"a": "b"}


def test_a_server_replaced_by_a_plainer_one_is_spoken_to_plainly(
    tmp_path: Path, requests: list[str]
) -> None:
    """A client that still believes in the extensions finds out, and loses nothing."""
    port = free_port()
    command = [sys.executable, "-m", "proxyflow.storage.tagblob.server"]
    command += ["--root", f"file://{tmp_path}/s", "--port", str(port)]
    with DDFS(f"disco://127.0.0.1:{port}") as ddfs:
        for options in ([], ["--max-at-once", "0"]):
            process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
            try:
                wait_for_port(port, process)
                del requests[:]
                ddfs.push("data", [(b"x", "x")])
                ddfs.push("data", [(b"x", "x")])
            finally:
                process.terminate()
                process.wait()
                ddfs.close()
    assert [request.split()[0] for request in requests] == ["POST", *["GET", "PUT", "POST"] * 2]


def test_the_announcement_is_a_header(port: int) -> None:
    answer = urllib3.request("GET", f"http://127.0.0.1:{port}/ddfs/tags/none:")
    assert answer.headers[EXTENSIONS_HEADER] == f"blobs={AT_ONCE} attributes"
