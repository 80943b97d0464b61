"""`DDFS`: the interface of ``disco.ddfs.DDFS`` over either engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from .blobs import Blob, StreamBlob
from .chunking import CHUNK_SIZE, MAX_RECORD_SIZE, Reader
from .engine import Engine
from .errors import Unsupported
from .gc import GCReport
from .inputs import chunk_sources
from .names import blob_name, check_name, safe_name, tag_link, tag_name
from .progress import Progress
from .settings import Settings
from .sources import Source, make_source
from .tagclient import Names, Replicas, TagClient, Urls
from .upload import Uploader

__all__ = ["DDFS", "open_engine"]


def open_engine(
    master: str,
    proxy: str | None = None,
    *,
    settings: Settings,
    volumes: int | Iterable[str] | None = None,
    replicas: int | None = None,
    durable: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Engine:
    """Return the engine a master's URL asks for: ``disco://`` and ``http://`` go over the wire."""
    if master.startswith(("disco://", "http://")):
        from .wire import WireEngine

        return WireEngine(master, proxy=proxy, port=settings.port, replicas=replicas)
    from .embedded import EmbeddedEngine

    return EmbeddedEngine(
        master,
        volumes=volumes,
        replicas=settings.replicas if replicas is None else replicas,
        durable=durable,
        storage_options=storage_options,
    )


