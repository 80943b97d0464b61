"""The future that keeps a store in step with its task: told of every outcome, once."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from proxyflow.taskfuture import TaskFuture


class Heard:
    """What a submitter is told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Any, Any, str]] = []

    def __call__(self, future: TaskFuture, task: Any, result: Any, error: Any) -> None:
        self.outcomes.append((task, result, type(error).__name__))


def finish(future: Future[Any], outcome: str) -> None:
    """Do what an executor does."""
    if outcome == "result":
        future.set_result(3)
    elif outcome == "error":
        future.set_exception(ValueError("no"))
    else:
        future.cancel()
        future.set_running_or_notify_cancel()


OUTCOMES = {
    "result": (3, "NoneType"),
    "error": (None, "ValueError"),
    "cancel": (None, "CancelledError"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_told_once(outcome: str, when: str) -> None:
    """Whether the task ends before its future is taken over or after."""
    future, heard = Future[Any](), Heard()
    if when == "before":
        finish(future, outcome)
    TaskFuture.of(future, heard, "task")
    if when == "after":
        finish(future, outcome)
    future.add_done_callback(lambda _: None)
    assert heard.outcomes == [("task", *OUTCOMES[outcome])]


@pytest.mark.parametrize("outcome", ["result", "error"])
def test_told_of_an_outcome_that_is_just_being_set(outcome: str) -> None:
    """An executor's thread may be inside the future's own method when the future is taken over."""
    future, heard = Future[Any](), Heard()
    with future._condition:
        setting = threading.Thread(target=finish, args=(future, outcome))
        setting.start()
        # It waits for the lock, in the method that the plain future has.
        setting.join(0.05)
        assert setting.is_alive()
        TaskFuture.of(future, heard, "task")
        assert not heard.outcomes
    setting.join()
    assert heard.outcomes == [("task", *OUTCOMES[outcome])]


def test_told_before_anybody_else() -> None:
    """Who has the result finds nothing left in the store."""
    future = Future[Any]()
    announced: list[bool] = []
    TaskFuture.of(future, lambda future, *_: announced.append(future.done()), None)
    future.set_result(1)
    assert announced == [False]


def test_two_submitters_of_one_future_are_both_told() -> None:
    future, first, second = Future[Any](), Heard(), Heard()
    TaskFuture.of(TaskFuture.of(future, first, 1), second, 2)
    future.set_result(3)
    assert (first.outcomes, second.outcomes) == ([(1, 3, "NoneType")], [(2, 3, "NoneType")])


def test_cancelled_future_raises_as_ever() -> None:
    future = TaskFuture.of(Future(), Heard(), None)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
