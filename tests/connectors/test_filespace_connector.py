"""Objects in a filespace: visible when they should be, and never short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from proxystore.store import Store as PeerStore

from proxyflow import Store
from proxyflow.connectors import open_url
from proxyflow.connectors.filespace import FilespaceConnector, FilespaceKey
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, CorruptObjectError, InvalidKeyError, StoreClosedError

MIB = 1 << 20


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[FilespaceConnector]:
    with FilespaceConnector(str(tmp_path / "hub"), "lab", "data") as connector:
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
    with FilespaceConnector(str(tmp_path / "hub"), "lab", "data", sync=sync) as connector:
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


def test_a_session_that_is_held_outlives_its_owner(tmp_path: Path) -> None:
    owner = FilespaceConnector(str(tmp_path / "hub"), "lab", "data")
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
