"""Proxies of files that are already there: nothing is read before it is needed, or evicted."""

from __future__ import annotations

import io
import json
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyflow import Proxy, Store, extract, is_resolved, proxy_url
from proxyflow.errors import ConfigError, MissingDependencyError, UnsupportedError
from proxyflow.storage.filespace import LocalDataStoreConfig, Workspace
from proxyflow_futures import ProxyExecutor


def total(value: Any) -> float:
    assert type(value) is np.ndarray
    return float(value.sum())


def lazily(value: Proxy[Any]) -> tuple[bool, int]:
    return is_resolved(value), len(value)


def first_kilobyte(file: Any) -> bytes:
    return file.read(1024)


def text_of(file: Any) -> str:
    return io.TextIOWrapper(file).read()


@pytest.fixture
def array_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(1000.0))
    return tmp_path / "x.npy"


def test_a_file_is_read_when_it_is_needed(array_file: Path) -> None:
    proxy = proxy_url(array_file, np.load)
    assert not is_resolved(proxy)
    copy = pickle.loads(pickle.dumps(proxy))
    assert not is_resolved(copy)
    assert float(copy.sum()) == np.arange(1000.0).sum()
    assert proxy_url(f"file://{array_file}", np.load)[3] == 3


def test_the_default_is_its_bytes(array_file: Path) -> None:
    proxy = proxy_url(array_file)
    assert isinstance(proxy, bytes)
    assert not is_resolved(proxy)
    assert extract(proxy) == array_file.read_bytes()


def test_the_class_is_told_or_read_off_the_loader(tmp_path: Path) -> None:
    """And then known without being resolved."""
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    told = proxy_url(path, json.load, kind=list)
    assert isinstance(told, list)
    assert not is_resolved(told)
    assert told == [1, 2]
    assert proxy_url(path, json.load) == [1, 2]


def test_only_what_the_loader_reads_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    assert extract(proxy_url(path, first_kilobyte)) == bytes(1024)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    proxy = proxy_url(tmp_path / "missing", np.load)
    with pytest.raises(FileNotFoundError):
        proxy.sum()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://me:geheim@host/file", {}),
        ("simplecache::ftp://me:geheim@host/file", {}),
        ("ftp://host/file", {"pwd": "geheim"}),
        ("s3://bucket/key", {"secret": b"geheim"}),
        ("abfs://container/file", {"connection_string": "AccountKey=geheim"}),
        ("http://host/file", {"headers": {"Authorization": "Bearer geheim"}}),
    ],
)
def test_no_form_of_a_secret_travels(url: str, options: dict[str, Any]) -> None:
    """In the URL it would be in every representation of the proxy as well."""
    with pytest.raises(ConfigError, match="would travel") as caught:
        proxy_url(url, storage_options=options)
    assert "geheim" not in str(caught.value)


def test_what_only_looks_like_a_password_is_none() -> None:
    proxy_url("s3://bucket/a:b@c")
    proxy_url("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/key@2")
    proxy_url("ftp://me@host/file", storage_options={"password": "$FTP_PASSWORD"})


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be fsspec, or what fsspec reaches that URL with; then fsspec is not the remedy."""
    with pytest.raises(MissingDependencyError, match="dropboxdrivefs") as caught:
        extract(proxy_url("dropbox://folder/x"))
    assert caught.value.remedy is None
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'proxyflow\[s3\]'"):
        extract(proxy_url("/some/x"))


def test_secrets_are_named_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="secret"):
        proxy_url("s3://bucket/key", storage_options={"key": "me", "secret": "geheim"})
    with pytest.raises(ConfigError, match="secret"):
        proxy_url("s3://bucket/key", storage_options={"client": {"aws_secret": "geheim"}})
    options = {"key": "$SOME_KEY", "secret": "$SOME_SECRET"}
    proxy = proxy_url("memory://bucket/key", storage_options=options)
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ConfigError, match="SOME_KEY"):
        extract(proxy)
    monkeypatch.setenv("SOME_SECRET", "geheim")
    assert b"geheim" not in pickle.dumps(proxy)


def test_tasks_receive_the_object(array_file: Path) -> None:
    """By the same rule as any other proxy; the file stays."""
    with ProxyExecutor(ProcessPoolExecutor(1)) as executor:
        proxy = proxy_url(array_file, np.load)
        assert executor.submit(total, proxy).result() == np.arange(1000.0).sum()
        assert not is_resolved(proxy)
        named = proxy_url(array_file)
        assert executor.submit(lazily, named).result() == (False, array_file.stat().st_size)
    assert array_file.exists()


def test_files_of_a_filespace(tmp_path: Path, array_file: Path) -> None:
    """Its own, and those of a data store that is linked to it."""
    hub = str(tmp_path / "hub")
    with Workspace(hub, name="lab") as workspace:
        filespace = workspace.link_filespace(name="data")
        filespace.fs.create_dir("/in")
        with filespace.fs.open("/in/y.npy", "wb") as file:
            np.save(file, np.ones(10))
        config = LocalDataStoreConfig(str(array_file.parent))
        filespace.connect.add_data_store("disk", config)
        filespace.connect.link_file("/in/x.npy", "disk", "x.npy")
        filespace.sync_all()
    with (
        Store(f"filespace://lab/data/store?hub={hub}") as store,
        ProxyExecutor(ProcessPoolExecutor(1), store) as executor,
    ):
        for path, expected in (("/in/x.npy", 499500.0), ("/in/y.npy", 10.0)):
            proxy = store.proxy_file(path, np.load, kind=np.ndarray)
            assert not is_resolved(proxy)
            assert isinstance(proxy, np.ndarray)
            assert executor.submit(total, proxy).result() == expected
            assert not is_resolved(proxy)
        assert list(store.scan()) == []
        with pytest.raises(FileNotFoundError):
            extract(store.proxy_file("/in/missing"))


def test_other_stores_have_no_files() -> None:
    with Store("memory://") as store, pytest.raises(UnsupportedError, match="proxy_url"):
        store.proxy_file("/x.npy", np.load)
