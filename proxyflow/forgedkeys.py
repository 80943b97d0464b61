"""Keys as nobody has made them, for the conformance suite: what may come out of a pickle."""

from __future__ import annotations

from typing import Any

from proxyflow.connectors.protocol import Key

__all__ = ["forged_keys"]

_OUTSIDE = ["..", "../outside", "/etc/passwd", "a/../../outside", "..\\outside", "%2e%2e%2fetc"]
_ODD = ["", ".", "*", "\0", "name\0", "name\n", "\udcff", "é" * 10, "n" * 100_000]
_OF_NO_KIND: list[Any] = [None, True, 0, 1.5, "name", b"name", (), ("a", "b", "c", "d"), [], {}]


def forged_keys(real: Key) -> list[Key]:
    """Return keys a connector cannot have made.

    Parameters
    ----------
    real
        One that it has made; each of its fields is replaced by what an attacker may try.

    Examples
    --------
    >>> from proxyflow.connectors.filekey import FileKey
    >>> FileKey("/etc/passwd") in forged_keys(FileKey("k3v5qa2mbx.abcdefgh0000001f"))
    True
    """
    forged = list(_OF_NO_KIND)
    for position, field in enumerate(real):
        names = [*_OUTSIDE, *_ODD] if isinstance(field, str) else []
        for value in [*names, None, b"name", -1, 1 << 80]:
            forged.append(type(real)(*real[:position], value, *real[position + 1 :]))
    return forged
