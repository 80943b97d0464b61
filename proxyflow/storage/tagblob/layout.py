"""The layout of a store: its identity and its volumes, kept in the root for every process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from .area import Area, local_root, open_area, reported
from .errors import ConfigError, DDFSError, Unavailable
from .versions import Versions
from .volume import Volume

__all__ = ["Layout"]

_FORMAT = 1


class _Stored(TypedDict):
    version: int
    store: str
    #: name -> path relative to the root, or an absolute path or URL
    volumes: dict[str, str]


class Layout:
    """Which volumes a store has.

    Parameters
    ----------
    area
        The root of the store.
    durable, storage_options
        As for `open_area`, for volumes outside the root.
    """

    def __init__(
        self, area: Area, *, durable: bool, storage_options: Mapping[str, Any] | None
    ) -> None:
        self._area = area
        self._durable = durable
        self._options = storage_options
        self._versions = Versions(area)
        #: The volumes by name; the same mapping for the life of the layout.
        self.volumes: dict[str, Volume] = {}

    def ensure(self, wanted: int | Iterable[str] | None) -> None:
        """Load the layout, after creating the store or adding the volumes it lacks.

        Raises
        ------
        ConfigError
            The root holds something else, or a volume belongs to another store.
        Unavailable
            A new volume cannot be created.
        """
        places = _places(wanted)

        def added(data: bytes | None) -> bytes | None:
            stored = _decode(data, self._area.url) if data is not None else _blank()
            known = set(stored["volumes"].values())
            fresh = [place for place in places if place not in known]
            if not known and not fresh:
                fresh = ["vol0"]
            if not fresh:
                return None
            for place in fresh:
                name = f"vol{len(stored['volumes'])}"
                # Marked before it is listed: a listed volume without a mark is a dead one.
                Volume(name, self._open(place)).initialise(stored["store"])
                stored["volumes"][name] = place
            return json.dumps(stored, indent=1).encode()

        data = self._versions.load("layout").data
        if data is None and not self._area.locks:
            self._check_exclusive()
        if data is None or places:
            data = self._versions.change("layout", added).data
        assert data is not None
        self._adopt(data)

    def _check_exclusive(self) -> None:
        """Make sure that a file is created by one only, as nothing else keeps writers apart.

        fsspec leaves it to each file system whether it takes the mode for it seriously.
        """
        probe = f"probe/{uuid.uuid4().hex}"
        try:
            with reported(self._area.url):
                self._area.create(probe, b"1")
                self._area.create(probe, b"2")
        except FileExistsError:
            return
        finally:
            with reported(self._area.url):
                self._area.remove([probe])
        raise ConfigError(
            "this file system does not create files exclusively, so writers would lose changes",
            store=self._area.url,
            remedy="keep the root in a directory or on S3, and use this as a volume",
        )

    def reload(self) -> None:
        """Take over what other processes added."""
        data = self._versions.load("layout").data
        if data is None:
            raise Unavailable("the store's layout is gone", store=self._area.url)
        self._adopt(data)

    def find(self, name: str) -> Volume | None:
        """Return the volume of that name, looking for it in the root when it is new."""
        if name not in self.volumes:
            self.reload()
        return self.volumes.get(name)

    def _adopt(self, data: bytes) -> None:
        for name, place in _decode(data, self._area.url)["volumes"].items():
            if name not in self.volumes:
                self.volumes[name] = Volume(name, self._open(place))

    def _open(self, place: str) -> Area:
        if "/" not in place:
            return self._area.child(place)
        return open_area(place, durable=self._durable, storage_options=self._options)


def _places(wanted: int | Iterable[str] | None) -> list[str]:
    if wanted is None:
        return []
    if isinstance(wanted, int):
        if wanted < 1:
            raise ConfigError("a store needs at least one volume")
        return [f"vol{number}" for number in range(wanted)]
    if isinstance(wanted, str):
        raise ConfigError("volumes is a number or a list", remedy=f"volumes=[{wanted!r}]")
    places = []
    for place in wanted:
        root = local_root(place)
        if root is None and "://" not in place:
            raise ConfigError("a volume is an absolute path or a URL", name=place)
        places.append(place if root is None else root.rstrip("/") or "/")
    return places


def _blank() -> _Stored:
    return {"version": _FORMAT, "store": uuid.uuid4().hex, "volumes": {}}


def _decode(data: bytes, url: str) -> _Stored:
    try:
        stored: _Stored = json.loads(data)
        if stored["version"] != _FORMAT:
            raise ConfigError(f"layout version {stored['version']} is not {_FORMAT}", store=url)
        if not isinstance(stored["store"], str) or not isinstance(stored["volumes"], dict):
            raise TypeError("not a layout")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DDFSError):
            raise
        raise ConfigError("the store's layout is damaged", store=url) from error
    return stored
