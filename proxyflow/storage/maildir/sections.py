"""The three directories of a store, held open."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator

from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir.errors import (
    StoreNotPreparedError,
    UnknownSectionError,
    io_error,
    io_errors,
)

__all__ = ["SECTIONS", "Sections", "section_path"]

SECTIONS = ("tmp", "new", "cur")

# A section that is a symbolic link could be anywhere, so it is no section.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# What an NFS client leaves of a file that was removed while open.
_NFS_REMOVED = ".nfs"


def section_path(path: str, section: str) -> str:
    """Return the directory of the section; UnknownSectionError if there is no such section."""
    if section not in SECTIONS:
        raise _unknown(section, path)
    return os.path.join(path, section)


def _unknown(section: str, path: str) -> UnknownSectionError:
    return UnknownSectionError(
        f"there is no section {section!r}", store=path, remedy="use tmp, new or cur"
    )


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


class Sections:
    """Descriptors of the three directories, closed when nobody uses them any more.

    Working relative to descriptors saves looking up the path for every file (about a tenth of the
    time of a put, claim and acknowledgement), and nobody can exchange a directory underneath.
    Closing them with the last reference, not on request, keeps a thread that is still at work from
    using a number that meanwhile belongs to something else.

    Parameters
    ----------
    path
        The directory of the store.
    directory
        A descriptor of it, if it is not to be looked up by its path.
    """

    def __init__(self, path: str, directory: Descriptor | None = None) -> None:
        self.path = path
        self._directory = directory
        self._fds: dict[str, int] = {}
        self._identities: dict[str, tuple[int, int]] = {}
        for section in SECTIONS:
            name, parent = self._place(section)
            try:
                self._fds[section] = os.open(name, _DIRECTORY, dir_fd=parent)
            except FileNotFoundError as error:
                raise StoreNotPreparedError(
                    f"there is no directory {section!r}",
                    store=path,
                    remedy="call prepare() first",
                    number=errno.ENOENT,
                ) from error
            except OSError as error:
                raise io_error(error, f"open directory {section!r}", store=path) from error
            self._identities[section] = _identity(os.fstat(self._fds[section]))
        self.tmp = self._fds["tmp"]
        self.new = self._fds["new"]
        self.cur = self._fds["cur"]

    def _place(self, section: str) -> tuple[str, int | None]:
        if self._directory is not None:
            return section, self._directory.fd
        return section_path(self.path, section), None

    def fd(self, section: str) -> int:
        """Return the descriptor; UnknownSectionError if there is no such section."""
        if section not in self._fds:
            raise _unknown(section, self.path)
        return self._fds[section]

    def are_current(self) -> bool:
        """Whether these are the directories found under the path now."""
        try:
            return all(
                self._identity_now(section) == identity
                for section, identity in self._identities.items()
            )
        except OSError:
            return False

    def _identity_now(self, section: str) -> tuple[int, int]:
        name, parent = self._place(section)
        return _identity(os.stat(name, dir_fd=parent, follow_symlinks=False))

    def files(self, section: str) -> Generator[str, None, None]:
        """Iterate over the names of regular files, in no order."""
        with io_errors(f"list {section}", store=self.path):
            # A descriptor of its own: the position in a directory is shared by duplicates.
            fd = os.open(".", _DIRECTORY, dir_fd=self.fd(section))
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False) and not entry.name.startswith(
                            _NFS_REMOVED
                        ):
                            yield entry.name
            finally:
                os.close(fd)

    def __del__(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
