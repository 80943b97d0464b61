"""The half of `DDFS` that is about tags: their urls, their attributes and their graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from . import graph
from .engine import ATTR_READ_TOKEN, Engine
from .errors import Forbidden, NotFound, Unauthorized
from .names import tag_name
from .settings import Settings
from .tagobject import check_attribute, check_urls

__all__ = ["Names", "Replicas", "TagClient", "Urls"]

# The class has a method called list, so its annotations cannot say list.
Replicas = list[str]
Urls = list[Replicas]
Names = list[str]


class TagClient:
    """Operations on tags, given as names or ``tag://`` URLs, with tokens per call or by settings.

    Parameters
    ----------
    engine
        The store.
    settings
        Where tokens come from that a call does not give.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self._settings = settings

    def _token(self, token: str | None, *, write: bool = False) -> str | None:
        return self._settings.token(token, write=write)

    # -- tags ---------------------------------------------------------------------------------

    def get(self, tag: Any, token: str | None = None) -> dict[str, Any]:
        """Return the tag object: ``version``, ``id``, ``last-modified``, ``urls``, ``user-data``.

        Raises
        ------
        TagNotFound
            There is no such tag.
        Unauthorized
            The tag wants another token; its write token also reads.
        """
        return self.engine.get(tag_name(tag), self._token(token))

    def urls(self, tag: Any, token: str | None = None) -> Urls:
        """Return the urls in the tag: a list of replica sets."""
        urls: Urls = self.get(tag, token)["urls"]
        return urls

    def exists(self, tag: Any) -> bool:
        """Tell whether the tag exists; a protected one does, an illegal name does not."""
        try:
            # The smallest thing a tag can be asked for: its urls may be many.
            self.engine.get_attribute(tag_name(tag), ATTR_READ_TOKEN, None)
        except Unauthorized:
            return True
        except (Forbidden, NotFound):
            return False
        return True

    def list(self, prefix: str = "") -> Names:
        """Return the names of all tags that start with `prefix`, sorted."""
        return self.engine.names(prefix)

    def put(
        self,
        tag: Any,
        urls: Any,
        token: str | None = None,
        *,
        attributes: Mapping[str, str] | None = None,
    ) -> Names:
        """Replace the urls of the tag and return the tag object's own URLs.

        Concurrent programs should use `tag`, which appends.

        Parameters
        ----------
        attributes
            Attributes to set besides. Embedded, that is one change with the urls; over the wire
            they are set before.
        """
        given = dict(check_attribute(attr, value) for attr, value in (attributes or {}).items())
        return self.engine.put(
            tag_name(tag), check_urls(urls), self._token(token, write=True), given
        )

    def tag(
        self,
        tag: Any,
        urls: Any,
        token: str | None = None,
        *,
        update: bool = False,
        delayed: bool = False,
    ) -> Names:
        """Put `urls` before those of the tag and return the tag object's own URLs.

        Parameters
        ----------
        tag
            Created when missing, by ``[]`` too; the token given then protects it.
        urls
            A list of replica sets, each a non-empty list of URLs of the same thing.
        token
            The tag's write token.
        update
            Leave out what is there already, by the name of the blob or linked tag; URLs that name
            neither are always kept.
        delayed
            Allow the store to wait up to a second for more of the kind.

        Raises
        ------
        InvalidUrls
            `urls` is something else.
        Unauthorized
            The token is not the write token.
        """
        return self.engine.append(
            tag_name(tag),
            check_urls(urls),
            self._token(token, write=True),
            update=update,
            delayed=delayed,
        )

    def delete(self, tag: Any, token: str | None = None) -> str:
        """Delete the tag; a missing one is no error. What only it reached is left to `gc`."""
        return self.engine.delete(tag_name(tag), self._token(token, write=True))

    # -- attributes ---------------------------------------------------------------------------

    def attrs(self, tag: Any, token: str | None = None) -> dict[str, str]:
        """Return the attributes of the tag and their values."""
        attrs: dict[str, str] = self.get(tag, token)["user-data"]
        return attrs

    def getattr(self, tag: Any, attr: str, token: str | None = None) -> Any:
        """Return the value of an attribute; ``ddfs:urls`` gives the urls.

        Raises
        ------
        AttributeNotFound
            The tag has no such attribute.
        """
        check_attribute(attr)
        return self.engine.get_attribute(tag_name(tag), attr, self._token(token))

    def setattr(self, tag: Any, attr: str, val: Any, token: str | None = None) -> Names:
        """Set an attribute to a string; a missing tag is created.

        ``ddfs:read-token`` and ``ddfs:write-token`` set the tokens, ``ddfs:urls`` the urls.

        Raises
        ------
        InvalidAttribute
            The name has more than 1024 bytes, the value more than 4096 bytes of JSON, or the tag
            has 1000 attributes already.
        """
        value = check_urls(val) if attr == "ddfs:urls" else val
        check_attribute(attr, "" if attr == "ddfs:urls" else val)
        return self.engine.set_attribute(tag_name(tag), attr, value, self._token(token, write=True))

    def admit_readers(self, tag: Any) -> None:
        """Let the settings' read token read a tag that the caller is about to create.

        A tag takes both its tokens from the write token it is created with. Where the two are the
        same, or only the write token is set, there is nothing to do.
        """
        read = self._settings.token(None, write=False)
        if read is not None and read != self._settings.token(None, write=True):
            self.setattr(tag, ATTR_READ_TOKEN, read)

    def delattr(self, tag: Any, attr: str, token: str | None = None) -> str:
        """Delete an attribute; a missing one is no error. Deleting a token opens the tag."""
        check_attribute(attr)
        return self.engine.delete_attribute(tag_name(tag), attr, self._token(token, write=True))

    # -- the tag graph ------------------------------------------------------------------------

    def _getter(self, token: str | None) -> Callable[[str], Urls]:
        return lambda tag: self.urls(tag, token)

    def walk(
        self,
        tag: Any,
        ignore_missing: bool = True,
        tagpath: tuple[str, ...] = (),
        token: str | None = None,
    ) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
        """Walk the tag graph in preorder and yield ``(tagpath, tags, blobs)``.

        A tag that several tags link to is yielded with each path to it, but walked into the first
        time only; a link back to a tag of the path is not followed. Removing from `tags` keeps the
        walk out of them.

        Parameters
        ----------
        ignore_missing
            Whether a missing tag is yielded as ``(tagpath, (), ())``; otherwise it is yielded as
            ``(tagpath, None, None)`` and TagNotFound is raised, as any other error always is.
        tagpath
            Put before every path.
        """
        return graph.walk(self._getter(token), tag, ignore_missing, tagpath)

    def blobs(
        self, tag: Any, ignore_missing: bool = True, token: str | None = None
    ) -> Iterator[Replicas]:
        """Yield the replica sets of all blobs below the tag, each once, in preorder.

        Raises
        ------
        TagNotFound
            A tag is missing and `ignore_missing` is false.
        """
        return graph.terminal_blobs(self._getter(token), tag, ignore_missing)

    def findtags(
        self, tags: Iterable[Any] = (), ignore_missing: bool = True, token: str | None = None
    ) -> Iterator[tuple[str, Names, Urls]]:
        """Yield ``(tag, tags, blobs)`` for every tag reachable, breadth first, each once."""
        starts = [tags] if isinstance(tags, str) else tags
        return graph.find_tags(self._getter(token), starts, ignore_missing)
