"""Objects in a filespace: visible when they should be, and never short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proxystore.store import Store as PeerStore

from proxyflow import Store
from proxyflow.connectors import open_url
from proxyflow.connectors.filespace import (
    FilespaceConnector,
    FilespaceKey,
    LocalFilespaceConnector,
)
from proxyflow.connectors.session import new_name
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    InvalidKeyError,
    StoreClosedError,
    StoreUnreachableError,
)
from tests.s3_server import S3Server

MIB = 1 << 20


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[FilespaceConnector]:
    with LocalFilespaceConnector(str(tmp_path / "hub"), "lab", "data") as connector:
        yield connector


def joined(connector: FilespaceConnector) -> FilespaceConnector:
    return FilespaceConnector.from_config(connector.config())


def contents(hub: Path, nbytes: int) -> list[Path]:
    return [path for path in hub.rglob("*") if path.is_file() and path.stat().st_size == nbytes]


def test_a_key_tells_length_and_digest(connector: FilespaceConnector) -> None:
    """So that a file that is not the object is never taken for it."""
    key = connector.put(b"some bytes")
    assert (key.nbytes, len(key.digest)) == (10, 32)
    other = connector.put(b"other bytes")
    forged = FilespaceKey(key.filename, other.nbytes, other.digest)
    with pytest.raises(InvalidKeyError, match="another object"):
        connector.get(forged)


@pytest.mark.parametrize(("sync", "after_put"), [("put", True), ("batch", False), ("close", False)])
def test_when_others_see_an_object(tmp_path: Path, sync: str, after_put: bool) -> None:
    with LocalFilespaceConnector(str(tmp_path / "hub"), "lab", "data", sync=sync) as connector:
        other = joined(connector)
        key = connector.put(b"x" * 1000)
        assert connector.exists(key)
        assert other.exists(key) is after_put
        keys = connector.put_batch([b"y" * 1000])
        assert other.exists(keys[0]) is (sync != "close")
        connector.sync()
        assert other.get(key) == b"x" * 1000
        other.close()


def test_a_batch_is_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the disk; a store puts objects in frames, and that is no reason for more."""
    syncs: list[None] = []
    sync = FilespaceConnector.sync
    monkeypatch.setattr(FilespaceConnector, "sync", lambda self: (syncs.append(None), sync(self)))
    with Store(f"filespace://lab/data?hub={tmp_path}/hub") as store:
        keys = store.put_batch([[1], "two", np.arange(3)])
        assert len(syncs) == 1
        proxies = store.proxy_batch([[3], None, "four"], skip_nonproxiable=True)
        assert len(syncs) == 2
        other = Store.from_config(store.config())
        assert other.get_batch(keys)[:2] == [[1], "two"]
        assert proxies == [[3], None, "four"]
        other.close()


def test_a_damaged_content_is_no_value(
    connector: FilespaceConnector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.connectors.filespace._PATIENCE", 0.1)
    data = np.random.default_rng(0).bytes(MIB + 7)
    key = connector.put(data)
    (content, *_) = contents(tmp_path / "hub", len(data))
    content.chmod(0o600)
    content.write_bytes(data[:1000])
    for read in (connector.get, connector.get_view):
        with pytest.raises(CorruptObjectError):
            read(key)


def test_views_are_mapped_and_outlive_the_object(connector: FilespaceConnector) -> None:
    key = connector.put(b"a" * MIB)
    view = connector.get_view(key)
    assert view is not None
    view[:1] = b"b"
    connector.evict(key)
    assert connector.get(key) is None
    assert bytes(view[:2]) == b"ba"


def test_what_keeps_an_object_from_being_published_is_what_is_reported(
    connector: FilespaceConnector, tmp_path: Path
) -> None:
    """Taking the object back fails for the same reason; it is made up for when the hub is back."""
    kept = connector.put(b"kept")
    store = FilespaceConnector._stored

    def taken_away(self: FilespaceConnector, *args: Any) -> FilespaceKey:
        key = store(self, *args)
        (tmp_path / "hub").rename(tmp_path / "elsewhere")
        (tmp_path / "hub").touch()
        return key

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FilespaceConnector, "_stored", taken_away)
        with pytest.raises(StoreUnreachableError, match="sync of"):
            connector.put(b"lost")
    (tmp_path / "hub").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "hub")
    connector.sync()
    assert [stored.key for stored in connector.scan()] == [kept]
    assert len(contents(tmp_path / "hub", 4)) == 1


