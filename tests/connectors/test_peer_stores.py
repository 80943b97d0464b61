"""Connectors are exchangeable with ProxyStore's, in both directions and across processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import proxystore.store
import pytest
from proxystore.connectors.file import FileConnector as PeerFileConnector
from proxystore.connectors.local import LocalConnector
from proxystore.proxy import resolve as peer_resolve

from proxyflow import Store, extract, get_factory
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import ObjectNotFoundError, UnsupportedError
from tests.processes import run

CONTEXTS = ["fork", "spawn"]


def total(proxy: Any) -> int:
    return sum(proxy)


def proxy_of(url_or_store: Store, obj: Any) -> Any:
    return url_or_store.proxy(obj)


# -- theirs in ours --------------------------------------------------------------------------------


@pytest.fixture(params=[LocalConnector, PeerFileConnector])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    peer = request.param
    connector = peer() if peer is LocalConnector else peer(str(tmp_path / "peer"))
    with Store(connector=connector) as store:
        yield store


def test_a_peer_connector_does_all_that_its_protocol_allows(store: Store) -> None:
    obj = {"numbers": list(range(1000)), "text": "x" * 100_000}
    key, other = store.put(obj), store.put_batch(["a", "b"])[1]
    assert store.get(key) == obj
    assert store.get_batch([other, key]) == ["b", obj]
    assert store.exists_batch([key, other]) == [True, True]
    store.evict(key)
    assert store.get(key, "nothing") == "nothing"
    assert store.get_batch([key], "nothing") == ["nothing"]
    assert extract(store.proxy(obj)) == obj
    future = store.future(timeout=60)
    waiting = future.proxy()
    future.set_result("later")
    assert extract(waiting) == "later"
    with store.scope():
        short = store.put("short-lived")
    assert not store.exists(short)
    assert not store.wait(key, 0.01)
    with pytest.raises(UnsupportedError, match="list"):
        list(store.scan())
    assert store.sweep() == []
    assert (store.session, store.owner, store.maps) == (None, True, False)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_worker_that_ends_leaves_a_peer_store_alone(tmp_path: Path, context: str) -> None:
    """Closing ProxyStore's connector removes its directory: only who opened the store may."""
    with Store(connector=PeerFileConnector(str(tmp_path / "peer"))) as store:
        proxy = store.proxy([1, 2, 3])
        for _ in range(2):
            with ProcessPoolExecutor(1, multiprocessing.get_context(context)) as pool:
                assert pool.submit(total, proxy).result() == 6
                made = pool.submit(proxy_of, store, [4]).result()
        assert store.exists(get_factory(proxy).key)
        assert extract(made) == [4]
    assert not (tmp_path / "peer").exists()


def test_a_script_that_joins_leaves_a_peer_store_alone(tmp_path: Path) -> None:
    """It leaves by the interpreter's ordinary exit, which closes what is open."""
    with Store(connector=PeerFileConnector(str(tmp_path / "peer"))) as store:
        path = tmp_path / "proxy"
        path.write_bytes(pickle.dumps(store.proxy([1, 2, 3])))
        script = "import pickle, sys; print(sum(pickle.load(open(sys.argv[1], 'rb'))))"
        assert run(script, path) == "6"
        Store.from_config(store.config()).close()
        assert len(os.listdir(tmp_path / "peer")) == 2


def test_a_forked_child_that_closes_leaves_a_peer_store_alone(tmp_path: Path) -> None:
    with Store(connector=PeerFileConnector(str(tmp_path / "peer"))) as store:
        key = store.put("text")
        child = multiprocessing.get_context("fork").Process(target=store.close)
        child.start()
        child.join()
        assert store.get(key) == "text"


def test_stores_of_equal_configuration_are_not_mixed_up() -> None:
    """Two local connectors have the same configuration, and nothing in common."""
    with Store(connector=LocalConnector()) as first, Store(connector=LocalConnector()) as second:
        proxies = [first.proxy("first"), second.proxy("second")]
        assert [extract(pickle.loads(pickle.dumps(proxy))) for proxy in proxies] == [
            "first",
            "second",
        ]


def test_memory_of_another_process_is_not_there(tmp_path: Path) -> None:
    with Store(connector=LocalConnector()) as store:
        proxy = store.proxy([1])
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            error = pool.submit(total, proxy).exception()
    assert isinstance(error, ObjectNotFoundError)
    assert "LocalConnector" in str(error)


def test_a_joined_peer_store_is_opened_once(tmp_path: Path) -> None:
    with Store(connector=PeerFileConnector(str(tmp_path / "peer"))) as store:
        proxies = pickle.dumps([store.proxy([n]) for n in range(3)])
        (tmp_path / "proxies").write_bytes(proxies)
        said = run(
            """
import pickle, sys
from proxyflow.recipe import open_stores
proxies = pickle.load(open(sys.argv[1], "rb"))
print(len(open_stores()), [sum(proxy) for proxy in proxies], len(open_stores()))
""",
            tmp_path / "proxies",
        )
    assert said == "0 [0, 1, 2] 1"


# -- ours in theirs --------------------------------------------------------------------------------


@pytest.fixture
def peer_store(tmp_path: Path) -> Iterator[Any]:
    connector = FileConnector(str(tmp_path / "ours"))
    # Registered by its name in this process, so that it opens no second one to resolve a proxy.
    with proxystore.store.Store(tmp_path.name, connector, register=True) as store:
        yield store
    proxystore.store.unregister_store(store)
    assert not (tmp_path / "ours").exists()


def test_ours_does_all_that_a_peer_store_asks(peer_store: Any) -> None:
    key = peer_store.put({"text": "x" * 100_000})
    assert peer_store.get(key) == {"text": "x" * 100_000}
    assert [peer_store.get(each) for each in peer_store.put_batch([1, 2])] == [1, 2]
    assert peer_store.exists(key)
    peer_store.evict(key)
    assert peer_store.get(key, default="gone") == "gone"
    future = peer_store.future()
    future.set_result("later")
    assert future.result() == "later"


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_peer_proxy_finds_ours_in_another_process(peer_store: Any, context: str) -> None:
    proxy = peer_store.proxy([1, 2, 3])
    with ProcessPoolExecutor(1, multiprocessing.get_context(context)) as pool:
        assert pool.submit(total, proxy).result() == 6
    again = peer_store.proxy([4])
    peer_resolve(again)
    assert again == [4]
