"""Killing a child at each of its changes to the file system in turn."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["killed_at_each_step"]

_FORK = multiprocessing.get_context("fork")
_CHANGES = ("open", "pwritev", "link", "unlink", "rename", "mkdir", "rmdir")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _changes(call: str, arguments: tuple[Any, ...]) -> bool:
    return call != "open" or bool(arguments[1] & os.O_CREAT)


def _die_before(step: int) -> None:
    """Have this process killed when it is about to make the change of this number."""
    left = step

    def replacement(call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if _changes(call, arguments):
                if left == 0:
                    _die()
                left -= 1
            return original(*arguments, **options)

        return counted

    for call in _CHANGES:
        setattr(os, call, replacement(call, getattr(os, call)))


def killed_at_each_step(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Do some work again and again, each time killed one change later, until it is done.

    Parameters
    ----------
    prepare
        Called in this process before each time; returns what the child is to do.

    Yields
    ------
    int
        The number of changes made, after each time.
    """
    step = 0
    while True:
        work = prepare()

        def child(step: int = step, work: Callable[[], object] = work) -> None:
            _die_before(step)
            work()
            os._exit(0)

        process = _FORK.Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        yield step
        if process.exitcode == 0:
            assert step > 0, "nothing was changed"
            return
        step += 1
