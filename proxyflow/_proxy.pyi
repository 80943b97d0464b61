"""The proxy in C."""

from collections.abc import Callable, Container
from typing import Any

from proxyflow.proxytypes import ProxyTypes

METHODS: tuple[str, ...]

class Proxy:
    __proxy_types__: ProxyTypes

def derive(methods: Container[str], flags: int, /) -> type[Proxy]: ...
def install(
    *,
    facts_type: type,
    types: ProxyTypes,
    anything: int,
    resolve: Callable[..., Any],
    attribute_of_unresolved: Callable[..., Any],
    class_of_unresolved: Callable[..., Any],
    text_of_unresolved: Callable[..., Any],
    special_attribute: Callable[..., Any],
    called_in_place: Callable[[], bool],
) -> None: ...
def rebuild(factory: Callable[[], Any], facts: tuple[Any, ...], /) -> Any: ...
