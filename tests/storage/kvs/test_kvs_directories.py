"""Directories as mappings and walking through them, over every engine."""

from __future__ import annotations

import pytest

from proxyflow.storage import kvs
from tests.storage.kvs.committing import commit


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


def test_a_loop_of_links_is_in_no_directory(handle: kvs.Handle) -> None:
    """Asking for it is a KeyError, so it is not contained, and is passed over when emptying."""
    kvs.put_symlink(handle, "loop", "loop")
    kvs.put(handle, "sound", 1)
    kvs.commit(handle)
    root = kvs.get_dir(handle)
    assert "loop" not in root
    assert "loop.below" not in root
    assert "lone \ud800 surrogate" not in root
    assert root.get("loop") is None
    assert root.popitem() == ("sound", 1)
    with pytest.raises(KeyError):
        root.popitem()


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
