"""Keys: names between dots, and the namespace in which they are looked up."""

from __future__ import annotations

import os

from proxyflow.storage.kvs.errors import InvalidKeyError, NamespaceError

__all__ = ["PRIMARY", "Names", "encode_name", "join", "split", "to_text", "which_namespace"]

PRIMARY = "primary"

# The components of a key as they are stored.
Names = tuple[bytes, ...]


def split(key: object) -> Names:
    """Return the components of a key; the root, ``.``, has none.

    Raises
    ------
    InvalidKeyError
        The key is ``None`` or ``''``, or holds a surrogate that stands for no byte.
    TypeError
        The key is no string.

    Examples
    --------
    >>> split("..jobs..17.")
    (b'jobs', b'17')
    """
    if key is None or key == "":
        raise InvalidKeyError("a key names at least one entry", key=key)
    if not isinstance(key, str):
        raise TypeError(f"a key is a string, not {type(key).__name__}")
    # No other character has the byte of a dot in it.
    return tuple([name for name in encode_name(key).split(b".") if name])


def encode_name(name: str) -> bytes:
    """Return the bytes that a name is stored as; ``os.fsdecode``d names keep their bytes."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidKeyError("the key holds a lone surrogate", key=name) from error


def to_text(name: bytes) -> str:
    """Return a stored name as the string it was written as."""
    return name.decode("utf-8", "surrogateescape")


def join(*args: str) -> str:
    """Put dots between the parts of a key; empty parts are dropped.

    For the paths that `walk` yields, in the style of `os.path.join`.

    Examples
    --------
    >>> join("", "jobs", "17")
    'jobs.17'
    """
    return ".".join([part for part in args if part])


def which_namespace(namespace: str | None) -> str:
    """Return the namespace a call is about.

    That is the one given, else ``FLUX_KVS_NAMESPACE`` as it is at this moment, else ``primary``.
    """
    if namespace is None:
        return os.environ.get("FLUX_KVS_NAMESPACE") or PRIMARY
    if not namespace:
        raise NamespaceError("a namespace has a name")
    return namespace
