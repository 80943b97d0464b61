"""What the KVS promises, over every engine: the semantics of flux.kvs, and what goes beyond."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from typing import Any

import pytest

from proxyflow.storage import kvs

BINARY = bytes(range(256)) * 3


def commit(handle: kvs.Handle, **values: Any) -> None:
    for key, value in values.items():
        kvs.put(handle, key, value)
    kvs.commit(handle)


# -- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, "", "text ☺", [], [1, [2]], (1, 2), {"a": {"b": None}}, {1: 2}, 10**400],
)
def test_json_values_come_back_as_json_does(handle: kvs.Handle, value: Any) -> None:
    commit(handle, a=value)
    assert kvs.get(handle, "a") == json.loads(json.dumps(value))
    assert kvs.get_key_direct(handle, "a") == kvs.get(handle, "a")


@pytest.mark.parametrize(
    ("stored", "guessed"),
    [
        (b"{}", {}),
        (b"{", "{"),
        (b"", ""),
        ("ß".encode(), "ß"),
        (b"\xde\xad\xbe\xef", b"\xde\xad\xbe\xef"),
        (b"with\0nul", "with\0nul"),
        (BINARY, BINARY),
        (b"7" * 5000, "7" * 5000),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_bytes_are_kept_whole_and_guessed_at(
    handle: kvs.Handle, stored: bytes, guessed: Any
) -> None:
    """Flux cuts bytes at the first NUL; numbers and nesting beyond Python's limits are no JSON."""
    commit(handle, a=stored)
    assert kvs.get(handle, "a", raw=True) == stored
    assert kvs.get(handle, "a") == guessed


def test_raw_values_are_bytes_or_strings(handle: kvs.Handle) -> None:
    kvs.put(handle, "s", '{"a": 1}', raw=True)
    kvs.put(handle, "b", bytearray(BINARY), raw=True)
    with pytest.raises(AttributeError):
        kvs.put(handle, "n", 5, raw=True)
    kvs.commit(handle)
    assert kvs.get(handle, "s") == {"a": 1}
    assert kvs.get(handle, "b", raw=True) == BINARY
    assert not kvs.exists(handle, "n")


def test_a_value_that_is_no_json_leaves_what_was_staged(handle: kvs.Handle) -> None:
    kvs.put(handle, "a", 1)
    with pytest.raises(TypeError):
        kvs.put(handle, "b", object())
    kvs.commit(handle)
    assert kvs.get(handle, "a") == 1


def test_values_larger_than_a_record_are_read_in_whole_and_in_ranges(handle: kvs.Handle) -> None:
    """Such values are cut into parts; pieces and parts need not end at the same places."""
    body = random.Random(1).randbytes(40 * 1024 * 1024)
    kvs.put_parts(handle, "a.big", [b"head", bytearray(body), memoryview(b""), b"tail"])
    kvs.commit(handle)
    whole = b"head" + body + b"tail"
    assert kvs.size(handle, "a.big") == len(whole)
    assert kvs.get(handle, "a.big", raw=True) == whole
    for offset, count in [(0, 10), (2, 33 * 1024 * 1024), (len(whole) - 3, 10), (len(whole), 5)]:
        buffer = bytearray(count)
        expected = whole[offset : offset + count]
        assert kvs.readinto(handle, "a.big", buffer, offset) == len(expected)
        assert buffer[: len(expected)] == expected
    assert kvs.readinto(handle, "a.big", bytearray()) == 0


def test_ranges_of_small_values(handle: kvs.Handle) -> None:
    commit(handle, a=b"0123456789")
    buffer = bytearray(4)
    assert kvs.readinto(handle, "a", buffer, 3) == 4
    assert buffer == b"3456"
    assert kvs.size(handle, "a") == 10
    for unfit in (ValueError, TypeError):
        with pytest.raises(unfit):
            kvs.readinto(
                handle, "a", buffer if unfit is ValueError else b"fixed", -1 + (unfit is TypeError)
            )


