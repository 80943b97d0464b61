"""The filespaces of a hub: who they are and where they stand in it.

A hub has a blob ``workspace`` with the identity of the workspace, and for each filespace
``names/NAME`` with its identity. The filespace itself is below ``filespaces/ID``, so that one that
is deleted and made again under its name is another one to clients of the first.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from .blobs import open_blobs
from .datastores import Keyring
from .entry import Kind, new_entry, new_id
from .errors import (
    FilespaceExistsError,
    FilespaceNotFoundError,
    HubCorruptError,
    InvalidArgumentError,
)
from .head import Head
from .hublink import HubLink
from .models import FilespaceInfo
from .ops import Put
from .tree import FILES, STORES

__all__ = ["HubService"]

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")
IDENTIFIER = re.compile(r"[0-9a-f]{32}\Z")


class HubService:
    """The embedded `Service`; the parameters are those of `Workspace`."""

    def __init__(
        self,
        hub: str,
        name: str | None,
        options: dict[str, Any] | None,
        max_age: float,
        sync_timeout: float,
    ) -> None:
        self._options, self._keyring = (max_age, sync_timeout), Keyring()
        self._timeout = sync_timeout
        self._blobs = open_blobs(hub, options or {})
        name = name or re.sub(
            r"[^A-Za-z0-9_-]", "-", self._blobs.url.rstrip("/").rpartition("/")[2]
        )
        facts = self._identity("workspace", {"id": new_id(), "name": _check_name(name)})
        self.id, self.name = str(facts["id"]), str(facts["name"])

    def list(self) -> list[FilespaceInfo]:
        """See `Service.list`."""
        names = [name.rpartition("/")[2] for name in self._blobs.names("names")]
        found = [self.find(name, None) for name in names if NAME.match(name)]
        return [info for info in found if info is not None]

    def create(self, name: str) -> FilespaceInfo:
        """See `Service.create`."""
        identity = {"id": new_id(), "name": _check_name(name), "created": _now()}
        folder = f"filespaces/{identity['id']}"
        # The filespace is complete before it gets its name.
        ops = [Put(where, new_entry(Kind.DIR)) for where in (FILES, STORES)]
        head = Head().following(new_id(), list(ops))
        self._create(f"{folder}/head", head.encode())
        kept = self._identity(f"names/{name}", identity)
        if kept["id"] != identity["id"]:
            self._blobs.delete([f"{folder}/head"])
            raise FilespaceExistsError(f"workspace {self.name!r} has a filespace {name!r}")
        return _info(kept)

    def delete(self, name: str) -> None:
        """See `Service.delete`."""
        info = self.find(name, None)
        if info is None:
            raise FilespaceNotFoundError(f"workspace {self.name!r} has no filespace {name!r}")
        folder = f"filespaces/{info.id}"
        # The name first, then the head: nobody finds a filespace that is half deleted.
        self._blobs.delete([f"names/{name}", f"{folder}/head"])
        self._blobs.delete_folder(folder)

    def find(self, name: str | None, identifier: str | None) -> FilespaceInfo | None:
        """See `Service.find`."""
        if name is not None:
            data = self._blobs.read(f"names/{_check_name(name)}")
            return _info(self._parse(f"names/{name}", data)) if data is not None else None
        return next((info for info in self.list() if info.id == identifier), None)

    def link(self, info: FilespaceInfo, root_path: str) -> HubLink:
        """See `Service.link`."""
        names = (info.id, f"{info.name}.{self.name}", self.id, self.name)
        folder = f"filespaces/{info.id}"
        return HubLink(self._blobs, folder, names, root_path, self._keyring, *self._options)

    def close(self) -> None:
        """See `Service.close`."""
        self._blobs.close()

    def _identity(self, blob: str, facts: dict[str, str]) -> dict[str, Any]:
        """Return what `blob` says, which is `facts` if nobody was faster."""
        data = self._blobs.read(blob)
        if data is None:
            self._create(blob, json.dumps({"format": FORMAT, **facts}).encode())
            data = self._blobs.read(blob)
        return self._parse(blob, data or b"")

    def _create(self, blob: str, data: bytes) -> None:
        with self._blobs.serialised(blob, self._timeout):
            self._blobs.swap(blob, None, data)

    def _parse(self, blob: str, data: bytes) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(data)
            known = facts["format"] == FORMAT and IDENTIFIER.match(facts["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise HubCorruptError(f"{blob} in hub {self._blobs.url} is damaged") from error
        if not known:
            raise HubCorruptError(f"{blob} in hub {self._blobs.url} is of an unknown format")
        return facts


def _check_name(name: str) -> str:
    if not NAME.match(name):
        raise InvalidArgumentError(
            f"name {name!r}: 1 to 63 letters, digits, hyphens and underscores"
        )
    return name


def _info(facts: dict[str, Any]) -> FilespaceInfo:
    created = datetime.fromisoformat(str(facts["created"]))
    return FilespaceInfo(str(facts["id"]), str(facts["name"]), created)


def _now() -> str:
    return datetime.now(UTC).isoformat()
