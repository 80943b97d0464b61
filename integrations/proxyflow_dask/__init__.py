"""proxyflow for Dask: large arguments travel as proxies through the whole cluster."""

from __future__ import annotations

try:
    from proxyflow_dask.plugin import ProxyPlugin
except ModuleNotFoundError as error:
    if error.name not in ("dask", "distributed"):
        raise
    from proxyflow.errors import MissingDependencyError

    raise MissingDependencyError(
        f"proxyflow_dask stands on Dask: {error}", remedy="pip install 'proxyflow[dask]'"
    ) from error

__all__ = ["ProxyPlugin"]
