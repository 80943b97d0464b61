"""Blobs that come with their tag in one request: small ones, which cost little but the asking."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .embedded import EmbeddedEngine
from .extensions import EXTENSIONS_HEADER, Extensions, unpack_blobs
from .names import check_name
from .server_calls import StoreCalls
from .server_http import count_of, host_of, listed, to_client, token_of
from .server_uploads import Uploads
from .sources import BufferSource

if TYPE_CHECKING:
    from .server import Limits

__all__ = ["BatchHandlers"]

#: A client may ask for fewer attempts, not for more.
_RETRIES = 10


class BatchHandlers:
    """Handlers for ``/ddfs/blobs``, and what every answer says about extensions.

    Parameters
    ----------
    calls
        The store.
    limits
        How many bytes come in one request; with 0 there is no such request.
    uploads
        Those under way.
    advertise
        The host name in URLs; ``None`` for the one the client asked for.
    """

    def __init__(
        self, calls: StoreCalls, limits: Limits, uploads: Uploads, advertise: str | None
    ) -> None:
        self._calls = calls
        self._most = min(limits.at_once, limits.blob)
        self._uploads = uploads
        self._advertise = advertise
        self._announced = Extensions(blobs=self._most, attributes=True).encode()

    def add_to(self, app: web.Application) -> None:
        """Register the handlers."""
        if self._most:
            app.router.add_post("/ddfs/blobs", self.post)
            app.on_response_prepare.append(self._announce)

    async def _announce(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[EXTENSIONS_HEADER] = self._announced

    async def post(self, request: web.Request) -> web.Response:
        """POST ``/ddfs/blobs?replicas&include&retries&tag&update``; see `unpack_blobs`.

        The answer holds the replica sets, and the tag object's URLs where a tag is given.
        """
        tag = request.query.get("tag")
        if tag is not None:
            check_name(tag, "tag name")
        with self._uploads.slot():
            body = await self._uploads.whole(request, self._most)
            blobs = await self._calls(_store(body, request), size=_size(body))
        answer: dict[str, Any] = {"blobs": blobs}
        if tag is not None:
            answer["tag"] = await self._calls(_append(tag, blobs, request), size=256 * len(blobs))
        data = to_client(json.dumps(answer).encode(), host_of(request, self._advertise))
        return web.Response(status=201, body=data, content_type="application/json")


def _size(body: bytearray) -> int:
    # A blob is described in some 20 bytes, and as much work as writing 5 KiB.
    return len(body) + 256 * body.find(b"\n")


def _store(body: bytearray, request: web.Request) -> Callable[[EmbeddedEngine], list[list[str]]]:
    query = request.query
    replicas = count_of(query.get("replicas"))
    include = listed(query.get("include"))
    retries = min(count_of(query.get("retries")) or 0, _RETRIES)

    def stored(store: EmbeddedEngine) -> list[list[str]]:
        return [
            store.store(BufferSource([data], name), replicas, include=include, retries=retries)
            for name, data in unpack_blobs(body)
        ]

    return stored


def _append(
    tag: str, blobs: list[list[str]], request: web.Request
) -> Callable[[EmbeddedEngine], list[str]]:
    token = token_of(request)
    update = bool(request.query.get("update"))
    return lambda store: store.append(tag, blobs, token, update=update)
