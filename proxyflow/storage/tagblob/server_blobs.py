"""The server's requests about blobs: where to put one, receiving it, giving it out."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web

from .blobs import Blob, Checksum, Digest
from .embedded import EmbeddedEngine
from .errors import BlobNotFound, Forbidden, InvalidName
from .http_client import DIGEST_HEADER
from .names import ObjectUrl, blob_object_prefix, is_object_name, object_name, own_blob
from .server_calls import SMALL, StoreCalls, run
from .server_http import count_of, host_of, json_answer, listed, path_below, to_client
from .server_uploads import PIECE, Uploads
from .volume import BlobWriter, Volume

if TYPE_CHECKING:
    from .server import Limits

__all__ = ["BlobHandlers"]

_NEW = "/ddfs/new_blob/"
#: How long the address to put a blob at is good for.
_GOOD_FOR = 3600
#: Blobs up to this size are read and sent as one answer: sending a file takes threads, and longer.
_WHOLE = PIECE
#: What a client may ask besides, and a file is sent for.
_CONDITIONS = {
    "Range",
    "If-Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
}


class BlobHandlers:
    """Handlers for ``/ddfs/new_blob/...``, uploads, and blobs by their path.

    Parameters
    ----------
    calls
        The store.
    limits
        How large a blob may be.
    uploads
        Those under way.
    advertise
        The host name in URLs; ``None`` for the one the client asked for.
    """

    def __init__(
        self, calls: StoreCalls, limits: Limits, uploads: Uploads, advertise: str | None
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._uploads = uploads
        self._advertise = advertise
        # An upload is accepted for the names this very server gave out only.
        self._key = secrets.token_bytes(32)

    def add_to(self, app: web.Application) -> None:
        """Register the handlers."""
        app.router.add_get(_NEW + "{name:[\\s\\S]*}", self.new)
        app.router.add_get("/ddfs/{volume:vol[^/]*}/blob/{path:[\\s\\S]+}", self.get)
        app.router.add_post("/ddfs/{volume:vol[^/]*}/blob/{path:[\\s\\S]+}", self.check)
        app.router.add_put("/ddfs/{object:[^/]+}", self.put)

    # -- where to put a blob ------------------------------------------------------------------

    async def new(self, request: web.Request) -> web.Response:
        """GET ``/ddfs/new_blob/NAME?replicas&include&exclude``."""
        prefix = blob_object_prefix(path_below(request, _NEW))
        query = request.query
        count = count_of(query.get("replicas"))
        include, exclude = listed(query.get("include")), listed(query.get("exclude"))
        volumes = await self._calls(lambda store: store.choose(count, include, exclude))
        obj = object_name(prefix)
        base = f"http://{request.headers.get('Host', '127.0.0.1')}"
        if self._advertise is not None:
            base = f"http://{self._advertise}:{_port(request)}"
        return json_answer([f"{base}/ddfs/{obj}?{self._ticket(obj, v)}" for v in volumes])

    def _ticket(self, obj: str, volume: Volume) -> str:
        expires = int(time.time()) + _GOOD_FOR
        signature = self._signature(obj, volume.name, str(expires))
        return urlencode({"volume": volume.name, "expires": expires, "signature": signature})

    def _signature(self, obj: str, volume: str, expires: str) -> str:
        message = "\n".join((obj, volume, expires)).encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    async def _check_ticket(self, request: web.Request, obj: str) -> Volume:
        query = request.query
        volume, expires = query.get("volume", ""), query.get("expires", "")
        expected = self._signature(obj, volume, expires)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            raise Forbidden("Not a name this server gave out.", remedy="ask /ddfs/new_blob first")
        if int(expires) < time.time():
            raise Forbidden("The address has expired.", remedy="ask /ddfs/new_blob again")
        return await self._calls(lambda store: store.volume(volume))

    # -- receiving ----------------------------------------------------------------------------

    async def put(self, request: web.Request) -> web.Response:
        """PUT ``/ddfs/OBJECT``, at an address from `new`."""
        obj = path_below(request, "/ddfs/")
        if not is_object_name(obj):
            raise InvalidName("Invalid blob name", name=obj[:64])
        volume = await self._check_ticket(request, obj)
        with self._uploads.slot():
            url = await self._receive(request, volume, obj)
        body = to_client(json.dumps(url).encode(), host_of(request, self._advertise))
        return web.Response(status=201, body=body, content_type="application/json")

    async def _receive(self, request: web.Request, volume: Volume, obj: str) -> str:
        receiver = _Receiver(volume, obj)
        # One piece is held back, so that a small blob takes a single turn of a thread.
        held = bytearray()
        try:
            async for piece in self._uploads.pieces(request, self._limits.blob):
                if held:
                    await run(receiver.take, held)
                held = piece
            size = len(held) if receiver.is_fresh else SMALL
            return await self._calls(lambda _: receiver.finish(held), size=size)
        except BaseException:
            # Not in a thread: this may be a cancellation, which the next await would meet.
            receiver.abort()
            raise

    # -- giving out ---------------------------------------------------------------------------

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET ``/ddfs/VOLUME/blob/HH/OBJECT``, or a range of it."""
        replica = _replica_of(request)
        digest, data = await self._calls(lambda store: _found(store, replica))
        headers = {
            DIGEST_HEADER: digest.encode().decode().strip(),
            "Content-Type": "application/octet-stream",
        }
        if data is not None and not _CONDITIONS & request.headers.keys():
            return web.Response(body=data, headers=headers)
        volume = await self._calls(lambda store: store.volume(replica.volume))
        path = volume.local_path(replica.object)
        if path is not None:
            # The kernel sends the file; its checksum is for the client to compare.
            return web.FileResponse(path, headers=headers, chunk_size=PIECE)
        blob = await run(volume.open, replica.object)
        with blob:
            return await _send(request, blob, digest, headers)

    async def check(self, request: web.Request) -> web.Response:
        """POST ``/ddfs/VOLUME/blob/HH/OBJECT``: somebody has found it damaged."""
        replica = _replica_of(request)
        await self._calls(lambda store: store.check(replica), size=SMALL)
        return json_answer("checked")


