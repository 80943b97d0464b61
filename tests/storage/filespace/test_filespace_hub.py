"""What lies under a filespace: hubs others can write to, locks, ranges, swaps."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import xxhash
from filespace_proxy import proxied
from filespace_support import Bucket, files_below, head_of

from proxyflow.storage.filespace import (
    ExternalStoreError,
    ExternalStoreUnavailableError,
    Filespace,
    FsContentError,
    FsExistsError,
    FsNotFoundError,
    HubCorruptError,
    HubUnavailableError,
    InvalidArgumentError,
    LocalDataStoreConfig,
    Workspace,
)
from proxyflow.storage.filespace.blobs import Blobs, open_blobs
from proxyflow.storage.filespace.flock import FileLock
from proxyflow.storage.filespace.streams import RangeReader


def forge(hub: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the head of the only filespace as somebody who can write to the hub might."""
    head = os.path.join(hub, next(path for path in files_below(hub) if path.endswith("/head")))
    facts = json.loads(head_of(hub).partition(b"\n")[2])
    change(facts)
    body = json.dumps(facts).encode()
    with open(head, "wb") as file:
        file.write(xxhash.xxh3_128_hexdigest(body).encode() + b"\n" + body)


def tail(*ops: Any) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        facts["tail"].append({"v": facts["version"] + 1, "txn": "t", "ops": list(ops)})
        facts["version"] += 1

    return change


ENTRY = ["file", "i" * 32, 1, 1, 5, {"c": "../../../../etc/passwd", "h": ""}]
GOOD = [*ENTRY[:5], {"c": "0" * 32 + "-1"}]
NODES = {"n": ["0" * 32 + "-1", "d", 1, {}]}


@pytest.mark.parametrize(
    "change",
    [
        tail(["put", ["files", "x"], ENTRY]),
        tail(["put", ["files", "x"], ["socket", *GOOD[1:]]]),
        tail(["put", ["files", "x"], GOOD[:3]]),
        tail(["put", ["files", "x"], ["dir", "i" * 32, 1, 1, 0, NODES]]),
        tail(["put", ["files", "..", "x"], GOOD]),
        tail(["put", ["nowhere", "x"], GOOD]),
        tail(["put", [], GOOD]),
        tail(["put", 7, GOOD]),
        tail(["chmod", ["files"]]),
        tail("put"),
        tail(["remove", ["files", "none"], "v"]),
        tail(["remove", ["files", "d"], "v"]),
        tail(["move", ["files", "none"], ["files", "y"], "v"]),
        lambda facts: facts.update(root=["../../x", "d", 1, {}]),
        lambda facts: facts.update(graves=[[1, 1.0, ["../x"], [], ""]]),
        lambda facts: facts.update(graves=[[1, 1.0, [], ["/etc/passwd"], ""]]),
        lambda facts: facts.update(graves=[[1, 1.0, [], [], ".."]]),
        lambda facts: facts.pop("recent"),
        lambda facts: facts.update(version="many"),
    ],
)
def test_a_forged_head_is_refused_and_reaches_nothing_outside(
    workspace: Workspace, tmp_path: Any, change: Callable[[dict[str, Any]], None]
) -> None:
    """No identifier or path in a hub leads out of it, and nothing is half applied."""
    filespace = workspace.link_filespace(name="data")
    filespace.fs.create_dir("/d")
    filespace.fs.write_file("/d/f", b"x")
    filespace.sync_all()
    forge(str(tmp_path / "hub"), change)
    for call in (
        lambda: filespace.fs.list_dir("/"),
        lambda: workspace.link_filespace(name="data"),
    ):
        with pytest.raises(HubCorruptError):
            call()


