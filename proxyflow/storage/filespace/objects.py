"""A hub in an object store, reached through fsspec.

One thing is asked of the store that fsspec itself does not offer: to replace an object only if it
is the version that was read. S3 has it (``If-Match`` and ``If-None-Match`` of PutObject), and so
has fsspec's ``memory://``, under a lock of this process. Other stores are refused: without it,
two clients that publish at once would overwrite each other.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from .blobs import Blobs, Handle, Tagged
from .errors import HubUnavailableError, HubUnsupportedError, MissingDependencyError
from .flock import FileLock
from .leases import LeaseLock

__all__ = ["ObjectBlobs"]

SPOOL_PREFIX = "filespace-spool-"

_memory_lock = threading.Lock()


class ObjectBlobs:
    """Blobs as the objects below a URL.

    Parameters
    ----------
    url
        ``s3://bucket/prefix`` or ``memory://prefix``.
    options
        What fsspec's file system takes, such as ``endpoint_url``; give credentials the way the
        store's own tools find them (environment, profile, instance role).
    """

    keeps_open_files = False

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        if protocol not in ("s3", "s3a", "memory"):
            raise HubUnsupportedError(
                f"{protocol}:// cannot replace an object on a condition; use a directory or s3://"
            )
        self._s3 = protocol != "memory"
        # Listings are read to find what others wrote; a cached one is of no use.
        extra = {"use_listings_cache": False, "skip_instance_cache": True} if self._s3 else {}
        self._options = {**options, **extra}
        self._connect()

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._spool: str | None = None
        self._end: weakref.finalize[..., ObjectBlobs] | None = None
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            self._connected, self._root = url_to_fs(self.url, **self._options)
        except ImportError as error:
            raise MissingDependencyError(
                f"a hub at {self.url} needs fsspec and what it reaches that with ({error}): "
                "pip install 'proxyflow[s3]'"
            ) from error

    @property
    def _fs(self) -> Any:
        if self._pid != os.getpid():
            self._connect()  # connections and the spool are the parent's
        return self._connected

    def read(self, name: str) -> bytes | None:
        """See `Blobs.read`."""
        tagged = self.read_tagged(name)
        return None if tagged is None else tagged.data

    def read_tagged(self, name: str, known: Any = None) -> Tagged | None:
        """See `Blobs.read_tagged`."""
        path = self._path(name)
        with self._reaching():
            try:
                if not self._s3:
                    data = self._fs.cat_file(path)
                    return Tagged(data, data)
                from fsspec.asyn import sync  # type: ignore[import-untyped]

                return Tagged(*sync(self._fs.loop, _get, self._fs, path, known))
            except FileNotFoundError:
                return None
            except OSError as error:
                if _status(error) == 304:  # not modified
                    return Tagged(b"", known)
                raise

    def serialised(self, name: str, timeout: float) -> AbstractContextManager[object]:
        """See `Blobs.serialised`."""
        return nullcontext()

    def swap(self, name: str, tag: Any, data: bytes) -> Any | None:
        """See `Blobs.swap`."""
        path = self._path(name)
        if self._s3:
            return self._swap_s3(path, tag, data)
        with _memory_lock:
            now = self._fs.cat_file(path) if self._fs.exists(path) else None
            if now != tag:
                return None
            self._fs.pipe_file(path, data)
            return data

    def _swap_s3(self, path: str, tag: Any, data: bytes) -> Any | None:
        bucket, key, _ = self._fs.split_path(path)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._reaching():
            try:
                answer = self._fs.call_s3(
                    "put_object", Bucket=bucket, Key=key, Body=data, **condition
                )
            except OSError as error:
                # 412: another version is there; 409: another client is replacing it right now.
                if _status(error) in (409, 412):
                    return None
                raise
        return answer["ETag"]

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """See `Blobs.write`."""
        if blobs:
            with self._reaching():
                self._fs.pipe({self._path(name): data for name, data in blobs.items()})

    def delete(self, names: list[str]) -> None:
        """See `Blobs.delete`."""
        for name in names:
            with self._reaching():
                try:
                    self._fs.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def delete_folder(self, folder: str) -> None:
        """See `Blobs.delete_folder`."""
        with self._reaching():
            try:
                self._fs.rm(self._path(folder), recursive=True)
            except FileNotFoundError:
                return

    def prune(self, folder: str) -> None:
        """Do nothing: an object store has no empty folders."""

    def names(self, prefix: str) -> Iterator[str]:
        """See `Blobs.names`."""
        with self._reaching():
            found = cast(list[str], self._fs.find(self._path(prefix)))
        for path in found:
            yield path[len(self._root.rstrip("/")) + 1 :]

    def spool(self, folder: str) -> str:
        """See `Blobs.spool`."""
        if self._pid != os.getpid():
            self._connect()
        if self._spool is None:
            _sweep_spools()
            self._spool, lock = _new_spool()
            self._end = weakref.finalize(self, _remove_spool, self._spool, lock, os.getpid())
        path = os.path.join(self._spool, folder.replace("/", "_"))
        os.makedirs(path, exist_ok=True)
        return path

    def publish(self, folder: str, items: list[str]) -> None:
        """See `Blobs.publish`."""
        for item in items:
            source = os.path.join(self.spool(folder), item)
            with self._reaching():
                self._fs.put_file(source, self._path(f"{folder}/{item}"))

    def size(self, name: str) -> int:
        """See `Blobs.size`."""
        with self._reaching():
            return int(self._fs.size(self._path(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """See `Blobs.read_range`."""
        with self._reaching():
            return cast(bytes, self._fs.cat_file(self._path(name), start=start, end=end))

    def local_path(self, name: str) -> str | None:
        """See `Blobs.local_path`."""
        return None

    def lock(self, name: str, shared: bool, timeout: float) -> Handle:
        """See `Blobs.lock`."""
        return LeaseLock(cast(Blobs, self), name, shared, timeout)

    def close(self) -> None:
        """See `Blobs.close`."""
        if self._end is not None:
            self._end()
            self._spool = self._end = None

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn what the store's client raises into one error that names the hub."""
        try:
            yield
        except FileNotFoundError:
            raise
        except _client_errors() as error:
            raise HubUnavailableError(f"hub {self.url}: {type(error).__name__}: {error}") from error


async def _get(fs: Any, path: str, known: str | None) -> tuple[bytes, str]:
    bucket, key, _ = fs.split_path(path)
    condition = {} if known is None else {"IfNoneMatch": known}
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **condition)
    async with answer["Body"] as body:
        return await body.read(), answer["ETag"]


def _status(error: BaseException) -> int:
    response = getattr(error.__cause__, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _client_errors() -> tuple[type[BaseException], ...]:
    try:
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
        )
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)


def _new_spool() -> tuple[str, FileLock]:
    while True:
        path = tempfile.mkdtemp(prefix=SPOOL_PREFIX)
        try:
            return path, FileLock(os.path.join(path, ".lock"))
        except (TimeoutError, FileNotFoundError):
            continue  # a sweeping process took the new directory for an abandoned one


def _remove_spool(path: str, lock: FileLock, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not take the spool from its parent
        shutil.rmtree(path)
        lock.release()


def _sweep_spools() -> None:
    """Remove the spools that killed processes of this user left in the temporary directory."""
    top = tempfile.gettempdir()
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if not name.startswith(SPOOL_PREFIX):
            continue
        try:
            if os.stat(path).st_uid != os.getuid():
                continue
            with FileLock(os.path.join(path, ".lock")):
                shutil.rmtree(path)
        except OSError:
            continue  # its owner lives, or removes it, or another process sweeps it too
