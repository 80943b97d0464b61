"""map: items as proxies, a bounded number in flight, otherwise as the plain executor's."""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from itertools import count, repeat
from pathlib import Path
from typing import Any

import futures_tasks as tasks
import numpy as np
import pytest
from futures_tasks import LARGE, left

from proxyflow import Store, get_factory
from proxyflow_futures import ProxyExecutor

KINDS = ["fork", "forkserver", "spawn", "loky"]


# The plain executor of distributed, whose map() takes no iterators, is left out.
@pytest.fixture(params=[*KINDS, "proxy-distributed", *(f"proxy-{kind}" for kind in KINDS)])
def either(request: pytest.FixtureRequest, pools: dict[str, Executor], store: Store) -> Executor:
    """Plain pools, and the same pools in a ProxyExecutor: the same tests for both."""
    pool = pools[request.param.removeprefix("proxy-")]
    if request.param.startswith("proxy-"):
        return ProxyExecutor(pool, store, policy=LARGE)
    return pool


@pytest.fixture
def executor(pools: dict[str, Executor], store: Store) -> ProxyExecutor:
    return ProxyExecutor(pools["forkserver"], store, policy=LARGE)


def arrays(n: int) -> Iterator[Any]:
    return (np.full(LARGE // 8, float(i)) for i in range(n))


@pytest.mark.parametrize("chunksize", [1, 3])
def test_results_in_order(either: Executor, store: Store, chunksize: int) -> None:
    """Several iterables, the shortest of which decides, whatever the size of their items."""
    results = either.map(tasks.total, arrays(10), count(), chunksize=chunksize)
    assert list(results) == [i * (LARGE // 8) + i for i in range(10)]
    assert list(either.map(tasks.echo, range(20), chunksize=chunksize)) == list(range(20))
    assert list(either.map(tasks.echo, [])) == []
    assert [a[-1] for a in either.map(tasks.echo, arrays(5), chunksize=chunksize)] == [*range(5)]
    assert left(store) == 0


@pytest.mark.parametrize("chunksize", [1, 2])
def test_failure_comes_where_its_item_is(either: Executor, store: Store, chunksize: int) -> None:
    results = either.map(tasks.total, [np.ones(LARGE), "not an array", np.ones(LARGE)])
    assert next(results) == LARGE
    with pytest.raises(AssertionError, match="a str"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    results = either.map(tasks.fail, arrays(3), chunksize=chunksize)
    with pytest.raises(tasks.Failure):
        list(results)


def test_timeout_counts_from_the_call(either: Executor, store: Store) -> None:
    """The deadline is for all results together."""
    results = either.map(tasks.nap, arrays(4), [0, 0.4, 0.4, 0.4], timeout=0.2)
    with pytest.raises(TimeoutError):
        list(results)


def test_chunksize_is_checked(either: Executor) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        either.map(tasks.echo, [1], chunksize=0)


def test_generator_of_thousands_never_fills_the_store(
    executor: ProxyExecutor, store: Store
) -> None:
    """Items are taken from the generator as results are taken from the map."""
    taken, most = 0, 0

    def items() -> Iterator[Any]:
        nonlocal taken
        for i in range(3000):
            taken = i
            yield np.full(LARGE // 8, float(i))

    bound = 2 * 2 + 2
    for i, total in enumerate(executor.map(tasks.total, items())):
        assert total == i * (LARGE // 8)
        assert taken - i <= bound
        if i % 50 == 0:
            most = max(most, left(store))
    assert i == 2999
    assert 0 < most <= bound
    assert left(store) == 0


def test_results_that_are_large_are_bounded_too(executor: ProxyExecutor, store: Store) -> None:
    """A large item with a large result: neither may pile up."""
    most = 0
    for i, result in enumerate(executor.map(tasks.echo, arrays(100))):
        assert result[0] == i
        most = max(most, left(store))
    assert most <= 2 * (2 * 2 + 2)
    del result
    assert left(store) == 0


def test_small_items_are_submitted_at_once(executor: ProxyExecutor) -> None:
    """As with the plain executor, who maps for the effects need not take the results."""
    taken = []
    results = executor.map(tasks.echo, (taken.append(i) or i for i in range(2000)))
    assert len(taken) == 2000
    started = time.perf_counter()
    assert list(results) == list(range(2000))
    assert time.perf_counter() - started < 60


def test_failing_generator(executor: ProxyExecutor, store: Store) -> None:
    """What was submitted before is cancelled or finishes, and leaves nothing."""

    def items(n: int) -> Iterator[Any]:
        yield from arrays(n)
        raise LookupError("no more")

    with pytest.raises(LookupError):
        executor.map(tasks.total, items(2))
    with pytest.raises(LookupError):
        list(executor.map(tasks.total, items(20)))
    assert_nothing_left(store)


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_abandoned_iterator(
    executor: ProxyExecutor, store: Store, taken: int, chunksize: int
) -> None:
    """Who stops in the middle leaves nothing behind, results included."""
    results = executor.map(tasks.echo, arrays(1000), chunksize=chunksize)
    for _ in range(taken):
        next(results)
    del results
    assert_nothing_left(store)


def test_closed_iterator(executor: ProxyExecutor, store: Store) -> None:
    for chunksize in (1, 2):
        results: Any = executor.map(tasks.echo, arrays(1000), chunksize=chunksize)
        next(results)
        results.close()
        assert list(results) == []
    assert_nothing_left(store)


def assert_nothing_left(store: Store) -> None:
    """Wait until the tasks that were running are done and their futures gone."""
    deadline = time.monotonic() + 60
    while left(store):
        assert time.monotonic() < deadline, f"{left(store)} objects are left"
        time.sleep(0.005)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_one_array_for_all_items(
    executor: ProxyExecutor, store: Store, tmp_path: Path, chunksize: int
) -> None:
    """The same array in every item under way is stored once."""
    array, go = np.ones(LARGE), tmp_path / "go"
    results = executor.map(tasks.wait_for, [array] * 4, [str(go)] * 4, chunksize=chunksize)
    go.touch()  # all four have been submitted: so many are always under way
    assert list(results) == [1.0] * 4
    assert store.stats["put"].count == 1


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("repeated", [lambda array: [array] * 30, repeat])
def test_one_array_in_all_calls_is_stored_once(
    executor: ProxyExecutor, store: Store, repeated: Any, chunksize: int
) -> None:
    """As it was when the map began, whatever happens to it while results are taken."""
    array = np.ones(LARGE)
    for total in executor.map(tasks.total, repeated(array), range(30), chunksize=chunksize):
        array[:] = total
    assert total == LARGE + 29
    assert store.stats["put"].count == 1
    assert left(store) == 0


def test_buffer_that_a_generator_uses_again(executor: ProxyExecutor) -> None:
    """Each item is what it was when the generator yielded it, though all are one object."""

    def items() -> Iterator[Any]:
        array = np.empty(LARGE)
        for i in range(12):
            array[:] = i
            yield array

    assert list(executor.map(tasks.total, items())) == [i * LARGE for i in range(12)]


def test_list_of_thousands_never_fills_the_store(executor: ProxyExecutor, store: Store) -> None:
    """What a call got is kept for the next one, and no longer."""
    items = [np.full(LARGE // 8, float(i)) for i in range(200)]
    most = 0
    for i, total in enumerate(executor.map(tasks.total, items)):
        assert total == i * (LARGE // 8)
        most = max(most, left(store))
    assert most <= 2 * 2 + 2 + 1
    assert left(store) == 0


def test_small_items_in_large_chunks(executor: ProxyExecutor, store: Store) -> None:
    """Items too small for a proxy each make a chunk that is worth one."""
    items = [np.full(LARGE // 40, float(i)) for i in range(40)]
    results = executor.map(tasks.total, items, chunksize=20)
    assert list(results) == [i * (LARGE // 40) for i in range(40)]
    assert store.stats["put"].count == 2
    assert left(store) == 0


def test_items_that_are_proxies(executor: ProxyExecutor, store: Store, array: Any) -> None:
    mine = store.proxy(array)
    for chunksize in (1, 2):
        assert list(executor.map(tasks.total, [mine] * 4, chunksize=chunksize)) == [array.sum()] * 4
        assert (
            list(executor.map(tasks.lazily, [mine] * 2, [1, 2], chunksize=chunksize))
            == [(True, False)] * 2
        )
    assert store.exists(get_factory(mine).key)


def test_map_from_several_threads(executor: ProxyExecutor, store: Store) -> None:
    totals: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda: totals.append(list(executor.map(tasks.total, arrays(30)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert totals == [[i * (LARGE // 8) for i in range(30)]] * 4
    assert left(store) == 0


@pytest.mark.parametrize("failing", [False, True])
def test_a_map_that_is_kept_keeps_nothing_in_the_store(
    make_pool: Callable[[], Executor], store: Store, failing: bool
) -> None:
    """Nor does an exception that came out of it, before the garbage collector has been by."""
    array = np.ones(LARGE)
    gc.collect()
    gc.disable()
    try:
        with ProxyExecutor(make_pool(), store, policy=LARGE) as executor:
            function = functools.partial(
                tasks.fail_at_three if failing else tasks.echo_length, array
            )
            results = executor.map(function, range(20))
            with pytest.raises(tasks.Failure) if failing else contextlib.nullcontext():
                list(results)
        assert left(store) == 0
    finally:
        gc.enable()


def test_results_there_are_come_before_what_stops_the_map(
    make_pool: Callable[[], Executor], store: Store
) -> None:
    """As with the plain executor, which has submitted all by the time of the first result."""
    executor = ProxyExecutor(make_pool(), store, policy=LARGE)
    results = executor.map(tasks.total, arrays(8))
    executor.shutdown()
    assert [next(results) for _ in range(4)] == [i * (LARGE // 8) for i in range(4)]
    with pytest.raises(RuntimeError, match="shutdown"):
        list(results)
    assert left(store) == 0


@pytest.mark.parametrize("carrying", [False, True])
def test_a_map_goes_on_after_the_shutdown_to_what_the_executor_says(
    make_pool: Callable[[], Executor], store: Store, carrying: bool
) -> None:
    """And the items of a list that it tries to submit then are not left in the store."""
    executor = ProxyExecutor(make_pool(), store, policy=LARGE)
    carried = functools.partial(tasks.total, b=np.ones(LARGE)) if carrying else tasks.total
    results = executor.map(carried, list(arrays(20)))
    executor.shutdown()
    next(results)
    with pytest.raises(RuntimeError, match="shutdown"):
        list(results)
    assert left(store) == 0


def test_shutdown_in_the_middle(make_pool: Callable[[], Executor], store: Store) -> None:
    """The results that were under way can still be taken; the next item finds no executor."""
    executor = ProxyExecutor(make_pool(), store, policy=LARGE)
    results = executor.map(tasks.total, arrays(100))
    assert next(results) == 0
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        list(results)
    assert left(store) == 0
