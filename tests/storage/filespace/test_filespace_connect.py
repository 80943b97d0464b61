"""Data stores and external files: S3 objects (on a real server) and local files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import SECRET, Bucket

from proxyflow.storage.filespace import (
    DataStoreExistsError,
    DataStoreInUseError,
    DataStoreNotFoundError,
    ExternalObjectChangedError,
    ExternalObjectNotFoundError,
    ExternalStoreError,
    ExternalStoreUnavailableError,
    Filespace,
    FsExistsError,
    FsNotFoundError,
    FsPermissionError,
    InvalidArgumentError,
    LocalDataStoreConfig,
    S3Credentials,
    Workspace,
)

BIG = bytes(range(256)) * 20_000


@pytest.fixture
def stores(filespace: Filespace, bucket: Bucket, tmp_path: Any) -> dict[str, Any]:
    """Two data stores, "s3" and "local", each with the object dir/big; how to change them."""
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "dir" / "big").write_bytes(BIG)
    bucket.put("dir/big", BIG)
    filespace.connect.add_data_store("s3", bucket.config())
    filespace.connect.add_data_store("local", LocalDataStoreConfig(str(root)))

    def put(kind: str, key: str, data: bytes) -> None:
        if kind == "s3":
            bucket.put(key, data)
        else:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(data)

    def delete(kind: str, key: str) -> None:
        bucket.delete(key) if kind == "s3" else (root / key).unlink()

    return {"put": put, "delete": delete, "root": root}


@pytest.fixture(params=["s3", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_linked_object_is_a_read_only_file(
    filespace: Filespace, stores: dict[str, Any], kind: str
) -> None:
    filespace.connect.link_file("/x", kind, "dir/big")
    fs = filespace.fs
    entry = fs.get_entry("/x")
    assert (entry.size, entry.is_file(), entry.data_store) == (len(BIG), True, kind)
    assert fs.read_file("/x") == BIG
    assert bytes(fs.view("/x")) == BIG
    assert fs.content("/x").local_path is None
    with fs.open("/x", "rb") as file:
        file.seek(1_000_000)
        assert file.read(300) == BIG[1_000_000:1_000_300]
        file.seek(-5, 2)
        assert file.read() == BIG[-5:]
        assert file.read(10) == b""
    for attempt in (
        lambda: fs.write_file("/x", b""),
        lambda: fs.open("/x", "wb"),
        lambda: fs.open("/x", "ab"),
        lambda: fs.open("/x", "r+b"),
        lambda: fs.truncate("/x", 0),
    ):
        with pytest.raises(FsPermissionError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
        assert isinstance(caught.value, PermissionError)
    fs.move("/x", "/moved")
    assert filespace.connect.count(kind) == 1
    fs.delete("/moved")
    assert filespace.connect.count(kind) == 0
    filespace.connect.link_file("/again", kind, "dir/big")
    assert fs.read_file("/again") == BIG


def test_only_the_bytes_that_are_read_travel(
    filespace: Filespace, stores: dict[str, Any], bucket: Bucket
) -> None:
    """A footer of a large object costs one small range, not the object."""
    filespace.connect.link_file("/x", "s3", "dir/big")
    source = filespace.fs.open("/x", "rb")
    ranges: list[tuple[int, int]] = []
    fetch = source._fetch  # type: ignore[attr-defined]

    def counting(start: int, end: int) -> bytes:
        ranges.append((start, end))
        return bytes(fetch(start, end))

    source._fetch = counting  # type: ignore[attr-defined]
    source.seek(-8, 2)
    source.read(8)
    assert ranges == [(len(BIG) - 8, len(BIG))]
    source.seek(0)
    while source.read(100_000):
        pass
    assert sum(end - start for start, end in ranges) <= len(BIG) + 8
    assert len(ranges) < 10
    source.close()


def test_a_missing_object_is_eio_not_an_empty_file(
    filespace: Filespace, stores: dict[str, Any], kind: str
) -> None:
    filespace.connect.link_file("/x", kind, "dir/big")
    with pytest.raises(ExternalObjectNotFoundError):
        filespace.connect.link_file("/nope", kind, "no/such/object")
    assert not filespace.fs.file_exists("/nope")
    stores["delete"](kind, "dir/big")
    assert filespace.fs.get_entry("/x").size == len(BIG)
    with pytest.raises(ExternalObjectNotFoundError) as caught:
        filespace.fs.read_file("/x")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == "/x"
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_changed_object_is_an_error_not_other_data(
    filespace: Filespace, stores: dict[str, Any], kind: str
) -> None:
    """Neither the new bytes, nor old and new ones mixed in one reader."""
    filespace.connect.link_file("/x", kind, "dir/big")
    with filespace.fs.open("/x", "rb") as file:
        assert file.read(10) == BIG[:10]
        stores["put"](kind, "dir/big", b"x" * len(BIG))
        file.seek(4_000_000)
        with pytest.raises(ExternalObjectChangedError):
            file.read(1000)
    with pytest.raises(ExternalObjectChangedError) as caught:
        filespace.fs.read_file("/x")
    assert caught.value.errno == errno.EIO
    stores["put"](kind, "dir/big", b"short")
    with pytest.raises(ExternalObjectChangedError):
        filespace.fs.read_file("/x")


def test_given_facts_are_taken_as_they_are_and_verified_when_read(
    filespace: Filespace, stores: dict[str, Any], bucket: Bucket
) -> None:
    etag = bucket.put("k", b"content")
    connect, fs = filespace.connect, filespace.fs
    connect.link_file("/right", "s3", "k", size=7, checksum=etag)
    connect.link_file("/wrong-size", "s3", "k", size=5, checksum=etag)
    connect.link_file("/too-long", "s3", "k", size=500, checksum=etag)
    connect.link_file("/wrong-tag", "s3", "k", size=7, checksum="0" * 32)
    connect.link_file("/missing", "s3", "nope", size=7, checksum=etag)
    assert fs.read_file("/right") == b"content"
    for path in ("/wrong-size", "/too-long", "/wrong-tag"):
        with pytest.raises(ExternalObjectChangedError):
            fs.read_file(path)
    with pytest.raises(ExternalObjectNotFoundError):
        fs.read_file("/missing")
    for arguments in ({"size": 7}, {"checksum": etag}, {"size": -1, "checksum": etag}):
        with pytest.raises(InvalidArgumentError):
            connect.link_file("/x", "s3", "k", **arguments)


def test_data_stores_are_added_listed_and_removed_when_unused(
    filespace: Filespace, stores: dict[str, Any], bucket: Bucket
) -> None:
    connect = filespace.connect
    assert [info.name for info in connect.list_data_stores()] == ["local", "s3"]
    info = connect.get_data_store("s3")
    assert info is not None
    assert info.kind == "s3"
    assert info.settings["bucket_name"] == bucket.name
    assert connect.get_data_store("none") is None
    connect.link_file("/x", "s3", "dir/big")
    with pytest.raises(DataStoreInUseError, match="1 files are linked"):
        connect.remove_data_store("s3")
    with pytest.raises(DataStoreExistsError):
        connect.add_data_store("s3", bucket.config())
    connect.unlink_file("/x")
    connect.remove_data_store("s3")
    assert connect.get_data_store("s3") is None
    for call in (
        lambda: connect.remove_data_store("s3"),
        lambda: connect.link_file("/x", "s3", "dir/big"),
        lambda: connect.link_files("/x", "s3"),
        lambda: connect.list_external_files("s3"),
        lambda: connect.count("s3"),
        lambda: connect.rekey("s3", S3Credentials("a", "b")),
    ):
        with pytest.raises(DataStoreNotFoundError) as caught:
            call()
        assert isinstance(caught.value, KeyError)
    for name in ("", "  ", "x" * 65, "a/b", "a.b"):
        with pytest.raises(InvalidArgumentError):
            connect.add_data_store(name, bucket.config())


def test_linking_respects_the_namespace(filespace: Filespace, stores: dict[str, Any]) -> None:
    connect, fs = filespace.connect, filespace.fs
    fs.write_file("/file", b"x")
    with pytest.raises(FsExistsError):
        connect.link_file("/file", "local", "dir/big")
    with pytest.raises(FsNotFoundError):
        connect.link_file("/nope/x", "local", "dir/big")
    with pytest.raises(InvalidArgumentError, match="not an external file"):
        connect.unlink_file("/file")
    with pytest.raises(FsNotFoundError):
        connect.unlink_file("/nope")
    with pytest.raises(InvalidArgumentError):
        connect.list_external_files("local", limit=0)


def test_a_thousand_objects_are_linked_by_prefix_and_listed_by_page(
    workspace: Workspace, filespace: Filespace, stores: dict[str, Any], bucket: Bucket
) -> None:
    for number in range(1000):
        bucket.put(f"many/{number % 7}/{number:04}", b"%d" % number)
    connect = filespace.connect
    linked = connect.link_files("/in/here", "s3", "many/")
    assert len(linked) == len(set(linked)) == 1000
    filespace.sync_all()
    other = workspace.link_filespace(name="data")
    assert other.connect.count("s3") == 1000
    assert other.fs.statistics().external_files_count == 1000
    assert other.fs.read_file("/in/here/3/0010") == b"10"
    found: list[str] = []
    cursor = ""
    while True:
        page = other.connect.list_external_files("s3", limit=300, cursor=cursor)
        found += [one.path for one in page.entries]
        cursor = page.cursor
        if not page.has_more:
            break
    assert found == sorted(linked)
    assert page.entries[-1].object_id == "many/" + found[-1].removeprefix("/in/here/")
    assert connect.list_external_files("local").entries == []
    inner = workspace.link_filespace(name="data", root_path="/in/here/3")
    assert inner.connect.count("s3") == 143
    assert inner.connect.list_external_files("s3", limit=1).entries[0].path == "/0003"


def test_linking_by_prefix_is_all_or_nothing(
    filespace: Filespace, stores: dict[str, Any], bucket: Bucket
) -> None:
    connect, fs = filespace.connect, filespace.fs
    bucket.put("p/a", b"a")
    bucket.put("p/sub/", b"")  # the marker some tools make for a folder
    bucket.put("p/sub/b", b"b")
    fs.create_dir("/d")
    fs.write_file("/d/a", b"mine")
    with pytest.raises(FsExistsError):
        connect.link_files("/d", "s3", "p/")
    assert fs.list_dir("/d") == ["a"]
    assert connect.link_files("/e", "s3", "p/") == ["/e/a", "/e/sub/b"]
    bucket.put("evil/../../x", b"x")
    with pytest.raises(InvalidArgumentError, match="cannot be a path"):
        connect.link_files("/f", "s3", "evil/")
    assert not fs.dir_exists("/f")
    local = stores["root"]
    (local / "p").mkdir()
    (local / "p" / "x").write_bytes(b"x")
    os.symlink("/etc/passwd", local / "p" / "link")
    assert connect.link_files("/g", "local", "p/") == ["/g/x"]


def test_local_objects_do_not_lead_out_of_their_root(
    filespace: Filespace, stores: dict[str, Any], tmp_path: Any
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    root = stores["root"]
    os.symlink(tmp_path / "secret", root / "link")
    os.mkfifo(root / "fifo")
    connect = filespace.connect
    for object_id in ("../secret", "/etc/passwd", "link"):
        with pytest.raises(InvalidArgumentError, match="leads out"):
            connect.link_file("/x", "local", object_id)
        # An entry forged by whoever can write to the hub does not help either.
        connect.link_file("/forged", "local", object_id, size=6, checksum="mtime-0")
        with pytest.raises(InvalidArgumentError, match="leads out"):
            filespace.fs.read_file("/forged")
        connect.unlink_file("/forged")
    for object_id in ("fifo", "dir"):
        with pytest.raises(ExternalStoreError, match="Not a regular file"):
            connect.link_file("/x", "local", object_id)


def test_two_clients_connect_at_once_and_nothing_is_lost(
    workspace: Workspace, tmp_path: Any
) -> None:
    """Data stores of one name, links from a store the other removes: all merge."""
    for name in ("r1", "r2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(name.encode())
    one, two = (workspace.link_filespace(name="data") for _ in range(2))
    one.connect.add_data_store("same", LocalDataStoreConfig(str(tmp_path / "r1")))
    two.connect.add_data_store("same", LocalDataStoreConfig(str(tmp_path / "r2")))
    one.connect.link_file("/one", "same", "f")
    two.connect.link_file("/two", "same", "f")
    one.sync_all()
    two.sync_all()
    assert (one.fs.read_file("/one"), one.fs.read_file("/two")) == (b"r1", b"r2")
    assert one.connect.count("same_conflicted") == 1
    one.connect.unlink_file("/one")
    one.connect.remove_data_store("same")
    two.connect.link_file("/late", "same", "f")
    one.sync_all()
    two.sync_all()
    assert one.fs.read_file("/late") == b"r1"
    one.connect.unlink_file("/late")
    one.sync_all()
    one.connect.remove_data_store("same")
    two.connect.link_file("/later", "same", "f")
    two.sync_all()
    one.sync_all()
    assert one.connect.count("same") == 1
    assert two.fs.read_file("/later") == b"r1"


def test_a_store_that_rejects_or_does_not_answer_is_told_apart(
    filespace: Filespace, bucket: Bucket
) -> None:
    connect = filespace.connect
    config = bucket.config(endpoint="http://127.0.0.1:1")
    connect.add_data_store("down", config)
    connect.link_file("/down", "down", "k", size=1, checksum="c")
    with pytest.raises(ExternalStoreUnavailableError) as caught:
        filespace.fs.read_file("/down")
    assert isinstance(caught.value, ConnectionError)
    assert "data store 'down'" in str(caught.value)
    assert SECRET not in str(caught.value)
    connect.add_data_store("virtual", bucket.config(use_virtual_addressing=True, region=""))
    assert connect.get_data_store("virtual") is not None


def test_external_files_live_in_object_store_hubs_too(
    link: Callable[..., Filespace], tmp_path: Any
) -> None:
    (tmp_path / "f").write_bytes(b"external")
    one, two = link(), link()
    one.connect.add_data_store("here", LocalDataStoreConfig(str(tmp_path)))
    one.connect.link_file("/x", "here", "f")
    one.sync_all()
    assert two.fs.read_file("/x") == b"external"
    with two.fs.open("/x", "r", lock_type="shared") as file:
        assert file.read() == "external"
