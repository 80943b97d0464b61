"""Objects in a tag/blob store: seen by it as one run, and there while one replica is."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proxyflow
from proxyflow import Store
from proxyflow.connectors import open_url, tagblob, tagbloblists
from proxyflow.connectors.tagbloblocal import LocalTagBlobConnector
from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    StoreClosedError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.storage.tagblob import DDFS

MIB = 1 << 20


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[LocalTagBlobConnector]:
    url = f"ddfs+file://{tmp_path}/store"
    with LocalTagBlobConnector(url, volumes=3, replicas=2) as connector:
        yield connector


def blobs(root: Path) -> list[Path]:
    """Return the files of all replicas of all blobs."""
    return [path for path in root.glob("store/vol*/blob/*/*") if path.is_file()]


def noise(nbytes: int) -> bytes:
    return np.random.default_rng(0).bytes(nbytes)


def test_a_run_is_seen_through_its_tag(connector: LocalTagBlobConnector, tmp_path: Path) -> None:
    """By the storage system's own list, walk and blobs; and it goes with the session."""
    keys = [connector.put(bytes([n]) * 1000) for n in range(5)]
    ddfs = DDFS(f"file://{tmp_path}/store")
    tag = f"proxyflow:{connector.session}"
    assert tag in ddfs.list("proxyflow:")
    assert len(list(ddfs.blobs(tag))) == 5
    paths = [path[-1] for path, _, _ in ddfs.walk(tag)]
    assert {f"{tag}:{key.name}" for key in keys} <= {str(p).removeprefix("tag://") for p in paths}
    attributes = ddfs.attrs(f"{tag}:{keys[0].name}")
    assert attributes["size"] == "1000"
    assert attributes["type"] == "application/x-proxyflow"
    assert attributes["digest"].startswith("xxh3-128:")
    connector.close()
    assert ddfs.list("proxyflow:") == []
    assert blobs(tmp_path) == []


def test_large_objects_are_several_blobs(
    connector: LocalTagBlobConnector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagblob, "_BLOB", MIB)
    data = noise(5 * MIB + 3)
    key = connector.put_frames([data[:10], memoryview(data)[10:]])
    assert connector.get(key) == data
    assert connector.get_view(key) == data
    connector.evict(key)
    assert blobs(tmp_path) == []


def test_a_view_is_mapped_and_the_readers_own(connector: LocalTagBlobConnector) -> None:
    key = connector.put(noise(MIB))
    view = connector.get_view(key)
    assert view is not None
    view[:3] = b"xyz"
    connector.evict(key)
    assert bytes(view[:3]) == b"xyz"
    assert connector.get(key) is None


@pytest.mark.parametrize("lost", ["vol0", "vol1", "vol2"])
def test_any_volume_may_be_lost(
    connector: LocalTagBlobConnector, tmp_path: Path, lost: str
) -> None:
    objects = {connector.put(noise(1000 + n)): noise(1000 + n) for n in range(8)}
    found = next(path for path in tmp_path.glob("store/*") if path.name == lost)
    shutil.rmtree(found / "blob")
    assert all(connector.get(key) == data for key, data in objects.items())


