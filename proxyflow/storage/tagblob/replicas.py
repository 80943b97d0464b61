"""Replicated blobs: written to several volumes at once, read from any that answers."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from .blobs import Blob, Checksum, Digest
from .errors import (
    BlobDamaged,
    BlobExists,
    BlobNotFound,
    DDFSError,
    NotEnoughVolumes,
    ServerError,
    StoreFull,
    Unavailable,
)
from .names import ObjectUrl, blob_object_prefix, object_name
from .sources import Source
from .volume import BlobWriter, Volume

__all__ = ["Replicas"]

logger = logging.getLogger(__name__)


class Replicas:
    """The volumes of a store seen as one place for blobs.

    Parameters
    ----------
    volumes
        The volumes by name; read anew on every call, as it may grow.
    store
        The store's URL, for messages.
    """

    def __init__(self, volumes: Mapping[str, Volume], store: str) -> None:
        self._volumes = volumes
        self._store = store

    def choose(
        self,
        count: int,
        *,
        include: Collection[str] = (),
        exclude: Collection[str] = (),
        size: int | None = None,
    ) -> list[Volume]:
        """Return `count` volumes to write to, those named by `include` first.

        Raises
        ------
        NotEnoughVolumes
            Fewer volumes exist, or an included one does not.
        Unavailable, StoreFull
            Fewer answer, or have room for `size` bytes.
        """
        if count < 1:
            raise NotEnoughVolumes("a blob needs at least one replica", store=self._store)
        unknown = set(include) - (set(self._volumes) - set(exclude))
        if unknown or count > len(self._volumes) or len(include) > count:
            raise NotEnoughVolumes(
                f"not to be had: {sorted(unknown)}" if unknown else "not enough volumes",
                store=self._store,
                remedy=f"there are {len(self._volumes)}: {', '.join(sorted(self._volumes))}",
            )
        candidates = [v for name, v in self._volumes.items() if name not in exclude]
        random.shuffle(candidates)
        candidates.sort(key=lambda volume: volume.name not in include)
        chosen: list[Volume] = []
        failure: DDFSError | None = None
        for volume in candidates:
            if len(chosen) == count:
                break
            try:
                volume.check_room(size)
            except DDFSError as error:
                if volume.name in include:
                    raise
                logger.warning("not writing to %s: %s", volume.name, error)
                failure = error
            else:
                chosen.append(volume)
        if len(chosen) < count:
            raise failure or NotEnoughVolumes(
                f"only {len(chosen)} of the {count} volumes wanted can be written",
                store=self._store,
                remedy="ask for fewer replicas or add a volume",
            )
        return chosen

    def store(
        self, source: Source, count: int, *, include: Collection[str] = (), retries: int = 10
    ) -> list[str]:
        """Write `count` replicas of a new blob and return their URLs.

        A volume that fails is replaced by another one, up to `retries` times; when that is not
        possible the replicas written so far are removed and its error is raised.
        """
        prefix = blob_object_prefix(source.name)
        failed: set[str] = set()
        error: DDFSError | None = None
        while True:
            obj = object_name(prefix)
            volumes = self._choose_again(
                error, count, include=include, exclude=failed, size=source.known_size()
            )
            attempt = _FanOut(volumes, obj)
            attempt.write(source)
            failed |= attempt.failed.keys()
            retries -= len(attempt.failed)
            for name in include:
                if name in attempt.failed:
                    # Nothing else will do: the caller wanted this very volume.
                    self._remove(attempt.done, obj)
                    raise attempt.failed[name]
            if attempt.done and not attempt.collided:
                return self._complete(attempt, count, failed, retries)
            self._remove(attempt.done, obj)
            if attempt.collided:
                retries -= 1
            assert attempt.error is not None
            error = attempt.error
            if retries < 0 or not source.rewindable:
                raise error

    def _choose_again(self, error: DDFSError | None, count: int, **options: Any) -> list[Volume]:
        """Choose volumes; if there is none left to choose, say why the last one failed."""
        try:
            return self.choose(count, **options)
        except NotEnoughVolumes as refused:
            raise error or refused from None

    def _complete(self, attempt: _FanOut, count: int, failed: set[str], retries: int) -> list[str]:
        """Make up for the volumes that failed by copying from one that did not."""
        done = dict(attempt.done)
        try:
            while len(done) < count:
                if retries < 0:
                    assert attempt.error is not None
                    raise attempt.error
                (target,) = self._choose_again(
                    attempt.error, 1, exclude=failed | done.keys(), size=attempt.size
                )
                try:
                    source = self._volumes[next(iter(done))]
                    done[target.name] = copy_blob(source, target, attempt.object)
                except (ServerError, StoreFull, Unavailable) as error:
                    attempt.error = error
                    failed.add(target.name)
                    retries -= 1
        except BaseException:
            self._remove(done, attempt.object)
            raise
        return list(done.values())

    def _remove(self, volumes: Iterable[str], obj: str) -> None:
        for name in volumes:
            self._volumes[name].remove(obj)

    def open(self, replicas: list[ObjectUrl]) -> Blob:
        """Return the blob from the first replica, in random order, that is whole.

        A damaged replica is reported by a warning and written anew from the good one.

        Raises
        ------
        DDFSError
            No replica could be read: the error of the last one tried.
        """
        error: DDFSError = BlobNotFound("no replicas", store=self._store)
        damaged: list[Volume] = []
        for replica in random.sample(replicas, len(replicas)):
            volume = self._volumes[replica.volume]
            try:
                blob = volume.open(replica.object)
            except DDFSError as failure:
                logger.warning("skipping a replica: %s", failure)
                error = failure
                if isinstance(failure, BlobDamaged):
                    damaged.append(volume)
                continue
            for target in damaged:
                self._repair(volume, target, replica.object)
            return blob
        raise error

    def check(self, replica: ObjectUrl) -> None:
        """Write a replica anew if it is damaged and another volume has the blob.

        Raises
        ------
        BlobNotFound, Unavailable
            There is no such replica, or its volume does not answer.
        """
        target, obj = self._volumes[replica.volume], replica.object
        try:
            target.verify(obj)
        except BlobDamaged as error:
            logger.warning("checked a replica: %s", error)
        else:
            return
        for source in [volume for volume in self._volumes.values() if volume is not target]:
            try:
                copy_blob(source, target, obj, replace=True)
            except BlobNotFound:
                continue
            except DDFSError as error:
                logger.warning("cannot repair %s on %s: %s", obj, target.name, error)
            else:
                logger.warning("repaired %s on %s", obj, target.name)
                return

    def _repair(self, source: Volume, target: Volume, obj: str) -> None:
        try:
            copy_blob(source, target, obj, replace=True)
        except DDFSError as error:
            # The reader has its bytes; gc will try again.
            logger.warning("cannot repair %s on %s: %s", obj, target.name, error)
        else:
            logger.warning("repaired %s on %s", obj, target.name)


class _FanOut:
    """One attempt to write a blob to several volumes in a single pass over the source."""

    def __init__(self, volumes: list[Volume], obj: str) -> None:
        self.object = obj
        self.done: dict[str, str] = {}
        self.failed: dict[str, DDFSError] = {}
        self.collided = False
        self.error: DDFSError | None = None
        self.size = 0
        self._writers: list[BlobWriter] = []
        for volume in volumes:
            try:
                self._writers.append(volume.writer(obj))
            except DDFSError as error:
                self._fail(volume, error)

    def _fail(self, volume: Volume, error: DDFSError) -> None:
        self.error = error
        if isinstance(error, BlobExists):
            # Same name in the same microsecond: the volume is fine, the next moment will do.
            self.collided = True
        else:
            logger.warning("writing to %s failed: %s", volume.name, error)
            self.failed[volume.name] = error

    def write(self, source: Source) -> None:
        checksum = Checksum()
        try:
            for chunk in source.chunks():
                checksum.update(chunk)
                self._each(partial(BlobWriter.write, data=chunk))
                if not self._writers:
                    return
        except BaseException:
            for writer in self._writers:
                writer.abort()
            raise
        digest = checksum.digest()
        self.size = digest.size
        self._each(partial(self._commit, digest=digest))

    def _commit(self, writer: BlobWriter, digest: Digest) -> None:
        self.done[writer.volume.name] = writer.commit(digest)

    def _each(self, action: Callable[[BlobWriter], None]) -> None:
        """Do something with every writer and go on without those that fail."""
        alive = []
        for writer in self._writers:
            try:
                action(writer)
            except DDFSError as error:
                writer.abort()
                self._fail(writer.volume, error)
            else:
                alive.append(writer)
        self._writers = alive


def copy_blob(source: Volume, target: Volume, obj: str, *, replace: bool = False) -> str:
    """Copy a blob between volumes, checking it on the way; return the URL of the copy.

    Raises
    ------
    BlobDamaged
        The source is not whole; nothing became visible.
    """
    with source.open(obj) as blob:
        writer = target.writer(obj, replace=replace)
        checksum = Checksum()
        try:
            while piece := blob.read(2**20):
                checksum.update(piece)
                writer.write(piece)
            if checksum.digest() != blob.digest:
                raise BlobDamaged("the blob fails its checksum", store=blob.url, name=obj)
        except BaseException:
            writer.abort()
            raise
        return writer.commit(checksum.digest())
