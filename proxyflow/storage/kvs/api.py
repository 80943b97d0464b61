"""The functions of ``flux.kvs``, and what goes beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from proxyflow.storage.kvs.directory import KVSDir
from proxyflow.storage.kvs.errors import (
    IsDirectoryError,
    KeyNotFoundError,
)
from proxyflow.storage.kvs.handle import Handle
from proxyflow.storage.kvs.keys import split, which_namespace
from proxyflow.storage.kvs.values import MISSING, decode, encode, same

__all__ = [
    "commit",
    "compare_and_swap",
    "dropcache",
    "exists",
    "get",
    "get_dir",
    "get_key_direct",
    "get_many",
    "isdir",
    "put",
    "put_mkdir",
    "put_parts",
    "put_symlink",
    "put_unlink",
    "readinto",
    "size",
]


# -- reading --------------------------------------------------------------------------------


def get(flux_handle: Handle, key: str, namespace: str | None = None, *, raw: bool = False) -> Any:
    """Get a value or a directory.

    Parameters
    ----------
    flux_handle
        What `open` returned.
    key
        The key; links are followed.
    namespace
        Where to read; by default what ``FLUX_KVS_NAMESPACE`` says at this moment, else the primary
        namespace.
    raw
        Return the stored bytes instead of guessing.

    Returns
    -------
    Any
        A `KVSDir` for a directory. Else what was put, as far as that can be guessed: JSON if the
        stored bytes parse as such, else a string if they are UTF-8, else bytes.

    Raises
    ------
    KeyNotFoundError
        Nothing is there, or the path leads through a value.
    IsDirectoryError
        With `raw`, the key is a directory.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> put(handle, "a.list", (1, 2))
    >>> commit(handle)
    >>> get(handle, "a.list"), get(handle, "a.list", raw=True)
    ([1, 2], b'[1, 2]')
    """
    if raw:
        return _stored(flux_handle, key, namespace)
    try:
        return decode(_stored(flux_handle, key, namespace))
    except IsDirectoryError:
        return get_dir(flux_handle, key, namespace)


def _stored(handle: Handle, key: str, namespace: str | None) -> bytes:
    (stored,) = handle.backend.read(which_namespace(namespace), [split(key)])
    if stored is None:
        raise KeyNotFoundError("nothing is stored here", store=handle.url, key=key)
    return stored


def get_key_direct(flux_handle: Handle, key: str, namespace: str | None = None) -> Any:
    """Get a value; see `get`. A directory is an IsDirectoryError."""
    return decode(_stored(flux_handle, key, namespace))


def get_many(
    flux_handle: Handle, keys: Iterable[str], namespace: str | None = None, *, raw: bool = False
) -> list[Any]:
    """Get values of one moment, in as few round trips as one.

    Parameters
    ----------
    flux_handle, namespace, raw
        See `get`.
    keys
        The keys, none of them a directory.

    Returns
    -------
    list
        A value for each key; `MISSING` where nothing is.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> put(handle, "a", 1)
    >>> commit(handle)
    >>> get_many(handle, ["a", "b"])
    [1, MISSING]
    """
    paths = [split(key) for key in keys]
    found = flux_handle.backend.read(which_namespace(namespace), paths)
    return [MISSING if stored is None else stored if raw else decode(stored) for stored in found]


def get_dir(flux_handle: Handle, key: str = ".", namespace: str | None = None) -> KVSDir:
    """Get a directory; see `KVSDir`."""
    return KVSDir(flux_handle, key, namespace=namespace)


def exists(flux_handle: Handle, key: str, namespace: str | None = None) -> bool:
    """Tell whether there is a value or a directory; a link that leads nowhere is neither."""
    return flux_handle.backend.state(which_namespace(namespace), split(key)) is not None


def isdir(flux_handle: Handle, key: str, namespace: str | None = None) -> bool:
    """Tell whether a key is a directory, or a link to one."""
    state = flux_handle.backend.state(which_namespace(namespace), split(key))
    return state is not None and state.directory


def size(flux_handle: Handle, key: str, namespace: str | None = None) -> int:
    """Return the length of a value in bytes, without reading it.

    Raises
    ------
    KeyNotFoundError
        Nothing is there.
    IsDirectoryError
        The key is a directory.
    """
    state = flux_handle.backend.state(which_namespace(namespace), split(key))
    if state is None:
        raise KeyNotFoundError("nothing is stored here", store=flux_handle.url, key=key)
    if state.directory:
        raise IsDirectoryError("this is a directory", store=flux_handle.url, key=key)
    return state.size


def readinto(
    flux_handle: Handle,
    key: str,
    buffer: Any,
    offset: int = 0,
    namespace: str | None = None,
) -> int:
    r"""Read a value, or a range of one, into memory of the caller.

    Parameters
    ----------
    flux_handle, key, namespace
        See `get`.
    buffer
        Where to: contiguous and writable.
    offset
        Where in the value to begin.

    Returns
    -------
    int
        How many bytes were read; fewer than the buffer holds if the value ends before.

    Raises
    ------
    KeyNotFoundError
        Nothing is there.
    IsDirectoryError
        The key is a directory.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> put(handle, "a", b"0123456789")
    >>> commit(handle)
    >>> buffer = bytearray(4)
    >>> readinto(handle, "a", buffer, offset=8), buffer
    (2, bytearray(b'89\x00\x00'))
    """
    if offset < 0:
        raise ValueError(f"an offset is not negative: {offset}")
    view = memoryview(buffer)
    if view.readonly:
        raise TypeError("the buffer has to be writable")
    target = view.cast("B") if view.nbytes else memoryview(bytearray())
    return flux_handle.backend.readinto(which_namespace(namespace), split(key), target, offset)


# -- staging and committing -----------------------------------------------------------------


def put(flux_handle: Handle, key: str, value: Any, raw: bool = False) -> None:
    """Stage a value.

    Parameters
    ----------
    flux_handle
        What `open` returned.
    key
        Where to put it. Directories on the way are made, values on the way are replaced by them;
        a link or a directory at the key itself is replaced.
    value
        JSON, or bytes, which are stored as they are.
    raw
        Store a string as its UTF-8 bytes rather than as JSON.

    Raises
    ------
    TypeError
        The value is neither JSON nor bytes. What was staged before stays staged.
    AttributeError
        With `raw`, the value is neither bytes nor a string.
    InvalidKeyError
        The key is empty.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> put(handle, "a", 1)
    >>> exists(handle, "a")
    False
    >>> commit(handle)
    >>> exists(handle, "a")
    True
    """
    flux_handle.transaction.put(key, value, raw=raw)


def put_parts(flux_handle: Handle, key: str, buffers: Sequence[Any]) -> None:
    """Stage a value given as contiguous buffers, which are stored one after the other.

    They are not joined, where the engine allows; so they must not change until the commit.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> put_parts(handle, "a", [b"head", bytearray(b"body")])
    >>> commit(handle)
    >>> get(handle, "a", raw=True)
    b'headbody'
    """
    flux_handle.transaction.put_parts(key, buffers)


def put_mkdir(flux_handle: Handle, key: str) -> None:
    """Stage an empty directory, in place of whatever is there."""
    flux_handle.transaction.mkdir(key)


def put_unlink(flux_handle: Handle, key: str) -> None:
    """Stage the removal of a key and of all below it; a missing key is no error.

    Of a link only the link is removed.
    """
    flux_handle.transaction.unlink(key)


def put_symlink(flux_handle: Handle, key: str, target: str) -> None:
    """Stage a link to a target, which is a key from the root and need not exist.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> put(handle, "runs.7.state", "done")
    >>> put_symlink(handle, "latest", "runs.7")
    >>> commit(handle)
    >>> get(handle, "latest.state")
    'done'
    """
    flux_handle.transaction.symlink(key, target)


def commit(flux_handle: Handle, flags: int = 0, namespace: str | None = None) -> None:
    """Apply what this thread staged on the handle: in order, and for every reader all or nothing.

    Parameters
    ----------
    flux_handle
        What `open` returned.
    flags
        ``FLUX_KVS_SYNC`` to return only when the change is on disk (primary namespace only; LMDB
        always does). ``FLUX_KVS_NO_MERGE`` and ``FLUX_KVS_TXN_COMPACT`` change nothing here.
    namespace
        Where to write; by default what ``FLUX_KVS_NAMESPACE`` says at this moment, else the primary
        namespace.

    Raises
    ------
    InvalidKeyError
        A staged key is ``.``, or the flags make no sense.
    NamespaceError
        There is no such namespace.
    StorageFullError
        No room is left.
    UnreachableError
        The server is not there. If it went away during the commit, all of it was applied or
        nothing.

    Whatever is raised, nothing was applied unless said otherwise, and nothing is staged any more.
    """
    flux_handle.transaction.commit(flags, namespace)


def compare_and_swap(
    flux_handle: Handle, key: str, old: Any, new: Any, namespace: str | None = None
) -> bool:
    """Put `new` if the value is still `old`, as one step, at once.

    What is staged on the handle is neither looked at nor committed.

    Parameters
    ----------
    flux_handle, key, namespace
        See `get` and `put`: the value compared is what `get` would read, and the new one goes where
        `put` would put it.
    old
        The value expected; `MISSING` if there should be none.
    new
        The value to put; `MISSING` to unlink the key.

    Returns
    -------
    bool
        Whether it was swapped.

    Raises
    ------
    IsDirectoryError
        The key is a directory.
    UnsupportedError
        The engine cannot do this (Flux).

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> compare_and_swap(handle, "lock", MISSING, "mine")
    True
    >>> compare_and_swap(handle, "lock", MISSING, "also mine")
    False
    """
    content = None if new is MISSING else encode(new)
    if old is not MISSING:
        encode(old)  # what cannot be stored is an error here, not just never equal
    return flux_handle.backend.swap(
        which_namespace(namespace), split(key), lambda stored: same(stored, old), content
    )


def dropcache(flux_handle: Handle) -> None:
    """Forget what the handle remembers only to be faster; nothing else changes."""
    flux_handle.backend.dropcache()
