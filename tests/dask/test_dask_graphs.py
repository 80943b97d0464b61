"""Where large values are replaced, and what tasks receive for them."""

from __future__ import annotations

import functools
import warnings
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import dask_tasks as tasks
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from dask.tokenize import tokenize
from dask_shop import Cluster, Shop, until

from proxyflow import proxy_url
from proxyflow.errors import StoreFullError
from proxyflow_dask import ProxyPlugin

N = 50_000
SIZE = 8 * N


def array(value: float = 1.0) -> np.ndarray:
    return np.full(N, value)


@dataclass
class Box:
    content: Any


Pair = namedtuple("Pair", "left right")


def test_submit_sends_exact_objects_through_the_store(shop: Shop) -> None:
    """Positional and keyword arguments arrive as what they are, and each is stored once."""
    future = shop.client.submit(tasks.kinds_in, [array(), array(2)], named=array(3))
    assert future.result() == ["ndarray"] * 3
    assert shop.count() == 3


def test_small_arguments_stay_in_the_graph(shop: Shop) -> None:
    """Below the threshold nothing is stored, and the task is Dask's own."""
    assert shop.client.submit(tasks.total, np.ones(10)).result() == 10
    assert shop.count() == 0
    assert len(shop.owner) == 0


def test_a_file_may_be_loaded_by_a_function_without_a_name(shop: Shop, tmp_path: Path) -> None:
    """Dask names a task after its arguments, so it has to tell one loader from another."""
    np.save(tmp_path / "x.npy", np.ones(10))
    once, twice = (
        proxy_url(tmp_path / "x.npy", loader=loader, kind=np.ndarray)
        for loader in (lambda file: np.load(file), lambda file: 2 * np.load(file))
    )
    assert tokenize(once) == tokenize(once) != tokenize(twice)
    futures = [shop.client.submit(tasks.total, proxy) for proxy in (once, twice, once)]
    assert shop.client.gather(futures) == [10, 20, 10]
    assert futures[0].key == futures[2].key


def test_equal_content_is_stored_once_whoever_passes_it(shop: Shop) -> None:
    """One array in 32 submits is one object; so is a copy of it."""
    given = array()
    futures = [shop.client.submit(tasks.total, given, i) for i in range(31)]
    futures.append(shop.client.submit(tasks.total, given.copy(), 31))
    assert shop.client.gather(futures) == [N * i for i in range(32)]
    assert shop.count() == 1


@pytest.mark.parametrize("kind", [list, tuple, "dict", "box", "pair", "deep"])
def test_values_in_containers_are_replaced_one_by_one(shop: Shop, kind: Any) -> None:
    """Eight arrays in a container are eight objects, and the container keeps its class."""
    arrays = [array(i) for i in range(8)]
    values: Any = {
        "dict": lambda: {str(i): a for i, a in enumerate(arrays)},
        "box": lambda: Box(arrays),
        "pair": lambda: Pair(arrays[:4], arrays[4:]),
        "deep": lambda: [[{"x": (a,)}] for a in arrays],
        list: lambda: arrays,
        tuple: lambda: tuple(arrays),
    }[kind]()
    future = shop.client.submit(describe, values)
    assert future.result() == describe(values)
    assert shop.count() == 8


def describe(value: Any) -> Any:
    """Return the structure of a value, with the sum of each array in it."""
    if type(value) is np.ndarray:
        return float(value.sum())
    if isinstance(value, dict):
        return {key: describe(child) for key, child in value.items()}
    if type(value).__name__ == "Box":
        return ("Box", describe(value.content))
    return (type(value).__name__, [describe(child) for child in value])


def test_large_sets_and_long_lists_of_small_values_go_as_a_whole(shop: Shop) -> None:
    """Many small values make an argument large."""
    assert shop.client.submit(len, set(range(50_000))).result() == 50_000
    assert shop.client.submit(sum, list(range(100_000))).result() == sum(range(100_000))
    shop.expect_empty()


