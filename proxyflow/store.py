"""Store: objects in, proxies out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from mmap import mmap
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, TypeVar

from proxyflow import recipe as recipes
from proxyflow.compression import Compression
from proxyflow.config import as_url
from proxyflow.connectors import connector_class, open_url
from proxyflow.connectors.protocol import (
    Addressable,
    Buffer,
    Connector,
    DeferrableConnector,
    FileOpener,
    Key,
    KeyScanner,
    KeySeries,
    KeyWaiter,
    SeriesMaker,
    SessionMember,
    StoredObject,
    Sweeper,
    ViewReader,
    is_connector,
)
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    StoreClosedError,
    UnsupportedError,
)
from proxyflow.factory import StoreFactory
from proxyflow.facts import check_target, describe
from proxyflow.files import Loader, StoreFileFactory, facts_of, read_all
from proxyflow.future import StoreFuture
from proxyflow.lifetime import References
from proxyflow.options import CACHE, NAMES, StoreOptions
from proxyflow.periodic import poll
from proxyflow.proxy import Proxy
from proxyflow.reader import CachingReader
from proxyflow.scope import note, scope
from proxyflow.serialize import Payload, deserialize, serialize
from proxyflow.stats import StoreStats
from proxyflow.writer import Writer

if TYPE_CHECKING:
    from proxyflow.stream import Stream

__all__ = ["Store"]

T = TypeVar("T")


class Store:
    """Objects in, proxies out.

    Everything a store puts belongs to its session. The process that opens a store by URL owns the
    session and removes its objects when it closes the store, or when it dies; a process that
    unpickles a proxy joins the session by itself.

    Parameters
    ----------
    url
        Which store: ``"file:///dev/shm/run1"``, ``"memory://"``, ... Without one, a private
        directory of this session under shared memory when there is room, else under the temp
        directory. Options after a question mark go to the connector.
    connector
        A connector to use instead of a URL; ProxyStore's work too.
    compress
        Whether to compress with lz4 what a sample shows to be worth it. By default off for stores
        that map their objects, on for those that move them while they are slower than the codec.
    verify
        Whether to check mapped buffers against their digest on every read, which makes opening
        one as slow as reading all of it. What is executed (the pickle stream) and what was copied
        is checked in any case.
    secret
        Authenticate everything written, and refuse to read what was not written by a holder of
        the secret. Default: the environment variable ``PROXYFLOW_SECRET``. It is never part of a
        proxy: set the variable in every process that reads or writes, workers included.
    cache
        How many bytes of payloads to keep for the next reader, as ``"64 MiB"`` or a number. Only
        for stores that do not map their objects, by default 256 MiB. What has been evicted leaves
        the cache too.

    Raises
    ------
    ConfigError
        If the URL or an option makes no sense.
    StoreUnreachableError
        If the store does not answer.

    Examples
    --------
    >>> from proxyflow import Store, extract
    >>> with Store() as store:
    ...     proxy = store.proxy([1, 2, 3])
    ...     sum(proxy), extract(proxy)
    (6, [1, 2, 3])
    """

    def __init__(
        self,
        url: str | StoreURL | os.PathLike[str] | None = None,
        *,
        connector: Connector | None = None,
        compress: bool | None = None,
        verify: bool | None = None,
        secret: str | bytes | None = None,
        cache: int | str | None = None,
    ) -> None:
        if url is not None and connector is not None:
            raise ConfigError("a store has a URL or a connector, not both")
        if connector is not None and not is_connector(connector):
            raise ConfigError(
                f"not a connector: {connector!r}",
                remedy="give an object with the methods of proxyflow.connectors.protocol.Connector",
            )
        parsed = as_url(url) if connector is None else None
        options = StoreOptions.read(
            parsed, compress=compress, verify=verify, secret=secret, cache=cache
        )
        if connector is None:
            assert parsed is not None
            theirs = {k: v for k, v in parsed.options.items() if k not in NAMES}
            connector = open_url(parsed.replace(options=theirs))
        self.connector: Connector = connector
        self.stats = StoreStats()
        self._views = isinstance(connector, ViewReader)
        self._writer = Writer(connector)
        self.deferrable = isinstance(connector, DeferrableConnector)
        self._compression = Compression(options.compress, moves=not self._views)
        self._verify = options.verify
        self._secret = options.secret
        self._reader = CachingReader(connector, options.cache)
        self._pid = os.getpid()
        self._joined = False
        self._closed = False
        self._references: dict[int, References] = {}
        self.recipe = recipes.make(connector, self._options())
        recipes.register(self.recipe, self)

    def _options(self) -> dict[str, str]:
        """Return what a process that joins must know besides the connector's own options."""
        options = {}
        if self._compression.asked is not None:
            options["compress"] = str(int(self._compression.asked))
        if self._verify:
            options["verify"] = "1"
        if self._reader.cache.capacity != CACHE:
            options["cache"] = str(self._reader.cache.capacity)
        return options

    # -- configuration -------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs to join this session elsewhere; no secret."""
        return recipes.as_config(self.recipe)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Store:
        """Open a store from its configuration, joining its session.

        Parameters
        ----------
        config
            ``{"url": ...}``, or ``{"connector": "module:Class", "config": {...}}``, with the
            options ``compress``, ``verify`` and ``cache`` besides.

        Examples
        --------
        >>> with Store() as store:
        ...     key = store.put("text")
        ...     Store.from_config(store.config()).get(key)
        'text'
        """
        options = dict(config)
        url = options.pop("url", None)
        path = options.pop("connector", None)
        arguments = options.pop("config", {})
        if set(options) - NAMES or (url is None) == (path is None):
            raise ConfigError(f"not the configuration of a store: {config!r}")
        if url is not None:
            store = cls(url, **options)
        else:
            store = cls(connector=connector_class(path).from_config(arguments), **options)
        store._joined = True
        return store

    @property
    def session(self) -> str | None:
        """Name of the session, if the connector has sessions."""
        return self.connector.session if isinstance(self.connector, SessionMember) else None

    @property
    def owner(self) -> bool:
        """Whether closing this store ends its session."""
        if isinstance(self.connector, SessionMember):
            return self.connector.owner
        return not self._joined and self._pid == os.getpid()

    @property
    def maps(self) -> bool:
        """Whether objects are mapped where they are used, not copied."""
        return self._views

    @property
    def writes_in_place(self) -> bool:
        """Whether a payload is copied to where it will lie, and digested on the way."""
        return self._writer.in_place

    @property
    def name(self) -> str:
        """The store as its user knows it: the URL, or the connector."""
        connector = self.connector
        return connector.url if isinstance(connector, Addressable) else repr(connector)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "owner" if self.owner else "joined"
        return f"<Store {self.name} ({state})>"

    # -- objects -------------------------------------------------------------------------------

    def put(self, obj: Any) -> Key:
        """Store an object and return its key.

        Raises
        ------
        SerializationError
            If it cannot be pickled.
        StoreFullError
            If there is no room; nothing is left behind.
        """
        return self.write(self.encode(obj))

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the object under a key, or `default` if there is none.

        Each call makes an object of its own. Arrays in it are writable, and writing to them
        changes neither the stored object nor anybody else's.

        Raises
        ------
        CorruptObjectError
            If what is stored is short, damaged or forged.
        """
        started = perf_counter()
        payload = self._read(key)
        if payload is None:
            return default
        obj = self.decode(payload, key)
        self.stats.record("get", started, len(payload))
        return obj

    def exists(self, key: Key) -> bool:
        """Return whether an object is stored under the key."""
        self._check_open()
        return self.connector.exists(key)

    def evict(self, key: Key) -> None:
        """Remove the object; removing a missing one is no error."""
        self._check_open()
        started = perf_counter()
        try:
            self.connector.evict(key)
        finally:
            # Afterwards: who reads in the meantime would put it back.
            self._reader.forget(key)
        self.stats.record("evict", started)

    def put_batch(self, objs: Iterable[Any]) -> list[Key]:
        """Store several objects and return their keys in the same order.

        When one of them cannot be stored, none is.
        """
        payloads = [self.encode(obj) for obj in objs]
        self._check_open()
        started = perf_counter()
        keys = self._writer.put_batch(payloads)
        self.stats.record("put_batch", started, sum(payload.nbytes for payload in payloads))
        return note(self, keys)

    def get_batch(self, keys: Sequence[Key], default: Any = None) -> list[Any]:
        """Return several objects in the order of their keys, `default` for each missing one."""
        self._check_open()
        if self._views:
            return [self.get(key, default) for key in keys]
        started = perf_counter()
        found = self.connector.get_batch(keys)
        objs = [
            default if data is None else self.decode(memoryview(bytearray(data)), key)
            for key, data in zip(keys, found, strict=True)
        ]
        self.stats.record("get_batch", started, sum(len(data) for data in found if data))
        return objs

    def exists_batch(self, keys: Sequence[Key]) -> list[bool]:
        """Return for each key whether an object is stored under it."""
        return [self.exists(key) for key in keys]

    def evict_batch(self, keys: Sequence[Key]) -> None:
        """Remove several objects."""
        for key in keys:
            self.evict(key)

    def scan(self) -> Iterator[StoredObject]:
        """Yield a `StoredObject` for every object of the session, in no order.

        It has the object's `key`, its size as stored (`nbytes`), and when it was stored
        (`modified`, in seconds since the epoch).

        Raises
        ------
        UnsupportedError
            If the connector cannot list its objects.
        """
        self._check_open()
        if not isinstance(self.connector, KeyScanner):
            raise UnsupportedError("this connector cannot list its objects", store=self.name)
        yield from self.connector.scan()

    # -- proxies -------------------------------------------------------------------------------

    def proxy(self, obj: T, *, skip_nonproxiable: bool = False) -> Proxy[T]:
        """Store an object and return a lazy proxy that stands for it anywhere.

        Parameters
        ----------
        obj
            The object. A proxy is returned as it is.
        skip_nonproxiable
            Return ``None``, ``True`` and ``False`` as they are instead of refusing them.

        Raises
        ------
        ProxyTargetError
            For ``None``, ``True`` and ``False``, which code compares by identity.
        """
        if _goes_as_it_is(obj, skip_nonproxiable):
            return obj  # type: ignore[return-value]
        check_target(obj)
        return self.proxy_from_key(self.put(obj), obj)

    def proxy_batch(self, objs: Iterable[T], *, skip_nonproxiable: bool = False) -> list[Proxy[T]]:
        """Store several objects and return their proxies in the same order.

        Parameters
        ----------
        objs
            The objects; a proxy among them stays as it is.
        skip_nonproxiable
            Return ``None``, ``True`` and ``False`` as they are instead of refusing them.
        """
        made: list[Any] = list(objs)
        places = [at for at, obj in enumerate(made) if not _goes_as_it_is(obj, skip_nonproxiable)]
        for at in places:
            check_target(made[at])
        keys = self.put_batch(made[at] for at in places)
        for at, key in zip(places, keys, strict=True):
            made[at] = self.proxy_from_key(key, made[at])
        return made

    def proxy_from_key(
        self, key: Key, example: Any = None, *, facts: Any = None, hashed: bool = True
    ) -> Proxy[Any]:
        """Return a proxy of an object that is stored already.

        Parameters
        ----------
        key
            Its key.
        example
            The object itself, if it is at hand: class, shape and the like are then known to the
            proxy without resolving it.
        facts
            Those facts, if they were recorded before.
        hashed
            Whether they include the hash.
        """
        if facts is None and example is not None:
            facts = describe(example, hashed=hashed)
        return Proxy(StoreFactory(self.recipe, key), facts)

    def proxy_file(
        self, path: str, loader: Loader = read_all, *, kind: type | None = None
    ) -> Proxy[Any]:
        """Return a proxy of the object in a file that lies in this store already.

        Nothing is copied until somebody resolves the proxy, and then only what the loader reads.
        The file is its owner's: it is never evicted.

        Parameters
        ----------
        path
            The file, as the store names it: ``/data/x.npy`` in a filespace, a linked object of a
            data store included.
        loader
            Makes the object of the open binary file; picklable. By default its bytes.
        kind
            The class of the object, as for :func:`proxyflow.proxy_url`.

        Raises
        ------
        UnsupportedError
            If the store has no files besides its objects.
        """
        self._file_opener()
        return Proxy(StoreFileFactory(self.recipe, path, loader), facts_of(loader, kind))

    def open_file(self, path: str) -> IO[bytes]:
        """Open the file at `path` in this store, for reading; see :meth:`proxy_file`."""
        return self._file_opener().open_file(path)

    def _file_opener(self) -> FileOpener:
        self._check_open()
        if not isinstance(self.connector, FileOpener):
            raise UnsupportedError(
                "this store has no files besides its objects",
                store=self.name,
                remedy="use a filespace:// store, or proxyflow.proxy_url for a file elsewhere",
            )
        return self.connector

    def future(self, timeout: float | None = None) -> StoreFuture:
        """Return an object that will be set later, and whose proxy waits for it.

        Parameters
        ----------
        timeout
            How many seconds the proxy waits before it gives up.

        Raises
        ------
        UnsupportedError
            If the connector cannot make keys before their objects.
        """
        return StoreFuture(self.recipe, self.new_key(), timeout)

    def stream(
        self,
        name: str,
        *,
        group: str | None = None,
        maxsize: int | None = None,
        lease: float | None = None,
    ) -> Stream:
        """Return a stream of this session: objects in at one end, proxies out at the other.

        See :class:`proxyflow.stream.Stream`; raises what making one raises.

        Parameters
        ----------
        name
            Which stream of the session.
        group
            The group to consume for; ``"default"`` if none is named.
        maxsize
            How many objects there may be that some group has yet to acknowledge; `append` waits.
        lease
            Seconds after which an item is given back though its consumer may be alive; for stores
            that several hosts share.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory, Store(f"maildir://{directory}") as s:
        ...     with s.stream("frames") as frames:
        ...         frames.extend([[1, 2], [3, 4]])
        ...         frames.close_for_writing()
        ...         [sum(item.proxy) for item in frames.items(ack=True)]
        [3, 7]
        """
        from proxyflow.stream import Stream

        return Stream(self, name, group=group, maxsize=maxsize, lease=lease)

    def scope(self) -> contextlib.AbstractContextManager[Store]:
        """Evict, on leaving the ``with`` block, what this thread stored here within it.

        Examples
        --------
        >>> with Store("memory://") as store:
        ...     with store.scope():
        ...         proxy = store.proxy("short-lived")
        ...     list(store.scan())
        []
        """
        return scope(self)

    # -- for integrations ----------------------------------------------------------------------

    @property
    def references(self) -> References:
        """Who still needs which object, as counted by this process."""
        # By process, as a forked child has a copy of this store. Without a lock, as the child
        # might have a copy of one that was held.
        mine = self._references.get(os.getpid())
        return self._references.setdefault(os.getpid(), References(self)) if mine is None else mine

    def encode(self, obj: Any) -> Payload:
        """Return an object as frames, not stored yet."""
        return serialize(obj, compress=self._compression.wanted, secret=self._secret)

    def write(self, payload: Payload, key: Key = None) -> Key:
        """Store frames, under a key from :meth:`new_key` if one is given, and return the key.

        What has been stored under that key before is replaced. Other processes may go on serving
        what they have read under a key that :meth:`put` returned.
        """
        self._check_open()
        started = perf_counter()
        if key is None:
            key = self._writer.put(payload)
        else:
            try:
                self._writer.set(key, payload)
            finally:
                self._reader.forget(key)
        seconds = self.stats.record("put", started, payload.nbytes)
        self._compression.link.add(payload.nbytes, seconds)
        note(self, [key])
        return key

    def new_key(self) -> Key:
        """Return a key under which nothing is stored yet.

        Raises
        ------
        UnsupportedError
            If the connector cannot make keys before their objects.
        """
        self._check_open()
        if not self.deferrable:
            raise UnsupportedError(
                "this connector cannot make keys before their objects", store=self.name
            )
        connector: Any = self.connector
        return connector.new_key()

    def new_series(self) -> KeySeries | None:
        """Return keys by number under which nothing is stored yet; None if they cannot be had."""
        self._check_open()
        maker = self.connector
        return maker.new_series() if isinstance(maker, SeriesMaker) else None

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over."""
        self._check_open()
        if isinstance(self.connector, KeyWaiter):
            return self.connector.wait(key, timeout)
        return poll(lambda: self.exists(key), timeout)

    def forget(self, key: Key) -> None:
        """Read an object from the store the next time: it may have been replaced there."""
        self._reader.forget(key)

    def _read(self, key: Key) -> Buffer | None:
        self._check_open()
        if self._views:
            # Opened in microseconds, and its pages are the store's: nothing to cache.
            connector: Any = self.connector
            view: memoryview | None = connector.get_view(key)
            return view
        return self._reader.get(key)

    def decode(self, payload: Buffer, key: Key) -> Any:
        """Return the object that a payload, read from under the key, holds."""
        # Reading all of a mapping would be slower by far than opening it; a copy has been read.
        mapped = isinstance(payload, memoryview) and isinstance(payload.obj, mmap)
        try:
            return deserialize(payload, verify=self._verify or not mapped, secret=self._secret)
        except CorruptObjectError as error:
            error.store, error.key = self.name, key
            raise

    # -- the end -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the store has been closed."""
        return self._closed

    def sweep(self) -> list[str]:
        """Remove what dead owners left in this store; return the names of their sessions."""
        self._check_open()
        return self.connector.sweep() if isinstance(self.connector, Sweeper) else []

    def close(self) -> None:
        """Let go of the store; its owner ends the session and removes its objects.

        Objects and arrays that were read stay valid. Closing twice is no error.
        """
        if self._closed:
            return
        self._closed = True
        recipes.forget(self.recipe, self)
        self._reader.cache.clear()
        # A connector that knows no sessions removes everything when it is closed.
        if self.owner or isinstance(self.connector, SessionMember):
            self.connector.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (recipes.open_store, (self.recipe,))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store has been closed", store=self.name)


def _goes_as_it_is(obj: Any, skip_nonproxiable: bool) -> bool:
    """Return whether an object is given back instead of a proxy of it."""
    nonproxiable = obj is None or obj is True or obj is False
    return isinstance(obj, Proxy) or (skip_nonproxiable and nonproxiable)
