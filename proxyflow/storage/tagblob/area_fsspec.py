"""A place on a file system that fsspec knows, such as a prefix in an S3 bucket, as an area.

Nothing here locks out other processes. What excludes two of them is exclusive creation (fsspec's
modes ``"create"`` and ``"xb"``), which object stores offer as a conditional write: S3 as
``If-None-Match: *``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import IO, Any

from .area import Area, Buffer, Entry
from .errors import ConfigError, MissingDependencyError, Unavailable

__all__ = ["FsspecArea"]

_MODIFIED_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created")
_READ_BLOCK = 8 * 2**20


class FsspecArea:
    """The area below an fsspec URL.

    Parameters
    ----------
    url
        For instance ``s3://bucket/prefix``.
    storage_options
        Passed to the file system: endpoint, credentials. Never shown, never stored.
    """

    locks = False

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self._options = dict(storage_options or {})
        self._fs: Any = None
        self._thread_locks: dict[str, threading.Lock] = {}
        self._pid = -1
        self._root = str(self.fs._strip_protocol(self.url)).rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fs": None, "_thread_locks": {}, "_pid": -1}

    @property
    def fs(self) -> Any:
        """The file system; a forked child gets its own, as their event loop does not survive."""
        if self._pid != os.getpid():
            self._renew()
        return self._fs

    def _renew(self) -> None:
        self._fs = _open_filesystem(self.url, self._options)
        # A lock that another thread held during the fork would never be released.
        self._thread_locks = {}
        self._pid = os.getpid()

    def child(self, name: str) -> Area:
        """Return the area one directory below."""
        return FsspecArea(f"{self.url}/{name}", self._options)

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        with _remote(self.url):
            return bytes(self.fs.cat_file(self._full(path)))

    def create(self, path: str, data: bytes) -> None:
        """Store a small file at once; FileExistsError when the path is taken."""
        with _remote(self.url):
            self.fs.pipe_file(self._full(path), data, mode="create")

    def writer(self, path: str, *, replace: bool = False) -> FsspecWriter:
        """Start a file that nobody sees before its `commit`."""
        return FsspecWriter(self, self._full(path), "wb" if replace else "xb")

    def open(self, path: str) -> IO[bytes]:
        """Return a file for reading."""
        with _remote(self.url):
            file: IO[bytes] = self.fs.open(self._full(path), "rb", block_size=_READ_BLOCK)
            return file

    def size(self, path: str) -> int:
        """Return the number of bytes."""
        with _remote(self.url):
            return int(self.fs.info(self._full(path))["size"])

    def local_path(self, path: str) -> str | None:
        """Return the absolute path on this host, ``None`` where there is none."""
        return None

    def names(self, directory: str) -> list[str]:
        """Return the file names directly in a directory."""
        return [entry.path.rsplit("/", 1)[1] for entry in self.scan(directory)]

    def scan(self, directory: str) -> Iterator[Entry]:
        """Yield every file below a directory."""
        with _remote(self.url):
            found = self.fs.find(self._full(directory), detail=True)
        for path, info in found.items():
            # Some file systems answer with a leading slash the stripped root does not have.
            relative = path.lstrip("/").removeprefix(self._root.lstrip("/")).lstrip("/")
            # A directory that just came into being may be answered as the thing asked for itself.
            if relative.startswith(f"{directory}/"):
                yield Entry(relative, int(info["size"]), _modified(info))

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; those already gone do not matter."""
        for path in paths:
            with _remote(self.url), contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self._full(path))

    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Keep the threads of this process apart, which spares them lost attempts."""
        if self._pid != os.getpid():
            self._renew()
        return _held(self._thread_locks.setdefault(name, threading.Lock()), wait)

    def sweep_partial(self, before: float) -> int:
        """Abort multipart uploads that nobody completed; only S3 keeps such things."""
        if not hasattr(self.fs, "list_multipart_uploads"):
            return 0
        bucket, _, prefix = self._root.partition("/")
        swept = 0
        with _remote(self.url):
            for upload in self.fs.list_multipart_uploads(bucket):
                old = upload["Initiated"].timestamp() < before
                if old and upload["Key"].startswith(f"{prefix}/"):
                    self.fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
                    swept += 1
        return swept

    def remove_directory(self, directory: str) -> None:
        """Remove a directory if it is empty."""
        return

    def free(self) -> int | None:
        """Return the bytes left, ``None`` where nobody can tell."""
        return None


class FsspecWriter:
    """A file that the file system shows when it is closed."""

    def __init__(self, area: FsspecArea, path: str, mode: str) -> None:
        self._area = area
        self._path = path
        self._mode = mode
        with _remote(area.url):
            self._file = area.fs.open(path, mode)

    def write(self, data: Buffer) -> None:
        with _remote(self._area.url):
            # bytes(): a buffer that the caller fills again must not be kept by an upload.
            self._file.write(bytes(data))

    def commit(self) -> None:
        with _remote(self._area.url):
            self._file.close()

    def abort(self) -> None:
        """Give up. What a plain file system shows already stays, unreachable, for `gc`.

        It is not removed here: after a commit that failed on a taken name, the file is another's.
        """
        with _remote(self._area.url):
            if hasattr(self._file, "discard"):
                self._file.discard()
        # A buffered file uploads what it has when it is garbage collected, unless it seems closed.
        with contextlib.suppress(AttributeError):
            self._file.closed = True


@contextlib.contextmanager
def _held(lock: threading.Lock, wait: bool) -> Iterator[bool]:
    held = lock.acquire(blocking=wait)
    try:
        yield held
    finally:
        if held:
            lock.release()


def _open_filesystem(url: str, options: Mapping[str, Any]) -> Any:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            "volumes that are not local need fsspec",
            store=url,
            remedy="pip install 'proxyflow[s3]'",
        ) from error
    scheme = url.partition("://")[0]
    try:
        # Listings must be fresh: another process may have committed a version since.
        return fsspec.filesystem(
            scheme, use_listings_cache=False, skip_instance_cache=True, **options
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"fsspec cannot open {scheme}:// volumes: {error}",
            store=url,
            remedy="pip install 'proxyflow[s3]'" if scheme == "s3" else None,
        ) from error
    except ValueError as error:
        raise ConfigError(f"fsspec does not know this: {error}", store=url) from error


def _modified(info: Mapping[str, Any]) -> float:
    """Return when a file was stored; now, and so too young to collect, if nobody knows."""
    for key in _MODIFIED_KEYS:
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return time.time()


@contextlib.contextmanager
def _remote(url: str) -> Iterator[None]:
    """Turn what a file system's client library raises into an OSError the layers above know.

    Client libraries have exception classes of their own (botocore, google.api_core, paramiko), and
    none can be named here; every one means that the volume did not do what it was asked.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise Unavailable(
            f"the volume does not answer: {type(error).__name__}: {error}",
            store=url,
            remedy="check that it is reachable and the credentials are right",
        ) from error
