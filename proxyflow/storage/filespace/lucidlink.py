"""LucidLink's own service behind the classes of this package, through its SDK 1.x.

The names of the SDK's beta, which this package has, are mapped to those of 1.0. What the service
does differently shows through: changes also travel in the background, so others may see them
before ``sync_all()``; ``open`` refuses a symbolic link at the end of a path (``ELOOP``) and a
relative link starts at the root; there are no locks. What 1.0 cannot do raises
`UnsupportedOperationError`.

Every name and parameter used here was checked against the SDK's classes. Nothing here has been
run against the service.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
from collections.abc import Iterator
from typing import IO, Any

from . import errors
from .connect import ConnectManager
from .datastores import DataStoreConfig, S3Credentials, S3DataStoreConfig
from .errors import (
    FilespaceError,
    FsError,
    FsExistsError,
    FsNotADirectoryError,
    FsNotFoundError,
    HubUnavailableError,
    InvalidArgumentError,
    MissingDependencyError,
    UnsupportedOperationError,
)
from .filesystem import Filesystem, Path
from .models import (
    Conflict,
    DataStoreInfo,
    DirEntry,
    FilespaceInfo,
    FilespaceStatistics,
    LinkedFile,
    LinkedFilesResult,
)
from .paths import join, split

__all__ = ["LucidLinkService", "connected"]


def connected(token_env: str) -> LucidLinkService:
    """Log in with the token in an environment variable; see `Workspace.lucidlink`."""
    sdk = _sdk()
    token = os.environ.get(token_env, "")
    if not token:
        raise InvalidArgumentError(f"the environment variable {token_env} is not set")
    with _translated():
        client = sdk.Client()
        client.login(sdk.ServiceAccountCredentials(token))
    return LucidLinkService(client)


class LucidLinkService:
    """A `Service` over a logged-in ``lucidlink.Client``."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._workspace = client.workspace
        self.id, self.name = str(self._workspace.id), str(self._workspace.name)

    def list(self) -> list[FilespaceInfo]:
        """See `Service.list`."""
        with _translated():
            found = self._workspace.list_filespaces()
        return [FilespaceInfo(info.id, info.name, info.created_at) for info in found]

    def create(self, name: str) -> FilespaceInfo:
        """Refuse: the SDK cannot."""
        raise UnsupportedOperationError(
            f"workspace {self.name!r} has no filespace {name!r}; LucidLink's SDK cannot create "
            "one, its web client can"
        )

    def delete(self, name: str) -> None:
        """Refuse: the SDK cannot."""
        raise UnsupportedOperationError("LucidLink's SDK cannot delete a filespace")

    def find(self, name: str | None, identifier: str | None) -> FilespaceInfo | None:
        """See `Service.find`."""
        for info in self.list():
            if info.id == identifier or info.name.partition(".")[0] == name:
                return info
        return None

    def link(self, info: FilespaceInfo, root_path: str) -> LucidLinkLink:
        """See `Service.link`."""
        with _translated():
            filespace = self._workspace.link_filespace(info.id)
        return LucidLinkLink(filespace, info.name, root_path)

    def close(self) -> None:
        """See `Service.close`."""
        with _translated():
            self._client.close()


class LucidLinkLink:
    """A `Link` over a ``lucidlink.Filespace``."""

    def __init__(self, filespace: Any, name: str, root_path: str) -> None:
        self._filespace = filespace
        self.id = str(filespace.id)
        self.workspace_id = str(filespace.workspace.id)
        self.workspace_name = str(filespace.workspace.name)
        self.full_name = name if "." in name else f"{name}.{self.workspace_name}"
        self._fs = LucidLinkFilesystem(filespace.file_system, root_path)

    @property
    def fs(self) -> Filesystem:
        """See `Link.fs`."""
        return self._fs

    @property
    def is_linked(self) -> bool:
        """See `Link.is_linked`."""
        return bool(self._filespace.is_linked)

    @property
    def connect(self) -> ConnectManager:
        """See `Link.connect`."""
        with _translated():
            stores = self._filespace.connect.data_stores
        return LucidLinkConnect(stores, self._fs)

    def sync(self) -> None:
        """See `Link.sync`."""
        with _translated():
            self._filespace.sync()

    def refresh(self) -> None:
        """Do nothing: the service brings others' changes in by itself."""

    def compact(self) -> None:
        """Publish; the service tidies up by itself."""
        self.sync()

    def conflicts(self) -> list[Conflict]:
        """Return nothing: the service does not report conflicts."""
        return []

    def close_files(self) -> None:
        """Do nothing: the SDK closes open files when it unlinks."""

    def close(self) -> None:
        """See `Link.close`; the final sync, if there was to be one, has been made."""
        with _translated():
            self._filespace.sync_barrier = _sdk().SyncBarrier.NONE
            self._filespace.unlink()


