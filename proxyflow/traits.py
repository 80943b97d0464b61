"""What the class of a target can do, and how its objects behave in ``isinstance`` and ``match``.

Looked up once for each class, when the first proxy for one of its objects is made.
"""

from __future__ import annotations

import abc
import collections.abc
import sys
import types
import typing
from typing import NamedTuple
from weakref import WeakKeyDictionary

__all__ = ["BIT", "Traits", "mask_of", "traits_of", "traits_of_class"]

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
TEXT = 1 << 101  # a str or bytes
OWN_DUNDERS = 1 << 100  # this object may have `__x__` attributes that its class does not have

# Py_TPFLAGS_SEQUENCE and Py_TPFLAGS_MAPPING, see "type objects" in the C API reference.
SEQUENCE_FLAG = 1 << 5
MAPPING_FLAG = 1 << 6

# Attributes of arrays and frames that a proxy answers from its facts.
ARRAY_ATTRIBUTES = ("shape", "dtype", "nbytes", "ndim", "size")

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


class Traits(NamedTuple):
    """What holds for every object of a class.

    Attributes
    ----------
    module, qualname
        The name of the class.
    mask
        The bits of its special methods, and of how it takes part in ``isinstance`` and ``match``.
    sized, attributes
        Whether ``len`` is cheap, and which of the array attributes are.
    hashable
        Whether its objects are hashed by value.
    has_dict
        Whether its objects can have attributes of their own.
    """

    module: str
    qualname: str
    mask: int
    sized: bool
    attributes: tuple[str, ...]
    hashable: bool
    has_dict: bool


_known: WeakKeyDictionary[type, Traits] = WeakKeyDictionary()


def mask_of(obj: object) -> int:
    """Return the bits of the class of ``obj``.

    Examples
    --------
    >>> bool(mask_of([]) & BIT["__len__"]), bool(mask_of(1) & BIT["__len__"])
    (True, False)
    """
    return traits_of(obj).mask


def traits_of(obj: object) -> Traits:
    """Return what holds for every object of the class of ``obj``."""
    cls = type(obj)
    try:
        traits = _known.get(cls)
    except TypeError:  # the metaclass makes its classes unhashable
        return _examine(cls, obj)
    if traits is None:
        traits = _known[cls] = _examine(cls, obj)
    return traits


def traits_of_class(cls: type) -> Traits:
    """Return what holds for every object of a class, none of which is at hand."""
    known = _known.get(cls)
    return _examine(cls, None) if known is None else known


def _examine(cls: type, sample: object) -> Traits:
    return Traits(
        module=str(cls.__module__),
        qualname=cls.__qualname__,
        mask=_mask(cls, sample),
        sized=_is_cheap(cls, "__len__", _C_METHODS),
        attributes=tuple(name for name in ARRAY_ATTRIBUTES if _is_cheap(cls, name, _C_ATTRIBUTES)),
        # A hash by identity is another one for the copy that the proxy resolves to.
        hashable=getattr(cls, "__hash__", None) not in (None, object.__hash__),
        has_dict=_is_cheap(cls, "__dict__", _C_ATTRIBUTES),
    )


def _mask(cls: type, sample: object) -> int:
    mask = OWN_DUNDERS if _computes_attributes(cls) else 0
    for name, bit in BIT.items():
        owner = _owner(cls, name)
        if owner is not None and owner.__dict__[name] is not None:
            mask |= bit
    if sys.version_info < (3, 12) and _exports_buffer(sample):
        mask |= BIT["__buffer__"]
    if cls.__flags__ & SEQUENCE_FLAG:
        mask |= SEQUENCE_PATTERN
    if cls.__flags__ & MAPPING_FLAG:
        mask |= MAPPING_PATTERN
    if issubclass(cls, (str, bytes)):
        mask |= TEXT
    return mask | _base_traits(cls)


def _owner(cls: type, name: str) -> type | None:
    """Return the class in the hierarchy of ``cls`` that defines ``name``."""
    return next((base for base in cls.__mro__ if name in base.__dict__), None)


def _exports_buffer(sample: object) -> bool:
    """Tell whether the class of ``sample`` has the buffer protocol.

    From Python 3.12 on the class has ``__buffer__``; before, it has to be tried.
    """
    try:
        memoryview(sample).release()  # type: ignore[arg-type]
    except TypeError:
        return False
    except (BufferError, ValueError):
        return True  # it has the protocol, but not for what this one holds
    return True


def _base_traits(cls: type) -> int:
    package = _package(cls)
    # By identity, since a metaclass may define what `==` means for its classes.
    bases = [base for base in cls.__mro__ if not any(base is plain for plain in _STRUCTURAL_BASES)]
    traits = 0
    if any(_package(base) != package for base in bases) or _is_registered(cls):
        traits |= FOREIGN_BASES
    if any(base.__module__ != cls.__module__ for base in bases if _package(base) == package):
        traits |= KINDRED_BASES
    return traits


def _is_registered(cls: type) -> bool:
    numbers = sys.modules.get("numbers")
    registries = _REGISTRIES if numbers is None else (*_REGISTRIES, numbers.Number)
    try:
        return issubclass(cls, registries)
    except TypeError:
        return False  # the metaclass makes its classes unhashable: they cannot be in a registry


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]


def _is_cheap(cls: type, name: str, c_kinds: tuple[type, ...]) -> bool:
    owner = _owner(cls, name)
    if owner is None:
        return False
    return isinstance(owner.__dict__[name], c_kinds) or _package(owner) in _CHEAP_PACKAGES


def _computes_attributes(cls: type) -> bool:
    """Tell whether an object's attributes are more than those of its class and its ``__dict__``."""
    if issubclass(cls, (type, types.ModuleType, types.FunctionType)):
        return True
    # pandas computes attributes from labels; that one is called `__x__` is not worth a transfer.
    computes = _owner(cls, "__getattr__")
    if computes is not None and _package(computes) != "pandas":
        return True
    # object's own, or a C type's, is a wrapper; a function is somebody's override.
    getattribute = _owner(cls, "__getattribute__")
    assert getattribute is not None  # object has one
    return not isinstance(getattribute.__dict__["__getattribute__"], types.WrapperDescriptorType)
