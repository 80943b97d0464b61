"""HTTP as a DDFS master speaks it: pooled connections, tokens, and statuses as errors."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from . import errors
from .area import Buffer
from .blobs import Blob, Checksum, Digest, MemoryBlob, StreamBlob
from .errors import (
    BlobDamaged,
    BlobNotFound,
    DDFSError,
    MissingDependencyError,
    NotFound,
    ServerError,
    Unavailable,
    error_for_status,
)
from .extensions import EXTENSIONS_HEADER, Extensions
from .tokens import check_token
from .volume import CHECK_FIRST

if TYPE_CHECKING:
    import urllib3

__all__ = ["DIGEST_HEADER", "ERROR_HEADER", "Body", "HttpClient", "open_http"]

#: The server of this package names the exact error and a blob's checksum; others do not.
ERROR_HEADER = "X-DDFS-Error"
DIGEST_HEADER = "X-DDFS-Digest"

_CONNECT_TIMEOUT = 10.0
_READ_TIMEOUT = 300.0
_POOL = 16
_LONGEST_PAUSE = 2.0

Body = bytes | Callable[[], Iterable[Buffer]]


class HttpClient:
    """Requests over connections that are kept open; safe in threads and forked children.

    Parameters
    ----------
    retries
        How often a request is repeated that no server has begun to answer, or that one refused
        for being busy (503).
    home
        Address of the server whose extensions count.

    Attributes
    ----------
    extensions : Extensions
        What that server announced in its last answer.
    """

    def __init__(self, retries: int = 6, home: str | None = None) -> None:
        self._retries = retries
        self._home = home
        self.extensions = Extensions()
        self._pool: urllib3.PoolManager | None = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_pid": -1}

    def _connections(self) -> urllib3.PoolManager:
        # A forked child must not write into its parent's connections. Two threads that come first
        # make two pools, of which one is dropped; a lock would have to be made anew after a fork.
        if self._pool is None or self._pid != os.getpid():
            try:
                import urllib3
            except ImportError as error:
                raise MissingDependencyError(
                    "talking to a DDFS master needs urllib3", remedy="pip install 'proxyflow[ddfs]'"
                ) from error
            self._pool = urllib3.PoolManager(
                num_pools=_POOL,
                maxsize=_POOL,
                retries=False,
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=_READ_TIMEOUT),
            )
            self._pid = os.getpid()
        return self._pool

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.clear()
        self._pool = None

    def request(
        self,
        method: str,
        url: str,
        *,
        body: Body | None = None,
        length: int | None = None,
        token: str | None = None,
    ) -> bytes:
        """Return the body of a successful answer.

        Raises
        ------
        DDFSError
            The error of the status that was answered instead, or Unavailable.
        """
        response = self._send(method, url, body, length, token)
        with reported_http(url):
            data: bytes = response.read()
        return data

    def json(self, method: str, url: str, **options: Any) -> Any:
        """Return the JSON of a successful answer; ServerError when it is none."""
        data = self.request(method, url, **options)
        try:
            return json.loads(data)
        except ValueError as error:
            raise ServerError(
                "the answer is not JSON", store=_shown(url), remedy="is this a DDFS master?"
            ) from error

    def _send(
        self,
        method: str,
        url: str,
        body: Body | None = None,
        length: int | None = None,
        token: str | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Return the successful answer, its body still to be read."""
        headers = _authorization(token)
        if length is not None:
            headers["Content-Length"] = str(length)
        connections = self._connections()
        from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

        pause = 0.1
        left = self._retries
        while True:
            try:
                response = connections.request(
                    method,
                    url,
                    body=cast("Any", body() if callable(body) else body),
                    headers=headers,
                    preload_content=False,
                    decode_content=False,
                    redirect=False,
                )
            except (NewConnectionError, ConnectTimeoutError) as failure:
                error = _unreachable(url, failure)
            except HTTPError as failure:
                # The server may have done what it was asked, so it is not asked again.
                raise _unreachable(url, failure) from failure
            else:
                self._note_extensions(response, url)
                if response.status < 300:
                    return response
                error = _answered(response, url)
                if response.status != 503:
                    raise error
            if left <= 0:
                raise error
            left -= 1
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note_extensions(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        if self._home is not None and url.startswith(self._home):
            self.extensions = Extensions.parse(response.headers.get(EXTENSIONS_HEADER))

    # -- blobs --------------------------------------------------------------------------------

    def open_blob(self, url: str, shown_url: str) -> Blob:
        """Return the blob at an ``http://`` URL, checked where the server tells its checksum.

        Raises
        ------
        BlobNotFound
            The server has no such blob.
        BlobDamaged
            The bytes do not fit the checksum.
        """
        try:
            response = self._send("GET", url)
        except NotFound as error:
            raise BlobNotFound("no such blob", store=url) from error
        digest = _digest(response)
        size = int(response.headers.get("Content-Length", -1))
        if size > CHECK_FIRST:
            raw = cast("IO[bytes]", _ResponseFile(response, url))
            return StreamBlob(raw, shown_url, size, digest)
        with reported_http(url):
            data = response.read()
        if digest is not None:
            checksum = Checksum()
            checksum.update(data)
            if checksum.digest() != digest:
                raise BlobDamaged("the blob fails its checksum", store=url)
        return MemoryBlob(data, shown_url, digest)


def open_http(urls: list[str]) -> Blob:
    """Return the blob at the first of some foreign URLs, in random order, that answers.

    Raises
    ------
    BlobNotFound
        None of them is an ``http://``, ``https://`` or ``disco://`` URL.
    DDFSError
        The error of the last one tried.
    """
    from .settings import DEFAULT_PORT

    client = HttpClient(retries=0)
    error: DDFSError = BlobNotFound("no URL that can be read", name=str(urls)[:200])
    for url in random.sample(urls, len(urls)):
        target = http_url(url, DEFAULT_PORT)
        if target is None:
            continue
        try:
            return client.open_blob(target, url)
        except DDFSError as failure:
            error = failure
    raise error


def http_url(url: str, port: int) -> str | None:
    """Return the HTTP address of a URL; ``None`` for one that has none.

    Examples
    --------
    >>> http_url("disco://node1/ddfs/x", 8989)
    'http://node1:8989/ddfs/x'
    """
    if url.startswith(("http://", "https://")):
        return url
    if not url.startswith("disco://"):
        return None
    host, slash, path = url.removeprefix("disco://").partition("/")
    has_port = ":" in host.rpartition("]")[2]
    return f"http://{host}{'' if has_port else f':{port}'}{slash}{path}"


def _authorization(token: str | None) -> dict[str, str]:
    encoded = check_token(token)
    if encoded is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(b"token:" + encoded).decode()}