class LucidLinkFilesystem(Filesystem):
    """`Filesystem` over a ``lucidlink.FileSystem``."""

    def __init__(self, file_system: Any, root_path: str) -> None:
        self.native = file_system
        self._utils = _sdk().FsUtils(file_system)
        self._root = split(root_path)

    def path(self, path: Path) -> str:
        """Return `path`, which is below the root of the link, as the service knows it."""
        done: list[str] = []
        for name in split(path):
            if name == "..":
                del done[-1:]
            else:
                done.append(name)
        return join((*self._root, *done))

    def read_dir(self, path: Path) -> list[DirEntry]:
        """See `Filesystem.read_dir`."""
        with _translated():
            entries = [_entry(found) for found in self.native.read_dir(self.path(path))]
        return sorted(entries, key=lambda entry: entry.name)

    def create_dir(self, path: Path) -> None:
        """See `Filesystem.create_dir`; the service makes one level at a time."""
        where = self.path(path)
        parts = split(where)
        for depth in range(1, len(parts)):
            with contextlib.suppress(FsExistsError), _translated():
                self.native.create_dir(join(parts[:depth]))
        with _translated():
            self.native.create_dir(where)

    def delete_dir(self, path: Path, recursive: bool = False) -> None:
        """See `Filesystem.delete_dir`."""
        with _translated():
            if recursive:
                self._utils.delete_tree(self.path(path))
            else:
                self.native.delete_dir(self.path(path))

    def move(self, src: Path, dst: Path) -> None:
        """See `Filesystem.move`."""
        with _translated():
            self.native.move(self.path(src), self.path(dst))

    def delete(self, path: Path) -> None:
        """See `Filesystem.delete`."""
        with _translated():
            self.native.delete(self.path(path))

    def truncate(self, path: Path, size: int) -> None:
        """See `Filesystem.truncate`."""
        with _translated():
            self.native.truncate(self.path(path), size)

    def get_entry(self, path: Path) -> DirEntry:
        """See `Filesystem.get_entry`."""
        with _translated():
            return _entry(self.native.get_entry(self.path(path)))

    def statistics(self) -> FilespaceStatistics:
        """See `Filesystem.statistics`; the service counts entries of all kinds together."""
        with _translated():
            found = self.native.statistics()
        return FilespaceStatistics(
            entries_count=found.entries_count,
            data_size=found.storage_size,
            external_files_count=found.external_files_count,
            external_files_size=found.external_files_size,
        )

    def open(
        self,
        path: Path,
        mode: str = "rb",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        lock_type: str = "",
        *,
        lock_timeout: float = 10.0,
    ) -> IO[Any]:
        """See `Filesystem.open`; there are no locks."""
        if lock_type:
            raise UnsupportedOperationError("LucidLink's SDK 1.x has no file locks")
        with _translated():
            stream: IO[Any] = self.native.open(
                self.path(path),
                mode,
                buffering=buffering,
                encoding=encoding,
                errors=errors,
                newline=newline,
            )
        return stream

    def read_file(self, path: Path) -> bytes:
        """See `Filesystem.read_file`."""
        with _translated():
            return bytes(self._utils.read_bytes(self.path(path)))

    def write_file(self, path: Path, data: Any) -> None:
        """See `Filesystem.write_file`; the service empties the file first."""
        with _translated():
            self._utils.write_bytes(self.path(path), data)

    def create_symlink(self, target_path: Path, link_path: Path) -> None:
        """See `Filesystem.create_symlink`."""
        with _translated():
            self.native.create_symlink(os.fspath(target_path), self.path(link_path))

    def read_symlink(self, link_path: Path) -> str:
        """See `Filesystem.read_symlink`."""
        with _translated():
            return str(self.native.read_symlink(self.path(link_path)))

    def file_exists(self, path: Path) -> bool:
        """See `Filesystem.file_exists`."""
        entry = self._find(path)
        return entry is not None and entry.is_file()

    def dir_exists(self, path: Path) -> bool:
        """See `Filesystem.dir_exists`."""
        entry = self._find(path)
        return entry is not None and entry.is_dir()

    def _find(self, path: Path) -> DirEntry | None:
        try:
            return self.get_entry(path)
        except (FsNotFoundError, FsNotADirectoryError):
            return None


