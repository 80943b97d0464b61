"""A program as a user writes it, never run: what its type checker must make of ours.

A line that must not pass says so; the check fails if it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, assert_type

import proxyflow
from proxyflow import Policy, Proxy, Store, extract, get_factory, proxied, resolve, resolve_async
from proxyflow_dask import ProxyPlugin
from proxyflow_futures import ProxyExecutor


def total(values: list[int], scale: int = 1) -> int:
    return sum(values) * scale


def lazily(values: Proxy[list[int]]) -> int:
    return len(values)


def use_a_proxy(store: Store) -> None:
    proxy = store.proxy([1, 2, 3])
    assert_type(proxy, Proxy[list[int]])
    assert_type(store.proxy_batch([[1], [2]]), list[Proxy[list[int]]])
    assert_type(extract(proxy), list[int])
    assert_type(extract(3), int)
    assert_type(resolve(proxy), list[int])
    assert_type(total(extract(proxy)), int)
    total(proxy)  # type: ignore[arg-type]
    store.evict(get_factory(proxy).key)


def use_a_proxy_as_its_target(proxy: Proxy[Any]) -> None:
    for item in proxy:
        print(item in proxy, proxy[0], len(proxy), proxy.shape, proxy.count(1))
    print(proxy + 1, 1 - proxy, -proxy, proxy @ proxy, proxy < 2, proxy == 3, abs(proxy))
    print(int(proxy), float(proxy), bytes(proxy), proxy(1, a=2), round(proxy, 1))
    proxy[0] += 1
    del proxy[0]
    with proxy as entered, open(proxy) as file:
        print(entered, file.read())


async def use_a_proxy_later(proxy: Proxy[bytes]) -> None:
    assert_type(await resolve_async(proxy), bytes)
    async with proxy as entered:
        print(entered, await proxy, [item async for item in proxy])


def use_executors(pool: ProcessPoolExecutor, store: Store) -> None:
    with ProxyExecutor(pool, store, policy="1 MiB", resolve="lazy") as executor:
        assert_type(executor.submit(total, [1], scale=2), Future[int])
        assert_type(executor.map(total, [[1], [2]]), Iterator[int])
        executor.submit(total, "text")  # type: ignore[arg-type]
    ProxyExecutor(pool, "file:///dev/shm/run1")  # type: ignore[arg-type]
    ProxyPlugin(Path("/dev/shm/run1"), threshold=Policy("1 MiB", types=bytes))
    assert_type(proxyflow.gc("file:///dev/shm/run1"), list[str])


@proxied
def plainly(values: list[int]) -> float:
    return sum(values) / 2


@proxied(store="file:///dev/shm/run1", policy="1 MiB")
def with_options(values: list[int], scale: int = 1) -> float:
    return sum(values) * scale


class Model:
    @proxied(policy="1 MiB")
    def fit(self, values: list[int]) -> float:
        return sum(values)


def use_decorated_functions(pool: ProcessPoolExecutor, client: Any, model: Model) -> None:
    assert_type(plainly([1]), float)
    assert_type(with_options([1], scale=2), float)
    with_options("text")  # type: ignore[arg-type]
    with_options([1], size=2)  # type: ignore[call-arg]
    assert_type(with_options.submit(pool, [1], scale=2), Future[float])
    assert_type(with_options.map(pool, [[1]], chunksize=2), Iterator[float])
    assert_type(with_options.submit(client, [1]), Any)
    assert_type(model.fit([1]), float)
    assert_type(model.fit.submit(pool, [1]), Future[float])
