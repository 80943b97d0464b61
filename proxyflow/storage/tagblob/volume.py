"""A volume: blobs and their checksums below one area.

A blob is ``blob/HH/OBJECT``; beside it ``sum/HH/OBJECT`` holds its size and checksum. The checksum
is written first and exclusively: it decides between two writers of one name, and a blob that can be
seen has always one.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from .area import Area, Buffer, Entry, present, reported
from .area_local import LocalArea
from .blobs import Blob, Checksum, Digest, FileBlob, MemoryBlob, StreamBlob
from .errors import BlobDamaged, BlobExists, BlobNotFound, ConfigError, StoreFull
from .names import ObjectUrl, hash_dir

__all__ = ["BlobWriter", "StoredBlob", "Volume"]

#: Up to this size a blob is checked before it is handed out, so that a damaged replica can be
#: skipped; larger ones are checked as they are read.
CHECK_FIRST = 128 * 2**20
#: Room kept free on a local volume: another writer's blob in the making is not counted yet.
_RESERVE = 2**20
_MARKER = "volume.json"


class StoredBlob(NamedTuple):
    """A blob's file as a listing shows it."""

    object: str
    size: int
    modified: float


class Volume:
    """One place that holds replicas of blobs.

    Parameters
    ----------
    name
        As it stands in URLs: ``vol0``, ``vol1``...
    area
        Where the files are.
    """

    def __init__(self, name: str, area: Area) -> None:
        self.name = name
        self.area = area

    def __repr__(self) -> str:
        return f"Volume({self.name!r}, {self.area.url!r})"

    def url_of(self, obj: str) -> str:
        """Return the URL of a blob here."""
        return ObjectUrl("localhost", self.name, "blob", obj).url

    def initialise(self, store_id: str) -> None:
        """Mark the area as this volume of that store, creating a local directory if need be.

        Raises
        ------
        ConfigError
            The area is already a volume of another store, or another one of this.
        """
        wanted = {"store": store_id, "volume": self.name}
        try:
            with reported(self.area.url):
                if isinstance(self.area, LocalArea):
                    self.area.make_root()
                self.area.create(_MARKER, json.dumps(wanted).encode())
        except FileExistsError:
            if self.area.read(_MARKER) != json.dumps(wanted).encode():
                raise ConfigError(
                    "this place is another volume already", store=self.area.url, name=self.name
                ) from None

    def check(self) -> None:
        """Raise Unavailable unless the volume is there: a lost mount leaves an empty directory."""
        with present(self.area.url):
            self.area.size(_MARKER)

    def check_room(self, size: int | None) -> None:
        """Raise unless a local volume is there and has room for `size` bytes.

        A remote volume says so itself when it is written to.
        """
        if not isinstance(self.area, LocalArea):
            return
        with present(self.area.url):
            self.area.size(_MARKER)
            free = self.area.free()
        if size is not None and free is not None and free < size + _RESERVE:
            raise StoreFull(
                f"{size} bytes wanted, {free} left",
                store=self.area.url,
                remedy="free space or add a volume",
            )

    def writer(self, obj: str, *, replace: bool = False) -> BlobWriter:
        """Start a blob that nobody sees before its `commit`; see `BlobWriter`."""
        return BlobWriter(self, obj, replace=replace)

    def digest(self, obj: str) -> Digest:
        """Return the size and checksum of a blob.

        Raises
        ------
        BlobNotFound
            No such blob here.
        BlobDamaged
            The blob has lost its checksum.
        """
        try:
            with reported(self.area.url, obj):
                return Digest.parse(self.area.read(_sum_path(obj)))
        except ValueError as error:
            raise BlobDamaged("unreadable checksum", store=self.area.url, name=obj) from error
        except FileNotFoundError as error:
            raise BlobNotFound("no such blob", store=self.area.url, name=obj) from error

    def open(self, obj: str) -> Blob:
        """Return a blob, checked if it is not too large for that.

        Raises
        ------
        BlobNotFound
            No such blob here.
        BlobDamaged
            Its bytes are not those that were written.
        """
        digest = self.digest(obj)
        url = self.url_of(obj)
        path = _blob_path(obj)
        try:
            with reported(self.area.url, obj):
                self._check_size(self.area.size(path), digest, obj)
                local = self.area.local_path(path)
                if digest.size > CHECK_FIRST:
                    return StreamBlob(self.area.open(path), url, digest.size, digest, local)
                if local is not None:
                    return self._checked(FileBlob(local, url, digest), obj)
                return self._checked(MemoryBlob(self.area.read(path), url, digest), obj)
        except FileNotFoundError as error:
            raise BlobNotFound("no such blob", store=self.area.url, name=obj) from error

    def read(self, obj: str, digest: Digest) -> bytes:
        """Return the bytes of a blob of that digest.

        Raises
        ------
        BlobNotFound, BlobDamaged
            As `open`.
        """
        try:
            with reported(self.area.url, obj):
                data = self.area.read(_blob_path(obj))
        except FileNotFoundError as error:
            raise BlobNotFound("no such blob", store=self.area.url, name=obj) from error
        checksum = Checksum()
        checksum.update(data)
        if checksum.digest() != digest:
            raise self._damaged(obj)
        return data

    def _damaged(self, obj: str) -> BlobDamaged:
        return BlobDamaged("the blob fails its checksum", store=self.area.url, name=obj)

    def verify(self, obj: str) -> Digest:
        """Read a whole blob against its checksum, whatever its size.

        Raises
        ------
        BlobNotFound, BlobDamaged
            As `open`.
        """
        with self.open(obj) as blob:
            while isinstance(blob, StreamBlob) and blob.read(2**20):
                pass  # compares the checksum at the end
        assert blob.digest is not None
        return blob.digest

    def _checked(self, blob: FileBlob | MemoryBlob, obj: str) -> Blob:
        checksum = Checksum()
        with blob.map() as view:
            checksum.update(view)
        if checksum.digest() != blob.digest:
            blob.close()
            raise self._damaged(obj)
        blob.seek(0)
        return blob

    def _check_size(self, size: int, digest: Digest, obj: str) -> None:
        if size != digest.size:
            raise BlobDamaged(
                f"the blob has {size} bytes instead of {digest.size}",
                store=self.area.url,
                name=obj,
            )

    def local_path(self, obj: str) -> str | None:
        """Return the absolute path on this host, ``None`` where there is none."""
        return self.area.local_path(_blob_path(obj))

    def stored(self) -> dict[str, StoredBlob]:
        """Return every blob here by its object name."""
        with present(self.area.url):
            self.area.size(_MARKER)
            return {blob.object: blob for blob in map(_stored, self.area.scan("blob"))}

    def remove_stray_sums(self, blobs: dict[str, StoredBlob], before: float) -> int:
        """Remove checksums older than `before` whose blob never came; return how many."""
        removed = 0
        with present(self.area.url):
            for entry in list(self.area.scan("sum")):
                obj = entry.path.rsplit("/", 1)[1]
                if obj in blobs or entry.modified > before or self._has(obj):
                    continue
                self.area.remove([entry.path])
                removed += 1
        return removed

    def _has(self, obj: str) -> bool:
        try:
            self.area.size(_blob_path(obj))
        except FileNotFoundError:
            return False
        return True

    def remove(self, obj: str) -> None:
        """Remove files; those already gone do not matter."""
        # The blob first: a checksum without a blob is nothing, the reverse is a damaged blob.
        with reported(self.area.url, obj):
            self.area.remove([_blob_path(obj), _sum_path(obj)])

    def remove_named(self, prefix: str) -> None:
        """Remove the blobs whose name starts so, and checksums whose blob never came."""
        with present(self.area.url):
            self.area.size(_MARKER)
            # A checksum is written before its blob, so each blob has one.
            objects = [entry.path.rsplit("/", 1)[1] for entry in self.area.scan("sum")]
        for obj in objects:
            if obj.startswith(prefix):
                self.remove(obj)

    def sweep_partial(self, before: float) -> int:
        """Remove what killed writers left behind before that moment; count it."""
        with reported(self.area.url):
            return self.area.sweep_partial(before)


