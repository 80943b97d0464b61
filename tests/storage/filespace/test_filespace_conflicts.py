"""Two clients change the same names: what each conflict comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import tree_of

from proxyflow.storage.filespace import Filespace, Workspace

Link = Callable[..., Filespace]


def test_two_clients_creating_one_name_lose_nothing(link: Link) -> None:
    one, two, three = link(), link(), link()
    for number, client in enumerate((one, two, three)):
        client.fs.create_dir("/d")
        client.fs.write_file("/d/same", b"from %d" % number)
    for client in (one, two, three):
        client.sync_all()
    assert tree_of(one) == {
        "/d": None,
        "/d/same": b"from 0",
        "/d/same_conflicted": b"from 1",
        "/d/same_conflicted_2": b"from 2",
    }
    assert [str(c) for c in three.conflicts()] == [
        "/d/same was changed by another client too; this one's is /d/same_conflicted_2"
    ]
    assert one.conflicts() == []


def test_what_a_client_does_after_a_conflict_follows_its_file(link: Link) -> None:
    one, two = link(), link()
    one.fs.write_file("/f", b"one")
    two.fs.write_file("/f", b"two")
    one.sync_all()
    two.refresh()
    assert tree_of(two) == {"/f": b"one", "/f_conflicted": b"two"}
    two.fs.write_file("/f", b"two replaces one, knowing it")
    two.sync_all()
    assert tree_of(one) == {"/f": b"two replaces one, knowing it", "/f_conflicted": b"two"}


CONFLICTS: list[tuple[str, Callable[[Any], None], Callable[[Any], None], dict[str, Any]]] = [
    (
        "both change a file",
        lambda fs: fs.write_file("/d/f", b"one"),
        lambda fs: fs.write_file("/d/f", b"two"),
        {"/d": None, "/d/f": b"one", "/d/f_conflicted": b"two", "/g": b"g"},
    ),
    (
        "one deletes, the other changes: the change is kept",
        lambda fs: fs.delete("/d/f"),
        lambda fs: fs.write_file("/d/f", b"two"),
        {"/d": None, "/d/f": b"two", "/g": b"g"},
    ),
    (
        "one changes, the other deletes: the change is kept",
        lambda fs: fs.write_file("/d/f", b"one"),
        lambda fs: fs.delete("/d/f"),
        {"/d": None, "/d/f": b"one", "/g": b"g"},
    ),
    (
        "both delete",
        lambda fs: fs.delete("/d/f"),
        lambda fs: fs.delete("/d/f"),
        {"/d": None, "/g": b"g"},
    ),
    (
        "one deletes the directory, the other writes into it",
        lambda fs: fs.delete_dir("/d", recursive=True),
        lambda fs: fs.write_file("/d/new", b"two"),
        {"/d": None, "/d/new": b"two", "/g": b"g"},
    ),
    (
        "one writes into a directory, the other deletes it",
        lambda fs: fs.write_file("/d/new", b"one"),
        lambda fs: fs.delete_dir("/d", recursive=True),
        {"/d": None, "/d/new": b"one", "/g": b"g"},
    ),
    (
        "both move a file",
        lambda fs: fs.move("/g", "/one"),
        lambda fs: fs.move("/g", "/two"),
        {"/d": None, "/d/f": b"f", "/one": b"g"},
    ),
    (
        "both move something to one name",
        lambda fs: fs.move("/g", "/target"),
        lambda fs: fs.move("/d/f", "/target"),
        {"/d": None, "/target": b"g", "/target_conflicted": b"f"},
    ),
    (
        "one moves a file, the other writes it: both survive",
        lambda fs: fs.move("/g", "/moved"),
        lambda fs: fs.write_file("/g", b"two"),
        {"/d": None, "/d/f": b"f", "/moved": b"g", "/g": b"two"},
    ),
    (
        "one writes a file, the other moves it: the move takes the new content",
        lambda fs: fs.write_file("/g", b"one"),
        lambda fs: fs.move("/g", "/moved"),
        {"/d": None, "/d/f": b"f", "/moved": b"one"},
    ),
    (
        "one moves the directory, the other writes into it",
        lambda fs: fs.move("/d", "/e"),
        lambda fs: fs.write_file("/d/new", b"two"),
        {"/e": None, "/e/f": b"f", "/d": None, "/d/new": b"two", "/g": b"g"},
    ),
    (
        "a file where the other makes a directory",
        lambda fs: fs.write_file("/x", b"one"),
        lambda fs: (fs.create_dir("/x/y"), fs.write_file("/x/y/z", b"two")),
        {
            "/d": None,
            "/d/f": b"f",
            "/g": b"g",
            "/x": b"one",
            "/x_conflicted": None,
            "/x_conflicted/y": None,
            "/x_conflicted/y/z": b"two",
        },
    ),
    (
        "a directory where the other writes a file",
        lambda fs: fs.create_dir("/x"),
        lambda fs: fs.write_file("/x", b"two"),
        {"/d": None, "/d/f": b"f", "/g": b"g", "/x": None, "/x_conflicted": b"two"},
    ),
    (
        "each moves one directory into the other",
        lambda fs: (fs.create_dir("/e"), fs.move("/e", "/d/e")),
        lambda fs: (fs.create_dir("/e"), fs.move("/d", "/e/d")),
        {"/e": None, "/e/d": None, "/e/d/e": None, "/e/d/f": b"f", "/g": b"g"},
    ),
    (
        "one makes a file of the directory the other writes into",
        lambda fs: (fs.delete_dir("/d", recursive=True), fs.write_file("/d", b"one")),
        lambda fs: fs.write_file("/d/new", b"two"),
        {"/d": b"one", "/d_conflicted": None, "/d_conflicted/new": b"two", "/g": b"g"},
    ),
    (
        "one replaces the directory the other moves",
        lambda fs: (fs.delete_dir("/d", recursive=True), fs.create_dir("/d")),
        lambda fs: fs.move("/d", "/moved"),
        {"/d": None, "/g": b"g"},
    ),
]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [case[1:] for case in CONFLICTS],
    ids=[case[0] for case in CONFLICTS],
)
def test_concurrent_changes_merge_and_nothing_written_is_lost(
    workspace: Workspace,
    first: Callable[[Any], None],
    second: Callable[[Any], None],
    expected: dict[str, bytes | None],
) -> None:
    one, two = (workspace.link_filespace(name="data") for _ in range(2))
    one.fs.create_dir("/d")
    one.fs.write_file("/d/f", b"f")
    one.fs.write_file("/g", b"g")
    one.sync_all()
    two.refresh()
    first(one.fs)
    second(two.fs)
    one.sync_all()
    two.sync_all()
    assert tree_of(one) == tree_of(two) == expected
