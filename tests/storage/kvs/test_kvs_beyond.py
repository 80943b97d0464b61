"""What goes beyond flux.kvs, over every engine: compare and swap, watch, handles."""

from __future__ import annotations

import threading

import pytest

from proxyflow.storage import kvs
from tests.storage.kvs.committing import commit


def test_compare_and_swap(handle: kvs.Handle) -> None:
    swap = kvs.compare_and_swap
    assert not swap(handle, "d.a", 1, 2)
    assert swap(handle, "d.a", kvs.MISSING, {"n": 1, "m": True})
    assert not swap(handle, "d.a", kvs.MISSING, 2)
    assert not swap(handle, "d.a", {"n": 1, "m": 1}, 2)
    assert swap(handle, "d.a", {"m": True, "n": 1}, bytes(10_000))
    assert swap(handle, "d.a", bytes(10_000), None)
    assert swap(handle, "d.a", None, kvs.MISSING)
    assert list(kvs.get_dir(handle, "d")) == []
    assert swap(handle, "d.a", kvs.MISSING, b"\xff")
    with pytest.raises(IsADirectoryError):
        swap(handle, "d", kvs.MISSING, 1)
    with pytest.raises(TypeError):
        swap(handle, "d.a", object(), 1)
    assert kvs.get(handle, "d.a") == b"\xff"


def test_compare_and_swap_leaves_what_is_staged(handle: kvs.Handle) -> None:
    kvs.put(handle, "a", 1)
    assert kvs.compare_and_swap(handle, "b", kvs.MISSING, 1)
    assert not kvs.exists(handle, "a")
    kvs.commit(handle)
    assert kvs.exists(handle, "a")


def test_watch_yields_what_is_and_what_comes(handle: kvs.Handle) -> None:
    values = kvs.watch(handle, "d.a", timeout=60)
    assert next(values) is kvs.MISSING

    def write() -> None:
        commit(handle, other=1)
        kvs.put(handle, "d.a", 1)
        kvs.commit(handle)

    writer = threading.Thread(target=write)
    writer.start()
    assert next(values) == 1
    writer.join()
    kvs.put(handle, "elsewhere", bytes(10_000))
    kvs.put_symlink(handle, "d.a", "elsewhere")
    kvs.commit(handle)
    assert next(values) == "\0" * 10_000
    commit(handle, elsewhere=2)
    assert next(values) == 2
    kvs.put_unlink(handle, "d")
    kvs.commit(handle)
    assert next(values) is kvs.MISSING
    kvs.put_mkdir(handle, "d.a")
    kvs.commit(handle)
    assert isinstance(next(values), kvs.KVSDir)
    values.close()  # type: ignore[attr-defined]


def test_watch_times_out_although_other_keys_change(handle: kvs.Handle) -> None:
    values = kvs.watch(handle, "a", timeout=0.2)
    assert next(values) is kvs.MISSING
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            commit(handle, other=number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(TimeoutError, match=r"no change within 0\.2 s"):
            next(values)
    finally:
        stop.set()
        writer.join()


def test_a_closed_handle_says_so(url: str) -> None:
    handle = kvs.open(url)
    kvs.put(handle, "a", 1)
    handle.close()
    handle.close()
    for call in (kvs.commit, kvs.namespace_list, lambda closed: kvs.get(closed, "a")):
        with pytest.raises(kvs.ClosedError, match="closed"):
            call(handle)
    with kvs.open(url) as again:
        assert not kvs.exists(again, "a")


def test_what_outlives_a_handle(shared_url: str) -> None:
    with kvs.open(shared_url) as handle:
        commit(handle, a=1)
    with kvs.open(shared_url) as one, kvs.open(shared_url) as other:
        assert kvs.get(one, "a") == 1
        commit(one, b=2)
        assert kvs.get(other, "b") == 2
        kvs.dropcache(other)
        assert kvs.get(other, "b") == 2


def test_a_handle_shows_its_url_and_cannot_be_pickled(handle: kvs.Handle) -> None:
    import pickle

    assert repr(handle) == f"<kvs.Handle {handle.url}>"
    with pytest.raises(TypeError, match="carry its URL"):
        pickle.dumps(handle)


def test_each_thread_stages_for_itself(handle: kvs.Handle) -> None:
    """As with one Flux handle per thread: nobody commits half of what another has staged."""
    kvs.put(handle, "mine", 1)

    def other() -> None:
        kvs.put(handle, "theirs", 1)
        kvs.commit(handle)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert kvs.exists(handle, "theirs")
    assert not kvs.exists(handle, "mine")
    kvs.commit(handle)
    assert kvs.exists(handle, "mine")
