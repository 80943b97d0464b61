"""The catalogue: which tags there are and what each holds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from .area import Area, Entry, present, reported
from .errors import TagDamaged
from .names import hash_dir
from .tagobject import TOMBSTONE, DamagedTag, TagObject
from .versions import Versions

__all__ = ["Catalogue", "History"]

logger = logging.getLogger(__name__)

_ROOT = "tag"
#: Longer names do not fit a file name on every file system and are shortened to a digest.
_LONGEST_KEY = 200
#: What a shortened key keeps of the name.
_PREFIX = _LONGEST_KEY - 40


class History(NamedTuple):
    """The stored versions of a tag, oldest first, and the newest one's content."""

    key: str
    entries: list[Entry]
    current: TagObject | None

    def replaced_since(self, before: float) -> list[Entry]:
        """Return the versions that were replaced after that moment."""
        pairs = zip(self.entries, self.entries[1:], strict=False)
        return [old for old, new in pairs if new.modified > before]

    def replaced_until(self, before: float) -> list[Entry]:
        """Return the versions that were replaced by then, and a tombstone as old."""
        pairs = zip(self.entries, self.entries[1:], strict=False)
        gone = [old for old, new in pairs if new.modified <= before]
        last = self.entries[-1]
        return [*gone, last] if self.current is None and last.modified <= before else gone


class Catalogue:
    """The tags of a store, each changed atomically by any number of processes.

    Parameters
    ----------
    area
        The root of the store.
    wait
        See `Versions`.

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

    def __init__(self, area: Area, *, wait: bool = True) -> None:
        self._versions = Versions(area, wait=wait)
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
        after: TagObject | None = None

        def encoded(data: bytes | None) -> bytes | None:
            nonlocal after
            before = self._decode(name, data)
            after = change(before)
            if after is before:
                return None
            return TOMBSTONE if after is None else after.encode()

        self._versions.change(_directory(name), encoded)
        return after

    def discard(self, name: str, check: Callable[[TagObject | None], object]) -> None:
        """Remove a tag without leaving a tombstone; see `Versions.discard`.

        What it named is unreachable at once, and not only after a grace period.
        """
        self._versions.discard(_directory(name), lambda data: check(self._decode(name, data)))

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
        live = (key for key, newest in self._newest().items() if newest.size != len(TOMBSTONE))
        found = (self._name_of(key) for key in live if key[:_PREFIX].startswith(prefix[:_PREFIX]))
        return sorted(name for name in found if name is not None and name.startswith(prefix))

    def _newest(self) -> dict[str, Entry]:
        """Return the highest version's file of every tag, deleted ones too, by key."""
        newest: dict[str, Entry] = {}
        with present(self._area.url):
            for entry in self._area.scan(_ROOT):
                key = entry.path.split("/")[1]
                newest[key] = max(entry, newest.get(key, entry))
        return newest

    def _name_of(self, key: str) -> str | None:
        """Return the tag's name; ``None`` when it went away meanwhile, or nobody can tell."""
        if "~" not in key:
            return key
        try:
            tag = self._decode(key, self._versions.load(f"{_ROOT}/{key}").data)
        except TagDamaged as error:
            logger.warning("a tag is missing in the list: %s", error)
            return None
        return None if tag is None else tag.name

    def all_keys(self) -> list[str]:
        """Return the keys of all tags, deleted ones too."""
        return list(self._newest())

    def history(self, key: str) -> History | None:
        """Return the stored versions of a tag as they are now; ``None`` when there are none.

        Raises
        ------
        TagDamaged
            The newest version cannot be read.
        """
        while True:
            with present(self._area.url):
                entries = sorted(self._area.scan(f"{_ROOT}/{key}"))
                if not entries:
                    return None
                # Writers may clear away what was just listed; then there are newer ones to list.
                with suppress(FileNotFoundError):
                    data = self._area.read(entries[-1].path)
                    return History(key, entries, self._decode(key, data))

    def read_old(self, entry: Entry) -> TagObject | None:
        """Return an old version; ``None`` for a tombstone, a damaged one, or one that is gone."""
        try:
            with reported(self._area.url, entry.path):
                data = self._area.read(entry.path)
            return self._decode(entry.path.split("/")[1], data)
        except FileNotFoundError:
            return None
        except TagDamaged as error:
            logger.warning("an old version does not count: %s", error)
            return None

    def forget(self, history: History, before: float) -> int:
        """Remove the versions replaced before that moment and a tombstone as old; count them."""
        old = history.replaced_until(before)
        gone = [entry for entry in old if self._versions.is_settled(entry.modified)]
        if not gone:
            return 0
        directory = f"{_ROOT}/{history.key}"
        with present(self._area.url), self._area.lock(hash_dir(directory)):
            # A tag discarded and made anew meanwhile has the same numbers for other versions.
            there = set(self._area.scan(directory))
            # Oldest first, so that what is left is a sane history at any moment.
            self._area.remove(entry.path for entry in gone if entry in there)
            if there <= set(gone):
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
    return f"{_ROOT}/{name[:_PREFIX]}~{digest}"
