"""Bare uploads and downloads with the libraries of the tag/blob store's server and client.

Run as a program it is the server: ``python -m benchmarks.tagblob_raw DIRECTORY PORT``. It keeps
each upload as a file of its own, as a store does (a file written over recycles its memory, and is
written in half the time), without tags, names or checksums.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import urllib3
from aiohttp import web

_PIECE = 2**20


class RawServer:
    """Writes each upload to a file and sends the last one back.

    Parameters
    ----------
    directory
        Where the files go.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self._last = ""

    def app(self) -> web.Application:
        """Return the server as an aiohttp application."""
        app = web.Application()
        app.router.add_put("/raw", self.put)
        app.router.add_get("/raw", self.get)
        app.router.add_get("/small", self.small)
        app.router.add_post("/small", self.small)
        return app

    async def put(self, request: web.Request) -> web.Response:
        """Write in pieces that are worth a thread: as quick as it gets."""
        self._last = f"{self._directory}/raw-{next(self._numbers)}"
        with open(self._last, "wb", buffering=0) as file:
            piece = bytearray()
            while data := await request.content.readany():
                piece += data
                if len(piece) >= _PIECE:
                    await asyncio.to_thread(file.write, piece)
                    piece = bytearray()
            file.write(piece)
        return web.Response(status=201, text="ok")

    async def get(self, request: web.Request) -> web.FileResponse:
        """Send the last upload."""
        return web.FileResponse(self._last, chunk_size=_PIECE)

    async def small(self, request: web.Request) -> web.Response:
        """Answer a request that has nothing to move."""
        await request.read()
        return web.Response(text="ok")


class RawClient:
    """Uploads and downloads, alone or among as many requests as Disco's protocol takes.

    Parameters
    ----------
    port
        Where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._pool = urllib3.PoolManager(retries=False, maxsize=16)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        data: bytes = self._pool.request(method, self._base + path, body=body).data
        return data

    def put(self, body: bytes) -> None:
        """Upload."""
        self._request("PUT", "/raw", body)

    def get(self) -> bytes:
        """Download what was uploaded last."""
        return self._request("GET", "/raw")

    def push(self, body: bytes) -> None:
        """Do what a push does: ask where to, upload, and say what it was."""
        self._request("GET", "/small")
        self.put(body)
        self._request("POST", "/small", b"[]")

    def pull(self) -> bytes:
        """Do what a pull does: ask what there is, and download."""
        self._request("GET", "/small")
        return self.get()

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


if __name__ == "__main__":
    server = RawServer(sys.argv[1])
    web.run_app(server.app(), host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
