"""Functions and classes of the main module, which every process has one of its own of.

Plain pickle refers to them by name, which misleads a process with another main module.
Cloudpickle sends them by value, which is wrong where the main module *is* the same, in a child of
`multiprocessing`: the child's functions would meet a copy of the class (or enum) they know, and
``isinstance`` would say no. So both are sent, the name and the value
(`proxyflow.serialize.byvalue`), and the reader decides.
"""

from __future__ import annotations

import operator
import os
import pickle
import sys
from typing import Any

from proxyflow.errors import SerializationError

__all__ = ["find_in_main", "modules_by_value", "program", "restore_main"]

_lineage = os.urandom(16).hex()
"""Names the main module of an interactive session, which has no file; forked children keep it."""


def program() -> str:
    """Return what tells this process's main module from others: its file."""
    return getattr(sys.modules["__main__"], "__file__", None) or _lineage


def modules_by_value() -> list[str]:
    """Return the modules another process may be unable to import by these names.

    Beside the main module these are the ones registered with cloudpickle as such.
    """
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return ["__main__"]
    return ["__main__", *cloudpickle.list_registry_pickle_by_value()]


def find_in_main(qualname: str) -> Any:
    """Return what the main module knows under that name, ``None`` if nothing."""
    try:
        return operator.attrgetter(qualname)(sys.modules["__main__"])
    except AttributeError:
        return None


def restore_main(origin: str, qualname: str, tracker: str | None, value: bytes | str) -> Any:
    """Return a function or class of the writer's main module.

    In order: the class this process has already met by value, within a function that Dask or loky
    sent with cloudpickle; the one of that name, if the main module is the same; a new one made
    from the value.

    Parameters
    ----------
    origin
        The writer's `program`.
    qualname
        The name within the main module.
    tracker
        Cloudpickle's own name for the class.
    value
        The function or class pickled by value, or why that could not be done.

    Raises
    ------
    SerializationError
        The main module is another, and there is no value.
    """
    met = _met_by_value(tracker)
    if met is not None:
        return met
    known = find_in_main(qualname) if origin == program() else None
    if known is not None:
        return known
    if isinstance(value, str):
        raise SerializationError(
            f"{qualname} of the main module {origin} is unknown here and could not be sent by "
            f"value ({value})",
            remedy="define it in a module that can be imported",
        )
    return pickle.loads(value)


def _met_by_value(tracker: str | None) -> Any:
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    if tracker is None or cloudpickle is None:
        return None
    # Not public, but in place since cloudpickle 1.2, and nothing else knows.
    return cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
