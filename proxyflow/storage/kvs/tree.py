"""The semantics of the KVS, once for all engines: paths, links, operations, namespaces."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from proxyflow.storage.kvs import entries
from proxyflow.storage.kvs.backend import (
    FLUX_KVS_SYNC,
    MakeDirectory,
    Operation,
    Put,
    State,
    Symlink,
    Unlink,
)
from proxyflow.storage.kvs.engine import Change, Engine, View, Watcher
from proxyflow.storage.kvs.entries import PRIMARY_ROOT, ROOTS, Directory, Entry, Kind, Link, Value
from proxyflow.storage.kvs.errors import (
    InvalidKeyError,
    IsDirectoryError,
    KeyNotFoundError,
    LinkLoopError,
    NamespaceError,
    NamespaceExistsError,
    NotDirectoryError,
    UnsupportedError,
)
from proxyflow.storage.kvs.keys import PRIMARY, Names, encode_name, to_text
from proxyflow.storage.kvs.values import Content

__all__ = ["MAX_LINKS", "Tree"]

# As many links in a row are followed; one more is a loop.
MAX_LINKS = 10


class Tree:
    """A KVS over an engine.

    Parameters
    ----------
    engine
        Where directories and their entries are kept.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.url = engine.url

    # -- reading ----------------------------------------------------------------------------

    def state(self, namespace: str, names: Names) -> State | None:
        """Return what is under a key, ``None`` if nothing is."""
        return self._engine.read(lambda view: _state(self._find(view, namespace, names)))

    def read(self, namespace: str, keys: Sequence[Names]) -> list[bytes | None]:
        """Return the values of keys, of one moment; ``None`` where nothing is."""

        def look(view: View) -> list[bytes | None]:
            root = self._root(view, namespace, keys)
            found = [self._value(self._descend(view, root, names), names) for names in keys]
            stored = iter(view.read([value for value in found if value is not None]))
            return [None if value is None else next(stored) for value in found]

        return self._engine.read(look)

    def readinto(self, namespace: str, names: Names, target: memoryview, offset: int) -> int:
        """Fill `target` from `offset` of a value on; return how many bytes there were."""

        def look(view: View) -> int:
            value = self._value(self._find(view, namespace, names), names)
            if value is None:
                raise self._not_found(names)
            count = min(target.nbytes, max(0, value.size - offset))
            if count:
                view.readinto(value, offset, target[:count])
            return count

        return self._engine.read(look)

    def children(self, namespace: str, names: Names) -> list[tuple[str, bool]]:
        """Return the sorted names in a directory, and whether each is a directory itself."""

        def look(view: View) -> list[tuple[bytes, Kind]]:
            match self._find(view, namespace, names):
                case Directory() as directory:
                    return view.children(directory)
                case None:
                    raise self._not_found(names)
                case _:
                    raise NotDirectoryError("this is a value", store=self.url, key=_key(names))

        found = self._engine.read(look)
        return [(to_text(name), kind is Kind.DIRECTORY) for name, kind in found]

    def watch(self, namespace: str, names: Names) -> Watcher:
        """Return a watcher of a key; it wakes for every commit to the namespace."""
        del names  # links make any other key concern this one
        return self._engine.watch(namespace)

    def _find(self, view: View, namespace: str, names: Names) -> Entry | None:
        return self._descend(view, self._root(view, namespace, [names]), names)

    def _value(self, entry: Entry | None, names: Names) -> Value | None:
        if isinstance(entry, Directory):
            raise IsDirectoryError("this is a directory", store=self.url, key=_key(names))
        assert not isinstance(entry, Link), "descending follows links"
        return entry

    def _not_found(self, names: Names) -> KeyNotFoundError:
        return KeyNotFoundError("nothing is stored here", store=self.url, key=_key(names))

    # -- walking ----------------------------------------------------------------------------

    def _root(self, view: View, namespace: str, paths: Sequence[Names]) -> Directory:
        """Return the root of a namespace; `paths` are those that will be walked from there."""
        if namespace == PRIMARY:
            view.prefetch(PRIMARY_ROOT, paths)
            return PRIMARY_ROOT
        name = encode_name(namespace)
        view.prefetch(ROOTS, [(name, *path) for path in paths] or [(name,)])
        root = view.entry(ROOTS, name)
        if not isinstance(root, Directory):
            raise NamespaceError(
                f"there is no namespace {namespace!r}",
                store=self.url,
                remedy="create it with namespace_create",
            )
        return root

    def _descend(
        self, view: View, root: Directory, names: Names, make: Change | None = None
    ) -> Entry | None:
        """Follow a path, and every link on it, to an entry.

        Below a value there is nothing. With `make`, directories are made on the way instead, in
        place of what is missing or is a value.
        """
        asked = names
        here = root
        links = at = 0
        while at < len(names):
            name = names[at]
            at += 1
            entry = view.entry(here, name)
            if isinstance(entry, Directory):
                here = entry
            elif isinstance(entry, Link):
                links += 1
                if links > MAX_LINKS:
                    raise LinkLoopError(
                        f"more than {MAX_LINKS} links in a row", store=self.url, key=_key(asked)
                    )
                here, names, at = root, entry.target + names[at:], 0
                view.prefetch(root, [names])
            elif make is not None:
                parent, here = here, entries.new_directory()
                make.link(parent, name, here)
            else:
                return entry if at == len(names) else None
        return here

    # -- writing ----------------------------------------------------------------------------

    def commit(self, namespace: str, operations: Sequence[Operation], flags: int) -> None:
        """Apply operations in order, all or nothing."""
        durable = bool(flags & FLUX_KVS_SYNC)
        if durable and namespace != PRIMARY:
            raise InvalidKeyError(
                "FLUX_KVS_SYNC is for the primary namespace only", store=self.url, key=namespace
            )
        for operation in operations:
            if not operation.names:
                raise InvalidKeyError("the root cannot be replaced", store=self.url, key=".")

        def change(writer: Change) -> None:
            parents = dict.fromkeys([operation.names[:-1] for operation in operations])
            root = self._root(writer, namespace, list(parents))
            for operation in operations:
                self._apply(writer, root, operation)

        self._engine.write(change, namespace, durable=durable)

    def _apply(self, writer: Change, root: Directory, operation: Operation) -> None:
        above, name = operation.names[:-1], operation.names[-1]
        make = None if isinstance(operation, Unlink) else writer
        parent = self._descend(writer, root, above, make)
        if not isinstance(parent, Directory):
            # Made where it was missing, so there is nothing to unlink.
            return
        match operation:
            case Put(content=content):
                value, parts = entries.new_value(content, writer.part_bytes)
                writer.link(parent, name, value, parts)
            case MakeDirectory():
                writer.link(parent, name, entries.new_directory())
            case Symlink(target=target):
                writer.link(parent, name, Link(target))
            case Unlink():
                writer.remove(parent, name)

    def swap(
        self,
        namespace: str,
        names: Names,
        expected: Callable[[bytes | None], bool],
        content: Content | None,
    ) -> bool:
        """Put `content`, or unlink if it is ``None``, if the value there is as expected."""

        def change(writer: Change) -> bool:
            root = self._root(writer, namespace, [names])
            value = self._value(self._descend(writer, root, names), names)
            stored = None if value is None else writer.read([value])[0]
            if not expected(stored):
                return False
            operation = Unlink(names) if content is None else Put(names, content)
            self._apply(writer, root, operation)
            return True

        if not names:
            raise InvalidKeyError("the root holds no value", store=self.url, key=".")
        return self._engine.write(change, namespace, durable=False)

    # -- namespaces -------------------------------------------------------------------------

    def namespace_create(self, namespace: str, owner: int | None, flags: int) -> None:
        """Make a namespace; NamespaceExistsError if there is one."""
        if owner is not None and owner != os.getuid():
            raise UnsupportedError("only Flux keeps namespaces of other owners", store=self.url)
        if flags:
            raise InvalidKeyError(f"unknown flags {flags:#x}", store=self.url, key=namespace)
        name = encode_name(namespace)

        def change(writer: Change) -> None:
            writer.prefetch(ROOTS, [(name,)])
            if namespace == PRIMARY or writer.entry(ROOTS, name) is not None:
                raise NamespaceExistsError(
                    f"there is a namespace {namespace!r} already", store=self.url
                )
            writer.link(ROOTS, name, entries.new_directory())

        self._engine.write(change, namespace, durable=False)

    def namespace_remove(self, namespace: str) -> None:
        """Remove a namespace with everything in it; a missing one is no error."""
        if namespace == PRIMARY:
            raise NamespaceError("the primary namespace stays", store=self.url)
        name = encode_name(namespace)
        self._engine.write(lambda writer: writer.remove(ROOTS, name), namespace, durable=False)

    def namespace_list(self) -> list[str]:
        """Return the names of all namespaces, ``primary`` first."""
        return [PRIMARY, *(to_text(name) for name, _ in self._engine.read(_namespaces))]

    def dropcache(self) -> None:
        """Forget what is remembered only to be faster."""
        self._engine.dropcache()

    def close(self) -> None:
        """Give back what is held; closing twice is no error."""
        self._engine.close()


def _namespaces(view: View) -> list[tuple[bytes, Kind]]:
    return view.children(ROOTS)


def _state(entry: Entry | None) -> State | None:
    match entry:
        case None | Link():
            return None
        case Directory(identity):
            return State(True, 0, identity)
        case Value():
            return State(False, entry.size, entries.encode(entry))


def _key(names: Names) -> str:
    return ".".join(map(to_text, names)) or "."