def test_buffers_of_any_shape_can_be_put(handle: kvs.Handle) -> None:
    grid = memoryview(bytes(range(12))).cast("B", (3, 4))
    every_other = memoryview(bytes(range(10)))[::2]
    kvs.put_parts(handle, "a", [grid, every_other])
    kvs.commit(handle)
    assert kvs.get(handle, "a", raw=True) == bytes(range(12)) + bytes(range(0, 10, 2))
    with pytest.raises(TypeError):
        kvs.put_parts(handle, "b", ["no buffer"])


def test_many_values_of_one_moment(handle: kvs.Handle) -> None:
    commit(handle, a=1, b=BINARY, big=bytes(100_000))
    kvs.put_symlink(handle, "to", "a")
    kvs.commit(handle)
    assert kvs.get_many(handle, ["b", "no.thing", "a", "to"], raw=True) == [
        BINARY,
        kvs.MISSING,
        b"1",
        b"1",
    ]
    assert kvs.get_many(handle, ["a", "big"]) == [1, "\0" * 100_000]
    assert kvs.get_many(handle, []) == []
    with pytest.raises(IsADirectoryError):
        kvs.get_many(handle, ["a", "."])


# -- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", None])
def test_an_empty_key_is_invalid_wherever_it_is_given(handle: kvs.Handle, key: Any) -> None:
    calls = [
        lambda: kvs.put(handle, key, 1),
        lambda: kvs.put_mkdir(handle, key),
        lambda: kvs.put_unlink(handle, key),
        lambda: kvs.put_symlink(handle, key, "a"),
        lambda: kvs.put_symlink(handle, "a", key),
        lambda: kvs.exists(handle, key),
        lambda: kvs.isdir(handle, key),
        lambda: kvs.get(handle, key),
        lambda: kvs.get_dir(handle, key),
        lambda: kvs.size(handle, key),
        lambda: kvs.compare_and_swap(handle, key, 1, 2),
    ]
    for call in calls:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            call()
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("key", [".", "..."])
def test_the_root_itself_cannot_be_written(handle: kvs.Handle, key: str) -> None:
    """It is refused at the commit, which drops the transaction; the next one works."""
    kvs.put(handle, "a", 1)
    kvs.put(handle, key, 1)
    with pytest.raises(OSError, match="Invalid argument"):
        kvs.commit(handle)
    kvs.commit(handle)
    assert not kvs.exists(handle, "a")
    commit(handle, b=2)
    assert kvs.get(handle, "b") == 2
    with pytest.raises(OSError, match="Invalid argument"):
        kvs.compare_and_swap(handle, key, kvs.MISSING, 1)


def test_the_root_is_a_directory(handle: kvs.Handle) -> None:
    assert kvs.exists(handle, ".")
    assert kvs.isdir(handle, ".")
    assert list(kvs.get(handle, ".")) == []


def test_dots_collapse(handle: kvs.Handle) -> None:
    kvs.put(handle, "..a...b..", 1)
    kvs.commit(handle)
    assert kvs.get(handle, "a.b") == kvs.get(handle, ".a..b.") == 1
    assert list(kvs.get_dir(handle, "a.")) == ["b"]


@pytest.mark.parametrize(
    "name", ["a b", "ä☺", "/etc/passwd", "-x", "a\nb", "\0", "*", "kvs:d:", "\udcff", "n" * 5000]
)
def test_any_character_but_the_dot_is_part_of_a_name(handle: kvs.Handle, name: str) -> None:
    kvs.put(handle, f"{name}.{name}", 1)
    kvs.commit(handle)
    assert list(kvs.get_dir(handle)) == [name]
    assert kvs.get(handle, f"{name}.{name}") == 1
    kvs.put_unlink(handle, f"{name}.{name}")
    kvs.commit(handle)
    assert list(kvs.get_dir(handle, name)) == []


def test_long_names_that_begin_alike_are_different(handle: kvs.Handle) -> None:
    names = [f"{'x' * length}{end}" for length in (490, 493, 494, 4000) for end in ("", "a", "b")]
    commit(handle, **{name: name for name in names})
    assert list(kvs.get_dir(handle)) == sorted(names)
    assert kvs.get_many(handle, names) == names


