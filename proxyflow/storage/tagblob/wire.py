"""The wire engine: a client of a Disco master, or of the server of this package.

URLs, headers and statuses are those of the DDFS HTTP interface. What only our own server adds, the
exact error, a blob's checksum (and the check of a damaged replica) and what it takes in one request
(`Extensions`), is used where it comes and not needed.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from .blobs import Blob
from .engine import DELETED
from .errors import (
    AttributeNotFound,
    BlobDamaged,
    BlobNotFound,
    ConfigError,
    DDFSError,
    Forbidden,
    NotFound,
    TagNotFound,
)
from .extensions import MAX_BLOBS, pack_blobs
from .http_client import Body, HttpClient, http_url
from .names import blob_object_prefix
from .sources import Source, announced_chunks, held_chunks, sized

__all__ = ["WireEngine"]

logger = logging.getLogger(__name__)

#: Up to this size, joining the parts of a body costs less than sending them one by one.
_SMALL = 64 * 2**10
_MASTER = re.compile(
    r"(disco|http)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(:(?P<port>\d+))?/?"
)


class WireEngine:
    """A tag/blob store behind a master's HTTP interface.

    Parameters
    ----------
    master
        ``disco://host[:port]``.
    proxy
        ``http://host:port`` or ``disco://...`` of a Disco proxy that all requests go through.
    port
        Where masters and nodes listen when a URL does not say; the master's own port if it does.
    replicas
        How many replicas to ask for when nobody says; the master decides by default.

    Raises
    ------
    ConfigError
        The address makes no sense. It may hold no credentials: addresses end up in logs.
    """

    def __init__(
        self, master: str, *, proxy: str | None = None, port: int, replicas: int | None = None
    ) -> None:
        match = _MASTER.fullmatch(master)
        if match is None:
            shown = re.sub(r"//[^/]*@", "//...@", master)
            raise ConfigError("not a master's address", store=shown, remedy="disco://host:port")
        self.master = master.rstrip("/")
        self._port = int(match["port"] or port)
        self._proxy = None if proxy is None else (http_url(proxy, port) or proxy).rstrip("/")
        self._base = self._proxy or f"http://{match['host']}:{self._port}"
        self._replicas = replicas
        self._http = HttpClient(home=f"{self._base}/")

    def __repr__(self) -> str:
        return f"WireEngine({self.master!r})"

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    # -- tags ---------------------------------------------------------------------------------

    def _tag_url(self, name: str, attr: str | None = None) -> str:
        path = f"{self._base}/ddfs/tag/{quote(name, safe=':@')}"
        return path if attr is None else f"{path}/{quote(attr, safe=':')}"

    def _call(
        self, method: str, name: str, attr: str | None, token: str | None, body: Any = None
    ) -> Any:
        url = self._tag_url(name, attr)
        encoded = None if body is None else json.dumps(body).encode()
        return self._tag_call(method, url, name, attr, token, encoded)

    def _tag_call(
        self,
        method: str,
        url: str,
        name: str,
        attr: str | None,
        token: str | None,
        body: bytes | None,
    ) -> Any:
        try:
            return self._http.json(method, url, body=body, token=token)
        except NotFound as error:
            # A Disco master says in its text only which of the two is missing.
            if attr is not None and "attribute" in error.msg.lower():
                raise AttributeNotFound(
                    "no such attribute", store=self.master, name=attr
                ) from error
            raise TagNotFound("no such tag", store=self.master, name=name) from error
        except DDFSError as error:
            error.name = name if attr is None else attr
            raise

    def get(self, name: str, token: str | None) -> dict[str, Any]:
        """Return the tag object a client sees."""
        tag: dict[str, Any] = self._call("GET", name, None, token)
        # A Disco master of before 0.5 shows them.
        for secret in ("read-token", "write-token"):
            tag.pop(secret, None)
        return tag

    def get_attribute(self, name: str, attr: str, token: str | None) -> Any:
        """Return the value of an attribute."""
        return self._call("GET", name, attr, token)

    def set_attribute(self, name: str, attr: str, value: Any, token: str | None) -> list[str]:
        """Set an attribute and return the tag object's URLs."""
        urls: list[str] = self._call("PUT", name, attr, token, value)
        return urls

    def delete_attribute(self, name: str, attr: str, token: str | None) -> str:
        """Delete an attribute; one that is not there is no error."""
        self._call("DELETE", name, attr, token)
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
        """Put urls before those of the tag and return the tag object's URLs."""
        flags = {"update": update, "delayed": delayed}
        query = urlencode({flag: 1 for flag, on in flags.items() if on})
        url = self._tag_url(name) + (f"?{query}" if query else "")
        answer: list[str] = self._tag_call(
            "POST", url, name, None, token, json.dumps(urls).encode()
        )
        return answer

    def put(
        self,
        name: str,
        urls: list[list[str]],
        token: str | None,
        attributes: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Replace the urls, set attributes, and return the tag object's URLs.

        On a Disco master, the attributes are set before.
        """
        if attributes and self._http.extensions.attributes:
            whole = {"urls": urls, "user-data": dict(attributes)}
            try:
                changed: list[str] = self._call("PUT", name, None, token, whole)
            except DDFSError:
                if self._http.extensions.attributes:
                    raise
            else:
                return changed
        for attr, value in (attributes or {}).items():
            self.set_attribute(name, attr, value, token)
        answer: list[str] = self._call("PUT", name, None, token, urls)
        return answer

    def delete(self, name: str, token: str | None) -> str:
        """Delete the tag; one that does not exist is no error."""
        self._call("DELETE", name, None, token)
        return DELETED

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the tags that start with `prefix`, sorted."""
        names: list[str] = self._http.json("GET", f"{self._base}/ddfs/tags/{quote(prefix)}")
        # A master drops slashes around the prefix, which no name has.
        return sorted(name for name in names if name.startswith(prefix))

    # -- blobs --------------------------------------------------------------------------------

    def store(
        self,
        source: Source,
        replicas: int | None,
        *,
        include: Collection[str] = (),
        retries: int = 10,
    ) -> list[str]:
        """Upload a blob to the nodes the master names and return the URLs of its replicas.

        Where an upload fails, the master is asked for other nodes, up to `retries` times.
        """
        answer = self._at_once([source], replicas, include, retries)
        if answer is not None:
            stored: list[str] = answer["blobs"][0]
            return stored
        with sized(source) as (rewindable, length):
            return self._store(rewindable, length, replicas, include, retries)

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
    ) -> tuple[list[str], list[list[str]]] | None:
        """Store small blobs and tag them in one request, if the server takes that."""
        into = {"tag": name, **({"update": 1} if update else {})}
        try:
            answer = self._at_once(sources, replicas, include, retries, into, token)
        except DDFSError as error:
            error.name = name
            raise
        return None if answer is None else (answer["tag"], answer["blobs"])

    def _at_once(
        self,
        sources: Sequence[Source],
        replicas: int | None,
        include: Collection[str],
        retries: int,
        into: Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> Any:
        """Return the answer to a request that brings all blobs; None if none can bring them."""
        packed = self._packed(sources)
        if packed is None:
            return None
        wanted = self._wanted(replicas, include) | {"retries": retries, **(into or {})}
        url = f"{self._base}/ddfs/blobs?{urlencode(wanted)}"
        try:
            return self._http.json("POST", url, body=packed.body, length=packed.length, token=token)
        except DDFSError:
            if self._http.extensions.blobs:
                raise
            return None  # another server has taken this one's place, and knows nothing of it

    def _packed(self, sources: Sequence[Source]) -> _Packed | None:
        most = self._http.extensions.blobs
        sizes = [source.known_size() for source in sources]
        known = sum(size for size in sizes if size is not None)
        if not 0 < len(sizes) <= MAX_BLOBS or None in sizes or known > most:
            return None
        if not all(source.rewindable for source in sources):
            return None
        # Read before the sizes are told: a file may grow or shrink meanwhile.
        packed = pack_blobs([(blob_object_prefix(s.name), held_chunks(s)) for s in sources])
        length = sum(map(len, packed))
        if length > most:
            return None
        return _Packed(b"".join(packed) if length < _SMALL else lambda: packed, length)

    def _store(
        self,
        source: Source,
        length: int,
        replicas: int | None,
        include: Collection[str],
        retries: int,
    ) -> list[str]:
        excluded: list[str] = []
        last: DDFSError | None = None
        while True:
            try:
                targets = self._new_blob(source.name, replicas, include, excluded)
            except Forbidden as refused:
                # Nowhere else to go: then what counts is why the last place failed.
                raise last or refused from None
            try:
                return [self._upload(target, source, length) for target in targets]
            except _UploadFailed as failed:
                # A file that was cut short is no fault of the place it was sent to.
                if retries <= 0 or (source.known_size() or 0) < length:
                    raise failed.error from failed
                retries -= 1
                logger.warning("uploading %s: %s", source.name, failed.error)
                last = failed.error
                excluded.append(failed.place)

    def _new_blob(
        self,
        name: str,
        replicas: int | None,
        include: Collection[str],
        exclude: Collection[str],
    ) -> list[str]:
        wanted = self._wanted(replicas, include)
        if exclude:
            wanted["exclude"] = ",".join(exclude)
        query = urlencode(wanted)
        path = quote(blob_object_prefix(name), safe=":@")
        targets: list[str] = self._http.json("GET", f"{self._base}/ddfs/new_blob/{path}?{query}")
        return targets

    def _wanted(self, replicas: int | None, include: Collection[str]) -> dict[str, Any]:
        """Return the part of a query that says where a blob should lie."""
        count = self._replicas if replicas is None else replicas
        wanted: dict[str, Any] = {} if count is None else {"replicas": count}
        if include:
            wanted["include"] = ",".join(include)
        return wanted

    def _upload(self, target: str, source: Source, length: int) -> str:
        url = self._resolve(target, "PUT")
        try:
            answer = self._http.json(
                "PUT", url, body=lambda: announced_chunks(source, length), length=length
            )
        except DDFSError as error:
            raise _UploadFailed(error, _place(target)) from error
        return str(answer)

    def _resolve(self, url: str, method: str) -> str:
        target = http_url(url, self._port)
        if target is None:
            raise BlobNotFound("not a URL that can be read", store=self.master, name=url)
        if self._proxy is None:
            return target
        parts = urlsplit(target)
        query = f"?{parts.query}" if parts.query else ""
        return f"{self._proxy}/proxy/{parts.hostname}/{method}{parts.path}{query}"

    def open(self, urls: list[str]) -> Blob:
        """Return the blob from the first replica, in random order, that is whole.

        The server is told of damaged ones and repairs them.
        """
        error: DDFSError = BlobNotFound("no replicas", store=self.master)
        damaged: list[str] = []
        for url in random.sample(urls, len(urls)):
            try:
                blob = self._http.open_blob(self._resolve(url, "GET"), url)
            except DDFSError as failure:
                logger.warning("skipping a replica: %s", failure)
                error = failure
                if isinstance(failure, BlobDamaged):
                    damaged.append(url)
                continue
            for one in damaged:
                self._report(one)
            return blob
        raise error

    def _report(self, url: str) -> None:
        """Have a replica checked; by a server of ours, as no other tells checksums."""
        try:
            self._http.request("POST", self._resolve(url, "POST"))
        except DDFSError as error:
            # The reader has its bytes.
            logger.warning("cannot report a damaged replica: %s", error)


class _Packed(NamedTuple):
    body: Body
    length: int


class _UploadFailed(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, error: DDFSError, place: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.place = place


def _place(target: str) -> str:
    """Return what to avoid after a failed upload: the volume if the URL names one, or the host."""
    parts = urlsplit(target)
    volume = parse_qs(parts.query).get("volume")
    return volume[0] if volume else parts.hostname or ""
