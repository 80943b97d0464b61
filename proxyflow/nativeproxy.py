"""The proxy in C, `_proxy.c`, put together with its parts in Python."""

from __future__ import annotations

import proxyflow._proxy as _proxy  # `from proxyflow import` would tell less of why it failed
from proxyflow import behaviour, special
from proxyflow._proxy import Proxy, rebuild
from proxyflow.facts import Facts
from proxyflow.proxytypes import ANYTHING, ProxyTypes
from proxyflow.traits import BIT, MAPPING_FLAG, MAPPING_PATTERN, SEQUENCE_FLAG, SEQUENCE_PATTERN

__all__ = ["Proxy", "rebuild"]

# The rest of the special methods that objects have whatever their class.
_ALWAYS = ("__format__", "__dir__")


def _derive(traits: int) -> type:
    flags = (traits & SEQUENCE_PATTERN and SEQUENCE_FLAG) | (
        traits & MAPPING_PATTERN and MAPPING_FLAG
    )
    methods = frozenset(name for name, bit in BIT.items() if traits & bit)
    made = _proxy.derive(methods, flags)
    for name, function in special.special_methods(traits).items():
        if name not in _proxy.METHODS:
            setattr(made, name, function)
    return made


for _name in _ALWAYS:
    setattr(Proxy, _name, special.method(_name))

_types = ProxyTypes(Proxy, _derive)
Proxy.__proxy_types__ = _types
Proxy.__doc__ = behaviour.Behaviour.__doc__

_proxy.install(
    facts_type=Facts,
    types=_types,
    anything=ANYTHING,
    resolve=behaviour.resolve,
    attribute_of_unresolved=behaviour.attribute_of_unresolved,
    class_of_unresolved=behaviour.class_of_unresolved,
    text_of_unresolved=behaviour.text_of_unresolved,
    special_attribute=behaviour.special_attribute,
    called_in_place=special.called_in_place,
)