def test_map_replaces_items_and_shared_keywords(shop: Shop) -> None:
    """Items are stored one each, a shared keyword argument once for all."""
    items = [array(i) for i in range(4)]
    futures = shop.client.map(add_scaled, items, shared=array(10))
    assert shop.client.gather(futures) == [N * (i + 10.0) for i in range(4)]
    assert shop.count() == 5
    del futures
    shop.expect_empty()


def add_scaled(item: Any, shared: Any) -> float:
    return float(np.sum(item + shared))


def test_map_in_batches(shop: Shop) -> None:
    """`batch_size` submits several graphs; all of it is found and evicted."""
    items = [array(i) for i in range(5)]
    futures = shop.client.map(add_scaled, items, shared=array(10), batch_size=2)
    assert shop.client.gather(futures) == [N * (i + 10.0) for i in range(5)]
    assert shop.count() == 6


def test_map_over_rows_of_an_array_and_with_keys(shop: Shop) -> None:
    """What `map` iterates over may be an array; its own options are not looked at."""
    rows = np.arange(6.0).reshape(3, 2) * np.ones((1, 1))
    keys = [f"row-{i}-{'k' * 50_000}" for i in range(3)]
    futures = shop.client.map(np.sum, rows, key=keys)
    assert shop.client.gather(futures) == [1.0, 5.0, 9.0]
    assert [future.key for future in futures] == keys
    assert shop.count() == 0


def test_delayed_compute_and_persist(shop: Shop) -> None:
    """Arguments of delayed calls, and values that are delayed themselves."""
    given = array()
    assert delayed(tasks.total)(given, factor=2).compute() == 2 * N
    assert delayed(tasks.total)(delayed(given)).compute() == N
    kept = delayed(tasks.grow)(given).persist()
    assert kept.sum().compute() == 2 * N
    until(lambda: shop.count() == 1)
    del kept
    shop.expect_empty()


def test_low_level_graphs(shop: Shop) -> None:
    """`Client.get` takes graphs of plain tuples."""
    graph = {"x": array(3), "y": (tasks.total, "x", 2.0), "z": (tasks.add_totals, ["x", array()])}
    assert shop.client.get(graph, ["y", "z"]) == [6.0 * N, 4.0 * N]


def test_collections(shop: Shop) -> None:
    """Arrays, bags and data frames made from large data in this process."""
    base = np.arange(400_000.0).reshape(400, 1000)
    x = da.from_array(base, chunks=(100, 1000))
    assert (x + 1).sum().compute() == (base + 1).sum()
    whole = da.from_array(base, chunks=-1).persist()
    until(lambda: shop.count() == 1)
    np.testing.assert_array_equal(whole.compute(), base)
    del whole

    bag = db.from_sequence([array(i) for i in range(4)], npartitions=2)
    assert bag.map(np.sum).compute() == [N * i for i in range(4)]

    frame = pd.DataFrame({"a": np.arange(50_000), "b": np.arange(50_000.0) % 7})
    ddf = dd.from_pandas(frame, npartitions=2)
    assert ddf.a.sum().compute() == frame.a.sum()
    pd.testing.assert_series_equal(ddf.groupby("b").a.mean().compute(), frame.groupby("b").a.mean())
    shop.expect_empty()


def test_shuffle_beside_large_data(shop: Shop) -> None:
    """The tasks of a peer-to-peer shuffle are Dask's own business."""
    frame = pd.DataFrame({"a": np.arange(40_000) % 13, "b": np.arange(40_000.0)})
    shuffled = dd.from_pandas(frame, npartitions=3).shuffle("a").compute()
    assert sorted(shuffled.b) == sorted(frame.b)


def test_closures_partials_defaults_and_methods(shop: Shop) -> None:
    """What a function carries is replaced too, and the function sees exact objects."""
    carried = array(5)

    def closure(x: int) -> tuple[str, float]:
        return type(carried).__name__, float(carried.sum()) + x

    def default(x: int, values: Any = carried) -> float:
        return float(values.sum()) + x

    assert shop.client.submit(closure, 1).result() == ("ndarray", 5 * N + 1)
    partial = functools.partial(tasks.total, carried, factor=2)
    future = shop.client.submit(partial)
    assert future.result() == 10 * N
    assert shop.client.submit(default, 2).result() == 5 * N + 2
    assert shop.client.submit(carried.sum).result() == 5 * N
    assert shop.client.submit(functools.partial(closure, 3)).result() == ("ndarray", 5 * N + 3)
    until(lambda: shop.count() == 1)
    del future
    shop.expect_empty()