def _replica_of(request: web.Request) -> ObjectUrl:
    replica = own_blob("disco://localhost" + path_below(request, ""))
    if replica is None:
        raise BlobNotFound("Blob not found.")
    return replica


def _found(store: EmbeddedEngine, replica: ObjectUrl) -> tuple[Digest, bytes | None]:
    """Return what is known of a blob, and its bytes where they are not too many."""
    volume = store.volume(replica.volume)
    digest = volume.digest(replica.object)
    return digest, volume.read(replica.object, digest) if digest.size <= _WHOLE else None


async def _send(
    request: web.Request, blob: Blob, digest: Digest, headers: dict[str, str]
) -> web.StreamResponse:
    start, stop = _range(request, digest.size)
    partial = (start, stop) != (0, digest.size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{digest.size}"
    response = web.StreamResponse(status=206 if partial else 200, headers=headers)
    response.content_length = stop - start
    await response.prepare(request)
    if request.method != "HEAD":
        await run(blob.seek, start)
        while start < stop and (piece := await run(blob.read, min(PIECE, stop - start))):
            await response.write(piece)
            start += len(piece)
    await response.write_eof()
    return response


def _range(request: web.Request, size: int) -> tuple[int, int]:
    try:
        wanted = request.http_range
    except ValueError:
        return 0, size  # a header that makes no sense is as good as none
    start, stop, _ = wanted.indices(size)
    if wanted == slice(None) or request.headers.get("Range") is None:
        return 0, size
    if start >= stop:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return start, stop


class _Receiver:
    """Writes the pieces of an upload; its methods wait for the disk."""

    def __init__(self, volume: Volume, obj: str) -> None:
        self._volume = volume
        self._object = obj
        self._checksum = Checksum()
        self._writer: BlobWriter | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has been written yet."""
        return self._writer is None

    def take(self, piece: bytearray) -> BlobWriter:
        """Write one more piece."""
        if self._writer is None:
            self._writer = self._volume.writer(self._object)
        self._checksum.update(piece)
        self._writer.write(piece)
        return self._writer

    def finish(self, piece: bytearray) -> str:
        """Write the last piece and return the URL of the blob."""
        return self.take(piece).commit(self._checksum.digest())

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.abort()


def _port(request: web.Request) -> int:
    return int(request.url.port or 80)
