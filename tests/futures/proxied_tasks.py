"""``@proxied`` functions that workers import by name."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from futures_tasks import LARGE

from proxyflow import Proxy, is_resolved, proxied


@proxied(policy=LARGE)
def total(a: Any, b: Any = 0, *, scale: int = 1) -> float:
    """Add everything up."""
    assert type(a) is np.ndarray, f"a {type(a).__name__}"
    return float((a.sum() + np.sum(b)) * scale)


@proxied(policy=LARGE)
def lazily(a: Proxy[Any], b: Any) -> tuple[bool, bool]:
    return issubclass(type(a), Proxy) and not is_resolved(a), issubclass(type(b), Proxy)


@proxied(policy=LARGE, resolve="lazy")
def all_lazily(a: Any, b: Any) -> tuple[bool, bool]:
    return issubclass(type(a), Proxy), issubclass(type(b), Proxy)


@proxied
def bare(a: Any) -> str:
    return type(a).__name__


@proxied(policy=LARGE)
def number(value: float) -> Any:
    return np.full(LARGE // 8, value)


@proxied(policy=LARGE, results=False)
def number_by_value(value: float) -> Any:
    return np.full(LARGE // 8, value)


@proxied(policy=LARGE)
def fail(a: Any) -> None:
    raise LookupError("on purpose")


def plain(a: Any) -> float:
    return float(a.sum())


renamed = proxied(policy=LARGE)(plain)
doubled = proxied(policy=LARGE)(partial(np.multiply, 2))


class Model:
    def __init__(self, weights: Any) -> None:
        self.weights = weights

    @proxied(policy=LARGE)
    def predict(self, x: Any) -> float:
        assert type(x) is np.ndarray
        assert type(self) is Model
        return float(self.weights.sum() + x.sum())

    @staticmethod
    @proxied(policy=LARGE)
    def static(x: Any) -> float:
        return float(x.sum())

    @proxied(policy=LARGE)
    @staticmethod
    def static_outside(x: Any) -> float:
        return float(x.sum())

    @classmethod
    @proxied(policy=LARGE)
    def of_class(cls, x: Any) -> tuple[str, float]:
        return cls.__name__, float(x.sum())

    @proxied(policy=LARGE)
    @classmethod
    def of_class_outside(cls, x: Any) -> tuple[str, float]:
        return cls.__name__, float(x.sum())


class Derived(Model):
    pass


@proxied(policy=LARGE)
def halves(a: Any, depth: int) -> float:
    """Add up an array by submitting its halves on, from within the worker."""
    if depth == 0:
        return float(a.sum())
    middle = len(a) // 2
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        futures = [
            halves.submit(pool, half, depth - 1) for half in (a[:middle].copy(), a[middle:].copy())
        ]
        result = sum(future.result() for future in futures)
        again = halves.submit(pool, a[:middle].copy(), depth - 1).result()
        assert again == a[:middle].sum()
    return result
