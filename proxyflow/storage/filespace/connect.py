"""Data stores and external files: objects elsewhere as read-only files of the filespace."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .datastores import DataStoreConfig, S3Credentials
from .filesystem import Path
from .models import DataStoreInfo, LinkedFilesResult

__all__ = ["ConnectManager"]


class ConnectManager(ABC):
    """Data stores and external files of a filespace; get it from ``filespace.connect``.

    An external file is an object mapped one to one to a path. Its entry is published, moved and
    deleted like any other; its bytes are read from the data store by ranges, verified to be those
    of the object that was linked, and cannot be written. Deleting the entry never deletes the
    object.

    The calls are those of LucidLink Connect in the SDK's beta, `link_files` is an addition.
    """

    @abstractmethod
    def add_data_store(self, name: str, config: DataStoreConfig) -> DataStoreInfo:
        """Add a data store.

        Raises
        ------
        DataStoreExistsError
            If there is one of this name.
        InvalidArgumentError
            If the name has other characters than letters, digits, spaces, ``_`` and ``-``.
        """

    @abstractmethod
    def get_data_store(self, name: str) -> DataStoreInfo | None:
        """Return what is known of a data store, ``None`` if there is none of this name."""

    @abstractmethod
    def list_data_stores(self) -> list[DataStoreInfo]:
        """Return all data stores, sorted by name."""

    @abstractmethod
    def remove_data_store(self, name: str) -> None:
        """Remove a data store.

        Raises
        ------
        DataStoreNotFoundError
            If there is none of this name.
        DataStoreInUseError
            If files are still linked from it.
        """

    @abstractmethod
    def rekey(self, name: str, credentials: S3Credentials) -> None:
        """Give a data store new credentials; files linked from it are read with them from now on.

        Raises
        ------
        DataStoreNotFoundError
            If there is none of this name.
        DataStoreCredentialsError
            If a linked object cannot be read with them; nothing has changed then.
        InvalidArgumentError
            If the data store has no credentials.
        """

    @abstractmethod
    def use_credentials(self, name: str, credentials: S3Credentials) -> None:
        """Use literal credentials for a data store in this process only.

        Raises
        ------
        DataStoreNotFoundError
            If there is none of this name.
        """

    @abstractmethod
    def link_file(
        self,
        file_path: Path,
        data_store_name: str,
        object_id: str,
        size: int | None = None,
        checksum: str = "",
    ) -> None:
        """Make an object a file.

        Parameters
        ----------
        file_path
            The new file; its directory must exist.
        data_store_name
            Where the object is.
        object_id
            The key of the object; of a local file, its path below the data store's directory.
        size, checksum
            What the object has (checksum: the ETag, or ``mtime-`` and the modification time in
            hexadecimal nanoseconds for a local file). Given together, the object is not looked
            up, which makes bulk linking fast; if they are wrong, every read fails.

        Raises
        ------
        DataStoreNotFoundError
            If there is no such data store.
        DataStoreCredentialsError
            If this process has no credentials for it, or they are rejected.
        FsExistsError
            If `file_path` exists.
        FsNotFoundError
            If its directory does not.
        ExternalObjectNotFoundError
            If the object does not exist.
        InvalidArgumentError
            If only one of `size` and `checksum` is given.
        """

    @abstractmethod
    def link_files(self, path: Path, data_store_name: str, prefix: str = "") -> list[str]:
        """Make every object under `prefix` a file in the directory `path`, which may be new.

        The part of the key after `prefix` is the path below `path`. All or nothing: if one
        cannot be linked, none is.

        Returns
        -------
        list of str
            The new files, in the order of their keys.

        Raises
        ------
        FsExistsError
            If one of the files exists.
        InvalidArgumentError
            If a key cannot be a path, such as one with ``..`` in it.
        """

    @abstractmethod
    def list_external_files(
        self, data_store_name: str, limit: int = 100, cursor: str = ""
    ) -> LinkedFilesResult:
        """Return a page of the files linked from a data store, sorted by path.

        Parameters
        ----------
        data_store_name
            The data store.
        limit
            How many at most.
        cursor
            Empty for the first page, then what the page before has for it.

        Raises
        ------
        DataStoreNotFoundError
            If there is no such data store.
        """

    @abstractmethod
    def count(self, data_store_name: str) -> int:
        """Return how many files are linked from a data store, without looking at them.

        Raises
        ------
        DataStoreNotFoundError
            If there is no such data store.
        """

    @abstractmethod
    def unlink_file(self, file_path: Path) -> None:
        """Remove an external file; its object stays.

        Raises
        ------
        FsNotFoundError
            If `file_path` does not exist.
        InvalidArgumentError
            If it is not an external file.
        """
