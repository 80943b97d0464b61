"""Collecting garbage and restoring replicas.

What a live tag names is reachable, and so is what a tag named until less than the grace period ago,
as far as its last versions tell: those that are still stored count until then, and so does the
version before its deletion. Everything else that is older than the grace period goes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from .area import Area
from .catalogue import Catalogue
from .errors import BlobDamaged, BlobNotFound, DDFSError, StoreFull, Unavailable
from .names import ObjectUrl, own_blob
from .replicas import copy_blob
from .tagobject import TagObject
from .volume import StoredBlob, Volume

__all__ = ["Collector", "GCReport"]

logger = logging.getLogger(__name__)

#: A stored replica: volume and object.
Place = tuple[str, str]


@dataclass
class GCReport:
    """What one run of the collector did.

    Attributes
    ----------
    removed_blobs, removed_bytes : int
        Replicas nobody could reach, and their size.
    removed_versions : int
        Old versions of tags, and tombstones.
    removed_partial : int
        What killed writers left behind.
    restored : int
        Replicas copied because one was missing or damaged.
    missing : list of str
        Blobs with fewer replicas than wanted that could not be restored: their first URL.
    skipped : list of str
        Volumes that did not answer.
    """

    removed_blobs: int = 0
    removed_bytes: int = 0
    removed_versions: int = 0
    removed_partial: int = 0
    restored: int = 0
    missing: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class Collector:
    """One run over a store."""

    def __init__(self, area: Area, catalogue: Catalogue, volumes: Mapping[str, Volume]) -> None:
        self._area = area
        self._catalogue = catalogue
        self._volumes = dict(volumes)
        self._stored: dict[str, dict[str, StoredBlob]] = {}
        self._report = GCReport()

    def run(self, grace: float, *, verify: bool = False) -> GCReport:
        """Do everything; see `DDFS.gc`.

        Raises
        ------
        Unavailable
            Another collector is at work on this host.
        TagDamaged
            A tag cannot be read, so nobody knows what it reaches; no blob was removed.
        """
        with self._area.lock("gc", wait=False) as locked:
            if not locked:
                raise Unavailable(
                    "gc is running already", store=self._area.url, remedy="let it finish"
                )
            before = time.time() - grace
            # Blobs are listed before tags are read: one that was tagged in between is seen by the
            # second step, and one that came later by neither, so it stays.
            self._list_volumes()
            reachable, live = self._mark(before)
            self._restore(live, verify)
            self._sweep(reachable, before)
        return self._report

    def _list_volumes(self) -> None:
        for name, volume in self._volumes.items():
            try:
                self._stored[name] = volume.stored()
            except DDFSError as error:
                self._skip(name, error)

    def _skip(self, name: str, error: DDFSError) -> None:
        logger.warning("gc goes on without %s: %s", name, error)
        self._stored.pop(name, None)
        self._report.skipped.append(name)

    # -- tags ---------------------------------------------------------------------------------

    def _mark(self, before: float) -> tuple[set[Place], list[TagObject]]:
        """Return what tags reach and the tags themselves; old versions go on the way."""
        reachable: set[Place] = set()
        live: list[TagObject] = []
        for key in self._catalogue.all_keys():
            # Listed anew tag by tag: whatever goes on meanwhile, a blob that is taken from a tag
            # is found in this one's old versions, or in the tag it was put into.
            history = self._catalogue.history(key)
            if history is None:
                continue
            if history.current is not None:
                live.append(history.current)
                reachable.update(_places(history.current))
            for entry in history.replaced_since(before):
                old = self._catalogue.read_old(entry)
                if old is not None:
                    reachable.update(_places(old))
            self._report.removed_versions += self._catalogue.forget(history, before)
        return reachable, live

    # -- replicas -----------------------------------------------------------------------------

    def _restore(self, live: list[TagObject], verify: bool) -> None:
        """Bring every blob of the live tags back to as many replicas as its tag names."""
        done: dict[tuple[str, ...], list[str]] = {}
        for tag in live:
            changes: dict[tuple[str, ...], list[str]] = {}
            for replicas in tag.urls:
                key = tuple(replicas)
                if key not in done:
                    done[key] = self._restored(replicas, verify)
                if done[key] != replicas:
                    changes[key] = done[key]
            if changes:
                self._catalogue.change(tag.name, partial(_replaced, changes))

    def _restored(self, replicas: list[str], verify: bool) -> list[str]:
        """Return a replica set with its missing replicas made good."""
        own = [own_blob(url) for url in replicas]
        ours = [blob for blob in own if blob is not None and blob.volume in self._volumes]
        if len(ours) < len(replicas):
            return replicas  # not all ours, so not ours to restore
        good = [blob for blob in ours if self._is_good(blob, verify)]
        while good and len(good) < len(ours):
            copy = self._copy(good[0], exclude={blob.volume for blob in good})
            if copy is None:
                break
            good.append(copy)
        if len(good) < len(ours):
            self._report.missing.append(replicas[0])
            # The place of a replica that may come back with its volume is not forgotten.
            good += [blob for blob in ours if blob not in good][: len(ours) - len(good)]
        return replicas if set(good) == set(ours) else [blob.url for blob in good]

    def _is_good(self, replica: ObjectUrl, verify: bool) -> bool:
        stored = self._stored.get(replica.volume)
        volume = self._volumes[replica.volume]
        if stored is None:
            return False
        try:
            if verify:
                volume.verify(replica.object)
                return True
            # A listing tells presence and size; it may be older than the blob, so look again.
            blob = stored.get(replica.object)
            if blob is not None:
                return blob.size == volume.digest(replica.object).size
            volume.open(replica.object).close()
        except (BlobDamaged, BlobNotFound) as error:
            logger.warning("gc found a bad replica: %s", error)
            return False
        except Unavailable as error:
            self._skip(replica.volume, error)
            return False
        return True

    def _copy(self, source: ObjectUrl, exclude: set[str]) -> ObjectUrl | None:
        """Copy a good replica to a volume outside `exclude`; ``None`` when none takes it."""
        try:
            size = self._volumes[source.volume].digest(source.object).size
        except DDFSError as error:
            logger.warning("gc cannot read a replica: %s", error)
            return None
        targets = [v for name, v in self._volumes.items() if name not in exclude]
        for target in random.sample(targets, len(targets)):
            try:
                target.check_room(size)
                copy_blob(self._volumes[source.volume], target, source.object, replace=True)
            except (BlobDamaged, BlobNotFound) as error:
                logger.warning("gc cannot read a replica: %s", error)
                return None
            except (StoreFull, Unavailable) as error:
                logger.warning("gc cannot copy to %s: %s", target.name, error)
            else:
                self._report.restored += 1
                return source._replace(volume=target.name)
        return None

    # -- blobs --------------------------------------------------------------------------------

    def _sweep(self, reachable: set[Place], before: float) -> None:
        for name, blobs in list(self._stored.items()):
            volume = self._volumes[name]
            try:
                for blob in blobs.values():
                    if blob.modified <= before and (name, blob.object) not in reachable:
                        volume.remove(blob.object)
                        self._report.removed_blobs += 1
                        self._report.removed_bytes += blob.size
                self._report.removed_partial += volume.remove_stray_sums(blobs, before)
                self._report.removed_partial += volume.sweep_partial(before)
            except Unavailable as error:
                self._skip(name, error)
        self._report.removed_partial += self._area.sweep_partial(before)


def _places(tag: TagObject) -> set[Place]:
    blobs = (own_blob(url) for replicas in tag.urls for url in replicas)
    return {(blob.volume, blob.object) for blob in blobs if blob is not None}


def _replaced(changes: dict[tuple[str, ...], list[str]], tag: TagObject | None) -> TagObject | None:
    """Return the tag with restored replica sets in place of those it still has."""
    if tag is None:
        return None
    before = tag.urls
    after = [changes.get(tuple(replicas), replicas) for replicas in before]
    return tag if after == before else tag.with_urls(after)
