"""Receiving bytes: some uploads at a time, none of which may stand still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from .errors import TooLarge, TruncatedUpload, Unavailable

if TYPE_CHECKING:
    from .server import Limits

__all__ = ["PIECE", "Uploads"]

#: Bytes are handed on in pieces of about this size: a thread is asked for each.
PIECE = 2**20


class Uploads:
    """The uploads under way at a server.

    Parameters
    ----------
    limits
        How many there may be, and how long one may stand still.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._under_way = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count one more upload.

        Raises
        ------
        Unavailable
            There are as many as there may be.
        """
        if self._under_way >= self._limits.uploads:
            raise Unavailable("Maximum number of uploads reached. Try again later.")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def pieces(self, request: web.Request, most: int) -> AsyncIterator[bytearray]:
        """Yield the body of a request, each piece but the last of `PIECE` bytes or more.

        Raises
        ------
        TooLarge
            The body has more than `most` bytes.
        TruncatedUpload
            It breaks off, stands still, or is not as long as announced.
        """
        length = request.content_length
        received = 0
        piece = bytearray()
        self._check(length or 0, most)
        while not request.content.at_eof():
            data = await self._read(request)
            received += len(data)
            self._check(received, most)
            piece += data
            if len(piece) >= PIECE:
                yield piece
                piece = bytearray()
        if length is not None and received != length:
            raise TruncatedUpload(f"{received} bytes came instead of {length}.")
        if piece:
            yield piece

    async def whole(self, request: web.Request, most: int) -> bytearray:
        """Return the body of a request; see `pieces`."""
        body = bytearray()
        async for piece in self.pieces(request, most):
            if body:
                body += piece
            else:
                body = piece  # mostly the only one, and not worth a copy
        return body

    @staticmethod
    def _check(size: int, most: int) -> None:
        if size > most:
            raise TooLarge(f"A body has at most {most} bytes here.")

    async def _read(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.idle):
                return await request.content.readany()
        except TimeoutError as error:
            raise TruncatedUpload("The upload stands still.") from error
        except ClientPayloadError as error:
            raise TruncatedUpload("The upload broke off.") from error