class LucidLinkConnect(ConnectManager):
    """`ConnectManager` over the SDK's ``DataStores``."""

    def __init__(self, stores: Any, fs: LucidLinkFilesystem) -> None:
        self._stores, self._fs = stores, fs

    def add_data_store(self, name: str, config: DataStoreConfig) -> DataStoreInfo:
        """See `ConnectManager.add_data_store`; the service keeps the keys, encrypted."""
        if not isinstance(config, S3DataStoreConfig):
            raise UnsupportedOperationError("LucidLink has no data stores of local files")
        keys = config.credentials.resolved(name)
        sdk_config = _sdk_connect().S3DataStoreConfig(
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            bucket_name=config.bucket_name,
            region=config.region,
            endpoint=config.endpoint,
            url_expiration_minutes=config.url_expiration_minutes,
            use_virtual_addressing=config.use_virtual_addressing,
        )
        with _translated():
            return _info(self._stores.add(name, sdk_config))

    def get_data_store(self, name: str) -> DataStoreInfo | None:
        """See `ConnectManager.get_data_store`."""
        try:
            with _translated():
                return _info(self._stores.get(name))
        except errors.DataStoreNotFoundError:
            return None

    def list_data_stores(self) -> list[DataStoreInfo]:
        """See `ConnectManager.list_data_stores`."""
        with _translated():
            found = [_info(store) for store in self._stores.list()]
        return sorted(found, key=lambda info: info.name)

    def remove_data_store(self, name: str) -> None:
        """See `ConnectManager.remove_data_store`."""
        with _translated():
            self._stores.remove(name)

    def rekey(self, name: str, credentials: S3Credentials) -> None:
        """See `ConnectManager.rekey`; the service moves linked files over in the background."""
        keys = credentials.resolved(name)
        sdk_keys = _sdk_connect().S3Credentials(
            access_key=keys.access_key, secret_key=keys.secret_key
        )
        with _translated():
            self._stores.get(name).rekey(sdk_keys)

    def use_credentials(self, name: str, credentials: S3Credentials) -> None:
        """Refuse: the service reads with the keys it keeps."""
        raise UnsupportedOperationError("LucidLink keeps the credentials of data stores itself")

    def link_file(
        self,
        file_path: Path,
        data_store_name: str,
        object_id: str,
        size: int | None = None,
        checksum: str = "",
    ) -> None:
        """See `ConnectManager.link_file`."""
        path = self._fs.path(file_path)
        with _translated():
            store = self._stores.get(data_store_name)
            store.link(path, object_id, size=size, checksum=checksum or None)

    def link_files(self, path: Path, data_store_name: str, prefix: str = "") -> list[str]:
        """Refuse: the SDK does not list a bucket, and does not tell the keys to do it here."""
        raise UnsupportedOperationError("LucidLink's SDK links one object at a time")

    def list_external_files(
        self, data_store_name: str, limit: int = 100, cursor: str = ""
    ) -> LinkedFilesResult:
        """See `ConnectManager.list_external_files`; in the service's order, keys not told."""
        start = int(cursor or 0)
        with _translated():
            files = self._stores.get(data_store_name).iter_files()
            page = list(itertools.islice(files, start, start + limit + 1))
            entries = [LinkedFile(one.get_path(), one.entry_id, "") for one in page[:limit]]
        more = len(page) > limit
        return LinkedFilesResult(entries, more, str(start + limit) if more else "")

    def count(self, data_store_name: str) -> int:
        """See `ConnectManager.count`."""
        with _translated():
            return int(self._stores.get(data_store_name).count())

    def unlink_file(self, file_path: Path) -> None:
        """See `ConnectManager.unlink_file`."""
        path = self._fs.path(file_path)
        with _translated():
            stores = self._stores.list()
        for store in stores:
            try:
                with _translated():
                    store.get_file(path)
            except InvalidArgumentError:
                continue  # not a file of this data store
            self._fs.delete(file_path)
            return
        raise InvalidArgumentError(f"{os.fspath(file_path)!r} is not an external file")


def _sdk() -> Any:
    try:
        return importlib.import_module("lucidlink")
    except ImportError as error:
        raise MissingDependencyError(
            "LucidLink's service needs its SDK: pip install 'lucidlink>=1.0'"
        ) from error


def _sdk_connect() -> Any:
    return importlib.import_module("lucidlink.connect")


def _entry(found: Any) -> DirEntry:
    kind = "link" if found.is_symlink else "dir" if found.is_dir else "file"
    return DirEntry(
        name=found.name,
        type=kind,
        size=found.size,
        ctime=found.created_at / 1e9,
        mtime=found.modified_at / 1e9,
        entry_id=found.id,
    )


def _info(store: Any) -> DataStoreInfo:
    found = store.info()
    names = (
        "bucket_name",
        "region",
        "endpoint",
        "url_expiration_minutes",
        "use_virtual_addressing",
    )
    settings = {name: getattr(found, name) for name in names if hasattr(found, name)}
    return DataStoreInfo(found.name, str(found.kind.value), settings, "LucidLink's service")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn the SDK's errors into those of the same name here."""
    sdk_errors = importlib.import_module("lucidlink.exceptions")
    try:
        yield
    except sdk_errors.ServiceUnavailableError as error:
        raise HubUnavailableError(str(error)) from error
    except sdk_errors.LucidLinkError as error:
        raise _ours(error) from error


def _ours(error: Exception) -> FilespaceError:
    for kind in type(error).__mro__:
        ours = getattr(errors, kind.__name__, None)
        if not (isinstance(ours, type) and issubclass(ours, FilespaceError)):
            continue
        if issubclass(ours, FsError) and isinstance(error, OSError):
            code = error.errno or ours.default_errno
            text = error.strerror or str(error)
            return ours(code, text, error.filename, None, error.filename2)
        return ours(str(error))
    return FilespaceError(f"{type(error).__name__}: {error}")