@pytest.fixture(params=["directory", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Any) -> Blobs:
    if request.param == "directory":
        return open_blobs(str(tmp_path / "hub"), {})
    if request.param == "memory":
        return open_blobs(f"memory://blobs-{tmp_path.name}", {})
    bucket = request.getfixturevalue("bucket")
    return open_blobs(f"s3://{bucket.name}/hub", bucket.storage_options)


def test_a_swap_replaces_exactly_the_version_that_was_read(blobs: Blobs) -> None:
    def swap(tag: Any, data: bytes) -> Any:
        with blobs.serialised("a/head", 5):
            return blobs.swap("a/head", tag, data)

    assert blobs.read_tagged("a/head") is None
    first = swap(None, b"1")
    assert first is not None
    assert swap(None, b"other") is None
    second = swap(first, b"2")
    assert swap(first, b"other") is None
    tagged = blobs.read_tagged("a/head")
    assert tagged == (b"2", second)
    assert blobs.read_tagged("a/head", first) == (b"2", second)
    known = blobs.read_tagged("a/head", second)
    assert known is not None
    assert known.tag == second
    if not blobs.url.startswith("memory:"):
        assert known.data == b""
    third = swap(second, b"3")
    assert blobs.read_tagged("a/head", second) == (b"3", third)
    assert blobs.read("a/head") == b"3"


def test_blobs_are_written_listed_measured_and_deleted(blobs: Blobs) -> None:
    blobs.write({})
    blobs.write({"f/x/1": b"one", "f/y/2": b"two"})
    assert sorted(blobs.names("f")) == ["f/x/1", "f/y/2"]
    assert list(blobs.names("none")) == []
    assert blobs.size("f/x/1") == 3
    assert blobs.read_range("f/x/1", 1, 3) == b"ne"
    for call in (lambda: blobs.size("f/z"), lambda: blobs.read_range("f/z", 0, 1)):
        with pytest.raises(FileNotFoundError):
            call()
    blobs.delete(["f/x/1", "f/x/none"])
    blobs.prune("f/x")
    assert list(blobs.names("f")) == ["f/y/2"]
    blobs.delete_folder("f")
    blobs.delete_folder("f")
    assert blobs.read("f/y/2") is None
    blobs.close()


def test_what_a_directory_cannot_do_names_it(tmp_path: Any) -> None:
    blobs = open_blobs(str(tmp_path), {})
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for call in (
        lambda: blobs.delete(["folder"]),
        lambda: blobs.delete_folder("file"),
        lambda: blobs.prune("file"),
        lambda: blobs.read("folder"),
        lambda: blobs.publish("folder", ["none"]),
    ):
        with pytest.raises(HubUnavailableError, match=str(tmp_path)):
            call()


def test_a_lock_waits_for_whoever_removes_its_file(tmp_path: Any) -> None:
    """A lock on a file that is removed meanwhile would exclude nobody."""
    path = str(tmp_path / "lock")
    first = FileLock(path)
    got: list[FileLock] = []
    waiter = threading.Thread(target=lambda: got.append(FileLock(path, timeout=60)))
    waiter.start()
    first.remove()
    first.release()
    waiter.join(timeout=60)
    with pytest.raises(TimeoutError):
        FileLock(path)
    os.unlink(path)
    got[0].remove()
    with FileLock(path, shared=True), FileLock(path, shared=True):
        pass


def test_a_lock_excludes_while_its_file_comes_and_goes(tmp_path: Any) -> None:
    path = str(tmp_path / "lock")
    inside: list[int] = []
    worst: list[int] = []

    def work() -> None:
        for _ in range(300):
            lock = FileLock(path, timeout=60)
            inside.append(1)
            worst.append(len(inside))
            inside.pop()
            lock.remove()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert len(worst) == 1200
    assert max(worst) == 1


def test_a_forked_child_s_copy_of_a_lock_is_forgotten_not_unlocked(tmp_path: Any) -> None:
    path = str(tmp_path / "lock")
    held = FileLock(path)
    held.forget()  # what a child does: its copy is gone, and here that was the only one
    held.release()
    held.remove()
    FileLock(path).release()


def test_leases_are_waited_for_and_end_with_their_holder(bucket: Bucket) -> None:
    blobs = open_blobs(f"s3://{bucket.name}/hub", bucket.storage_options)
    held = blobs.lock("x", False, 0)
    shared: list[Any] = []
    waiter = threading.Thread(target=lambda: shared.append(blobs.lock("x", True, 60)))
    waiter.start()
    waiter.join(timeout=0.3)
    held.release()
    held.release()
    waiter.join(timeout=60)
    also = blobs.lock("x", True, 0)
    with pytest.raises(TimeoutError):
        blobs.lock("x", False, 0)
    listing = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="hub/locks/")
    bucket.delete(listing["Contents"][0]["Key"])
    for lock in (shared[0], also):
        lock.release()
    blobs.lock("x", False, 0).release()


