"""The types of proxies: one for each set of special methods that targets have."""

from __future__ import annotations

from collections.abc import Callable

from proxyflow.special import TypeAnnotations, TypeText
from proxyflow.traits import BIT, MAPPING_PATTERN, SEQUENCE_PATTERN, TEXT

__all__ = ["ANYTHING", "ProxyTypes"]

_DESCRIPTORS = ("__get__", "__set__", "__delete__", "__set_name__")
# What the proxy of a target of which nothing is known can do.
ANYTHING = sum(bit for name, bit in BIT.items() if name not in _DESCRIPTORS)

_TYPE_BITS = sum(BIT.values()) | SEQUENCE_PATTERN | MAPPING_PATTERN | TEXT


class ProxyTypes(dict[int, type]):
    """The subtypes of a proxy type, by the traits of the target; made when first asked for.

    Parameters
    ----------
    base
        The type of proxies.
    derive
        Makes the subtype for those bits of the traits that make a difference to it.

    Examples
    --------
    >>> made = ProxyTypes(object, lambda traits: type("Derived", (object,), {}))
    >>> made[BIT["__len__"]] is made[BIT["__len__"]]
    True
    """

    __slots__ = ("_base", "_derive")

    def __init__(self, base: type, derive: Callable[[int], type]) -> None:
        super().__init__()
        self._base = base
        self._derive = derive

    def __missing__(self, traits: int) -> type:
        # Looked up by all the bits, which saves masking them for every proxy.
        relevant = traits & _TYPE_BITS
        if relevant != traits:
            return self.setdefault(traits, self[relevant])
        made = self._derive(relevant)
        for attribute in ("__doc__", "__module__"):
            setattr(made, attribute, TypeText(attribute, getattr(self._base, attribute)))
        made.__annotations__ = TypeAnnotations()
        return self.setdefault(relevant, made)
