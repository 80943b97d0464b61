"""Turns the plugin on without a line of code, as a preload module of Dask's clients.

In Dask's configuration ``distributed.client.preload: [proxyflow_dask.preload]``; settings come
from its ``proxyflow`` section.
"""

from __future__ import annotations

from distributed import Client

from proxyflow_dask.plugin import ProxyPlugin

__all__ = ["dask_setup"]


async def dask_setup(client: Client) -> None:
    """Register the plugin with a client that starts."""
    await ProxyPlugin().register(client)
