"""Making a directory together with those in it, at once."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from proxyflow.storage.maildir.names import unique_name

__all__ = ["make_tree", "moved"]

# Another directory is in the way.
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})


def make_tree(name: str, inner: Sequence[str], parent: int) -> bool:
    """Make a directory that nobody sees before all is in it.

    Parameters
    ----------
    name
        Name of the directory.
    inner
        The directories in it, parents first.
    parent
        Descriptor of the directory it is made in.

    Returns
    -------
    bool
        False if there was one already.
    """
    unfinished = f".new-{unique_name()}"
    paths = [unfinished, *(os.path.join(unfinished, each) for each in inner)]
    try:
        for path in paths:
            os.mkdir(path, 0o700, dir_fd=parent)
        if moved(unfinished, name, parent):
            return True
    except BaseException:
        _remove(paths, parent)
        raise
    _remove(paths, parent)
    return False


def moved(source: str, name: str, parent: int) -> bool:
    """Rename a directory; False if it is not there, or there is one of that name already."""
    try:
        os.rename(source, name, src_dir_fd=parent, dst_dir_fd=parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _remove(paths: Sequence[str], parent: int) -> None:
    for path in reversed(paths):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path, dir_fd=parent)
