"""Something in the background runs while there is reason to, and nobody waits for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from proxyflow.periodic import Periodic, poll
from tests.processes import LONG


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_it_ends_without_reason_and_starts_again_with_one() -> None:
    called = threading.Semaphore(0)

    def action() -> bool:
        called.release()
        return False

    periodic = Periodic("ends", 0.001, action)
    for _ in range(3):
        periodic.ensure_running()
        assert called.acquire(timeout=LONG)
        assert poll(lambda: not threads("ends"), LONG)


def test_asking_does_not_wait_for_an_action_that_takes_long() -> None:
    """And what was asked for during the action is not lost with its end."""
    acting, go_on = threading.Semaphore(0), threading.Event()

    def action() -> bool:
        acting.release()
        go_on.wait(LONG)
        return False

    periodic = Periodic("slow", 0.001, action)
    periodic.ensure_running()
    assert acting.acquire(timeout=LONG)
    asking = threading.Thread(target=periodic.ensure_running)
    asking.start()
    asking.join(LONG)
    assert not asking.is_alive()
    assert len(threads("slow")) == 1
    go_on.set()
    assert acting.acquire(timeout=LONG)
    assert poll(lambda: not threads("slow"), LONG)


def test_an_action_that_fails_is_reported_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    called = threading.Semaphore(0)

    def action() -> bool:
        called.release()
        raise ZeroDivisionError

    periodic = Periodic("fails", 0.001, action)
    for n in range(2):
        periodic.ensure_running()
        assert called.acquire(timeout=LONG)
        assert poll(lambda: not threads("fails"), LONG)
        assert len(reported) == n + 1
    assert reported[0].exc_type is ZeroDivisionError


def test_polling_ends_when_the_condition_holds() -> None:
    answers = iter([False, False, True])
    assert poll(lambda: next(answers))
    assert not poll(lambda: False, 0)