class DDFS(TagClient):
    """A tag/blob store: immutable blobs, found through tags.

    Methods, parameters and their meaning are those of ``disco.ddfs.DDFS`` (Disco's Python API
    documentation). Tags are given as names or ``tag://`` URLs, tokens per call or by the settings
    ``DDFS_READ_TOKEN`` and ``DDFS_WRITE_TOKEN``.

    Parameters
    ----------
    master
        ``disco://host[:port]`` for a Disco master or a server of ours; ``file:///path`` or any URL
        that fsspec knows, such as ``s3://bucket/prefix``, for a store embedded in this process.
        By default the setting ``DISCO_MASTER``, else ``disco://localhost``.
    proxy
        Address all requests go through instead; the setting ``DISCO_PROXY`` by default.
    settings
        A mapping to take settings from instead of the environment.
    volumes
        Embedded only: how many volumes the store should have, or a list of directories and URLs;
        missing ones are added.
    replicas
        How many volumes a blob is written to when a call does not say; the setting
        ``DDFS_BLOB_REPLICAS`` by default, else 1.
    durable
        Embedded only: whether local files are on the disk (``fsync``) before a call returns.
    storage_options
        Embedded only: options for fsspec's file systems.

    Raises
    ------
    ConfigError, MissingDependencyError
        The master makes no sense, or needs a package that is not installed.
    Unavailable
        The root of an embedded store does not answer.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     ddfs = DDFS(f"file://{root}")
    ...     tags, blobs = ddfs.push("data:greeting", [([b"hello ", b"world"], "hello")])
    ...     [blob.read() for blob in ddfs.pull("data:greeting")]
    [b'hello world']
    """

    def __init__(
        self,
        master: str | None = None,
        proxy: str | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        volumes: int | Iterable[str] | None = None,
        replicas: int | None = None,
        durable: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        # What a copy in another process is made of. It reads its own environment: settings that
        # came from there, tokens among them, do not travel.
        self._recipe: dict[str, Any] = {
            "master": master,
            "proxy": proxy,
            "settings": settings,
            "replicas": replicas,
            "durable": durable,
            "storage_options": storage_options,
        }
        known = Settings(settings)
        self.proxy = proxy or known.proxy
        engine = open_engine(
            master or known.master or "disco://localhost",
            self.proxy,
            settings=known,
            volumes=volumes,
            replicas=replicas,
            durable=durable,
            storage_options=storage_options,
        )
        super().__init__(engine, known)
        self.master = engine.master

    def __repr__(self) -> str:
        return f"DDFS master at {self.master}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), {**self._recipe, "master": self.master}))

    def __enter__(self) -> DDFS:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back; the store can be used again afterwards."""
        self.engine.close()

    @staticmethod
    def safe_name(name: str) -> str:
        """Replace what may not stand in a name by ``_``."""
        return safe_name(name)

    @staticmethod
    def blob_name(url: str) -> str:
        """Return the name a blob was pushed under, from any URL of it."""
        return blob_name(url)

    # -- blobs --------------------------------------------------------------------------------

    def push(
        self,
        tag: Any,
        files: Iterable[Any],
        replicas: int | None = None,
        forceon: Sequence[str] = (),
        retries: int = 10,
        delayed: bool = False,
        update: bool = False,
        token: str | None = None,
        *,
        parallel: int = 4,
    ) -> tuple[Names, Urls]:
        r"""Push files as blobs and tag them; return the tag's URLs and the replica sets.

        The blobs are tagged when all are stored, so a push that fails changes no tag. With
        `update` they are tagged as they come, and what the tag has by name is not sent: repeating
        an interrupted push goes on where it stopped.

        Parameters
        ----------
        files
            Paths, ``(path, name)``, ``(binary file, name)`` or ``(buffers, name)``. Names become
            the prefix of the blob's name; characters outside ``[A-Za-z0-9_\-@:]`` become ``_``.
        replicas
            How many volumes each blob is written to.
        forceon
            Names of volumes (on a Disco cluster: of nodes) that must be among them.
        retries
            How often a blob is tried again elsewhere when a volume fails.
        delayed, update, token
            As for `tag`.
        parallel
            How many blobs are sent at the same time.

        Raises
        ------
        NotEnoughVolumes
            There are fewer volumes than `replicas`.
        StoreFull, Unavailable
            No volume has room, or answers.
        """
        name = tag_name(tag)
        sources = [make_source(file) for file in files]
        uploader = Uploader(self.engine, replicas, forceon, retries, parallel)
        token = self._token(token, write=True)
        if update:
            return uploader.push_missing(name, sources, token, delayed)
        return uploader.push(name, sources, token, delayed)

    def pull(
        self,
        tag: Any,
        blobfilter: Callable[[str], bool] = lambda name: True,
        token: str | None = None,
    ) -> Iterator[Blob]:
        """Yield the blobs of a tag as open binary files, those whose name `blobfilter` accepts.

        Replicas are tried in random order. Up to 128 MiB a blob is checked before it is yielded and
        a damaged replica skipped; a larger one is checked while it is read.

        Raises
        ------
        BlobNotFound, BlobDamaged, Unavailable
            No replica of a blob can be read; the error of the last one tried.
        """
        progress = Progress(f"pull {tag_name(tag)}")
        try:
            for replicas in self.urls(tag, token):
                if tag_link(replicas) is None and blobfilter(blob_name(replicas[0])):
                    blob = self.engine.open(replicas)
                    if isinstance(blob, StreamBlob):
                        blob.on_read(progress.update)
                    else:
                        progress.update(len(blob))
                    yield blob
        finally:
            progress.close()

    def chunk(
        self,
        tag: Any,
        urls: Any,
        replicas: int | None = None,
        forceon: Sequence[str] = (),
        retries: int = 10,
        delayed: bool = False,
        update: bool = False,
        token: str | None = None,
        chunk_size: int = CHUNK_SIZE,
        max_record_size: int = MAX_RECORD_SIZE,
        *,
        reader: Reader | None = None,
        record_size: int | None = None,
    ) -> tuple[Names, Urls]:
        """Cut inputs into blobs at record boundaries and tag them.

        Parameters
        ----------
        urls
            The inputs: paths, URLs, replica sets, binary files, bytes, or iterables of records.
        replicas, forceon, retries, delayed, update, token
            As for `push`.
        chunk_size
            About how large a blob gets: it ends before the record that would exceed this.
        max_record_size
            The largest record.
        reader
            ``reader(file, size, url)`` yields the records of a file; by default they are lines.
        record_size
            Records are this many bytes instead.

        Raises
        ------
        RecordTooLarge
            A ValueError; the tag is not changed.
        """
        name = tag_name(tag)
        sources = chunk_sources(
            urls,
            self.engine.open,
            chunk_size=chunk_size,
            max_record_size=max_record_size,
            reader=reader,
            record_size=record_size,
        )
        uploader = Uploader(self.engine, replicas, forceon, retries, parallel=1)
        token = self._token(token, write=True)
        known = uploader.known(name, token) if update else {}
        blobs = uploader.store_all(sources, f"chunk {name}", known)
        return self.engine.append(name, blobs, token, update=update, delayed=delayed), blobs

    def store_blob(
        self,
        name: str,
        content: Any,
        replicas: int | None = None,
        forceon: Sequence[str] = (),
        retries: int = 10,
    ) -> Replicas:
        """Store one blob without tagging it and return its replica set.

        It is garbage until a tag names it, and `gc` leaves it alone for the grace period.

        Parameters
        ----------
        name
            The prefix of the blob's name.
        content
            A path, a binary file, bytes, or a list of buffers, which are not joined.
        """
        source: Source = make_source((content, name))
        return self.engine.store(source, replicas, include=forceon, retries=retries)

    def open_blob(self, replicas: Sequence[str]) -> Blob:
        """Return an open blob by its replica set; see `pull` for the checks and errors.

        Where the replica lies on a local volume, ``blob.path`` names the file and ``blob.map()``
        gives its bytes without copying.
        """
        return self.engine.open([*replicas])

    def discard_blob(self, replicas: Sequence[str]) -> None:
        """Remove a blob at once, when no tag names it any more and nobody is about to.

        Behind a server nothing is done: garbage is collected there.
        """
        from .embedded import EmbeddedEngine

        if isinstance(self.engine, EmbeddedEngine):
            self.engine.discard([*replicas])

    def discard_blobs(self, prefix: str) -> None:
        """Remove all blobs whose name starts so, when no tag names one and nobody is about to.

        Among them those that a killed process stored and had not tagged yet. Volumes that do not
        answer are passed over. Behind a server nothing is done: garbage is collected there.
        """
        from .embedded import EmbeddedEngine

        check_name(prefix, "blob name")
        if isinstance(self.engine, EmbeddedEngine):
            self.engine.discard_named(prefix)

    def discard_tag(self, tag: Any, token: str | None = None) -> None:
        """Delete a tag whose name nobody uses again, and what only it reached is garbage at once.

        A local embedded store forgets that there was such a tag; elsewhere this is `delete`.
        """
        from .embedded import EmbeddedEngine

        if isinstance(self.engine, EmbeddedEngine):
            self.engine.discard_tag(tag_name(tag), self._token(token, write=True))
        else:
            self.delete(tag, token)

    def gc(self, grace: float = 24 * 3600, *, verify: bool = False) -> GCReport:
        """Remove unreachable blobs, old tag versions and partial writes; restore replicas.

        Parameters
        ----------
        grace
            Seconds that a thing must have been unreachable, or unfinished, before it goes. It must
            exceed the time between storing a blob and tagging it.
        verify
            Read every blob against its checksum instead of looking at its size.

        Raises
        ------
        Unsupported
            The store is behind a server, which collects by itself.
        TagDamaged
            A tag cannot be read, so nobody knows what it reaches; nothing was removed.
        """
        from .embedded import EmbeddedEngine

        if not isinstance(self.engine, EmbeddedEngine):
            raise Unsupported(
                "garbage is collected by the server", store=self.master, remedy="call gc there"
            )
        return self.engine.gc(grace, verify=verify)


def _rebuild(cls: type[DDFS], recipe: dict[str, Any]) -> DDFS:
    return cls(**recipe)
