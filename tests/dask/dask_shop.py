"""Clusters of real processes, and clients with a look at their store."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Client

from proxyflow_dask import ProxyPlugin
from proxyflow_dask.attachment import Attachment, Use

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Cluster:
    """Scheduler and workers in processes of their own, none of them the test's."""

    def __init__(self, n_workers: int = 2) -> None:
        paths = [str(ROOT), str(ROOT / "integrations"), str(HERE)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "dask_cluster.py"), str(n_workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(60)
        else:
            self.process.stdin.close()
        self.process.stdout.close()


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


class Shop:
    """A client with the plugin, and a look at its store."""

    def __init__(self, address: str, store: str, **settings: Any) -> None:
        self.client = Client(address, set_as_default=True)
        self.client.register_plugin(ProxyPlugin(store, **settings))
        attachment = Attachment.of(self.client)
        assert attachment is not None
        assert attachment.use is not None
        self.owner = attachment.use.owner
        self.directory = Path(store.removeprefix("file://"))

    def use(self) -> Use | None:
        """Return what the client does with its submissions now."""
        attachment = Attachment.of(self.client)
        return None if attachment is None else attachment.use

    def count(self) -> int:
        """Return how many objects are stored."""
        return sum(1 for _ in self.owner.store.scan())

    def files(self) -> list[str]:
        """Return the objects' files, whoever owns them."""
        return [p.name for p in self.directory.glob("*/*") if not p.name.startswith(".")]

    def expect_empty(self) -> None:
        """Wait until nothing is stored, and the owner knows of no task."""

        def is_empty() -> bool:
            # Futures and actors are released when they are collected.
            gc.collect()
            return self.count() == 0 and len(self.owner) == 0

        until(is_empty)
