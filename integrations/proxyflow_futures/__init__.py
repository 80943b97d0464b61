"""proxyflow for `concurrent.futures`: an executor around any other."""

from __future__ import annotations

from proxyflow_futures.executor import ProxyExecutor

__all__ = ["ProxyExecutor"]