def test_keys_are_strings_that_can_be_stored(handle: kvs.Handle) -> None:
    with pytest.raises(TypeError):
        kvs.get(handle, 5)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="surrogate"):
        kvs.put(handle, "\ud800", 1)


def test_thousands_of_levels(handle: kvs.Handle) -> None:
    path = [f"d{level}" for level in range(3000)]
    kvs.put(handle, ".".join(path), "deep")
    kvs.commit(handle)
    assert kvs.get(handle, ".".join(path)) == "deep"
    assert kvs.isdir(handle, ".".join(path[:-1]))
    kvs.put_unlink(handle, path[0])
    kvs.commit(handle)
    assert list(kvs.get_dir(handle)) == []


# -- looking --------------------------------------------------------------------------------


def test_what_is_missing_is_not_found(handle: kvs.Handle) -> None:
    commit(handle, value=1)
    for key in ["no", "no.thing", "value.below"]:
        assert not kvs.exists(handle, key)
        assert not kvs.isdir(handle, key)
        for call in (kvs.get, kvs.get_key_direct, kvs.get_dir, kvs.size):
            with pytest.raises(FileNotFoundError, match="No such file"):
                call(handle, key)
        with pytest.raises(FileNotFoundError):
            kvs.readinto(handle, key, bytearray(1))
        with pytest.raises(KeyError):
            kvs.get_dir(handle)[key]


def test_directories_and_values_are_told_apart(handle: kvs.Handle) -> None:
    kvs.put(handle, "d.v", 1)
    kvs.commit(handle)
    assert kvs.isdir(handle, "d")
    assert not kvs.isdir(handle, "d.v")
    found = kvs.get(handle, "d")
    assert isinstance(found, kvs.KVSDir)
    assert found["v"] == 1
    for call in (kvs.get_key_direct, kvs.size):
        with pytest.raises(IsADirectoryError):
            call(handle, "d")
    with pytest.raises(IsADirectoryError):
        kvs.get(handle, "d", raw=True)
    with pytest.raises(IsADirectoryError):
        kvs.readinto(handle, "d", bytearray(1))
    with pytest.raises(NotADirectoryError):
        kvs.get_dir(handle, "d.v")


# -- transactions ---------------------------------------------------------------------------


def test_nothing_is_visible_before_the_commit(handle: kvs.Handle) -> None:
    kvs.put(handle, "a.b", 1)
    assert not kvs.exists(handle, "a")
    kvs.commit(handle)
    kvs.put(handle, "a.b", 2)
    kvs.put_unlink(handle, "a")
    assert kvs.get(handle, "a.b") == 1
    kvs.commit(handle)
    assert not kvs.exists(handle, "a")


def test_operations_apply_in_order(handle: kvs.Handle) -> None:
    kvs.put(handle, "a", 1)
    kvs.put_unlink(handle, "a")
    kvs.put(handle, "a", 2)
    kvs.put(handle, "b.c", 1)
    kvs.put_mkdir(handle, "b")
    kvs.put(handle, "b.d", 1)
    kvs.put(handle, "e.f.g", bytes(10_000))
    kvs.put_unlink(handle, "e")
    kvs.put(handle, "h.i", 1)
    kvs.put(handle, "h", 2)
    kvs.put(handle, "h.j", 3)
    kvs.commit(handle)
    assert kvs.get(handle, "a") == 2
    assert kvs.get_dir(handle, "b").list_all() == (["d"], [])
    assert not kvs.exists(handle, "e")
    assert kvs.get_dir(handle, "h").list_all() == (["j"], [])


def test_changes_below_a_directory_that_the_same_commit_removes(handle: kvs.Handle) -> None:
    kvs.put(handle, "d.sub.old", bytes(10_000))
    kvs.commit(handle)
    kvs.put(handle, "d.sub.new", bytes(10_000))
    kvs.put(handle, "d.sub.deeper.new", 1)
    kvs.put_unlink(handle, "d")
    kvs.put(handle, "d.sub.last", 1)
    kvs.commit(handle)
    assert list(kvs.walk(".", True, handle)) == [
        ("", ["d"], []),
        ("d", ["sub"], []),
        ("d.sub", [], ["last"]),
    ]


