"""A session lives as long as anybody holds it; the last one out removes it."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import proxyflow
from proxyflow import Store
from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, StoreClosedError, StoreUnreachableError
from tests.processes import Running

_HOLDER = """
import sys
from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.url import StoreURL
hold = FileConnector.hold_url(StoreURL.parse(sys.argv[1]))
print("holding", flush=True)
sys.stdin.read()
hold.close()
hold.close()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def url_of(store: Store) -> StoreURL:
    return StoreURL.parse(store.config()["url"])


def test_a_session_ends_with_its_last_holder(root: Path) -> None:
    store = Store(root)
    key = store.put("text")
    joined = Store.from_config(store.config())
    with (
        Running(_HOLDER, str(url_of(store))) as first,
        Running(_HOLDER, str(url_of(store))) as last,
    ):
        store.close()
        assert proxyflow.gc(root) == []
        assert joined.get(key) == "text"
        assert joined.get(joined.put("after its owner")) == "after its owner"
        first.finish()
        assert joined.get(key) == "text"
        last.finish()
    assert not root.exists()


def test_a_hold_outlives_a_killed_owner_and_dies_when_it_is_killed(root: Path) -> None:
    with Running.owner(root.as_uri()) as owner:
        with Running(_HOLDER, f"{root.as_uri()}#{owner.line}") as holder:
            owner.kill()
            assert proxyflow.gc(root) == []
            holder.kill()
        assert proxyflow.gc(root) == [owner.line]
    assert not root.exists()


def test_an_owner_that_goes_last_removes_the_session(root: Path) -> None:
    with Store(root) as store:
        hold = FileConnector.hold_url(url_of(store))
        hold.close()
        assert store.get(store.put("text")) == "text"
    assert not root.exists()


def test_a_hold_spans_the_spill_directory(tmp_path: Path, root: Path) -> None:
    store = Store(f"{root.as_uri()}?spill={tmp_path}/spill")
    hold = FileConnector.hold_url(url_of(store))
    session = store.session
    store.close()
    assert (root / str(session)).exists()
    assert (tmp_path / "spill" / str(session)).exists()
    hold.close()
    assert os.listdir(tmp_path) == []


def test_what_is_to_be_kept_is_kept_by_holders_too(root: Path) -> None:
    store = Store(f"{root.as_uri()}?clear=0")
    hold = FileConnector.hold_url(url_of(store))
    key = store.put("text")
    store.close()
    hold.close()
    assert Store.from_config(store.config()).get(key) == "text"


def test_a_session_that_has_ended_cannot_be_held(root: Path) -> None:
    with Store(root) as store:
        url = url_of(store)
    with pytest.raises(StoreClosedError, match="has ended"):
        FileConnector.hold_url(url)
    with pytest.raises(ConfigError, match="names no session"):
        FileConnector.hold_url(url.replace(session=None))


def test_a_session_being_removed_cannot_be_held(root: Path) -> None:
    """Its remover has the record locked, or has unlinked it already."""
    with Store(root) as store:
        session = root / str(store.session)
        copy = session.with_name("abcdefghij")
        shutil.copytree(session, copy)
        url = url_of(store).replace(session="abcdefghij")
        with (copy / ".owner").open("r+") as record:
            fcntl.flock(record, fcntl.LOCK_EX)
            with pytest.raises(StoreClosedError, match="being removed"):
                FileConnector.hold_url(url)
        (copy / ".owner").unlink()
        with pytest.raises(StoreClosedError, match="being removed"):
            FileConnector.hold_url(url)
        shutil.rmtree(copy)


def test_closing_in_many_threads_closes_once(root: Path) -> None:
    for _ in range(20):
        store = Store(root)
        store.put("text")
        ready = threading.Barrier(8)

        def close(store: Store = store, ready: threading.Barrier = ready) -> None:
            ready.wait()
            store.connector.close()

        with ThreadPoolExecutor(8) as pool:
            for closing in [pool.submit(close) for _ in range(8)]:
                closing.result()
        store.close()
        assert not root.exists()


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for a file system that knows no locks."""

    def refuse(*args: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("lockless")
def test_without_locks_the_lease_decides(root: Path) -> None:
    with Store(root) as store:
        session = root / str(store.session)
        with pytest.raises(StoreUnreachableError, match="no locks"):
            FileConnector.hold_url(url_of(store))
        assert proxyflow.gc(root) == []
        assert store.get(store.put("text")) == "text"
    assert not root.exists()
    with Running.owner(root.as_uri()) as owner:
        session = root / owner.line
        owner.kill()
    assert proxyflow.gc(root) == []
    week_ago = time.time() - 7 * 86400
    os.utime(session / ".owner", (week_ago, week_ago))
    assert proxyflow.gc(root) == [owner.line]


def test_what_cannot_be_removed_on_closing_is_reported(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is left to the next sweep, because its lock is given back all the same."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(5, "Input/output error")

    store = Store(root)
    store.put("text")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        with pytest.raises(StoreUnreachableError, match=f"cannot end session {store.session}"):
            store.close()
    assert store.closed
    assert proxyflow.gc(root) == []
    assert not root.exists()


def test_half_a_store_is_given_up(tmp_path: Path) -> None:
    """When the spill directory cannot be made, the first one is removed again."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreachableError):
        FileConnector(str(tmp_path / "store"), spill=str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(StoreClosedError, match="not the name of a session"):
        FileConnector(str(tmp_path / "store"), session="../outside")