class BlobWriter:
    """A blob being written to one volume.

    Parameters
    ----------
    volume, obj
        Where, and under which stored object name.
    replace
        Write over what is there: the repair of a damaged replica.
    """

    def __init__(self, volume: Volume, obj: str, *, replace: bool = False) -> None:
        self.volume = volume
        self.object = obj
        self._replace = replace
        with present(volume.area.url), reported(volume.area.url, obj):
            self._file = volume.area.writer(_blob_path(obj), replace=replace)

    def write(self, data: Buffer) -> None:
        """Add bytes at the end."""
        with reported(self.volume.area.url, self.object):
            self._file.write(data)

    def commit(self, digest: Digest) -> str:
        """Make the blob visible and return its URL.

        Raises
        ------
        BlobExists
            The name is taken.
        """
        area = self.volume.area
        try:
            with reported(area.url, self.object):
                if not (self._replace and self._has_sum(digest)):
                    area.create(_sum_path(self.object), digest.encode())
                self._file.commit()
        except FileExistsError as error:
            self._file.abort()
            raise BlobExists("the blob name is taken", store=area.url, name=self.object) from error
        except BaseException:
            self._file.abort()
            raise
        return self.volume.url_of(self.object)

    def _has_sum(self, digest: Digest) -> bool:
        """Tell whether the right checksum is there; a wrong one is removed."""
        path = _sum_path(self.object)
        try:
            if self.volume.area.read(path) == digest.encode():
                return True
        except FileNotFoundError:
            return False
        self.volume.area.remove([path])
        return False

    def abort(self) -> None:
        """Give up; nothing becomes visible."""
        with reported(self.volume.area.url, self.object):
            self._file.abort()


def _blob_path(obj: str) -> str:
    return f"blob/{hash_dir(obj)}/{obj}"


def _sum_path(obj: str) -> str:
    return f"sum/{hash_dir(obj)}/{obj}"


def _stored(entry: Entry) -> StoredBlob:
    return StoredBlob(entry.path.rsplit("/", 1)[1], entry.size, entry.modified)
