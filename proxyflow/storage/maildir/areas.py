"""The calls of gocept.filestore: files in ``tmp``, ``new`` and ``cur``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Self

from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir import files
from proxyflow.storage.maildir.errors import (
    InvalidNameError,
    MaildirError,
    StoreClosedError,
    io_error,
    io_errors,
)
from proxyflow.storage.maildir.names import base_name, checked_name, unique_name
from proxyflow.storage.maildir.sections import SECTIONS, Sections, section_path
from proxyflow.storage.maildir.stamp import stamped

__all__ = ["FileAreas"]

# Inside the class the name `list` is the method.
_Paths = list[str]

# Enough at a time that the calls do not count.
_COPY_BYTES = 1024 * 1024


class FileAreas:
    """A directory with sections, and files moved between them.

    `FileStore <proxyflow.storage.maildir.FileStore>` is this and a queue.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = False,
        directory: Descriptor | None = None,
    ) -> None:
        self._path = os.path.abspath(os.fspath(path))
        self._directory = directory
        if "\0" in self._path:
            raise InvalidNameError("a path holds no NUL character", name=path)
        self._durable = durable
        self._closed = False
        self._sections: Sections | None = None

    @property
    def path(self) -> str:
        """The directory of the store, absolute."""
        return self._path

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self._path!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self._path, self._durable)

    def __bool__(self) -> bool:
        # An empty store is a store: code written for gocept.filestore asks `if store`.
        return True

    def _open(self) -> Sections:
        """Return the directories, opened by the first use."""
        sections = self._sections
        if sections is None:
            if self._closed:
                raise StoreClosedError("the store object was closed", store=self._path)
            sections = self._sections = Sections(self._path, self._directory)
        return sections

    def _current(self) -> Sections:
        """Return the directories found under the path now, if they were replaced."""
        sections = self._open()
        if not sections.are_current():
            self._sections = None
            sections = self._open()
        return sections

    def prepare(self) -> None:
        """Make the directory and its sections; those that exist stay as they are.

        Raises
        ------
        StoreIOError
            A directory cannot be made, or something else is in its place.
        """
        self._sections = None
        with io_errors("prepare the store", store=self._path):
            if self._directory is None:
                os.makedirs(self._path, mode=0o700, exist_ok=True)
            for section in SECTIONS:
                with contextlib.suppress(FileExistsError):
                    if self._directory is None:
                        os.mkdir(section_path(self._path, section), mode=0o700)
                    else:
                        os.mkdir(section, mode=0o700, dir_fd=self._directory.fd)
            if self._durable:
                for directory in (self._path, os.path.dirname(self._path)):
                    files.sync_directory(directory)
        self._open()

    def close(self) -> None:
        """Let go of the directories; closing twice is no error."""
        self._closed = True
        self._sections = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def create(self, filename: str, mode: str = "w") -> IO[Any]:
        """Open a file in ``tmp``; the caller closes it. Text is UTF-8.

        Raises
        ------
        InvalidNameError
            The name is not that of a file in a section.
        StoreIOError
            The file cannot be opened.

        Examples
        --------
        >>> import tempfile
        >>> from proxyflow.storage.maildir import FileStore
        >>> with tempfile.TemporaryDirectory() as directory, FileStore(directory) as store:
        ...     store.prepare()
        ...     with store.create("a-file") as file:
        ...         _ = file.write("Die Ente bleibt draussen!")
        ...     store.move("a-file", "tmp", "new")
        ...     len(store.list("new"))
        1
        """
        name = checked_name(filename, self._path)
        sections = self._current()

        def opener(path: str, flags: int) -> int:
            return os.open(name, flags | os.O_NOFOLLOW, 0o600, dir_fd=sections.tmp)

        path = os.path.join(section_path(self._path, "tmp"), name)
        encoding = None if "b" in mode else "utf-8"
        with io_errors("create", store=self._path, name=name):
            return open(path, mode, encoding=encoding, opener=opener)

    def list(self, section: str) -> _Paths:
        """Return the full paths of what is in the section, sorted by name.

        Raises
        ------
        UnknownSectionError
            There is no such section.
        StoreNotPreparedError
            There is no store yet.
        """
        directory = section_path(self._path, section)
        self._current()
        with io_errors(f"list {section}", store=self._path):
            return [os.path.join(directory, name) for name in sorted(os.listdir(directory))]

    def move(self, filename: str, source: str, destination: str) -> None:
        """Move a file between sections in one step, over a file of the same name.

        Leading directories of the name are ignored, so that a path from `list` will do.

        Raises
        ------
        FileMissingError
            The file is not in the source section; another process may have moved it.
        InvalidNameError, UnknownSectionError
            There can be no such file or section.
        """
        name = base_name(filename, self._path)
        sections = self._current()
        source_fd, destination_fd = sections.fd(source), sections.fd(destination)
        with io_errors(f"move from {source} to {destination}", store=self._path, name=name):
            os.rename(name, name, src_dir_fd=source_fd, dst_dir_fd=destination_fd)

    def copy(self, filename: str, source: str, destination: str) -> None:
        """Copy a file to another section, where it appears complete.

        Leading directories of the name are ignored, so that a path from `list` will do.

        Raises
        ------
        FileMissingError
            The file is not in the source section.
        StoreFullError
            There is no room for the copy.
        InvalidNameError, UnknownSectionError
            There can be no such file or section.
        """
        name = base_name(filename, self._path)
        sections = self._current()
        with io_errors(f"copy from {source}", store=self._path, name=name):
            original_fd = files.open_regular(name, sections.fd(source))
        with open(original_fd, "rb") as original:

            def write(fd: int) -> None:
                with open(fd, "wb", closefd=False) as file:
                    shutil.copyfileobj(original, file, _COPY_BYTES)

            self._publish(name, destination, write, durable=self._durable)

    def remove(self, filename: str, section: str) -> None:
        """Remove a file from a section.

        Raises
        ------
        FileMissingError
            The file is not in the section.
        InvalidNameError, UnknownSectionError
            There can be no such file or section.
        """
        name = checked_name(self._without_section(filename, section), self._path)
        section_fd = self._current().fd(section)
        with io_errors(f"remove from {section}", store=self._path, name=name):
            os.unlink(name, dir_fd=section_fd)

    def _without_section(
        self, filename: str | os.PathLike[str], section: str
    ) -> str | os.PathLike[str]:
        """Return the name of a file given by its path in just this section, as `list` does."""
        directory = section_path(self._path, section)
        if isinstance(filename, str) and os.path.dirname(filename) == directory:
            return os.path.basename(filename)
        return filename

    def _publish(
        self, name: str, destination: str, write: Callable[[int], None], durable: bool
    ) -> None:
        """Write a file in ``tmp`` and move it to its destination when it is complete."""
        # The stamp tells `recover` whose file it is, should this process die before the rename.
        partial = stamped(unique_name())
        sections = self._open()
        target = sections.fd(destination)
        try:
            try:
                fd = files.create(partial, sections.tmp)
            except FileNotFoundError:
                # The directory is gone; there may be another one under the path.
                sections = self._current()
                target = sections.fd(destination)
                fd = files.create(partial, sections.tmp)
            try:
                write(fd)
                if durable:
                    os.fsync(fd)
            finally:
                # Network file systems report a full disk only now.
                os.close(fd)
            os.rename(partial, name, src_dir_fd=sections.tmp, dst_dir_fd=target)
            if durable:
                os.fsync(target)
        except BaseException as error:
            # What cannot be removed where nothing could be made is not there, or is removed by
            # `recover`; why it could not be made is what the caller has to know.
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=sections.tmp)
            if isinstance(error, OSError) and not isinstance(error, MaildirError):
                raise io_error(error, "write", store=self._path, name=name) from error
            raise


def _reopened(cls: type[FileAreas], path: str, durable: bool) -> FileAreas:
    return cls(path, durable=durable)
