"""The embedded engine: the store in this process, shared with others through its files.

The root holds the catalogue of tags and the list of volumes; the volumes hold the blobs. By default
``vol0`` lies in the root itself, which is all a single directory or bucket needs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from .area import local_root, open_area, reported
from .area_local import LocalArea
from .blobs import Blob
from .catalogue import Catalogue
from .engine import ATTR_READ_TOKEN, ATTR_URLS, ATTR_WRITE_TOKEN, DELETED
from .errors import (
    AttributeNotFound,
    BlobNotFound,
    DDFSError,
    Forbidden,
    TagNotFound,
    Unavailable,
)
from .gc import Collector, GCReport
from .layout import Layout
from .names import LOCAL_HOST, ObjectUrl, own_blob
from .replicas import Replicas
from .sources import Source
from .tagobject import TagObject, check_attribute, check_urls
from .volume import Volume

__all__ = ["EmbeddedEngine"]

logger = logging.getLogger(__name__)

#: The volume that tag objects are said to lie on in their URLs.
_TAG_VOLUME = "vol0"


class EmbeddedEngine:
    """A tag/blob store below a root URL, used by any number of processes at once.

    Parameters
    ----------
    root
        A ``file:///`` URL, an absolute path, or a URL that fsspec knows. A local directory is
        created when missing.
    volumes
        How many volumes the store should have in the root, or a list of paths and URLs. They are
        added to those it has; by default a new store gets one.
    replicas
        How many volumes a blob is written to when nobody says.
    durable
        Whether local files are on the disk before a call returns.
    storage_options
        For fsspec file systems.

    Raises
    ------
    ConfigError, MissingDependencyError
        The root or a volume makes no sense or needs another package.
    Unavailable
        The root does not answer.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     engine = EmbeddedEngine(root)
    ...     _ = engine.append("data", [["http://node/1"]], token=None)
    ...     engine.get("data", token=None)["urls"]
    [['http://node/1']]
    """

    def __init__(
        self,
        root: str,
        *,
        volumes: int | Iterable[str] | None = None,
        replicas: int = 1,
        durable: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._area = open_area(root, durable=durable, storage_options=storage_options)
        self.master = self._area.url if local_root(root) is not None else root
        self._default_replicas = replicas
        if isinstance(self._area, LocalArea):
            with reported(self.master):
                self._area.make_root()
        self._layout = Layout(self._area, durable=durable, storage_options=storage_options)
        self._layout.ensure(volumes)
        self._catalogue = Catalogue(self._area)
        self._replicas = Replicas(self._layout.volumes, self.master)

    def __repr__(self) -> str:
        return f"EmbeddedEngine({self.master!r})"

    @property
    def volumes(self) -> dict[str, Volume]:
        """The volumes by name."""
        return dict(self._layout.volumes)

    @property
    def replicas(self) -> int:
        """How many volumes a blob is written to when nobody says."""
        return self._default_replicas

    @property
    def is_quick(self) -> bool:
        """Whether nothing is further away than a directory, and nothing waits for a disk."""
        areas = [self._area, *(volume.area for volume in self._layout.volumes.values())]
        return all(isinstance(area, LocalArea) and not area.durable for area in areas)

    def impatient(self) -> EmbeddedEngine:
        """Return the same store, where changing a tag raises LockHeld rather than wait."""
        engine = copy.copy(self)
        engine._catalogue = Catalogue(self._area, wait=False)
        return engine

    def close(self) -> None:
        """Do nothing: the engine keeps neither files nor connections open."""

    # -- tags ---------------------------------------------------------------------------------

    def _readable(self, name: str, token: str | None) -> TagObject:
        tag = self._catalogue.load(name)
        if tag is None:
            raise self._missing(name)
        tag.authorize("read", token, self.master)
        return tag

    def _missing(self, name: str) -> TagNotFound:
        return TagNotFound("no such tag", store=self.master, name=name)

    def _no_attribute(self, attr: str) -> AttributeNotFound:
        return AttributeNotFound("no such attribute", store=self.master, name=attr)

    def get(self, name: str, token: str | None) -> dict[str, Any]:
        """Return the tag object a client sees."""
        return self._readable(name, token).public()

    def tag_object(self, name: str, token: str | None) -> TagObject:
        """Return a tag as it is stored, for a server that passes its urls on unparsed."""
        return self._readable(name, token)

    def tag_version(self, obj: str, token: str | None) -> TagObject:
        """Return the tag version stored as ``NAME$TIME``; older ones go sooner or later."""
        name = obj.split("$", 1)[0]
        # The current tag decides who may look: old versions may have had no tokens yet.
        self._readable(name, token)
        tag = self._catalogue.find_version(name, obj)
        if tag is None:
            raise self._missing(obj)
        tag.authorize("read", token, self.master)
        return tag

    def get_attribute(self, name: str, attr: str, token: str | None) -> Any:
        """Return an attribute's value.

        Tokens are kept as hashes: ``ddfs:read-token`` and ``ddfs:write-token`` are ``None`` for an
        open tag, the caller's own token where that is the one, and Forbidden otherwise.
        """
        tag = self._readable(name, token)
        if attr == ATTR_URLS:
            return tag.urls
        if attr in (ATTR_READ_TOKEN, ATTR_WRITE_TOKEN):
            return self._shown_token(tag, attr, token)
        attr, _ = check_attribute(attr)
        try:
            return tag.user_data[attr]
        except KeyError:
            raise self._no_attribute(attr) from None

    def _shown_token(self, tag: TagObject, attr: str, token: str | None) -> str | None:
        if attr == ATTR_WRITE_TOKEN:
            tag.authorize("write", token, self.master)
            return None if tag.write_token is None else token
        if tag.read_token is None:
            return None
        if TagObject.matches(token, tag.read_token):
            return token
        raise Forbidden(
            "the read token is kept as a hash and cannot be shown",
            store=self.master,
            name=tag.name,
            remedy="set a new one",
        )

    def set_attribute(self, name: str, attr: str, value: Any, token: str | None) -> list[str]:
        """Set an attribute; a missing tag is created."""
        if attr == ATTR_URLS:
            return self.put(name, check_urls(value), token)
        if attr == ATTR_READ_TOKEN:
            check_attribute(attr, value)
            return self._change(name, token, lambda tag: tag.with_token("read", value))
        if attr == ATTR_WRITE_TOKEN:
            check_attribute(attr, value)
            return self._change(name, token, lambda tag: tag.with_token("write", value))
        if attr.startswith("ddfs:"):
            raise self._no_attribute(attr)
        attr, value = check_attribute(attr, value)
        return self._change(name, token, lambda tag: tag.with_attribute(attr, value))

    def delete_attribute(self, name: str, attr: str, token: str | None) -> str:
        """Delete an attribute; one that is not there is no error, a tag that is not is."""
        if attr == ATTR_URLS:
            self._change(name, token, lambda tag: tag.with_urls([]), create=False)
        elif attr == ATTR_READ_TOKEN:
            self._change(name, token, lambda tag: tag.with_token("read", None), create=False)
        elif attr == ATTR_WRITE_TOKEN:
            self._change(name, token, lambda tag: tag.with_token("write", None), create=False)
        elif attr.startswith("ddfs:"):
            raise self._no_attribute(attr)
        else:
            attr, _ = check_attribute(attr)
            self._change(name, token, lambda tag: tag.without_attribute(attr), create=False)
        return DELETED

    def append(
        self,
        name: str,
        urls: list[list[str]],
        token: str | None,
        *,
        update: bool = False,
        delayed: bool = False,
    ) -> list[str]:
        """Put `urls` before those of the tag, creating it when missing.

        `delayed` allows a store to wait for more; this one writes at once, which is quicker.
        """
        return self._change(name, token, lambda tag: tag.append(urls, update=update))

    def put(
        self,
        name: str,
        urls: list[list[str]],
        token: str | None,
        attributes: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Replace the urls of the tag, creating it when missing, and set attributes."""

        def change(tag: TagObject) -> TagObject:
            tag = tag.with_urls(urls)
            for attr, value in (attributes or {}).items():
                tag = tag.with_attribute(attr, value)
            return tag

        return self._change(name, token, change)

    def _change(
        self,
        name: str,
        token: str | None,
        change: Callable[[TagObject], TagObject],
        *,
        create: bool = True,
    ) -> list[str]:
        def changed(tag: TagObject | None) -> TagObject:
            if tag is None:
                if not create:
                    raise self._missing(name)
                # The one change that is made even if it says the same as before: creation.
                return change(TagObject.new(name, token))
            tag.authorize("write", token, self.master)
            return change(tag)

        tag = self._catalogue.change(name, changed)
        assert tag is not None
        return [ObjectUrl(LOCAL_HOST, _TAG_VOLUME, "tag", tag.id).url]

    def delete(self, name: str, token: str | None) -> str:
        """Delete the tag; one that does not exist is no error."""

        def deleted(tag: TagObject | None) -> None:
            if tag is not None:
                tag.authorize("write", token, self.master)

        self._catalogue.change(name, deleted)
        return DELETED

    def discard_tag(self, name: str, token: str | None) -> None:
        """Delete a tag without a tombstone, where locks allow it and no power cut is to be feared.

        Elsewhere the tombstone stays until `gc`, as after `delete`.
        """
        if not isinstance(self._area, LocalArea) or self._area.durable:
            self.delete(name, token)
            return

        def check(tag: TagObject | None) -> None:
            if tag is not None:
                tag.authorize("write", token, self.master)

        self._catalogue.discard(name, check)

    def names(self, prefix: str = "") -> list[str]:
        """Return the file names directly in a directory."""
        return self._catalogue.names(prefix)

    # -- blobs --------------------------------------------------------------------------------

    def store(
        self,
        source: Source,
        replicas: int | None,
        *,
        include: Collection[str] = (),
        retries: int = 10,
    ) -> list[str]:
        """Write a blob to `replicas` volumes and return their URLs."""
        count = self._default_replicas if replicas is None else replicas
        return self._replicas.store(source, count, include=include, retries=retries)

    def push(
        self,
        name: str,
        sources: Sequence[Source],
        replicas: int | None,
        token: str | None,
        *,
        include: Collection[str] = (),
        retries: int = 10,
        update: bool = False,
    ) -> None:
        """Do nothing: where nothing is exchanged, `store` and `append` are as quick."""

    def choose(
        self, replicas: int | None, include: Collection[str], exclude: Collection[str]
    ) -> list[Volume]:
        """Return the volumes a server should tell a client to write to."""
        count = self._default_replicas if replicas is None else replicas
        return self._replicas.choose(count, include=include, exclude=exclude)

    def volume(self, name: str) -> Volume:
        """Return a volume by name; BlobNotFound for one the store does not have."""
        volume = self._layout.find(name)
        if volume is None:
            raise BlobNotFound("no such volume", store=self.master, name=name)
        return volume

    def open(self, urls: list[str]) -> Blob:
        """Return the blob from any of its replicas that is whole."""
        own: list[ObjectUrl] = []
        foreign: list[str] = []
        for url in urls:
            blob = own_blob(url)
            if blob is None:
                # This host's name with a path that is no blob is a forged one, and leads nowhere.
                if not url.startswith(f"disco://{LOCAL_HOST}/"):
                    foreign.append(url)
            elif self._layout.find(blob.volume) is not None:
                own.append(blob)
        error: DDFSError = BlobNotFound("no replica", store=self.master, name=str(urls)[:200])
        if own:
            try:
                return self._replicas.open(own)
            except DDFSError as failure:
                error = failure
        if foreign:
            return _open_foreign(foreign)
        raise error

    def check(self, replica: ObjectUrl) -> None:
        """Write a replica anew if it is damaged and another one is whole."""
        self.volume(replica.volume)
        self._replicas.check(replica)

    def discard(self, urls: list[str]) -> None:
        """Remove the replicas of a blob that no tag names any more, without waiting for `gc`."""
        for url in urls:
            blob = own_blob(url)
            if blob is not None and self._layout.find(blob.volume) is not None:
                self._layout.volumes[blob.volume].remove(blob.object)

    def discard_named(self, prefix: str) -> None:
        """Remove the blobs whose name starts so from every volume that answers."""
        self._layout.reload()
        for volume in self._layout.volumes.values():
            try:
                volume.remove_named(prefix)
            except Unavailable as error:
                logger.warning("nothing is discarded on %s: %s", volume.name, error)

    # -- care ---------------------------------------------------------------------------------

    def gc(self, grace: float, *, verify: bool = False) -> GCReport:
        """Remove what nobody can reach and restore missing replicas; see `DDFS.gc`."""
        self._layout.reload()
        return Collector(self._area, self._catalogue, self._layout.volumes).run(
            grace, verify=verify
        )


def _open_foreign(urls: list[str]) -> Blob:
    from .http_client import open_http

    return open_http(urls)