def _answered(response: urllib3.BaseHTTPResponse, url: str) -> DDFSError:
    """Return the error a failed answer stands for: the one it names, or that of its status."""
    with reported_http(url):
        text = response.read(4096).decode(errors="replace").strip()
        response.close()
    named = getattr(errors, response.headers.get(ERROR_HEADER, ""), None)
    if isinstance(named, type) and issubclass(named, DDFSError) and named.code == response.status:
        kind = named
    else:
        kind = error_for_status(response.status)
    return kind(text or f"HTTP {response.status}", store=_shown(url))


def _shown(url: str) -> str:
    """Return a URL for a message: the query of an upload's address is a permission to write."""
    return url.partition("?")[0]


def _digest(response: urllib3.BaseHTTPResponse) -> Digest | None:
    header = response.headers.get(DIGEST_HEADER)
    try:
        return None if header is None else Digest.parse(header.encode())
    except ValueError:
        return None


def _unreachable(url: str, failure: Exception) -> DDFSError:
    return Unavailable(
        f"the server does not answer: {failure}",
        store=_shown(url),
        remedy="check that it runs and that host and port are right",
    )


@contextlib.contextmanager
def reported_http(url: str) -> Iterator[None]:
    """Report an answer that breaks off as Unavailable."""
    from urllib3.exceptions import HTTPError

    try:
        yield
    except HTTPError as failure:
        raise _unreachable(url, failure) from failure


class _ResponseFile:
    """The body of an answer, read as it comes."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        self._response = response
        self._url = url

    def seekable(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        with reported_http(self._url):
            data: bytes = self._response.read(size)
            return data

    def close(self) -> None:
        self._response.close()
        self._response.release_conn()
