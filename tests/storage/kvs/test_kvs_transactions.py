"""Operations, links and namespaces, over every engine, as flux.kvs has them."""

from __future__ import annotations

import errno
import os

import pytest

from proxyflow.storage import kvs
from tests.storage.kvs.committing import commit


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
