"""The catalogue: which tags there are and what each holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .area import Area, Entry, present, reported
from .errors import TagDamaged
from .names import hash_dir
from .tagobject import TOMBSTONE, DamagedTag, TagObject
from .versions import Version, Versions

__all__ = ["Catalogue", "StoredTag"]

_ROOT = "tag"
#: Longer names do not fit a file name on every file system and are shortened to a digest.
_LONGEST_KEY = 200


class StoredTag(NamedTuple):
    """A tag's directory as a listing shows it: its files, oldest version first."""

    key: str
    entries: list[Entry]

    @property
    def deleted(self) -> bool:
        """Whether the newest version is a tombstone."""
        return self.entries[-1].size == len(TOMBSTONE)


class Catalogue:
    """The tags of a store, each changed atomically by any number of processes.

    Examples
    --------
    >>> import tempfile
    >>> from .area_local import LocalArea
    >>> with tempfile.TemporaryDirectory() as root:
    ...     catalogue = Catalogue(LocalArea(root))
    ...     _ = catalogue.change("data", lambda tag: tag or TagObject.new("data"))
    ...     catalogue.names("d")
    ['data']
    """

    def __init__(self, area: Area) -> None:
        self._versions = Versions(area)
        self._area = area

    def load(self, name: str) -> TagObject | None:
        """Return the tag as it is now, ``None`` when there is none.

        Raises
        ------
        TagDamaged
            Its stored object fails the checksum.
        """
        return self._decode(name, self._versions.load(_directory(name)).data)

    def change(
        self, name: str, change: Callable[[TagObject | None], TagObject | None]
    ) -> TagObject | None:
        """Replace a tag by what `change` makes of it; ``None`` on either side means "no tag".

        Returning the object it got changes nothing. `change` may run several times.
        """

        def encoded(data: bytes | None) -> bytes | None:
            before = self._decode(name, data)
            after = change(before)
            if after is before:
                return None
            return TOMBSTONE if after is None else after.encode()

        version: Version = self._versions.change(_directory(name), encoded)
        return self._decode(name, version.data)

    def find_version(self, name: str, id: str) -> TagObject | None:
        """Return the stored version of a tag with that id; the current one is looked at first."""
        directory = _directory(name)
        for number in reversed(self._versions.all(directory)):
            try:
                tag = self._decode(name, self._versions.read(directory, number))
            except FileNotFoundError:
                continue
            if tag is not None and tag.id == id:
                return tag
        return None

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the tags that start with `prefix`, sorted."""
        found = (self.name_of(stored) for stored in self.stored() if not stored.deleted)
        return sorted(name for name in found if name is not None and name.startswith(prefix))

    def name_of(self, stored: StoredTag) -> str | None:
        """Return the tag's name; ``None`` when it went away since it was listed."""
        if "~" not in stored.key:
            return stored.key
        for entry in reversed(stored.entries):
            tag = self.read(entry)
            if tag is not None:
                return tag.name
        return None

    def stored(self) -> Iterator[StoredTag]:
        """Yield every tag's directory, deleted tags too."""
        directories: dict[str, list[Entry]] = {}
        with present(self._area.url):
            for entry in self._area.scan(_ROOT):
                directories.setdefault(entry.path.split("/")[1], []).append(entry)
        for key, entries in directories.items():
            yield StoredTag(key, sorted(entries))

    def read(self, entry: Entry) -> TagObject | None:
        """Return one stored version; ``None`` for a tombstone or one that is gone."""
        try:
            with reported(self._area.url, entry.path):
                data = self._area.read(entry.path)
        except FileNotFoundError:
            return None
        return self._decode(entry.path.split("/")[1], data)

    def forget(self, stored: StoredTag, before: float) -> int:
        """Remove the versions replaced before that moment and a tombstone as old; count them."""
        pairs = zip(stored.entries, stored.entries[1:], strict=False)
        gone = [old for old, new in pairs if new.modified <= before]
        if stored.deleted and stored.entries[-1].modified <= before:
            gone.append(stored.entries[-1])
        gone = [entry for entry in gone if self._versions.is_settled(entry.modified)]
        directory = f"{_ROOT}/{stored.key}"
        with present(self._area.url):
            # Oldest first, so that what is left is a sane history at any moment.
            self._area.remove(entry.path for entry in gone)
            if len(gone) == len(stored.entries):
                with self._area.lock(hash_dir(directory)):
                    self._area.remove_directory(directory)
        return len(gone)

    def _decode(self, name: str, data: bytes | None) -> TagObject | None:
        if data is None or data == TOMBSTONE:
            return None
        try:
            return TagObject.decode(data)
        except DamagedTag as error:
            raise TagDamaged(
                "the stored tag object fails its checksum",
                store=self._area.url,
                name=name,
                remedy=f"remove the last file in {_directory(name)} to go back one version",
            ) from error


def _directory(name: str) -> str:
    if len(name) <= _LONGEST_KEY:
        return f"{_ROOT}/{name}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    # "~" is in no tag name, so no other tag has this key.
    return f"{_ROOT}/{name[: _LONGEST_KEY - 40]}~{digest}"
