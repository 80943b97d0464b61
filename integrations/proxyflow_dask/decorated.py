"""Functions decorated with ``@proxied`` on a Dask client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from distributed import Client

from proxyflow.errors import ConfigError
from proxyflow_dask.attachment import Attachment, Use
from proxyflow_dask.plugin import ProxyPlugin
from proxyflow_dask.settings import Settings

__all__ = ["map", "submit"]

Options = tuple[Any, Any, str, bool]
"""Store, policy, resolve and results, as given to ``proxied``."""


def submit(
    client: Client,
    function: Callable[..., Any],
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return the Dask future of one call."""
    with Attachment.using(_use_of(client, options)):
        return client.submit(function, *args, **kwargs)


def map(
    client: Client,
    function: Callable[..., Any],
    options: Options,
    iterables: tuple[Iterable[Any], ...],
) -> Any:
    """Return the Dask futures of one call for each group of items."""
    items = list(zip(*iterables, strict=False))
    with Attachment.using(_use_of(client, options)):
        return client.map(function, *([list(column) for column in zip(*items, strict=True)]))


def _use_of(client: Client, options: Options) -> Use:
    """Return how a function's calls are treated, opening its store when that is first needed."""
    store, policy, resolve, results = options
    settings = Settings.of(store, policy, resolve, results)
    attachment = Attachment.of(client)
    if attachment is not None:
        known = attachment.uses.get(settings)
        if known is not None:
            return known
        if store is None and attachment.use is not None:
            return Use(attachment.use.owner, settings.rules)
    if client.asynchronous:
        raise ConfigError(
            "an asynchronous client has no store yet for this function",
            remedy="await client.register_plugin(ProxyPlugin(...)) first",
        )
    plugin = ProxyPlugin(store, threshold=policy, resolve=resolve, results=results)
    use: Use = client.sync(plugin.register, client, default=False)
    return use
