"""proxyflow: large objects travel between Python tasks as small lazy proxies."""

from __future__ import annotations

from proxyflow.connectors import known_connectors, register_connector
from proxyflow.decorator import proxied
from proxyflow.errors import ProxyflowError
from proxyflow.factory import _l as _l
from proxyflow.factory import _s as _s
from proxyflow.factory import _w as _w
from proxyflow.files import proxy_url
from proxyflow.lifetime import gc
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy, extract, get_factory, is_resolved, resolve, resolve_async
from proxyflow.serialize import register_serializer, unregister_serializer
from proxyflow.store import Store

__version__ = "0.1.0"

__all__ = [
    "Policy",
    "Proxy",
    "ProxyflowError",
    "Store",
    "extract",
    "gc",
    "get_factory",
    "is_resolved",
    "known_connectors",
    "proxied",
    "proxy_url",
    "register_connector",
    "register_serializer",
    "resolve",
    "resolve_async",
    "unregister_serializer",
]
