"""Ways to pass arrays to tasks in processes of one host, each with two workers."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np

from benchmarks import ray_cluster
from benchmarks.measure import missing
from proxyflow import Store
from proxyflow_futures import ProxyExecutor

__all__ = ["JOBLIB", "OURS", "PEER", "PLAIN", "RAY", "Pool", "pools"]

OURS, PLAIN, PEER = "ProxyExecutor", "plain pool", "ProxyStore"
JOBLIB, RAY = "joblib", "Ray"

WORKERS = 2

Task = Callable[[Any], Any]


class Pool(ABC):
    """One way to run tasks with arrays in other processes."""

    @abstractmethod
    def run(self, task: Task, arrays: Sequence[Any]) -> list[Any]:
        """Run a task with each of some arrays and return the results."""

    def run_shared(self, task: Task, array: Any, tasks: int) -> list[Any]:
        """Run so many tasks with one array, as one would who knows that it is one."""
        return self.run(task, [array] * tasks)


class ExecutorPool(Pool):
    """An executor: submits, or maps."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def run(self, task: Task, arrays: Sequence[Any]) -> list[Any]:
        """Submit each task."""
        futures = [self._executor.submit(task, array) for array in arrays]
        return [future.result() for future in futures]

    def run_shared(self, task: Task, array: Any, tasks: int) -> list[Any]:
        """Map the task."""
        return list(self._executor.map(task, [array] * tasks))


def is_array(value: Any) -> bool:
    """Return what ProxyStore's executor asks of each value."""
    return isinstance(value, np.ndarray)


def peer_executor(pool: Executor, directory: str) -> Any:
    """Return ProxyStore's wrapper of an executor."""
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store as PeerStore
    from proxystore.store.executor import StoreExecutor

    # Each object is asked for once: a larger cache would only fill the workers' memory.
    store = PeerStore(
        f"peer-{os.getpid()}", FileConnector(directory, clear=False), cache_size=1, register=True
    )
    return StoreExecutor(pool, store, should_proxy=is_array)


class JoblibPool(Pool):
    """joblib's default: loky's processes, large arrays memory-mapped in shared memory."""

    def run(self, task: Task, arrays: Sequence[Any]) -> list[Any]:
        """Run all in one call, which is the only way there is."""
        from joblib import Parallel, delayed  # type: ignore[import-untyped]

        return list(Parallel(n_jobs=WORKERS)(delayed(task)(array) for array in arrays))


class RayPool(Pool):
    """Ray, which puts arguments into its object store."""

    def __init__(self, stack: ExitStack) -> None:
        self._ray = ray_cluster.start(stack, WORKERS)
        self._remotes: dict[Task, Any] = {}

    def run(self, task: Task, arrays: Sequence[Any]) -> list[Any]:
        """Call the task with each array."""
        if task not in self._remotes:
            self._remotes[task] = self._ray.remote(task)
        return list(self._ray.get([self._remotes[task].remote(array) for array in arrays]))

    def run_shared(self, task: Task, array: Any, tasks: int) -> list[Any]:
        """Put the array once, and call the task with the reference."""
        return super().run_shared(task, self._ray.put(array), tasks)


def pools(
    directory: str, store: Store, context: BaseContext, stack: ExitStack
) -> tuple[dict[str, Pool], list[str]]:
    """Start all that there are; return them, and who is left out."""

    def pool() -> ProcessPoolExecutor:
        return stack.enter_context(ProcessPoolExecutor(WORKERS, mp_context=context))

    found: dict[str, Pool] = {
        OURS: ExecutorPool(ProxyExecutor(pool(), store)),
        PLAIN: ExecutorPool(pool()),
    }
    absent = missing("proxystore", "joblib", "ray")
    if "proxystore" not in absent:
        found[PEER] = ExecutorPool(peer_executor(pool(), f"{directory}/peer"))
    if "joblib" not in absent:
        found[JOBLIB] = JoblibPool()
    if "ray" not in absent:
        found[RAY] = RayPool(stack)
    return found, [f"{name} is not installed" for name in absent]
