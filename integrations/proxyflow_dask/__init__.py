"""proxyflow for Dask: large arguments travel as proxies through the whole cluster."""

from __future__ import annotations

from proxyflow_dask.plugin import ProxyPlugin

__all__ = ["ProxyPlugin"]
