"""An executor that tells how much goes through its pipe."""

from __future__ import annotations

import pickle
from concurrent.futures import Executor
from typing import Any

import pytest


class Recorder(Executor):
    """Hands calls on to another executor, and keeps what goes through its pipe."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.sizes: list[int] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(len(pickle.dumps((fn, args, kwargs))))
        return self.executor.submit(fn, *args, **kwargs)


def record(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have a pool keep how much goes through its pipe; return where."""
    recorder = Recorder(_Original(pool.submit))
    monkeypatch.setattr(pool, "submit", recorder.submit)
    return recorder.sizes


class _Original(Executor):
    def __init__(self, submit: Any) -> None:
        self.submit = submit
