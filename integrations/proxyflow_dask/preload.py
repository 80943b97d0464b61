"""Turns the plugin on without a line of code: ``distributed.client.preload: [proxyflow_dask.preload]``.

Settings come from the ``proxyflow`` section of Dask's configuration.
"""

from __future__ import annotations

from distributed import Client

from proxyflow_dask.plugin import ProxyPlugin

__all__ = ["dask_setup"]


async def dask_setup(client: Client) -> None:
    """Register the plugin with a client that starts."""
    await ProxyPlugin().register(client)
