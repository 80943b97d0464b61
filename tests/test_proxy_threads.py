"""One resolution for all who ask, and never a deadlock."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from proxyflow import proxy as px
from proxyflow.errors import ProxyflowError
from proxyflow.facts import describe
from proxyflow.flight import _Flight, _land, forget_other_threads, single_flight
from tests.proxy_cases import Flaky, Give

# Far beyond what anything here takes; reached only by a deadlock.
DEADLINE = 60


class Gate:
    """A factory that stays in flight until it is let go."""

    def __init__(self, target: Any, *errors: BaseException) -> None:
        self.inner = Flaky(target, *errors)
        self.entered = threading.Event()
        self.go = threading.Event()
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.go.wait(DEADLINE)
        return self.inner()


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work`` in threads that start at the same moment; give results or exceptions."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait(DEADLINE)
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run, number) for number in range(count)]
        return [future.result(DEADLINE) for future in futures]


def test_eight_threads_call_the_factory_once() -> None:
    for _ in range(200):
        factory = Give([1])
        p = px.Proxy(factory)
        results = together(8, lambda number, p=p: px.resolve(p))
        assert factory.calls == 1
        assert all(result is factory.target for result in results)


def test_threads_that_come_during_a_flight_wait_for_it() -> None:
    factory = Gate([1])
    p = px.Proxy(factory, describe([1]))
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(px.resolve, p)
        assert factory.entered.wait(DEADLINE)
        others = [pool.submit(lambda: p[0]) for _ in range(3)]
        assert len(p) == 1  # recorded facts do not wait
        assert "unresolved" in repr(p)
        factory.go.set()
        assert first.result(DEADLINE) == [1]
        assert [other.result(DEADLINE) for other in others] == [1, 1, 1]
    assert factory.calls == 1


def test_an_error_reaches_one_thread_and_the_others_try_again() -> None:
    factory = Gate([1], OSError("lost"))
    p = px.Proxy(factory)
    factory.go.set()
    results = together(8, lambda number: px.resolve(p))
    assert sum(isinstance(result, OSError) for result in results) == 1
    assert results.count([1]) == 7
    assert factory.calls == 2


def test_different_proxies_resolve_at_the_same_time() -> None:
    barrier = threading.Barrier(4)
    proxies = [px.Proxy(lambda: barrier.wait(DEADLINE) or "met") for _ in range(4)]
    # Barrier.wait gives each thread its number; 0 is replaced, so that every target is true.
    assert all(together(4, lambda number: px.resolve(proxies[number])))


def test_a_factory_that_needs_its_own_proxy() -> None:
    proxies: list[Any] = []
    proxies.append(px.Proxy(lambda: proxies[0].anything))
    with pytest.raises(ProxyflowError, match="own proxy"):
        px.resolve(proxies[0])
    itself = px.Proxy(lambda: itself)
    with pytest.raises(ProxyflowError, match="own proxy"):
        px.resolve(itself)


def test_factories_that_need_each_other() -> None:
    """Two threads, each holding what the other waits for, would wait forever."""
    barrier = threading.Barrier(2)
    first = [True, True]
    pair: list[Any] = []

    def needs(other: int) -> Any:
        if first[other]:  # a thread that waited tries the other's factory itself, later
            first[other] = False
            barrier.wait(DEADLINE)
        return [px.resolve(pair[other])]

    pair += [px.Proxy(lambda: needs(1)), px.Proxy(lambda: needs(0))]
    results = together(2, lambda number: px.resolve(pair[number]))
    assert any(isinstance(result, ProxyflowError) for result in results)


def test_a_finalizer_that_touches_a_proxy_during_a_flight() -> None:
    """The garbage collector runs finalizers anywhere, also while a proxy is being resolved."""
    seen = []

    class Dying:
        def __init__(self) -> None:
            self.me = self  # only the collector frees it

        def __del__(self) -> None:
            seen.append(px.resolve(px.Proxy(Give("inner"))))

    def factory() -> str:
        Dying()
        gc.collect()
        return "outer"

    assert px.resolve(px.Proxy(factory)) == "outer"
    assert seen == ["inner"]


def test_a_signal_handler_that_touches_a_proxy_during_a_wait() -> None:
    factory = Gate("slow")
    slow, quick = px.Proxy(factory), px.Proxy(Give("quick"))
    seen = []

    def handle(number: int, frame: FrameType | None) -> None:
        seen.append(px.resolve(quick))
        factory.go.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        flying = threading.Thread(target=px.resolve, args=(slow,))
        flying.start()
        assert factory.entered.wait(DEADLINE)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert px.resolve(slow) == "slow"
        flying.join(DEADLINE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["quick"]


def test_a_signal_handler_that_raises_leaves_no_flight_behind() -> None:
    """The next proxy at the same address would be taken for one that waits for itself, or hang."""
    code = """
        import random, signal
        from proxyflow import Proxy

        def interrupt(number, frame):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        for _ in range(1000):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-4))
                while True:
                    len(Proxy(list))
            except KeyboardInterrupt:
                pass
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr


def test_landing_twice_takes_the_lock_from_nobody() -> None:
    """Who was interrupted while landing lands again, when others may have gone on already."""
    flight = _Flight()
    _land(0, flight)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(flight.landed.acquire).result(DEADLINE)
        _land(0, flight)
        pool.submit(flight.landed.release).result(DEADLINE)


def fork(work: Callable[[], bool]) -> bool:
    """Run ``work`` in a forked child and give what it returned."""
    # Not os.fork(): a child that ends in os._exit() would not report its coverage.
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(not work()))
    child.start()
    child.join(DEADLINE)
    if child.is_alive():
        child.kill()
    return child.exitcode == 0


def test_a_fork_during_a_flight() -> None:
    """The child has no thread that could land the parent's flight, so it flies itself."""
    factory = Gate("target")
    p = px.Proxy(factory)

    def in_child() -> bool:
        factory.go.set()
        return px.resolve(p) == "target" and factory.calls == 2

    with ThreadPoolExecutor(1) as pool:
        flying = pool.submit(px.resolve, p)
        assert factory.entered.wait(DEADLINE)
        try:
            assert fork(in_child)
        finally:
            factory.go.set()
        assert flying.result(DEADLINE) == "target"
    assert factory.calls == 1


def test_a_factory_that_forks() -> None:
    """In the child the forking thread is still in its own flight."""
    holder: list[Any] = []

    def in_child() -> bool:
        with pytest.raises(ProxyflowError, match="own proxy"):
            px.resolve(holder[0])
        return True

    holder.append(px.Proxy(lambda: fork(in_child)))
    assert px.resolve(holder[0]) is True


def test_what_a_fork_keeps() -> None:
    """The same without a fork: own flights stay, others are forgotten and can be flown again."""
    factory = Gate("target")
    p = px.Proxy(factory)

    def inner() -> Any:
        forget_other_threads()
        with pytest.raises(ProxyflowError, match="own proxy"):
            px.resolve(outer)
        factory.go.set()
        return px.resolve(p)

    outer = px.Proxy(inner)
    with ThreadPoolExecutor(1) as pool:
        flying = pool.submit(px.resolve, p)
        assert factory.entered.wait(DEADLINE)
        assert px.resolve(outer) == flying.result(DEADLINE) == "target"
    assert factory.calls == 2


def test_a_flight_that_landed_between_looking_and_taking_off() -> None:
    landed = iter([False, True])

    def fly() -> None:
        raise AssertionError("called a second time")

    single_flight(object(), lambda: next(landed), fly)
    assert next(landed, None) is None


class TestAsync:
    """Resolution in the background, for threads and for coroutines."""

    def test_result(self) -> None:
        factory = Gate([1])
        p = px.Proxy(factory)
        future = px.resolve_async(p)
        assert isinstance(future, Future)
        assert factory.entered.wait(DEADLINE)
        assert not future.done()
        assert not future.cancel()
        factory.go.set()
        assert future.result(DEADLINE) is px.resolve(p)
        assert factory.calls == 1
        assert px.resolve_async(p).done()

    def test_await(self) -> None:
        async def main() -> list[Any]:
            proxies = [px.Proxy(Give(number)) for number in range(20)]
            return await asyncio.gather(*map(px.resolve_async, proxies))

        assert asyncio.run(main()) == list(range(20))

    def test_cancelling_one_waiter_leaves_the_others(self) -> None:
        factory = Gate("target")

        async def main() -> Any:
            future = px.resolve_async(px.Proxy(factory))
            impatient = asyncio.ensure_future(future)
            await asyncio.sleep(0)
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
            factory.go.set()
            return await future

        assert asyncio.run(main()) == "target"

    def test_a_loop_that_ended_before_the_target_came(self) -> None:
        factory = Gate("target")

        async def main() -> Any:
            future = px.resolve_async(px.Proxy(factory))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(future, 0.01)
            return future

        future = asyncio.run(main())
        factory.go.set()
        assert future.result(DEADLINE) == "target"

    def test_errors(self) -> None:
        p = px.Proxy(Flaky("target", OSError("lost"), StopIteration(), SystemExit(3)))

        async def wait() -> Any:
            return await px.resolve_async(p)

        with pytest.raises(OSError, match="lost"):
            px.resolve_async(p).result(DEADLINE)
        # As everywhere in Python, a StopIteration cannot leave a coroutine; it must not hang it.
        with pytest.raises(RuntimeError, match="StopIteration"):
            asyncio.run(wait())
        with pytest.raises(SystemExit):
            px.resolve_async(p).result(DEADLINE)
        assert asyncio.run(wait()) == "target"