def test_a_failed_commit_applies_nothing_and_clears_the_transaction(handle: kvs.Handle) -> None:
    kvs.put_symlink(handle, "loop", "loop")
    kvs.commit(handle)
    kvs.put(handle, "a", 1)
    kvs.put(handle, "loop.x", 1)
    kvs.put(handle, "b", 1)
    with pytest.raises(OSError, match="symbolic links") as caught:
        kvs.commit(handle)
    assert caught.value.errno == errno.ELOOP
    kvs.commit(handle)
    assert list(kvs.get_dir(handle)) == ["loop"]


def test_values_and_directories_replace_each_other(handle: kvs.Handle) -> None:
    commit(handle, a=1)
    kvs.put(handle, "a.b.c", 2)
    kvs.commit(handle)
    assert kvs.get(handle, "a.b.c") == 2
    commit(handle, a=3)
    assert kvs.get(handle, "a") == 3
    assert not kvs.exists(handle, "a.b")


def test_mkdir_makes_an_empty_directory_whatever_was_there(handle: kvs.Handle) -> None:
    kvs.put(handle, "a.b", 1)
    kvs.put(handle, "v", 1)
    kvs.commit(handle)
    for key in ("a", "v", "new.one"):
        kvs.put_mkdir(handle, key)
        kvs.commit(handle)
        assert list(kvs.get_dir(handle, key)) == []


def test_unlink_takes_all_below_and_does_not_mind_what_is_missing(handle: kvs.Handle) -> None:
    kvs.put(handle, "a.b.c", 1)
    kvs.put(handle, "v", 1)
    kvs.commit(handle)
    for key in ("a.b", "no", "no.thing", "v.below"):
        kvs.put_unlink(handle, key)
    kvs.commit(handle)
    assert list(kvs.walk(".", True, handle)) == [("", ["a"], ["v"]), ("a", [], [])]


def test_flags(handle: kvs.Handle) -> None:
    for flags in (kvs.FLUX_KVS_NO_MERGE, kvs.FLUX_KVS_TXN_COMPACT, kvs.FLUX_KVS_SYNC, 7):
        kvs.put(handle, f"a{flags}", 1)
        kvs.commit(handle, flags)
        assert kvs.exists(handle, f"a{flags}")
    kvs.put(handle, "b", 1)
    with pytest.raises(OSError, match="unknown flags"):
        kvs.commit(handle, 8)
    kvs.namespace_create(handle, "n")
    kvs.put(handle, "b", 1)
    with pytest.raises(OSError, match="primary namespace only"):
        kvs.commit(handle, kvs.FLUX_KVS_SYNC, "n")
    kvs.commit(handle)
    assert not kvs.exists(handle, "b")


