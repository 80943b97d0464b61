"""What a proxy knows of its target without resolving it.

:func:`describe` looks at an object once, when its proxy is made, and writes down what is cheap to
know and small to send: its class by name, which special methods the class has, and for containers
and arrays their length, shape, dtype and size. The record travels in the pickle of every proxy, so
it is flat, and new facts are only ever added at its end.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any, NamedTuple

from proxyflow.errors import ProxyTargetError
from proxyflow.traits import (
    ARRAY_ATTRIBUTES,
    FOREIGN_BASES,
    KINDRED_BASES,
    OWN_DUNDERS,
    traits_of,
    traits_of_class,
)

__all__ = ["Facts", "check_target", "class_of", "describe", "lacks", "summary"]

# Two processes agree on the hash of equal values only if strings are hashed with the same seed and,
# before Python 3.12, None lives at the same address.
HASH_SEED = hash(("proxyflow", None, sys.version_info[:2], sys.hash_info.width))


class Facts(NamedTuple):
    """What is known of a target; made by :func:`describe`.

    Attributes
    ----------
    module, qualname
        The target's class, by name: naming it imports nothing.
    mask
        Which special methods the class has, and how it takes part in ``isinstance`` and ``match``.
    length, shape, dtype, nbytes, ndim, size
        What ``len`` and the attributes of these names gave, ``None`` where there was nothing simple
        to record. ``dtype`` is the string of a NumPy dtype.
    hash, seed
        The target's hash and the fingerprint of the process that took it.
    """

    module: str
    qualname: str
    mask: int
    length: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    nbytes: int | None = None
    ndim: int | None = None
    size: int | None = None
    hash: int | None = None
    seed: int | None = None

    @property
    def trusted_hash(self) -> int | None:
        """The recorded hash, if this process would compute the same one."""
        return self.hash if self.seed == HASH_SEED else None

    def attribute(self, name: str) -> Any:
        """Return the recorded attribute ``name`` of the target, ``None`` if it is not recorded."""
        if name not in ARRAY_ATTRIBUTES:
            return None
        value = getattr(self, name)
        if name == "dtype" and value is not None:
            import numpy

            return numpy.dtype(value)
        return value


def check_target(obj: object) -> None:
    """Refuse an object that no proxy can stand for.

    Parameters
    ----------
    obj
        The object somebody wants a proxy for.

    Raises
    ------
    ProxyTargetError
        If it is ``None``, ``True``, ``False``, ``Ellipsis`` or ``NotImplemented``. Code recognises
        these with ``is``, and ``proxy is None`` is false whatever the proxy stands for.

    Examples
    --------
    >>> check_target([1, 2])
    >>> check_target(None)
    Traceback (most recent call last):
        ...
    proxyflow.errors.ProxyTargetError: no proxy can stand for None: code recognises it with ...
    """
    if obj is None or obj is True or obj is False or obj is Ellipsis or obj is NotImplemented:
        raise ProxyTargetError(
            f"no proxy can stand for {obj!r}: code recognises it with 'is', which no proxy passes",
            remedy="pass the value itself, it is smaller than a proxy",
        )


def describe(obj: object, *, hashed: bool = True) -> Facts:
    """Record what is cheap to know of ``obj``, for its proxy.

    Nothing here runs code of the object's class that could be slow or have effects, except its
    ``__hash__``.

    Parameters
    ----------
    obj
        The target of the proxy to be.
    hashed
        Whether to record the hash. Hashing long strings and tuples takes time; without the record,
        ``hash(proxy)`` resolves.

    Returns
    -------
    Facts
        A flat, picklable record of plain strings and numbers.

    Examples
    --------
    >>> facts = describe([1, 2, 3])
    >>> facts.module, facts.qualname, facts.length
    ('builtins', 'list', 3)
    """
    traits = traits_of(obj)
    mask = traits.mask
    # Listed first, in one step: another thread may be setting attributes.
    if traits.has_dict and any(map(_is_dunder, list(obj.__dict__))):
        mask |= OWN_DUNDERS
    length = _attempt(len, obj) if traits.sized else None
    array = _NO_ARRAY
    if traits.attributes:
        array = tuple(_recordable(name, obj, traits.attributes) for name in ARRAY_ATTRIBUTES)
    value = _attempt(hash, obj) if hashed and traits.hashable else None
    seed = None if value is None else HASH_SEED
    return Facts._make((traits.module, traits.qualname, mask, length, *array, value, seed))


def describe_class(cls: type) -> Facts:
    """Record what is known of a target of which only the class is known.

    Examples
    --------
    >>> describe_class(list).qualname, describe_class(list).length
    ('list', None)
    """
    traits = traits_of_class(cls)
    return Facts(traits.module, traits.qualname, traits.mask)


_NO_ARRAY: tuple[Any, ...] = (None,) * len(ARRAY_ATTRIBUTES)


def class_of(facts: Facts) -> type | None:
    """Return the class the facts name, importing it only if somebody could tell the difference.

    ``isinstance`` asks a proxy for its class. Importing it whenever asked would drag user modules
    into processes that merely hand proxies on: cloudpickle asks ``isinstance`` of every object, in
    a scheduler too. So a class whose module is not loaded is imported only if code here could name
    a class it is an instance of: if it has bases outside its own package, or if its package is
    loaded and it has bases in other modules of it. In every other case all the classes it is an
    instance of live in modules nobody here has loaded; no ``isinstance`` can name one of them, and
    any answer gives the same result.

    Returns
    -------
    type or None
        ``None`` if the class need not, or cannot, be imported.
    """
    found: Any = sys.modules.get(facts.module) or _import_if_nameable(facts)
    for part in facts.qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def lacks(cls: type, facts: Facts, name: str) -> bool:
    """Tell whether no object of ``cls`` with these facts can have the attribute ``name``.

    Libraries probe what they are given for protocols of theirs (``hasattr(x, "__dask_graph__")``).
    Moving the target here only to find that it has no such attribute defeats the proxy.
    """
    return _is_dunder(name) and not facts.mask & OWN_DUNDERS and not hasattr(cls, name)


def summary(facts: Facts | None) -> str:
    """Name the target in a few words.

    Examples
    --------
    >>> summary(describe([1, 2, 3]))
    'list of 3'
    """
    if facts is None:
        return "an unknown class"
    words = facts.qualname if facts.module == "builtins" else f"{facts.module}.{facts.qualname}"
    if facts.shape is not None:
        words += f" {facts.shape}"
    elif facts.length is not None:
        words += f" of {facts.length}"
    if facts.dtype is not None:
        words += f" {_dtype_name(facts.dtype)}"
    if facts.nbytes is not None:
        words += f", {_human_size(facts.nbytes)}"
    return words


def _is_dunder(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("__") and name.endswith("__")


def _attempt(read: Any, *args: object) -> Any:
    try:
        return read(*args)
    except Exception:  # noqa: BLE001
        # The target's own code (a released buffer, a tuple holding a list). What cannot be read is
        # no fact; whoever asks the proxy for it later gets the target's own error.
        return None


def _recordable(name: str, obj: object, cheap: tuple[str, ...]) -> Any:
    """Return an attribute if a record of it is indistinguishable from the attribute itself."""
    if name not in cheap:
        return None
    value = _attempt(getattr, obj, name)
    if name == "dtype":
        return _dtype_string(value)
    if name == "shape":
        plain = type(value) is tuple and all(type(extent) is int for extent in value)
    else:
        plain = type(value) is int
    return value if plain else None


def _dtype_string(dtype: Any) -> str | None:
    if type(dtype).__module__.partition(".")[0] != "numpy":
        return None
    # Structured and user-defined dtypes (kinds V and T) are more than their string.
    return dtype.str if dtype.kind in "biufcmMSUO" and not dtype.metadata else None


_unimportable: set[str] = set()


def _import_if_nameable(facts: Facts) -> types.ModuleType | None:
    loaded = facts.module.partition(".")[0] in sys.modules
    if not (facts.mask & FOREIGN_BASES or (facts.mask & KINDRED_BASES and loaded)):
        return None
    if facts.module in _unimportable:
        return None
    try:
        return importlib.import_module(facts.module)
    except Exception:  # noqa: BLE001
        # User code runs here and may fail in any way, which must not fail an `isinstance`: what
        # cannot be imported matches nothing. Remembered, since the search is slow.
        _unimportable.add(facts.module)
        return None


def _dtype_name(dtype: str) -> str:
    names = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
    kind, size = dtype[1], dtype[2:]
    if kind not in names or dtype[0] == ">":
        return dtype
    return "bool" if kind == "b" else f"{names[kind]}{8 * int(size)}"


def _human_size(nbytes: int) -> str:
    size, unit = float(nbytes), 0
    while size >= 1024 and unit < 4:
        size, unit = size / 1024, unit + 1
    return f"{nbytes} B" if unit == 0 else f"{size:.1f} {'KMGT'[unit - 1]}iB"
