"""The data stores of a filespace at LucidLink."""

from __future__ import annotations

import itertools
import os
from typing import Any

from .connect import ConnectManager
from .datastores import DataStoreConfig, S3Credentials, S3DataStoreConfig
from .errors import DataStoreNotFoundError, InvalidArgumentError, UnsupportedOperationError
from .filesystem import Path
from .lucidlink_fs import LucidLinkFilesystem
from .lucidlink_sdk import sdk_connect, translated
from .models import DataStoreInfo, LinkedFile, LinkedFilesResult

__all__ = ["LucidLinkConnect"]


class LucidLinkConnect(ConnectManager):
    """`ConnectManager` over the SDK's ``DataStores``."""

    def __init__(self, stores: Any, fs: LucidLinkFilesystem) -> None:
        self._stores, self._fs = stores, fs

    def add_data_store(self, name: str, config: DataStoreConfig) -> DataStoreInfo:
        """See `ConnectManager.add_data_store`; the service keeps the keys, encrypted."""
        if not isinstance(config, S3DataStoreConfig):
            raise UnsupportedOperationError("LucidLink has no data stores of local files")
        keys = config.credentials.resolved(name)
        sdk_config = sdk_connect().S3DataStoreConfig(
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            bucket_name=config.bucket_name,
            region=config.region,
            endpoint=config.endpoint,
            url_expiration_minutes=config.url_expiration_minutes,
            use_virtual_addressing=config.use_virtual_addressing,
        )
        with translated():
            return _info(self._stores.add(name, sdk_config))

    def get_data_store(self, name: str) -> DataStoreInfo | None:
        """See `ConnectManager.get_data_store`."""
        try:
            with translated():
                return _info(self._stores.get(name))
        except DataStoreNotFoundError:
            return None

    def list_data_stores(self) -> list[DataStoreInfo]:
        """See `ConnectManager.list_data_stores`."""
        with translated():
            found = [_info(store) for store in self._stores.list()]
        return sorted(found, key=lambda info: info.name)

    def remove_data_store(self, name: str) -> None:
        """See `ConnectManager.remove_data_store`."""
        with translated():
            self._stores.remove(name)

    def rekey(self, name: str, credentials: S3Credentials) -> None:
        """See `ConnectManager.rekey`; the service moves linked files over in the background."""
        keys = credentials.resolved(name)
        sdk_keys = sdk_connect().S3Credentials(
            access_key=keys.access_key, secret_key=keys.secret_key
        )
        with translated():
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
        with translated():
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
        with translated():
            files = self._stores.get(data_store_name).iter_files()
            page = list(itertools.islice(files, start, start + limit + 1))
            entries = [LinkedFile(one.get_path(), one.entry_id, "") for one in page[:limit]]
        more = len(page) > limit
        return LinkedFilesResult(entries, more, str(start + limit) if more else "")

    def count(self, data_store_name: str) -> int:
        """See `ConnectManager.count`."""
        with translated():
            return int(self._stores.get(data_store_name).count())

    def unlink_file(self, file_path: Path) -> None:
        """See `ConnectManager.unlink_file`."""
        path = self._fs.path(file_path)
        with translated():
            stores = self._stores.list()
        for store in stores:
            try:
                with translated():
                    store.get_file(path)
            except InvalidArgumentError:
                continue  # not a file of this data store
            self._fs.delete(file_path)
            return
        raise InvalidArgumentError(f"{os.fspath(file_path)!r} is not an external file")


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