def test_a_transaction_object_stages_under_its_path(handle: kvs.Handle) -> None:
    with kvs.KVSTxn(handle, "run.7") as transaction:
        transaction.put("a", 1)
        transaction.put_parts("p", [b"x", b"y"])
        transaction.mkdir("d")
        transaction.symlink("l", "run.7.a")
        transaction.unlink("no")
    assert kvs.get_dir(handle, "run.7").list_all() == (["a", "l", "p"], ["d"])
    with pytest.raises(OSError, match="Invalid argument"):
        transaction.put("", 1)

    def fail() -> None:
        with transaction:
            transaction.put("lost", 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    transaction.commit()
    assert not kvs.exists(handle, "run.7.lost")


# -- links ----------------------------------------------------------------------------------


def test_links_are_followed_through_directories(handle: kvs.Handle) -> None:
    kvs.put(handle, "runs.7.state", "done")
    kvs.put_symlink(handle, "by.name.latest", "runs.7")
    kvs.put_symlink(handle, "state", "by.name.latest.state")
    kvs.commit(handle)
    assert kvs.get(handle, "by.name.latest.state") == kvs.get(handle, "state") == "done"
    assert kvs.isdir(handle, "by.name.latest")
    kvs.put(handle, "by.name.latest.more.deep", 1)
    kvs.commit(handle)
    assert kvs.get(handle, "runs.7.more.deep") == 1
    assert kvs.get_dir(handle, "by.name.latest").list_all() == (["state"], ["more"])
    kvs.put_unlink(handle, "by.name.latest.state")
    kvs.commit(handle)
    assert not kvs.exists(handle, "runs.7.state")


def test_writing_to_a_link_itself_touches_only_the_link(handle: kvs.Handle) -> None:
    kvs.put(handle, "target", 1)
    kvs.put_symlink(handle, "written", "target")
    kvs.put_symlink(handle, "unlinked", "target")
    kvs.put_symlink(handle, "made", "target")
    kvs.commit(handle)
    kvs.put(handle, "written", 2)
    kvs.put_unlink(handle, "unlinked")
    kvs.put_mkdir(handle, "made")
    kvs.commit(handle)
    assert kvs.get_many(handle, ["target", "written", "unlinked"]) == [1, 2, kvs.MISSING]
    assert kvs.isdir(handle, "made")


def test_a_link_may_lead_nowhere(handle: kvs.Handle) -> None:
    kvs.put_symlink(handle, "dangling", "not.yet")
    kvs.put_symlink(handle, "root", ".")
    kvs.commit(handle)
    assert not kvs.exists(handle, "dangling")
    assert not kvs.isdir(handle, "dangling")
    with pytest.raises(FileNotFoundError):
        kvs.get(handle, "dangling")
    assert list(kvs.get_dir(handle).files()) == ["dangling", "root"]
    assert kvs.isdir(handle, "root")
    kvs.put(handle, "dangling.below", 1)
    kvs.commit(handle)
    assert kvs.get(handle, "not.yet.below") == 1


def test_ten_links_are_followed_and_eleven_are_a_loop(handle: kvs.Handle) -> None:
    kvs.put(handle, "d.v", 1)
    kvs.put_symlink(handle, "l1", "d")
    for number in range(2, 12):
        kvs.put_symlink(handle, f"l{number}", f"l{number - 1}")
    kvs.commit(handle)
    assert kvs.get(handle, "l10.v") == 1
    kvs.put(handle, "l10.w", 1)
    kvs.commit(handle)
    for call in (kvs.get, kvs.exists, kvs.isdir, kvs.get_dir):
        with pytest.raises(OSError, match="links") as caught:
            call(handle, "l11.v")
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(KeyError):
        kvs.get_dir(handle)["l11.v"]


# -- namespaces -----------------------------------------------------------------------------


def test_namespaces_are_trees_of_their_own(handle: kvs.Handle) -> None:
    kvs.namespace_create(handle, "one")
    kvs.namespace_create(handle, "zwei.ä", owner=os.getuid())
    assert kvs.namespace_list(handle) == ["primary", "one", "zwei.ä"]
    kvs.put(handle, "a", 1)
    kvs.commit(handle, 0, "one")
    kvs.put_symlink(handle, "to", "a")
    kvs.commit(handle, namespace="zwei.ä")
    assert kvs.get(handle, "a", "one") == 1
    assert not kvs.exists(handle, "a")
    assert not kvs.exists(handle, "to", "zwei.ä")
    with kvs.get_dir(handle, namespace="one") as directory:
        directory["d.b"] = 2
        directory.commit()
        directory["d"]["c"] = 3
        assert "d" in directory
    assert [path for path, _, _ in kvs.walk("d", flux_handle=handle, namespace="one")] == [""]
    kvs.namespace_remove(handle, "one")
    kvs.namespace_create(handle, "one")
    assert list(kvs.get_dir(handle, namespace="one")) == []


def test_the_environment_names_the_namespace_at_each_call(
    handle: kvs.Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvs.namespace_create(handle, "n")
    root = kvs.get_dir(handle)
    root["a"] = "in n"
    monkeypatch.setenv("FLUX_KVS_NAMESPACE", "n")
    root.commit()
    assert root["a"] == kvs.get(handle, "a") == "in n"
    assert not kvs.exists(handle, "a", "primary")
    monkeypatch.delenv("FLUX_KVS_NAMESPACE")
    assert "a" not in root
    monkeypatch.setenv("FLUX_KVS_NAMESPACE", "unknown")
    with pytest.raises(OSError, match="no namespace 'unknown'") as caught:
        kvs.get(handle, "a")
    assert caught.value.errno == errno.ENOTSUP


def test_namespace_errors(handle: kvs.Handle) -> None:
    kvs.namespace_create(handle, "n")
    for name in ("n", "primary"):
        with pytest.raises(FileExistsError):
            kvs.namespace_create(handle, name)
    kvs.namespace_remove(handle, "never was")
    with pytest.raises(OSError, match="stays") as caught:
        kvs.namespace_remove(handle, "primary")
    assert caught.value.errno == errno.ENOTSUP
    kvs.put(handle, "a", 1)
    with pytest.raises(OSError, match="no namespace"):
        kvs.commit(handle, namespace="unknown")
    with pytest.raises(OSError, match="has a name"):
        kvs.namespace_create(handle, "")
    with pytest.raises(TypeError):
        kvs.namespace_create(handle, None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="other owners"):
        kvs.namespace_create(handle, "m", owner=os.getuid() + 1)
    with pytest.raises(OSError, match="unknown flags"):
        kvs.namespace_create(handle, "m", flags=1)
    assert kvs.namespace_list(handle) == ["primary", "n"]


# -- compare and swap, watch ----------------------------------------------------------------


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


# -- directories ----------------------------------------------------------------------------


def test_a_directory_is_a_mapping(handle: kvs.Handle) -> None:
    with kvs.get_dir(handle) as root:
        root.update({"b": 1, "a.x": 2, "c": [3]})
    root = kvs.KVSDir(handle)
    assert list(root) == ["a", "b", "c"]
    assert len(root) == 3
    assert root["a"]["x"] == root["a.x"] == 2
    assert root.get("no", "default") == "default"
    assert "a.x" in root
    assert "no" not in root
    assert "" not in root
    assert 5 not in root
    assert root.exists("a.x")
    assert list(root.files()) == ["b", "c"]
    assert next(root.directories()) == "a"
    assert root.list_all() == (["b", "c"], ["a"])
    assert {key: value for key, value in root.items() if key != "a"} == {"b": 1, "c": [3]}
    assert root.pop("b") == 1
    assert root.setdefault("c", 9) == [3]
    assert "b" in root
    root.commit()
    assert "b" not in root
    del root["a.x"]
    root.commit()
    assert list(root["a"]) == []
    assert repr(root["a"]) == f"<KVSDir 'a' of {handle.url}>"


def test_key_errors_of_a_directory(handle: kvs.Handle) -> None:
    root = kvs.get_dir(handle)
    with pytest.raises(KeyError, match=r"'no' not found under directory '\.'"):
        root["no"]
    with pytest.raises(KeyError):
        root[""]
    with pytest.raises(OSError, match="Invalid argument"):
        root[""] = 1
    with pytest.raises(ValueError, match="flux_handle"):
        kvs.KVSDir()
    with pytest.raises(ValueError, match="flux_handle"):
        kvs.KVSDir(handle, handle=1)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentError, match="No such file"):
        kvs.KVSDir(handle, "no")


def test_a_directory_that_is_gone_or_has_become_a_value(handle: kvs.Handle) -> None:
    kvs.put_mkdir(handle, "d")
    kvs.commit(handle)
    directory = kvs.get_dir(handle, "d")
    commit(handle, d=1)
    with pytest.raises(NotADirectoryError):
        list(directory)
    kvs.put_unlink(handle, "d")
    kvs.commit(handle)
    with pytest.raises(FileNotFoundError):
        len(directory)


def test_subdirectories_share_the_transaction(handle: kvs.Handle) -> None:
    kvs.put(handle, "d.sub.a", 0)
    kvs.commit(handle)
    with kvs.get_dir(handle) as root:
        root["d"]["sub"]["a"] = 1
        root["d"]["b"] = 2
        assert kvs.get(handle, "d.sub.a") == 0
    assert kvs.get(handle, "d.sub.a") == 1
    assert kvs.get(handle, "d.b") == 2
    assert root["d"]["sub"].key_at("a") == "d.sub.a"
    assert root.key_at("a") == "a"


def test_an_exception_in_the_body_drops_what_was_staged(handle: kvs.Handle) -> None:
    """Flux commits it."""
    root = kvs.get_dir(handle)

    def fail() -> None:
        with root:
            root["a"] = 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    root.commit()
    assert list(root) == []


def test_fill_and_mkdir(handle: kvs.Handle) -> None:
    """Flux puts the contents of a subdirectory of a subdirectory into the root."""
    root = kvs.get_dir(handle)
    root.fill({"things": 1, "dir.other": "x", "doc": {"a": 1}})
    assert kvs.get(handle, "dir.other") == "x"
    kvs.get_dir(handle, "dir").mkdir("sub", {"one": 1, "more.two": 2})
    assert kvs.get(handle, "dir.sub.more.two") == 2
    assert not kvs.exists(handle, "sub")
    root.mkdir("dir.sub")
    assert list(root["dir.sub"]) == []
    with pytest.raises(ValueError, match="contents"):
        root.fill(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        root.fill({"fine": 1, "unfit": object()})
    assert "fine" not in root


def test_clear_ends_and_takes_what_was_staged(handle: kvs.Handle) -> None:
    """Flux's never ends, for nothing that it removes is gone before a commit."""
    kvs.put(handle, "d.a", 1)
    kvs.put(handle, "d.sub.b", 1)
    kvs.put_symlink(handle, "d.l", "keep")
    kvs.put(handle, "keep", 1)
    kvs.commit(handle)
    with kvs.get_dir(handle, "d") as directory:
        directory["new.deep"] = 1
        directory.clear()
        directory["last"] = 1
    assert list(directory) == ["last"]
    root = kvs.get_dir(handle)
    assert list(root) == ["d", "keep"]
    root.clear()
    root.commit()
    assert list(root) == []


def test_popitem_comes_to_an_end(handle: kvs.Handle) -> None:
    commit(handle, a=1, b=2)
    kvs.put_symlink(handle, "dangling", "no")
    kvs.commit(handle)
    root = kvs.get_dir(handle)
    assert [root.popitem(), root.popitem()] == [("a", 1), ("b", 2)]
    with pytest.raises(KeyError):
        root.popitem()
    root.commit()
    assert list(root) == ["dangling"]


def test_walk(handle: kvs.Handle) -> None:
    for key in ["w.b.c.v", "w.a.v", "w.v", "w.a.u"]:
        kvs.put(handle, key, 1)
    kvs.put_symlink(handle, "w.link", "w.b")
    kvs.commit(handle)
    down = [
        ("", ["a", "b"], ["link", "v"]),
        ("a", [], ["u", "v"]),
        ("b", ["c"], []),
        ("b.c", [], ["v"]),
    ]
    up = [down[1], down[3], down[2], down[0]]
    assert list(kvs.walk("w", topdown=True, flux_handle=handle)) == down
    assert list(kvs.walk(kvs.get_dir(handle, "w"))) == up
    assert list(kvs.walk("w.b", True, handle)) == [("", ["c"], []), ("c", [], ["v"])]
    walking = kvs.walk("w", True, handle)
    next(walking)[1].remove("b")
    kvs.put_unlink(handle, "w.a")
    kvs.commit(handle)
    assert list(walking) == []
    with pytest.raises(ValueError, match="flux_handle"):
        kvs.walk("w")
    assert kvs.join("", "a", "", "b") == "a.b"


def test_walk_goes_deeper_than_python_recurses(handle: kvs.Handle) -> None:
    kvs.put(handle, ".".join(["d"] * 1100), 1)
    kvs.commit(handle)
    *_, (path, directories, files) = kvs.walk("d", True, handle)
    assert (path.count("."), directories, files) == (1097, [], ["d"])


# -- handles --------------------------------------------------------------------------------


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