def test_a_damaged_replica_is_skipped_reported_and_repaired(
    connector: LocalTagBlobConnector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = noise(100_000)
    key = connector.put(data)
    (damaged, *_) = [path for path in blobs(tmp_path) if path.stat().st_size == len(data)]
    damaged.chmod(0o600)
    damaged.write_bytes(b"?" + data[1:])
    with caplog.at_level(logging.WARNING):
        while damaged.read_bytes() != data:
            # Which replica is tried first is drawn anew each time.
            assert connector.get(key) == data
    assert "repaired" in caplog.text


def test_all_replicas_lost_is_an_error(connector: LocalTagBlobConnector, tmp_path: Path) -> None:
    key = connector.put(noise(1000))
    for path in blobs(tmp_path):
        path.unlink()
    with pytest.raises(CorruptObjectError):
        connector.get(key)


def test_an_owner_without_locks_is_dead_when_its_lease_is_over(
    disco_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = Store(disco_url)
    dead = open_url(disco_url)
    dead.put(b"left")
    dead._lease.stop()
    monkeypatch.setattr(tagblob, "LEASE", 0.0)
    living.connector._renew()
    monkeypatch.setattr(
        tagblob.TagBlobConnector,
        "_is_dead",
        lambda self, session: session == dead.session,
    )
    assert proxyflow.gc(disco_url) == [dead.session]
    with pytest.raises(StoreClosedError):
        open_url(dead.url)
    assert living.get(living.put([1])) == [1]
    living.close()


def test_lists_stay_short(connector: LocalTagBlobConnector, monkeypatch: Any) -> None:
    """A tag of ten thousand links would be written anew with each object."""
    monkeypatch.setattr(tagbloblists, "LENGTH", 10)
    keys = connector.put_batch([b"x"] * 35)
    lists = connector._urls(f"proxyflow:{connector.session}")
    assert len(lists) >= 3
    assert all(len(connector._urls(each[0])) <= 12 for each in lists)
    assert {each.key for each in connector.scan()} == set(keys)


def linked(connector: LocalTagBlobConnector) -> list[str]:
    """Return the names of the objects that a walk from the session's tag comes to."""
    walked = connector._ddfs.walk(f"proxyflow:{connector.session}")
    return [path[-1].rpartition(":")[2] for path, _, blobs in walked if len(path) == 3 and blobs]


def test_what_is_evicted_leaves_nothing(
    connector: LocalTagBlobConnector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long run that puts and evicts stays as small as what it has at a time."""
    monkeypatch.setattr(tagbloblists, "LENGTH", 10)
    kept = [connector.put(b"kept") for _ in range(3)]
    for _ in range(50):
        connector.evict(connector.put(b"x"))
    (only,) = connector._urls(f"proxyflow:{connector.session}")
    assert len(connector._urls(only[0])) <= 10
    assert sorted(linked(connector)) == sorted(key.name for key in kept)
    tags = list(tmp_path.glob("store/tag/*"))
    assert len(tags) == 2 + len(kept)
    assert len(blobs(tmp_path)) == 2 * len(kept)


def test_threads_that_put_and_evict_lose_no_link(
    connector: LocalTagBlobConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a list that is rewritten lose what another thread appends at that moment."""
    monkeypatch.setattr(tagbloblists, "LENGTH", 8)

    def put_and_evict(worker: int) -> list[Any]:
        keys = [connector.put(b"x") for _ in range(6)]
        for _ in range(40):
            connector.evict(connector.put(b"x"))
        return keys

    with ThreadPoolExecutor(4) as pool:
        kept = [key for keys in pool.map(put_and_evict, range(4)) for key in keys]
    assert set(linked(connector)) == {key.name for key in kept}
    assert {each.key for each in connector.scan()} == set(kept)


STORE_AND_DIE = """
import os, signal, sys
from proxyflow.connectors import open_url
from proxyflow.storage.tagblob import DDFS
connector = open_url(sys.argv[1])
DDFS.put = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
connector.put(b"stored and not tagged")
"""


@pytest.mark.parametrize("owner", [True, False])
def test_what_a_killed_process_stored_and_did_not_tag_goes_with_its_session(
    connector: LocalTagBlobConnector, tmp_path: Path, owner: bool
) -> None:
    """By the next one that opens the store, or when the session it had joined ends."""
    url = f"ddfs+file://{tmp_path}/store"
    other = open_url(url)
    kept = other.put(b"kept")
    before = len(blobs(tmp_path))
    command = [sys.executable, "-c", STORE_AND_DIE, url if owner else connector.url]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(blobs(tmp_path)) > before
    if owner:
        assert len(proxyflow.gc(url)) == 1
    else:
        connector.close()
    assert len(blobs(tmp_path)) == before
    assert other.get(kept) == b"kept"
    other.close()


def test_what_is_stored_while_the_session_ends_is_swept(
    connector: LocalTagBlobConnector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tag comes when the session's own is gone already."""
    worker = open_url(connector.url)
    store_blob = worker._ddfs.store_blob

    def stored_too_late(*args: Any) -> Any:
        connector.close()
        return store_blob(*args)

    monkeypatch.setattr(worker._ddfs, "store_blob", stored_too_late)
    worker.put(b"late")
    worker.close()
    assert blobs(tmp_path) != []
    assert proxyflow.gc(f"ddfs+file://{tmp_path}/store") == [connector.session]
    assert blobs(tmp_path) == []
    assert DDFS(f"file://{tmp_path}/store").list() == []


def test_what_is_left_of_a_session_without_locks_is_swept(disco_url: str) -> None:
    """Tags of a session whose own tag is gone: nobody renews what has ended."""
    owner = open_url(disco_url)
    worker = open_url(owner.url)
    key = worker.put(b"late")
    owner.close()
    ddfs = DDFS(disco_url)
    ddfs.tag(f"proxyflow:{owner.session}:{key.name}", [])
    assert owner.session in proxyflow.gc(disco_url)
    assert ddfs.list(f"proxyflow:{owner.session}") == []


def test_an_object_that_does_not_fit_leaves_no_blob(
    connector: LocalTagBlobConnector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the parts that did, nor all of them if it is the tag that does not."""
    monkeypatch.setattr(tagblob, "_BLOB", 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        with pytest.raises(StoreFullError):
            connector.put(noise(2500))  # the last part is small enough
        monkeypatch.setattr(tagblob, "_BLOB", 100)
        with pytest.raises(StoreFullError):
            connector.put(noise(1000))  # a tag of ten blobs is larger than they are
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert blobs(tmp_path) == []


def test_an_object_may_come_back_under_its_key(connector: LocalTagBlobConnector) -> None:
    key = connector.put(b"old")
    connector.evict(key)
    connector.set(key, b"new")
    assert connector.get(key) == b"new"
    assert set(linked(connector)) == {key.name}


def test_urls(tmp_path: Path) -> None:
    url = f"ddfs+file://{tmp_path}/store?volumes=2&replicas=2"
    connector = open_url(url)
    assert connector.url == f"{url}#{connector.session}"
    connector.close()
    with pytest.raises(ConfigError, match="no number from 1"):
        Store(f"ddfs+file://{tmp_path}/store?replicas=none")
    with pytest.raises(StoreUnreachableError):
        Store("disco://127.0.0.1:1")


def test_a_bucket_that_is_not_there_is_named_as_one(s3_url: str) -> None:
    """It is no volume that somebody could mount again."""
    with pytest.raises(StoreUnreachableError, match=r"no such bucket; .* create it, or correct"):
        Store(s3_url.replace("//store/", "//nowhere/"))


def set_tokens(monkeypatch: pytest.MonkeyPatch, read: str | None, write: str | None) -> None:
    for name, token in (("READ", read), ("WRITE", write)):
        monkeypatch.delenv(f"DDFS_{name}_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv(f"DDFS_{name}_TOKEN", token)


@pytest.fixture(params=["directory", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        return str(request.getfixturevalue("disco_url"))
    return f"ddfs+file://{tmp_path}/store"


@pytest.mark.parametrize("write", [None, "w"])
@pytest.mark.parametrize("read", [None, "w", "r"])
def test_any_of_the_tokens_will_do(
    place: str, read: str | None, write: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored with the tokens that are set can be read, listed and removed with them."""
    set_tokens(monkeypatch, read, write)
    with Store(place) as store:
        key = store.put("text")
        future = store.future()
        future.set_result("late")
        assert [store.get(key), future.result()] == ["text", "late"]
        assert len(list(store.scan())) == 2
        store.evict(key)
        assert not store.exists(key)
    assert store.connector.session not in " ".join(DDFS(place.removeprefix("ddfs+")).list())


@pytest.mark.parametrize("read", [None, "r"])
def test_others_read_with_the_read_token_or_not_at_all(
    place: str, read: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that only reads needs no write token, and one without any token reads nothing."""
    set_tokens(monkeypatch, read, "w")
    with Store(place) as store:
        key, config = store.put("text"), store.config()
        set_tokens(monkeypatch, "r", None)
        if read is not None:
            assert Store.from_config(config).get(key) == "text"
        set_tokens(monkeypatch, None, None)
        with pytest.raises(StoreUnreachableError, match="give the tag's read token"):
            Store.from_config(config).get(key)
        set_tokens(monkeypatch, read, "w")


def test_what_wants_another_token_is_left_alone(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions of others with tokens of their own keep nobody from opening the store."""
    tag = "proxyflow:abcdefghij"
    ddfs = DDFS(place.removeprefix("ddfs+"))
    ddfs.setattr(tag, "renewed", "0", token="theirs")
    with Store(place) as store:
        assert store.get(store.put("text")) == "text"
        assert ddfs.exists(tag)
    set_tokens(monkeypatch, None, "theirs")
    assert proxyflow.gc(place) == ["abcdefghij"]


@pytest.mark.parametrize(
    ("options", "setting"),
    [("?volumes=2&replicas=3", None), ("?volumes=2", "3"), ("", "2"), ("", "0")],
)
def test_more_replicas_than_volumes_are_refused_at_once(
    tmp_path: Path, options: str, setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the first object is put."""
    if setting is not None:
        monkeypatch.setenv("DDFS_BLOB_REPLICAS", setting)
    with pytest.raises(ConfigError, match=r"whose volumes are vol0.*; give it more"):
        Store(f"ddfs+file://{tmp_path}/store{options}")


def test_a_number_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDFS_BLOB_REPLICAS", "many")
    with pytest.raises(ConfigError, match="DDFS_BLOB_REPLICAS=many is not a number; set it to"):
        Store(f"ddfs+file://{tmp_path}/store")
