"""A directory of the KVS as a mapping, and walking through directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxyflow.storage.kvs.backend import Unlink
from proxyflow.storage.kvs.errors import (
    InvalidKeyError,
    IsDirectoryError,
    KeyNotFoundError,
    LinkLoopError,
    NotDirectoryError,
)
from proxyflow.storage.kvs.keys import join, split, to_text, which_namespace
from proxyflow.storage.kvs.transaction import KVSTxn, path_prefix
from proxyflow.storage.kvs.values import decode

if TYPE_CHECKING:
    from proxyflow.storage.kvs.handle import Handle

__all__ = ["KVSDir", "walk"]


class KVSDir(MutableMapping[str, Any]):
    """A directory, read and written like a dictionary.

    Reading goes to the KVS each time; writing stages operations, which become visible with
    `commit`. As a context manager the directory commits at the end of the body, and drops what was
    staged if the body raises. Directories got from this one by ``[...]`` share its transaction.

    Parameters
    ----------
    flux_handle
        What `open` returned.
    path
        All keys are relative to this directory.
    handle
        Only in the signature for the sake of code written for Flux; must be ``None``.
    namespace
        Where to read and write; by default what ``FLUX_KVS_NAMESPACE`` says at each call, else the
        primary namespace.

    Raises
    ------
    ValueError
        There is no `flux_handle`.
    KeyNotFoundError
        The directory does not exist.
    NotDirectoryError
        The key holds a value.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> with kvs.KVSDir(kvs.open("memory://")) as directory:
    ...     directory["a.b"] = [1, 2]
    ...     directory.commit()
    ...     list(directory), directory["a"]["b"]
    (['a'], [1, 2])
    """

    def __init__(
        self,
        flux_handle: Handle | None = None,
        path: str = ".",
        handle: None = None,
        namespace: str | None = None,
        *,
        _kvstxn: KVSTxn | None = None,
    ) -> None:
        if flux_handle is None or handle is not None:
            raise ValueError("KVSDir needs the handle that kvs.open returned, as flux_handle")
        self.fhdl = flux_handle
        self.path = path
        self.namespace = namespace
        self._prefix = path_prefix(path)
        # Staged keys are full ones, so that subdirectories can share the transaction.
        self._transaction = KVSTxn(flux_handle, ".", namespace) if _kvstxn is None else _kvstxn
        self._require_directory()

    def _require_directory(self) -> None:
        state = self.fhdl.backend.state(which_namespace(self.namespace), split(self.path))
        if state is None:
            raise KeyNotFoundError("nothing is stored here", store=self.fhdl.url, key=self.path)
        if not state.directory:
            raise NotDirectoryError("this is a value", store=self.fhdl.url, key=self.path)

    # -- reading ----------------------------------------------------------------------------

    def key_at(self, key: str) -> str:
        """Return the full key of a key in this directory."""
        return self._prefix + key

    def exists(self, name: str) -> bool:
        """Tell whether a key exists; a link that leads nowhere does not."""
        names = split(self._relative(name))
        return self.fhdl.backend.state(which_namespace(self.namespace), names) is not None

    def _relative(self, key: str) -> str:
        if key is None or key == "":
            raise InvalidKeyError("a key names at least one entry", key=key)
        return self.key_at(key)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._get(self._relative(key))
        except (KeyNotFoundError, NotDirectoryError, LinkLoopError, InvalidKeyError) as error:
            raise KeyError(f"{key!r} not found under directory {self.path!r}") from error

    def _get(self, full: str) -> Any:
        try:
            (stored,) = self.fhdl.backend.read(which_namespace(self.namespace), [split(full)])
        except IsDirectoryError:
            return KVSDir(self.fhdl, full, namespace=self.namespace, _kvstxn=self._transaction)
        if stored is None:
            raise KeyNotFoundError("nothing is stored here", store=self.fhdl.url, key=full)
        return decode(stored)

    def __contains__(self, key: object) -> bool:
        # The inherited one would transfer the value.
        try:
            return isinstance(key, str) and self.exists(key)
        except (LinkLoopError, InvalidKeyError):
            # As for all mappings: what [...] has a KeyError for is not in it.
            return False

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._children()])

    def __len__(self) -> int:
        return len(self._children())

    def _children(self) -> list[tuple[str, bool]]:
        namespace = which_namespace(self.namespace)
        return self.fhdl.backend.children(namespace, split(self.path))

    def files(self) -> Iterator[str]:
        """Iterate over the names that are no directories; links are among them."""
        return (name for name, is_directory in self._children() if not is_directory)

    def directories(self) -> Iterator[str]:
        """Iterate over the names that are directories."""
        return (name for name, is_directory in self._children() if is_directory)

    def list_all(self) -> tuple[list[str], list[str]]:
        """Return the names of (files, directories), of one moment."""
        files: list[str] = []
        directories: list[str] = []
        for name, is_directory in self._children():
            (directories if is_directory else files).append(name)
        return files, directories

    # -- writing ----------------------------------------------------------------------------

    def __setitem__(self, key: str, value: Any) -> None:
        self._transaction.put(self._relative(key), value)

    def __delitem__(self, key: str) -> None:
        self._transaction.unlink(self._relative(key))

    def popitem(self) -> tuple[str, Any]:
        """Return a key and its value, and stage its removal; KeyError if none is left.

        Keys whose removal is staged already are passed over, so that repeating this comes to an end
        although nothing changes before the commit.
        """
        leaving = {
            operation.names
            for operation in self._transaction.staged()
            if isinstance(operation, Unlink)
        }
        for name in self:
            if split(self.key_at(name)) not in leaving and name in self:
                return name, self.pop(name)
        raise KeyError(f"directory {self.path!r} is empty")

    def clear(self) -> None:
        """Stage the removal of everything that is in this directory, or staged to be."""
        here = split(self.path)
        names = dict.fromkeys(self)
        for operation in self._transaction.staged():
            below = operation.names[len(here) :]
            if below and operation.names[: len(here)] == here:
                names[to_text(below[0])] = None
        for name in names:
            del self[name]

    def fill(self, contents: Mapping[str, Any]) -> None:
        """Put keys and values into this directory, and commit.

        Parameters
        ----------
        contents
            What to put. Dotted keys make subdirectories; a dictionary as a value is stored as JSON.

        Raises
        ------
        ValueError
            `contents` is ``None``.
        TypeError
            A value is neither JSON nor bytes; then nothing is committed, and all that this
            directory had staged is dropped.
        """
        if contents is None:
            raise ValueError("contents must not be None")
        with self:
            self.update(contents)

    def mkdir(self, key: str, contents: Mapping[str, Any] | None = None) -> None:
        """Make an empty subdirectory in place of what was there, and commit.

        Parameters
        ----------
        key
            The directory to make.
        contents
            What to put into it, in the same commit; see `fill`.
        """
        full = self._relative(key)
        with self:
            self._transaction.mkdir(full)
            for name, value in ({} if contents is None else contents).items():
                self._transaction.put(join(full, name), value)

    def commit(self, flags: int = 0) -> None:
        """Make what was staged permanent; see `proxyflow.storage.kvs.commit`.

        Only keys that were set or deleted through this object, or through a subdirectory got from
        it, are written; what others changed in the directory stays.
        """
        self._transaction.commit(flags)

    def __enter__(self) -> KVSDir:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self._transaction.clear()

    def __repr__(self) -> str:
        return f"<KVSDir {self.path!r} of {self.fhdl.url}>"


def walk(
    directory: str | KVSDir,
    topdown: bool = False,
    flux_handle: Handle | None = None,
    namespace: str | None = None,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through a directory in the style of `os.walk`.

    Links are not followed, and are among the files. A directory that another writer removes
    meanwhile is left out. With `topdown`, removing names from the list of directories keeps the
    walk out of them.

    Parameters
    ----------
    directory
        Where to begin: a key or a `KVSDir`.
    topdown
        Yield a directory before its subdirectories; by default it comes after them.
    flux_handle
        Needed if `directory` is a key.
    namespace
        Where to read if `directory` is a key; see `KVSDir`.

    Yields
    ------
    tuple
        Path (relative; ``''`` for the beginning), names of directories, names of files.

    Raises
    ------
    ValueError
        `directory` is a key and there is no `flux_handle`.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> kvs.put(handle, "a.b.c", 1)
    >>> kvs.commit(handle)
    >>> list(kvs.walk("a", flux_handle=handle, topdown=True))
    [('', ['b'], []), ('b', [], ['c'])]
    """
    if not isinstance(directory, KVSDir):
        if flux_handle is None:
            raise ValueError("to walk from a key, give the handle as flux_handle")
        directory = KVSDir(flux_handle, directory, namespace=namespace)
    return _walk(directory, topdown)


def _walk(start: KVSDir, topdown: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    # A stack of its own: directories may be nested deeper than Python recurses. With a listing,
    # a directory waits for its subdirectories to be done; without one it has not been looked at.
    pending: list[tuple[str, tuple[list[str], list[str]] | None]] = [("", None)]
    while pending:
        path, listing = pending.pop()
        if listing is not None:
            yield path, *listing
            continue
        listing = _list_below(start, path)
        if listing is None:
            continue
        if topdown:
            yield path, *listing
        else:
            pending.append((path, listing))
        pending.extend((join(path, name), None) for name in reversed(listing[0]))


def _list_below(start: KVSDir, path: str) -> tuple[list[str], list[str]] | None:
    """Return (directories, files); ``None`` if there is no such directory any more."""
    namespace = which_namespace(start.namespace)
    try:
        children = start.fhdl.backend.children(namespace, split(join(start.path, path)))
    except (KeyNotFoundError, NotDirectoryError):
        return None
    directories = [name for name, is_directory in children if is_directory]
    return directories, [name for name, is_directory in children if not is_directory]
