"""What the server's handlers share: tokens, host names and errors."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from .errors import DDFSError, Forbidden, InvalidUrls, TooLarge
from .http_client import ERROR_HEADER
from .names import LOCAL_HOST
from .server_calls import SMALL, run

__all__ = [
    "count_of",
    "error_middleware",
    "from_client",
    "host_of",
    "json_answer",
    "json_body",
    "listed",
    "path_below",
    "to_client",
    "token_of",
]

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+")


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer the store's errors with their status, in plain text without paths of this host."""
    try:
        return await handler(request)
    except DDFSError as error:
        text = error.msg if error.remedy is None else f"{error.msg}; {error.remedy}"
        status = error.code or 500
        if status >= 500:
            logger.error("%s %s: %s", request.method, request.path, error)
        return web.Response(status=status, text=text, headers={ERROR_HEADER: type(error).__name__})
    except web.HTTPRequestEntityTooLarge:
        return web.Response(
            status=413, text="Request body too large.", headers={ERROR_HEADER: TooLarge.__name__}
        )
    except (web.HTTPException, asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        logger.exception("%s %s", request.method, request.path)
        return web.Response(status=500, text="Internal server error.")


def token_of(request: web.Request) -> str | None:
    """Return the token of a request; a header of another form holds none."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, token = base64.b64decode(encoded, validate=True).partition(b":")
        return token.decode() if user == b"token" and colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def path_below(request: web.Request, prefix: str) -> str:
    """Return the rest of the path, decoded: an attribute's name may hold anything."""
    try:
        return unquote(request.rel_url.raw_path.removeprefix(prefix), errors="strict")
    except UnicodeDecodeError as error:
        raise Forbidden("the path is not UTF-8") from error


def count_of(text: str | None) -> int | None:
    """Return the number in a query, ``None`` where there is none."""
    try:
        return None if not text else int(text)
    except ValueError as error:
        raise Forbidden("Invalid number in the query.") from error


def listed(text: str | None) -> list[str]:
    """Return the names in a query, which commas divide."""
    return [part for part in (text or "").split(",") if part]


async def json_body(request: web.Request) -> Any:
    """Return the JSON a request carries.

    Raises
    ------
    InvalidUrls
        It is none.
    """
    body = await request.read()
    try:
        # A thread costs more than it saves for what is parsed at once.
        return json.loads(body) if len(body) < SMALL else await run(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise InvalidUrls("Invalid request body.", remedy="send JSON") from error


def json_answer(value: Any) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")


# A stored URL of this store says "localhost"; clients get, and send, the name they know it by.


def host_of(request: web.Request, advertise: str | None) -> str:
    """Return the host name, without a port, that URLs get for this client."""
    if advertise is not None:
        return advertise
    match = _HOST.match(request.headers.get("Host", ""))
    return match[0] if match else LOCAL_HOST


def to_client(data: bytes, host: str) -> bytes:
    """Put the client's name of this host into the JSON of urls."""
    return _replace_host(data, LOCAL_HOST, host)


def from_client(urls: Any, host: str) -> Any:
    """Put this store's name into urls a client sent, if they are urls at all."""
    if host == LOCAL_HOST or not isinstance(urls, list):
        return urls
    return json.loads(_replace_host(json.dumps(urls).encode(), host, LOCAL_HOST))


def _replace_host(data: bytes, old: str, new: str) -> bytes:
    if old == new:
        return data
    # The quote makes it the start of a string; inside one, JSON would have escaped it.
    return data.replace(f'"disco://{old}/ddfs/'.encode(), f'"disco://{new}/ddfs/'.encode())
