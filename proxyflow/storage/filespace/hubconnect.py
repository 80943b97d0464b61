"""Data stores and external files of the embedded filespace."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace

from .client import Client, retrying
from .connect import ConnectManager
from .datastores import (
    DataStoreConfig,
    S3Credentials,
    S3DataStoreConfig,
    check_store_name,
    info_of,
    record_of,
    reference_of,
)
from .entry import Entry, Kind, new_entry, new_id
from .errors import (
    DataStoreExistsError,
    DataStoreInUseError,
    FsExistsError,
    InvalidArgumentError,
)
from .filesystem import Path
from .hubfs import HubFilesystem
from .models import DataStoreInfo, LinkedFile, LinkedFilesResult
from .ops import Op, Put, Remove
from .paths import Parts, split
from .sources import ObjectFacts, Sources
from .tree import FILES, STORES, Tree

__all__ = ["HubConnect"]


class HubConnect(ConnectManager):
    """`ConnectManager` over a hub; like all changes, these are published by ``sync_all()``.

    Parameters
    ----------
    client
        The link.
    fs
        Its file system.
    sources
        Its data stores.
    """

    def __init__(self, client: Client, fs: HubFilesystem, sources: Sources) -> None:
        self.client, self._fs, self._sources = client, fs, sources

    @retrying
    def add_data_store(self, name: str, config: DataStoreConfig) -> DataStoreInfo:
        """Add a data store; see `ConnectManager.add_data_store`."""
        name = check_store_name(name)
        where = (*STORES, name)
        if self.client.tree().lookup(where) is not None:
            raise DataStoreExistsError(f"there is a data store {name!r}")
        entry = new_entry(Kind.STORE, config=record_of(config))
        self.client.record(Put(where, entry))
        if isinstance(config, S3DataStoreConfig):
            self._keep(entry, config.credentials)
        return info_of(name, entry)

    @retrying
    def get_data_store(self, name: str) -> DataStoreInfo | None:
        """Return what is known of a data store, ``None`` if there is none of this name."""
        entry = self.client.tree().lookup((*STORES, name.strip()))
        return info_of(name.strip(), entry) if entry is not None else None

    @retrying
    def list_data_stores(self) -> list[DataStoreInfo]:
        """Return all data stores, sorted by name."""
        return [info_of(name, entry) for name, entry in self.client.tree().items(STORES)]

    @retrying
    def remove_data_store(self, name: str) -> None:
        """Remove a data store; see `ConnectManager.remove_data_store`."""
        entry = self._sources.entry(name)
        linked = self.client.tree().summary(FILES).get(f"store:{name}", 0)
        if linked:
            raise DataStoreInUseError(f"{linked} files are linked from data store {name!r}")
        self.client.record(Remove((*STORES, name), entry.version))

    def rekey(self, name: str, credentials: S3Credentials) -> None:
        """Give a data store new credentials; see `ConnectManager.rekey`."""
        entry = self._sources.entry(name)
        if entry.config.get("kind") != "s3":
            raise InvalidArgumentError(f"data store {name!r} has no credentials")
        probe = self.list_external_files(name, limit=1).entries
        if probe:
            source = self._sources.connect(name, entry, credentials.resolved(name))
            source.facts(probe[0].object_id, probe[0].path)
        self._rekeyed(name, credentials)

    @retrying
    def _rekeyed(self, name: str, credentials: S3Credentials) -> None:
        entry = self._sources.entry(name)
        kept = {k: v for k, v in entry.config.items() if k not in ("access_key", "secret_key")}
        # A new digest makes a new version: who rekeys at the same time gets a conflict, not a mix.
        config = kept | reference_of(credentials)
        changed = replace(entry, config=config, digest=new_id())
        self.client.record(Put((*STORES, name), changed, entry.version))
        self._keep(changed, credentials)

    def use_credentials(self, name: str, credentials: S3Credentials) -> None:
        """Use credentials in this process only; see `ConnectManager.use_credentials`."""
        self._sources.keyring.held[self._sources.entry(name).id] = credentials

    def link_file(
        self,
        file_path: Path,
        data_store_name: str,
        object_id: str,
        size: int | None = None,
        checksum: str = "",
    ) -> None:
        """Make an object a file; see `ConnectManager.link_file`."""
        if (size is None) != (not checksum):
            raise InvalidArgumentError("size and checksum must be given together")
        if size is None:
            source = self._sources.get(data_store_name)
            facts = source.facts(object_id, os.fspath(file_path))
        elif size < 0:
            raise InvalidArgumentError(f"negative size {size}")
        else:
            self._sources.entry(data_store_name)
            facts = ObjectFacts(object_id, size, checksum)
        self._link(file_path, data_store_name, facts)

    @retrying
    def _link(self, file_path: Path, name: str, facts: ObjectFacts) -> None:
        where = self._fs.free(file_path)
        store = self._sources.entry(name)
        self.client.record(Put(where, _external(name, facts), store=store))

    def link_files(self, path: Path, data_store_name: str, prefix: str = "") -> list[str]:
        """Make every object under a prefix a file; see `ConnectManager.link_files`."""
        found = [
            facts
            for facts in self._sources.get(data_store_name).objects(prefix)
            if not facts.object_id.endswith("/")  # the marker of an empty folder
        ]
        return self._link_all(path, data_store_name, prefix, found)

    @retrying
    def _link_all(self, path: Path, name: str, prefix: str, found: list[ObjectFacts]) -> list[str]:
        store = self._sources.entry(name)
        base = self._fs.resolve(path)
        tree = self.client.tree().copy()
        ops: list[Op] = []
        shown: list[str] = []
        for facts in found:
            where = (*base, *_below(facts.object_id, prefix))
            if tree.lookup(where) is not None:
                raise FsExistsError.at(self._fs.shown(where))
            steps = self._fs.missing_dirs(tree, where[:-1])
            steps.append(Put(where, _external(name, facts), store=store))
            for step in steps:
                step.apply(tree)
            ops += steps
            shown.append(self._fs.shown(where))
        self.client.record(*ops)
        return shown

    @retrying
    def list_external_files(
        self, data_store_name: str, limit: int = 100, cursor: str = ""
    ) -> LinkedFilesResult:
        """Return a page of external files; see `ConnectManager.list_external_files`."""
        if limit < 1:
            raise InvalidArgumentError(f"limit {limit} must be positive")
        self._sources.entry(data_store_name)
        root = self._fs.root
        after = (*root, *split(cursor)) if cursor else ()
        found = _walk(self.client.tree(), root, f"store:{data_store_name}", after)
        mine = ((where, one) for where, one in found if one.store == data_store_name)
        page = list(itertools.islice(mine, limit + 1))
        entries = [
            LinkedFile(self._fs.shown(where), entry.id, entry.target)
            for where, entry in page[:limit]
        ]
        more = len(page) > limit
        return LinkedFilesResult(entries, more, entries[-1].path if more else "")

    @retrying
    def count(self, data_store_name: str) -> int:
        """Return how many files are linked from a data store."""
        self._sources.entry(data_store_name)
        return self.client.tree().summary(self._fs.root).get(f"store:{data_store_name}", 0)

    @retrying
    def unlink_file(self, file_path: Path) -> None:
        """Remove an external file; see `ConnectManager.unlink_file`."""
        where, entry = self._fs.lookup(file_path)
        if entry.kind is not Kind.EXTERNAL:
            raise InvalidArgumentError(f"{os.fspath(file_path)!r} is not an external file")
        self.client.record(Remove(where, entry.version))

    def _keep(self, entry: Entry, credentials: S3Credentials) -> None:
        if credentials.is_reference:
            self._sources.keyring.held.pop(entry.id, None)
        else:
            self._sources.keyring.held[entry.id] = credentials


def _external(store: str, facts: ObjectFacts) -> Entry:
    return new_entry(
        Kind.EXTERNAL,
        size=facts.size,
        digest=facts.checksum,
        target=facts.object_id,
        store=store,
    )


def _below(object_id: str, prefix: str) -> Parts:
    parts = split(object_id[len(prefix) :])
    if not parts or ".." in parts:
        raise InvalidArgumentError(f"object {object_id!r} has a key that cannot be a path")
    return parts


def _walk(tree: Tree, base: Parts, counter: str, after: Parts) -> Iterator[tuple[Parts, Entry]]:
    """Yield the external files of a store below `base` that come after the path `after`."""
    for name, entry in tree.items(base):
        where = (*base, name)
        if where < after[: len(where)]:
            continue
        if entry.kind is Kind.EXTERNAL and where > after:
            yield where, entry
        elif entry.children is not None and entry.children.summary.get(counter):
            yield from _walk(tree, where, counter, after)
