"""`@proxied` functions on a Dask client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask_decorated as functions
import numpy as np
import pytest
from dask_shop import Cluster, Shop, until
from distributed import Client, Future

from proxyflow import Store, proxied
from proxyflow.errors import ConfigError

N = 50_000


def array(value: float = 1.0) -> np.ndarray:
    return np.full(N, value)


def test_submit_and_map_give_dask_futures(shop: Shop) -> None:
    """Futures are Dask's own, and what their tasks need stays until Dask forgets them."""
    future = functions.total.submit(shop.client, array(), factor=2)
    assert isinstance(future, Future)
    assert future.result() == 2 * N
    futures = functions.total.map(shop.client, [array(), array(2)], [1, 3])
    assert [type(f) for f in futures] == [Future] * 2
    assert shop.client.gather(futures) == [N, 6 * N]
    assert shop.count() == 2
    with pytest.raises(TypeError, match="neither timeout nor chunksize"):
        functions.total.map(shop.client, [array()], chunksize=2)


def test_futures_as_arguments(shop: Shop) -> None:
    """A Dask future is an argument like any other."""
    made = functions.grow.submit(shop.client, array())
    again = functions.grow.submit(shop.client, made)
    assert again.result().sum() == 3 * N
    assert functions.total.submit(shop.client, again).result() == 3 * N


def test_a_function_with_a_store_of_its_own(shared_cluster: Cluster, tmp_path: Path) -> None:
    """The client needs no plugin; the function's store is used, and its options are."""
    with Store(tmp_path / "own") as store:
        kind = proxied(store=store, policy="100 kB", resolve="lazy", results=False)(type_name)
        with Client(shared_cluster.address) as client:
            future = kind.submit(client, array())
            assert future.result() == "Proxy"
            assert len(list(store.scan())) == 1
            assert client.submit(len, bytes(200_000)).result() == 200_000
            assert len(list(store.scan())) == 1
            del future
            until(lambda: not list(store.scan()))


def type_name(value: Any) -> str:
    return type(value).__name__


def test_an_asynchronous_client_registers_first(tmp_path: Path, shared_cluster: Cluster) -> None:
    """Opening a store takes time that only an await can give."""
    import asyncio

    kind = proxied(store=f"file://{tmp_path / 'own'}", policy="100 kB")(type_name)

    async def run() -> None:
        async with Client(shared_cluster.address, asynchronous=True) as client:
            with pytest.raises(ConfigError, match=r"await client\.register_plugin"):
                kind.submit(client, array())

    asyncio.run(run())
