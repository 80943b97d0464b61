"""Walking the graph of tags: links may form cycles and diamonds and be thousands deep."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import DDFSError, NotFound
from .names import canonize_tag, tag_link

__all__ = ["find_tags", "partition", "terminal_blobs", "walk"]

Get = Callable[[str], list[list[str]]]
Replicas = list[str]


def partition(urls: Iterable[Replicas]) -> tuple[list[str], list[Replicas]]:
    """Split a tag's urls into the tags it links to and its blobs.

    Examples
    --------
    >>> partition([["tag://a"], ["http://n/1"]])
    (['tag://a'], [['http://n/1']])
    """
    tags: list[str] = []
    blobs: list[Replicas] = []
    for replicas in urls:
        link = tag_link(replicas)
        if link is None:
            blobs.append(replicas)
        else:
            tags.append(link)
    return tags, blobs


def walk(
    get: Get, tag: Any, ignore_missing: bool, tagpath: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield ``(tagpath, tags, blobs)`` in preorder; see `DDFS.walk`.

    Every link is followed at most once, so walking takes time proportional to the graph: a tag
    reached by a second path is yielded with that path but its links are not followed again, and a
    link back into the path that led to it is not followed at all.
    """
    start = canonize_tag(tag)
    stack: list[Iterator[str]] = [iter([start])]
    path: list[str] = []
    on_path: set[str] = set(tagpath)
    expanded: set[str] = set()
    while stack:
        current = next(stack[-1], None)
        if current is None:
            stack.pop()
            if path:
                on_path.discard(path.pop())
            continue
        if current in on_path:
            continue
        here = (*tagpath, *path, current)
        try:
            urls = get(current)
        except DDFSError as error:
            if ignore_missing and isinstance(error, NotFound):
                yield here, (), ()
                continue
            yield here, None, None
            raise
        tags, blobs = partition(urls)
        yield here, tags, blobs
        if current not in expanded:
            expanded.add(current)
            # After the yield: like os.walk, the caller may prune the list it was given.
            stack.append(iter(tags))
            path.append(current)
            on_path.add(current)


def find_tags(
    get: Get, tags: Iterable[Any], ignore_missing: bool
) -> Iterator[tuple[str, list[str], list[Replicas]]]:
    """Yield ``(tag, tags, blobs)`` breadth first, each tag once; see `DDFS.findtags`."""
    queue = deque(canonize_tag(tag) for tag in tags)
    seen: set[str] = set()
    while queue:
        tag = queue.popleft()
        if tag in seen:
            continue
        seen.add(tag)
        try:
            links, blobs = partition(get(tag))
        except NotFound:
            if not ignore_missing:
                raise
            continue
        yield tag, links, blobs
        queue.extend(links)


def terminal_blobs(get: Get, tag: Any, ignore_missing: bool) -> Iterator[Replicas]:
    """Yield the replica sets below a tag in preorder, each blob once; see `DDFS.blobs`.

    A blob that several tags hold is yielded for the first of them; one that a tag holds twice is
    yielded twice, as appending it twice says.
    """
    stack = [canonize_tag(tag)]
    seen_tags: set[str] = set()
    seen_blobs: set[tuple[str, ...]] = set()
    while stack:
        current = stack.pop()
        if current in seen_tags:
            continue
        seen_tags.add(current)
        try:
            links, blobs = partition(get(current))
        except NotFound:
            if not ignore_missing:
                raise
            continue
        fresh = [replicas for replicas in blobs if tuple(replicas) not in seen_blobs]
        seen_blobs.update(map(tuple, fresh))
        yield from fresh
        stack.extend(reversed(links))
