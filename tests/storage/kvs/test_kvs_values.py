"""Values and keys, over every engine: what comes back of what was put, and where from."""

from __future__ import annotations

import errno
import json
import random
from typing import Any

import pytest

from proxyflow.storage import kvs
from tests.storage.kvs.committing import commit

BINARY = bytes(range(256)) * 3


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


@pytest.mark.parametrize("view", [lambda buffer: buffer, memoryview])
def test_a_buffer_that_is_used_again_before_the_commit(handle: kvs.Handle, view: Any) -> None:
    """What is put is what the buffer holds at that moment, and the buffer stays the caller's."""
    buffer = bytearray()
    for number in (b"first", b"second"):
        buffer[:] = number
        kvs.put(handle, number.decode(), view(buffer))
    buffer.clear()
    kvs.commit(handle)
    assert kvs.get(handle, "first") == "first"
    assert kvs.get(handle, "second") == "second"


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
