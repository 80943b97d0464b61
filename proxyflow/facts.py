"""What a proxy knows of its target without resolving it.

:func:`describe` looks at an object once, when its proxy is made, and writes down what is cheap to
know and small to send: its class by name, which special methods the class has, and for containers
and arrays their length, shape, dtype and size. The record travels in the pickle of every proxy,
so it is flat, and every table here is append-only: bits keep their meaning between versions.
"""

from __future__ import annotations

import abc
import collections.abc
import importlib
import sys
import types
import typing
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from proxyflow.errors import ProxyTargetError

__all__ = ["Facts", "check_target", "class_of", "describe", "mask_of", "summary"]

# The special methods Python and NumPy look up on the type, where `__getattr__` cannot answer.
# Append only: the position of a name is its bit in the mask that travels in pickles.
_NAMES = """
    add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or
    radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror
    iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ixor ior
    neg pos abs invert int float complex index round trunc floor ceil bool hash
    len getitem setitem delitem contains iter reversed length_hint next call
    enter exit aenter aexit await aiter anext bytes fspath get set delete set_name
    instancecheck subclasscheck array array_ufunc array_function buffer
"""
BIT = {f"__{name}__": 1 << position for position, name in enumerate(_NAMES.split())}
# What else `isinstance`, `match` and `getattr` need to know; the bits above the special methods
# start at 96, so that both tables can grow.
SEQUENCE_PATTERN = 1 << 96  # matches `case [a, b]`
MAPPING_PATTERN = 1 << 97  # matches `case {"a": x}`
FOREIGN_BASES = 1 << 98  # a base class, or a registered one, lives outside the class's own package
KINDRED_BASES = 1 << 99  # a base class lives in another module of the class's own package
OWN_DUNDERS = 1 << 100  # this object may have `__x__` attributes that its class does not have

_ARRAY_FACTS = ("shape", "dtype", "nbytes", "ndim", "size")

# Elsewhere, a Python-level `__len__` or property may do anything (len() of a Dask frame computes
# it), so only what these packages define in Python is known to be cheap. What is written in C is
# always taken.
_CHEAP_PACKAGES = frozenset({"numpy", "pandas", "polars", "scipy"})
_C_ATTRIBUTES = (types.GetSetDescriptorType, types.MemberDescriptorType)
_C_METHODS = (types.WrapperDescriptorType, types.MethodDescriptorType)

# Bases without members of their own: nobody asks whether an object is one of them.
_STRUCTURAL_BASES = (object, abc.ABC, typing.Generic, typing.Protocol)
# ABCs a class may be registered with without inheriting from them. Those that look at methods
# alone (Iterable, Sized, ...) need no record: the type of the proxy has the methods.
_REGISTRIES = (collections.abc.Sequence, collections.abc.Set, collections.abc.Mapping)

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
        if name not in _ARRAY_FACTS:
            return None
        value = getattr(self, name)
        if name == "dtype" and value is not None:
            import numpy

            return numpy.dtype(value)
        return value


class _Profile(NamedTuple):
    """What holds for every object of a class."""

    module: str
    qualname: str
    mask: int
    sized: bool
    attributes: tuple[str, ...]
    hashable: bool


_profiles: WeakKeyDictionary[type, _Profile] = WeakKeyDictionary()


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
    cls = type(obj)
    profile = _profile(cls, obj)
    mask = profile.mask
    if mask & OWN_DUNDERS and _has_plain_attributes(cls, obj):
        mask ^= OWN_DUNDERS
    recorded: dict[str, Any] = {}
    if profile.sized:
        recorded["length"] = _attempt(len, obj)
    for name in profile.attributes:
        recorded[name] = _simple(name, _attempt(getattr, obj, name))
    if hashed and profile.hashable:
        value = _attempt(hash, obj)
        if value is not None:
            recorded["hash"], recorded["seed"] = value, HASH_SEED
    return Facts(profile.module, profile.qualname, mask, **recorded)


def mask_of(obj: object) -> int:
    """Return the mask of special methods of the class of ``obj``."""
    return _profile(type(obj), obj).mask


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
    if name == "__wrapped__":  # a callable proxy has it on top of what its target has
        return False
    is_dunder = name.startswith("__") and name.endswith("__")
    return is_dunder and not facts.mask & OWN_DUNDERS and not hasattr(cls, name)


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