def test_objects_with_a_token_of_their_own(shop: Shop) -> None:
    """They are asked for it as they are; what is large in them is replaced all the same."""
    future = shop.client.submit(tasks.pixel_sum, [tasks.Image(array(3))])
    assert future.result() == 3 * N
    assert shop.count() == 1
    images = shop.client.map(tasks.pixel_sum, [[tasks.Image(array(i))] for i in range(2)])
    assert shop.client.gather(images) == [0, N]
    del future, images
    shop.expect_empty()


@pytest.mark.parametrize("results", [False, True])
def test_what_is_too_small_to_be_replaced_goes_once_with_a_graph(
    shared_cluster: Cluster, store_url: str, results: bool
) -> None:
    """A table of 80 kB in the closure of a mapped function is not sent with each of its tasks."""
    table, large = np.arange(10_000.0), array(1)

    def look_up(i: int, other: Any) -> float:
        return float(table[i] + other[0])

    shop = Shop(shared_cluster.address, store_url, threshold="100 kB", results=results)
    with warnings.catch_warnings():
        # Dask warns of a graph of more than 10 MB.
        warnings.simplefilter("error", UserWarning)
        futures = shop.client.map(look_up, range(200), [large] * 200)
    assert shop.client.gather(futures) == [i + 1.0 for i in range(200)]
    del futures
    shop.expect_empty()
    shop.client.close()


def test_what_a_function_carries_twice(shop: Shop) -> None:
    """One object in two places is one object where the function runs."""
    carried = array(1)
    assert shop.client.submit(functools.partial(tasks.is_same, carried, carried)).result()
    function = functools.partial(tasks.is_same, carried, array(1))
    assert not shop.client.submit(function, pure=False).result()


def test_sets_carried_by_a_function(shop: Shop) -> None:
    """A long list and a list of arrays in a closure: as a whole, and one by one."""
    numbers, arrays = list(range(100_000)), [array(1), array(2)]

    def closure() -> tuple[int, float]:
        return len(numbers), float(sum(a.sum() for a in arrays))

    future = shop.client.submit(closure)
    assert future.result() == (100_000, 3 * N)
    assert shop.count() == 3


def test_annotated_parameters_stay_lazy(shop: Shop) -> None:
    """A parameter annotated `Proxy[...]` receives the unresolved proxy."""
    name, resolved = shop.client.submit(tasks.kind_if_lazy, array()).result()
    assert (name, resolved) == ("Proxy", False)


@pytest.mark.parametrize(
    ("resolve", "kinds"), [("lazy", ["Proxy", "Proxy"]), ("eager", ["ndarray", "ndarray"])]
)
def test_resolve_option(shop: Shop, store_url: str, resolve: str, kinds: list[str]) -> None:
    """`resolve="lazy"` and `"eager"` hold for all parameters; the last registration applies."""
    shop.client.register_plugin(ProxyPlugin(store_url, threshold="100 kB", resolve=resolve))
    assert shop.client.submit(tasks.kinds_annotated, array(), array(2)).result() == kinds


def test_coroutines(shop: Shop) -> None:
    """A task that is a coroutine runs in the worker's event loop as without the plugin."""
    assert shop.client.submit(tasks.total_async, array(2)).result() == 2 * N


def test_a_task_that_writes_to_its_argument_spoils_nothing(shop: Shop) -> None:
    """Every run gets memory of its own."""
    given = array()
    futures = [shop.client.submit(tasks.spoil, given, pure=False) for _ in range(3)]
    assert shop.client.gather(futures) == [N] * 3
    assert given.sum() == N


def test_futures_mixed_with_large_arguments(shop: Shop) -> None:
    """Dependencies stay dependencies, wherever they stand beside a large value."""
    made = shop.client.submit(tasks.grow, array(1))
    future = shop.client.submit(tasks.add_totals, made, array(5))
    nested = shop.client.submit(deep_total, [made, {"a": array(7), "b": [made]}], keyword=made)
    assert future.result() == 7 * N
    assert nested.result() == (2 + 7 + 2 + 2) * N


