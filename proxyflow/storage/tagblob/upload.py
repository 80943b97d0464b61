"""Sending many blobs: some at a time, and only those that are not there yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from .engine import Engine
from .errors import NotFound
from .names import blob_object_prefix, url_key
from .progress import Progress, Tracked
from .sources import Source

__all__ = ["Uploader"]

Replicas = list[str]

#: A push that can be resumed tags what it has stored after this many bytes or blobs.
_BATCH_BYTES = 64 * 2**20
_BATCH_BLOBS = 64


class Uploader:
    """Stores blobs through an engine.

    Parameters
    ----------
    engine
        Where to.
    replicas, forceon, retries, parallel
        As for `DDFS.push`.
    """

    def __init__(
        self,
        engine: Engine,
        replicas: int | None,
        forceon: Sequence[str],
        retries: int,
        parallel: int,
    ) -> None:
        self._engine = engine
        self._replicas = replicas
        self._forceon = list(forceon)
        self._retries = retries
        self._parallel = max(1, parallel)

    def known(self, name: str, token: str | None) -> dict[str, Replicas]:
        """Return what a tag holds by what ``update`` compares."""
        try:
            urls = self._engine.get(name, token)["urls"]
        except NotFound:
            return {}
        keyed = ((url_key(replicas[0]), replicas) for replicas in urls)
        return {key: replicas for key, replicas in keyed if key is not None}

    def store_all(
        self, sources: Iterable[Source], what: str, known: Mapping[str, Replicas] | None = None
    ) -> list[Replicas]:
        """Store every source whose name is not known; return all replica sets in order."""
        total = _total(sources) if isinstance(sources, list) else None
        progress = Progress(what, total)
        try:
            return self._stored(sources, progress, known or {})
        finally:
            progress.close()

    def push(
        self, name: str, sources: list[Source], token: str | None, delayed: bool
    ) -> tuple[list[str], list[Replicas]]:
        """Store every source, and tag them when all are stored."""
        at_once = self._push_at_once(name, sources, token)
        if at_once is not None:
            return at_once
        blobs = self.store_all(sources, f"push {name}")
        return self._engine.append(name, blobs, token, delayed=delayed), blobs

    def _push_at_once(
        self, name: str, sources: list[Source], token: str | None, update: bool = False
    ) -> tuple[list[str], list[Replicas]] | None:
        return self._engine.push(
            name,
            sources,
            self._replicas,
            token,
            include=self._forceon,
            retries=self._retries,
            update=update,
        )

    def push_missing(
        self, name: str, sources: list[Source], token: str | None, delayed: bool
    ) -> tuple[list[str], list[Replicas]]:
        """Store and tag what the tag has not by name, batch by batch.

        The last batch goes first: an append goes before what is there, so in the end the order is
        that of a single append.
        """
        found = self.known(name, token)
        missing = list(_unseen(sources, found))
        tags: list[str] = []
        progress = Progress(f"push {name}", _total(missing))
        try:
            for batch in reversed(list(_batches(missing))):
                at_once = self._push_at_once(name, batch, token, update=True)
                if at_once is not None:
                    tags, blobs = at_once
                else:
                    blobs = self._stored(batch, progress, {})
                    tags = self._engine.append(name, blobs, token, update=True, delayed=delayed)
                found.update(zip(map(_key, batch), blobs, strict=True))
        finally:
            progress.close()
        if not missing:
            tags = self._engine.append(name, [], token, update=True)
        return tags, [found[_key(source)] for source in sources]

    def _stored(
        self, sources: Iterable[Source], progress: Progress, known: Mapping[str, Replicas]
    ) -> list[Replicas]:
        def store(source: Source) -> Replicas:
            if _key(source) in known:
                return known[_key(source)]
            return self._engine.store(
                Tracked(source, progress),
                self._replicas,
                include=self._forceon,
                retries=self._retries,
            )

        if self._parallel == 1 or (isinstance(sources, list) and len(sources) == 1):
            return [store(source) for source in sources]
        executor = ThreadPoolExecutor(self._parallel, thread_name_prefix="ddfs-push")
        try:
            return list(executor.map(store, sources))
        finally:
            # After a failure, what has not begun is not worth beginning.
            executor.shutdown(cancel_futures=True)


def _key(source: Source) -> str:
    return blob_object_prefix(source.name)


def _total(sources: Iterable[Source]) -> int | None:
    """Return the bytes of all sources, ``None`` when one of them does not know."""
    sizes = [source.known_size() for source in sources]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _unseen(sources: Iterable[Source], known: Mapping[str, Replicas]) -> Iterator[Source]:
    seen = set(known)
    for source in sources:
        if _key(source) not in seen:
            seen.add(_key(source))
            yield source


def _batches(sources: Iterable[Source]) -> Iterator[list[Source]]:
    batch: list[Source] = []
    size = 0
    for source in sources:
        batch.append(source)
        size += source.known_size() or 0
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_BLOBS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
