"""Task functions that workers import, whatever way they were started."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from proxyflow import Proxy, Store, is_resolved

LARGE = 200_000


def left(store: Store) -> int:
    """Return how many objects a store holds."""
    return sum(1 for _ in store.scan())


@dataclass
class Model:
    weights: Any
    name: str = "model"

    def predict(self, x: Any) -> float:
        return float(self.weights.sum() + x.sum())

    def holds(self, weights: Any) -> bool:
        return self.weights is weights

    def rename(self, name: str) -> str:
        before, self.name = self.name, name
        return before


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not like this")


class Failure(Exception):
    pass


def kinds(*args: Any, **kwargs: Any) -> list[str]:
    return [type(value).__name__ for value in (*args, *kwargs.values())]


def total(a: Any, b: Any = 0, *, scale: int = 1) -> float:
    assert type(a) is np.ndarray, f"a {type(a).__name__}"
    return float((a.sum() + np.sum(b)) * scale)


async def total_later(a: Any) -> float:
    await asyncio.sleep(0.01)
    return float(np.sum(a))


async def doubled_later(a: Any) -> Any:
    await asyncio.sleep(0.01)
    return 2 * a


def nested_total(value: dict[str, Any]) -> float:
    assert type(value["list"][0]) is np.ndarray
    assert type(value["model"].weights) is np.ndarray
    return float(value["list"][0].sum() + value["model"].weights.sum())


def lazily(a: Proxy[Any], b: Any) -> tuple[bool, bool]:
    return issubclass(type(a), Proxy) and not is_resolved(a), issubclass(type(b), Proxy)


def same(a: Any, b: Any) -> bool:
    return a is b


def overwrite(a: Any) -> float:
    before = float(a[0])
    a[:] = -1
    return before


def ones(n: int) -> Any:
    return np.ones(n)


def number(value: Any) -> Any:
    return np.full(LARGE // 8, value)


def echo(value: Any) -> Any:
    return value


def touch_file(a: Any, folder: Path, number: int) -> None:
    (folder / f"done-{number}").touch()


def echo_length(a: Any, _: Any) -> int:
    return len(a)


def fail(a: Any) -> None:
    raise Failure("on purpose", len(a))


def fail_at_three(a: Any, number: int) -> int:
    if number == 3:
        raise Failure(number)
    return number


def fail_with_large(a: Any) -> None:
    raise Failure(np.ones(LARGE))


def die(a: Any) -> None:
    os._exit(3)


def be_killed(a: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def unpicklable_result(a: Any) -> Any:
    return [a, (i for i in range(3))]


def wait_for(a: Any, path: str) -> float:
    """Wait for a file, having said by another one that the task runs."""
    Path(path + ".running").touch()
    deadline = time.monotonic() + 60
    while not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return float(a[0])


def nap(a: Any, seconds: float) -> float:
    time.sleep(seconds)
    return float(a[0])


def in_own_pool(a: Any) -> float:
    """Submit on from within a task, through a pool of its own."""
    from proxyflow_futures import ProxyExecutor

    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with ProxyExecutor(pool, policy=LARGE) as executor:
        result: float = executor.submit(total, a).result()
        assert not list(executor.store.scan())
    return result