def deep_total(values: Any, keyword: Any) -> float:
    first, second = values
    return float(first.sum() + second["a"].sum() + second["b"][0].sum() + keyword.sum())


def test_many_futures_in_a_list_are_not_swallowed(shop: Shop, store_url: str) -> None:
    """A container with futures in it is never replaced as a whole, however small the threshold."""
    shop.client.register_plugin(ProxyPlugin(store_url, threshold=100))
    futures = shop.client.map(abs, range(1500))
    assert shop.client.submit(sum, futures).result() == sum(range(1500))


def test_collections_as_arguments_of_submit(shop: Shop) -> None:
    """A collection beside a large argument arrives as the collection."""
    x = da.ones(10, chunks=5)
    assert shop.client.submit(collection_and_total, x, array()).result() == ("Array", N)


def collection_and_total(collection: Any, values: Any) -> tuple[str, float]:
    return type(collection).__name__, float(values.sum())


def test_users_own_proxies_are_resolved_by_the_same_rule(shop: Shop) -> None:
    """A proxy made by hand arrives as the object, nested or not."""
    proxy = shop.owner.store.proxy(array(4))
    assert shop.client.submit(tasks.kind_of, proxy).result() == "ndarray"
    assert shop.client.submit(tasks.kinds_in, [proxy, 1]).result() == ["ndarray", "int"]
    shop.owner.store.evict(proxy.__proxy_factory__.key)


def test_actors(shop: Shop) -> None:
    """Large arguments make an actor; what is said to it later is between client and worker."""
    actor = shop.client.submit(tasks.Counter, array(), actor=True).result()
    assert actor.add(array()).result() == 2 * N


def test_left_out_by_keyword_and_annotation(shop: Shop) -> None:
    """`proxy=False` and `dask.annotate(proxyflow=False)` leave single calls alone."""
    client, given = shop.client, array()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert client.submit(tasks.total, given, proxy=False).result() == N
        assert client.gather(client.map(tasks.total, [given], proxy=False)) == [N]
        with dask.annotate(proxyflow=False):
            assert client.submit(tasks.total, given).result() == N
            left_out = delayed(tasks.total)(given)
            assert left_out.compute() == N
        assert left_out.compute(optimize_graph=False) == N
    assert len(shop.owner) == 0
    assert client.submit(tasks.total, given, proxy=True).result() == N


def test_a_parameter_called_proxy_is_the_functions_own(shop: Shop) -> None:
    """`proxy=` goes to a function that has a parameter of that name."""
    wrapped = functools.partial(takes_proxy)
    for function in (takes_proxy, wrapped, TakesProxy()):
        assert shop.client.submit(function, array(), proxy=False).result() == (N, False)


def takes_proxy(values: Any, proxy: bool = True) -> tuple[float, bool]:
    return float(values.sum()), proxy


class TakesProxy:
    def __call__(self, values: Any, proxy: bool = True) -> tuple[float, bool]:
        return takes_proxy(values, proxy)


def test_no_warning_of_large_graphs(shop: Shop) -> None:
    """Dask has nothing to complain about: nothing large is in the graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big = np.ones(4_000_000)
        assert shop.client.submit(np.sum, big).result() == 4_000_000
        assert da.from_array(big, chunks=1_000_000).sum().compute() == 4_000_000


def test_a_full_store_lets_arguments_travel_by_value(shop: Shop, monkeypatch: Any) -> None:
    """What does not fit goes as without the plugin, with a warning."""

    def refuse(*args: Any) -> Any:
        raise StoreFullError("no room")

    monkeypatch.setattr(shop.owner.store, "write", refuse)
    with pytest.warns(RuntimeWarning, match="passed by value"):
        future = shop.client.submit(tasks.total, array())
    assert future.result() == N
    with pytest.warns(RuntimeWarning, match="passed by value"):
        future = shop.client.submit(functools.partial(tasks.total, array(3)))
    assert future.result() == 3 * N