def test_an_object_may_be_evicted_while_it_is_set(
    connector: FilespaceConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = type(connector._filespace().fs)
    write = fs.write_buffers

    def write_and_lose(self: Any, path: str, *args: Any, **options: Any) -> None:
        write(self, path, *args, **options)
        self.delete(path)

    key = connector.new_key()
    with monkeypatch.context() as patch:
        patch.setattr(fs, "write_buffers", write_and_lose)
        connector.set(key, b"evicted by another thread")
    assert not connector.exists(key)
    connector.set(key, b"set again")
    assert connector.get(key) == b"set again"


def test_of_two_that_set_an_object_at_once_the_later_one_wins(tmp_path: Path) -> None:
    """And nothing is left of the other one, under whatever name."""
    hub = str(tmp_path / "hub")
    with LocalFilespaceConnector(hub, "lab", "data", sync="batch") as connector:
        other = joined(connector)
        key = connector.new_key()
        for round_ in range(3):
            connector.set(key, b"one")
            other.set(key, b"two")
            connector.sync()
            other.sync()
            connector.sync()
            assert connector.get(key) == other.get(key) == b"two", round_
        names = [entry.name for entry in other._filespace().fs.read_dir(other._session.path)]
        assert not [name for name in names if "conflicted" in name]
        assert [stored.key for stored in connector.scan()] == [key]
        other.close()


def test_only_a_hub_in_a_directory_is_mapped(tmp_path: Path) -> None:
    """What comes over a network is compressed and cached instead."""
    with Store(f"filespace://lab/data?hub={tmp_path}/hub") as store:
        assert store.maps
    with Store("filespace://lab/data?hub=memory://not-mapped") as store:
        assert not store.maps
        key = store.put([1])
        assert store.get(key) == store.get(key) == [1]


def test_the_endpoint_of_a_hub_in_object_storage(s3: S3Server) -> None:
    """And a process that joins finds it in the URL."""
    hub, endpoint = f"s3://store/{new_name(10)}", s3.endpoint_url
    with Store(f"filespace://lab/data?hub={hub}&endpoint={endpoint}") as store:
        key = store.put([1])
        with Store.from_config(store.config()) as other:
            assert other.get(key) == [1]
            assert not other.maps
    with pytest.raises(ConfigError, match="endpoint"):
        Store(f"filespace://lab/data?hub=/tmp/hub&endpoint={endpoint}")


def test_who_waits_on_a_hub_of_this_host_is_woken(
    connector: FilespaceConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before it would ask again."""
    monkeypatch.setattr("proxyflow.periodic._FIRST_PAUSE", 30.0)
    monkeypatch.setattr("proxyflow.periodic._LAST_PAUSE", 30.0)
    monkeypatch.setattr("proxyflow.storage.watch.RECHECK_SECONDS", 30.0)
    key, other = connector.new_key(), joined(connector)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connector.wait, key, 20)
        time.sleep(0.2)
        started = time.monotonic()
        other.set(key, b"here it is")
        assert waiting.result()
    assert time.monotonic() - started < 5
    other.close()


def test_a_session_that_is_held_outlives_its_owner(tmp_path: Path) -> None:
    owner = LocalFilespaceConnector(str(tmp_path / "hub"), "lab", "data")
    key = owner.put(b"some bytes")
    url = StoreURL.parse(owner.url)
    hold = FilespaceConnector.hold_url(url)
    owner.close()
    with open_url(url) as reader:
        assert reader.get(key) == b"some bytes"
    hold.close()
    with pytest.raises(StoreClosedError):
        open_url(url)


def test_in_a_store_of_proxystore(connector: FilespaceConnector) -> None:
    with PeerStore("filespace", connector, register=False) as store:
        key = store.put([1, 2, 3])
        assert store.get(key) == [1, 2, 3]


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="FILESPACE_HUB_LAB"):
        Store("filespace://lab/data")
    monkeypatch.setenv("FILESPACE_HUB_LAB", str(tmp_path / "hub"))
    with Store("filespace://lab/data") as store:
        assert store.get(store.put([1])) == [1]
    with pytest.raises(ConfigError, match="sync='never'"):
        Store("filespace://lab/data?sync=never")
    monkeypatch.chdir(tmp_path)
    with Store("filespace://lab/data?hub=hub") as store:
        assert f"hub={tmp_path}" in store.name
