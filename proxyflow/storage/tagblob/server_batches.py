"""Blobs that come with their tag in one request: small ones, which cost little but the asking."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .embedded import EmbeddedEngine
from .extensions import EXTENSIONS_HEADER, Extensions, unpack_blobs
from .names import check_name
from .server_http import count_of, host_of, listed, run, to_client, token_of
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
    engine
        The store.
    limits
        How many bytes come in one request; with 0 there is no such request.
    uploads
        Those under way.
    advertise
        The host name in URLs; ``None`` for the one the client asked for.
    """

    def __init__(
        self, engine: EmbeddedEngine, limits: Limits, uploads: Uploads, advertise: str | None
    ) -> None:
        self._engine = engine
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
        token = token_of(request)
        with self._uploads.slot():
            body = await self._uploads.whole(request, self._most)
            answer = await run(self._stored, body, request.query, token)
        data = to_client(json.dumps(answer).encode(), host_of(request, self._advertise))
        return web.Response(status=201, body=data, content_type="application/json")

    def _stored(self, body: bytearray, query: Any, token: str | None) -> dict[str, Any]:
        tag = query.get("tag")
        if tag is not None:
            check_name(tag, "tag name")
        replicas = count_of(query.get("replicas"))
        include = listed(query.get("include"))
        retries = min(count_of(query.get("retries")) or 0, _RETRIES)
        blobs = [
            self._engine.store(
                BufferSource([data], name), replicas, include=include, retries=retries
            )
            for name, data in unpack_blobs(body)
        ]
        if tag is None:
            return {"blobs": blobs}
        update = bool(query.get("update"))
        return {"blobs": blobs, "tag": self._engine.append(tag, blobs, token, update=update)}