def test_a_lease_survives_a_hub_that_is_away_for_a_while(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyflow.storage.filespace import leases

    monkeypatch.setattr(leases, "LEASE", 1.5)
    with proxied(bucket.endpoint) as proxy:
        options = {**bucket.storage_options, "endpoint_url": proxy.endpoint}
        options["config_kwargs"] = {"retries": {"max_attempts": 0}}
        held = open_blobs(f"s3://{bucket.name}/hub", options).lock("x", False, 0)
        failed = threading.Event()
        proxy.on_refusal = failed.set
        proxy.status = 500
        assert failed.wait(timeout=60)
        refused, deadline = proxy.refused, time.monotonic() + 60
        while proxy.refused < refused + 12:  # more than one attempt with all its retries
            assert time.monotonic() < deadline
            time.sleep(0.05)
        proxy.status = 0
        held.release()
    blobs = open_blobs(f"s3://{bucket.name}/hub", bucket.storage_options)
    blobs.lock("x", False, 0).release()


def test_a_range_reader_is_a_proper_buffered_reader() -> None:
    data = os.urandom(3_000_000)
    closed: list[bool] = []
    reader = RangeReader(
        lambda start, end: data[start:end], len(data), "/x", lambda: closed.append(True)
    )
    assert reader.readable()
    assert reader.seekable()
    assert not reader.writable()
    assert reader.read1(5) == data[:5]
    assert len(reader.read1()) == 256 * 1024
    reader.seek(10)
    buffer = bytearray(100)
    assert reader.readinto(buffer) == 100
    assert buffer == data[10:110]
    assert reader.tell() == 110
    assert reader.seek(-10, io.SEEK_CUR) == 100
    assert reader.read(None) == data[100:]
    assert reader.seek(10, io.SEEK_END) == len(data) + 10
    assert reader.read() == b""
    for arguments in ((0, 7), (-1, 0)):
        with pytest.raises(InvalidArgumentError):
            reader.seek(*arguments)
    reader.close()
    reader.close()
    assert closed == [True]
    for call in (reader.read, reader.tell, lambda: reader.seek(0)):
        with pytest.raises(ValueError, match="closed file"):
            call()
    short = RangeReader(lambda start, end: b"x", 10, "/short")
    with pytest.raises(FsContentError, match="Short read: 1 of 10 bytes"):
        short.read()


def test_data_store_failures_are_told_apart(
    filespace: Filespace, bucket: Bucket, s3_endpoint: str
) -> None:
    """A server that fails (5xx), one that refuses, and a request that makes no sense."""
    bucket.put("k", b"x")
    with proxied(s3_endpoint) as proxy:
        filespace.connect.add_data_store("s3", bucket.config(endpoint=proxy.endpoint))
        filespace.connect.link_file("/x", "s3", "k")
        for status, error in (
            (503, ExternalStoreUnavailableError),
            (500, ExternalStoreUnavailableError),
            (400, ExternalStoreError),
        ):
            proxy.status = status
            with pytest.raises(error) as caught:
                filespace.fs.read_file("/x")
            assert str(status) in str(caught.value)
            assert caught.value.filename == "/x"
        proxy.status = 403
        with pytest.raises(Exception, match="rejects the credentials"):
            filespace.fs.read_file("/x")
        proxy.status = 0
        assert filespace.fs.read_file("/x") == b"x"


def test_names_taken_meanwhile_and_streams_after_unlink(
    workspace: Workspace, tmp_path: Any
) -> None:
    filespace = workspace.link_filespace(name="data")
    (tmp_path / "f").write_bytes(b"x")
    filespace.connect.add_data_store("here", LocalDataStoreConfig(str(tmp_path)))
    filespace.connect.link_file("/d", "here", "f")
    with pytest.raises(FsExistsError):
        filespace.connect.link_file("/d", "here", "f")
    file = filespace.fs.open("/new", "wb")
    file.write(b"x")
    filespace.unlink(discard=True)
    file.close()
    assert workspace.link_filespace(name="data").fs.list_dir("/") == []


def test_errors_survive_pickling_with_what_they_say(filespace: Filespace) -> None:
    with pytest.raises(FsNotFoundError) as caught:
        filespace.fs.move("/none", "/x")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is FsNotFoundError
    assert str(again) == str(caught.value)
    assert again.filename == "/none"


def test_empty_and_multidimensional_buffers(filespace: Filespace) -> None:
    import numpy as np

    filespace.fs.write_file("/empty", np.empty((0, 3)))
    filespace.fs.write_buffers("/array", [np.arange(6).reshape(2, 3), np.empty(0), b""])
    assert filespace.fs.read_file("/empty") == b""
    assert np.frombuffer(filespace.fs.view("/array"), dtype=int).tolist() == list(range(6))
    with pytest.raises(TypeError):
        filespace.fs.write_file("/text", "str is not bytes")
    assert filespace.fs.list_dir("/") == ["array", "empty"]