def _profile(cls: type, sample: object) -> _Profile:
    try:
        profile = _profiles.get(cls)
    except TypeError:  # the metaclass makes its classes unhashable
        return _make_profile(cls, sample)
    if profile is None:
        profile = _profiles[cls] = _make_profile(cls, sample)
    return profile


def _make_profile(cls: type, sample: object) -> _Profile:
    return _Profile(
        module=str(cls.__module__),
        qualname=cls.__qualname__,
        mask=_make_mask(cls, sample),
        sized=_is_cheap(cls, "__len__", _C_METHODS),
        attributes=tuple(name for name in _ARRAY_FACTS if _is_cheap(cls, name, _C_ATTRIBUTES)),
        # A hash by identity is another one for the copy that the proxy resolves to.
        hashable=getattr(cls, "__hash__", None) not in (None, object.__hash__),
    )


def _make_mask(cls: type, sample: object) -> int:
    mask = OWN_DUNDERS
    for name, bit in BIT.items():
        owner = _owner(cls, name)
        if owner is not None and owner.__dict__[name] is not None:
            mask |= bit
    if _exports_buffer(sample):
        mask |= BIT["__buffer__"]
    # Py_TPFLAGS_SEQUENCE and Py_TPFLAGS_MAPPING, see "type objects" in the C API reference.
    if cls.__flags__ & (1 << 5):
        mask |= SEQUENCE_PATTERN
    if cls.__flags__ & (1 << 6):
        mask |= MAPPING_PATTERN
    return mask | _base_traits(cls)


def _owner(cls: type, name: str) -> type | None:
    """Return the class in the hierarchy of ``cls`` that defines ``name``."""
    return next((base for base in cls.__mro__ if name in base.__dict__), None)


def _exports_buffer(sample: object) -> bool:
    """Tell whether the class of ``sample`` has the buffer protocol.

    Before Python 3.12 nothing in the class shows it, so it has to be tried.
    """
    if sys.version_info >= (3, 12):
        return hasattr(type(sample), "__buffer__")
    try:
        memoryview(sample).release()  # type: ignore[arg-type]
    except TypeError:
        return False
    except (BufferError, ValueError):
        return True  # it has the protocol, but not for what this one holds
    return True


def _base_traits(cls: type) -> int:
    package = _package(cls)
    bases = [base for base in cls.__mro__ if base not in _STRUCTURAL_BASES]
    traits = 0
    if any(_package(base) != package for base in bases) or _is_registered(cls):
        traits |= FOREIGN_BASES
    if any(base.__module__ != cls.__module__ for base in bases if _package(base) == package):
        traits |= KINDRED_BASES
    return traits


def _is_registered(cls: type) -> bool:
    numbers = sys.modules.get("numbers")
    registries = _REGISTRIES if numbers is None else (*_REGISTRIES, numbers.Number)
    return issubclass(cls, registries)


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]


def _is_cheap(cls: type, name: str, c_kinds: tuple[type, ...]) -> bool:
    owner = _owner(cls, name)
    if owner is None:
        return False
    return isinstance(owner.__dict__[name], c_kinds) or _package(owner) in _CHEAP_PACKAGES


def _has_plain_attributes(cls: type, obj: object) -> bool:
    """Tell whether the class alone decides which ``__x__`` attributes ``obj`` has."""
    if isinstance(obj, (type, types.ModuleType, types.FunctionType)):
        return False
    getattribute = _owner(cls, "__getattribute__")
    computed = hasattr(cls, "__getattr__") or (
        getattribute is not None
        and not isinstance(getattribute.__dict__["__getattribute__"], types.WrapperDescriptorType)
    )
    if computed:
        return False
    attributes = getattr(obj, "__dict__", ())
    return not any(name.startswith("__") for name in attributes if isinstance(name, str))


def _attempt(read: Any, *args: object) -> Any:
    try:
        return read(*args)
    except Exception:  # noqa: BLE001
        # The target's own code (a released buffer, a tuple holding a list). What cannot be read is
        # no fact; whoever asks the proxy for it later gets the target's own error.
        return None


def _simple(name: str, value: Any) -> Any:
    """Return what of a value can be recorded such that the recorded one is indistinguishable."""
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
