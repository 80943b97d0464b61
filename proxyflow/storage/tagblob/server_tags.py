"""The server's requests about tags."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from .engine import ATTR_URLS
from .errors import AttributeNotFound, InvalidAttribute, NotFound
from .names import check_name, is_object_name, parse_object_url
from .server_calls import SMALL, StoreCalls
from .server_http import (
    from_client,
    host_of,
    json_answer,
    json_body,
    path_below,
    to_client,
    token_of,
)
from .tagobject import TagObject, check_attribute, check_urls

__all__ = ["TagHandlers"]

_TAG = "/ddfs/tag/"
_TAGS = "/ddfs/tags"


class TagHandlers:
    """Handlers for ``/ddfs/tag/...``, ``/ddfs/tags`` and tag objects by their path.

    Parameters
    ----------
    calls
        The store.
    advertise
        The host name in URLs; ``None`` for the one the client asked for.
    """

    def __init__(self, calls: StoreCalls, advertise: str | None) -> None:
        self._calls = calls
        self._advertise = advertise

    def add_to(self, app: web.Application) -> None:
        """Register the handlers."""
        app.router.add_get(_TAGS, self.names)
        app.router.add_get(_TAGS + "/{prefix:[\\s\\S]*}", self.names)
        app.router.add_get(_TAG + "{path:[\\s\\S]+}", self.get)
        app.router.add_post(_TAG + "{path:[\\s\\S]+}", self.append)
        app.router.add_put(_TAG + "{path:[\\s\\S]+}", self.put)
        app.router.add_delete(_TAG + "{path:[\\s\\S]+}", self.delete)
        app.router.add_get("/ddfs/{volume:vol[^/]*}/tag/{path:[\\s\\S]+}", self.stored)

    async def names(self, request: web.Request) -> web.Response:
        """GET ``/ddfs/tags[/PREFIX]``."""
        prefix = path_below(request, _TAGS).strip("/")
        return json_answer(await self._calls(lambda store: store.names(prefix), size=SMALL))

    async def get(self, request: web.Request) -> web.Response:
        """GET ``/ddfs/tag/TAG`` or ``/ddfs/tag/TAG/ATTR``."""
        name, attr = _split(request)
        token = token_of(request)
        host = host_of(request, self._advertise)
        if attr is None or attr == ATTR_URLS:
            tag = await self._calls(lambda store: store.tag_object(name, token))
            return _urls_answer(tag, host) if attr else _tag_answer(tag, host)
        value = await self._calls(lambda store: store.get_attribute(name, attr, token))
        return json_answer(value)

    async def append(self, request: web.Request) -> web.Response:
        """POST ``/ddfs/tag/TAG?update=1&delayed=1``."""
        name, attr = _split(request)
        if attr is not None:
            raise AttributeNotFound("Tag attribute not found.", remedy="append to the tag itself")
        host = host_of(request, self._advertise)
        token = token_of(request)
        # A flag that is there but empty is off.
        flags = {flag: bool(request.query.get(flag)) for flag in ("update", "delayed")}
        urls = await json_body(request)
        changed = await self._calls(
            lambda store: store.append(name, _checked(urls, host), token, **flags),
            size=request.content_length or SMALL,
        )
        return _changed_answer(changed, host)

    async def put(self, request: web.Request) -> web.Response:
        """PUT ``/ddfs/tag/TAG`` (its urls) or ``/ddfs/tag/TAG/ATTR``."""
        name, attr = _split(request)
        token = token_of(request)
        host = host_of(request, self._advertise)
        if attr is None or attr == ATTR_URLS:
            urls, attributes = _urls_and_attributes(await json_body(request))
            changed = await self._calls(
                lambda store: store.put(name, _checked(urls, host), token, attributes),
                size=request.content_length or SMALL,
            )
            return _changed_answer(changed, host)
        value = await json_body(request)
        if not isinstance(value, str):
            raise InvalidAttribute("Invalid attribute key or value", name=attr)
        changed = await self._calls(lambda store: store.set_attribute(name, attr, value, token))
        return _changed_answer(changed, host)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE ``/ddfs/tag/TAG`` or ``/ddfs/tag/TAG/ATTR``."""
        name, attr = _split(request)
        token = token_of(request)
        if attr is None:
            return json_answer(await self._calls(lambda store: store.delete(name, token)))
        return json_answer(
            await self._calls(lambda store: store.delete_attribute(name, attr, token))
        )

    async def stored(self, request: web.Request) -> web.Response:
        """GET ``/ddfs/VOLUME/tag/HH/OBJECT``: a tag object by its path, tokens left out."""
        path = path_below(request, "")
        parts = parse_object_url(path)
        if parts is None or not is_object_name(parts.object):
            raise NotFound("Tag not found.")
        token = token_of(request)
        tag = await self._calls(lambda store: store.tag_version(parts.object, token), size=SMALL)
        return _tag_answer(tag, host_of(request, self._advertise))


def _urls_and_attributes(body: Any) -> tuple[Any, dict[str, str]]:
    """Return both parts of what is put into a tag: Disco's clients send the urls alone."""
    if not isinstance(body, dict):
        return body, {}
    attributes = body.get("user-data")
    if not isinstance(attributes, dict):
        raise InvalidAttribute("Invalid attributes")
    for attr, value in attributes.items():
        check_attribute(attr, value)
        if attr.startswith("ddfs:"):
            raise AttributeNotFound("Tag attribute not found.", name=attr)
    return body.get("urls"), attributes


def _checked(body: Any, host: str) -> list[list[str]]:
    return check_urls(from_client(body, host))


def _split(request: web.Request) -> tuple[str, str | None]:
    """Return the tag and the attribute of a path; the first slash divides them."""
    name, _, attr = path_below(request, _TAG).partition("/")
    check_name(name, "tag name")
    if attr:
        check_attribute(attr)
    return name, attr or None


def _tag_answer(tag: TagObject, host: str) -> web.Response:
    # The urls go out as they are stored: parsing ten thousand of them would take longer than all
    # the rest.
    head = json.dumps(
        {"version": 1, "id": tag.id, "last-modified": tag.last_modified, "user-data": tag.user_data}
    )
    body = b"".join((head[:-1].encode(), b', "urls": ', to_client(tag.urls_json, host), b"}"))
    return web.Response(body=body, content_type="application/json")


def _urls_answer(tag: TagObject, host: str) -> web.Response:
    return web.Response(body=to_client(tag.urls_json, host), content_type="application/json")


def _changed_answer(urls: list[str], host: str) -> web.Response:
    body = to_client(json.dumps(urls).encode(), host)
    return web.Response(body=body, content_type="application/json")
