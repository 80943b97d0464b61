"""Ways to pass arrays to tasks in processes of one host, each with two workers."""

from __future__ import annotations

import os
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

__all__ = ["JOBLIB", "OURS", "PEER", "PLAIN", "RAY", "Run", "pools"]

OURS, PLAIN, PEER = "ProxyExecutor", "plain pool", "ProxyStore"
JOBLIB, RAY = "joblib", "Ray"

WORKERS = 2

Task = Callable[[Any], Any]
Run = Callable[[Task, Sequence[Any]], list[Any]]
"""Runs a task with each of some arrays and returns the results."""


def over_executor(executor: Executor) -> Run:
    """Return how an executor runs tasks."""

    def run(task: Task, arrays: Sequence[Any]) -> list[Any]:
        futures = [executor.submit(task, array) for array in arrays]
        return [future.result() for future in futures]

    return run


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


def over_joblib() -> Run:
    """Return joblib's default: loky's processes, large arrays memory-mapped in shared memory."""
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    def run(task: Task, arrays: Sequence[Any]) -> list[Any]:
        return list(Parallel(n_jobs=WORKERS)(delayed(task)(array) for array in arrays))

    return run


def over_ray(stack: ExitStack) -> Run:
    """Start Ray and return how it runs tasks, whose arguments it puts into its object store."""
    ray = ray_cluster.start(stack, WORKERS)
    remotes: dict[Task, Any] = {}

    def run(task: Task, arrays: Sequence[Any]) -> list[Any]:
        if task not in remotes:
            remotes[task] = ray.remote(task)
        return list(ray.get([remotes[task].remote(array) for array in arrays]))

    return run


def pools(
    directory: str, store: Store, context: BaseContext, stack: ExitStack
) -> tuple[dict[str, Run], list[str]]:
    """Start all that there are; return them, and who is left out."""

    def pool() -> ProcessPoolExecutor:
        return stack.enter_context(ProcessPoolExecutor(WORKERS, mp_context=context))

    found = {OURS: over_executor(ProxyExecutor(pool(), store)), PLAIN: over_executor(pool())}
    absent = missing("proxystore", "joblib", "ray")
    if "proxystore" not in absent:
        found[PEER] = over_executor(peer_executor(pool(), f"{directory}/peer"))
    if "joblib" not in absent:
        found[JOBLIB] = over_joblib()
    if "ray" not in absent:
        found[RAY] = over_ray(stack)
    return found, [f"{name} is not installed" for name in absent]
