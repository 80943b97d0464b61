"""The calls of gocept.filestore do here what they do there, but never outside the store.

The session of its documentation, with the import changed:

>>> import os, shutil, tempfile
>>> store_dir = tempfile.mkdtemp()
>>> from proxyflow.storage.maildir import FileStore
>>> filestore = FileStore(store_dir)
>>> filestore
<proxyflow.storage.maildir.store.FileStore '/...'>
>>> os.listdir(store_dir)
[]
>>> filestore.prepare()
>>> sorted(os.listdir(store_dir))
['cur', 'new', 'tmp']
>>> filestore.prepare()
>>> sorted(os.listdir(store_dir))
['cur', 'new', 'tmp']
>>> f = filestore.create('a-file')
>>> f
<_io.TextIOWrapper name='.../tmp/a-file' mode='w' encoding='utf-8'>
>>> filestore.list('tmp')
['.../tmp/a-file']
>>> f.write('Die Ente bleibt draussen!')
25
>>> f.close()
>>> filestore.move('a-file', 'tmp', 'new')
>>> filestore.list('tmp')
[]
>>> filestore.list('new')
['.../new/a-file']
>>> filestore.move('a-file', 'new', 'cur')
>>> filestore.list('new')
[]
>>> filestore.list('cur')
['.../cur/a-file']
>>> shutil.rmtree(store_dir)
"""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import proxyflow.storage.maildir as maildir
from proxyflow.storage.maildir import (
    FileMissingError,
    FileStore,
    InvalidNameError,
    MaildirError,
    StoreAccessError,
    StoreClosedError,
    StoreIOError,
    StoreNotPreparedError,
    UnknownSectionError,
)

BAD_NAMES = ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "\ud800", b"bytes", 7, None]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "store")
    store.prepare()
    return store


def write(store: FileStore, name: str, section: str, text: str = "text") -> None:
    with store.create(name) as file:
        file.write(text)
    store.move(name, "tmp", section)


def content(store: FileStore, section: str) -> dict[str, str]:
    return {os.path.basename(path): Path(path).read_text() for path in store.list(section)}


def test_directories_and_files_are_for_their_owner_only(store: FileStore, tmp_path: Path) -> None:
    store.put(b"x")
    write(store, "a", "cur")
    for directory, _, names in os.walk(store.path):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600


def test_prepare_makes_missing_directories_above_the_store(tmp_path: Path) -> None:
    FileStore(tmp_path / "a" / "b").prepare()
    assert (tmp_path / "a" / "b" / "new").is_dir()


def test_files_are_created_in_the_mode_asked_for(store: FileStore) -> None:
    with store.create("a", "wb") as file:
        file.write(b"\xff")
    with store.create("a", "ab") as file:
        file.write(b"\xfe")
    with store.create("a", "rb") as file:
        assert file.read() == b"\xff\xfe"
    with pytest.raises(FileExistsError):
        store.create("a", "x")


def test_a_full_path_will_do_wherever_list_gives_it(store: FileStore) -> None:
    write(store, "a", "new")
    store.copy(store.list("new")[0], "new", "cur")
    store.move(store.list("cur")[0], "cur", "tmp")
    store.remove(store.list("tmp")[0], "tmp")
    store.remove(store.list("new")[0], "new")
    assert store.list("new") == store.list("cur") == store.list("tmp") == []


def test_lists_are_sorted_by_name(store: FileStore) -> None:
    for name in "cab":
        write(store, name, "new")
    assert [os.path.basename(path) for path in store.list("new")] == ["a", "b", "c"]


def test_move_replaces_as_a_rename_does(store: FileStore) -> None:
    write(store, "a", "new", "old")
    write(store, "a", "new", "young")
    assert content(store, "new") == {"a": "young"}


def test_a_copy_is_a_file_of_its_own(store: FileStore) -> None:
    write(store, "a", "new")
    store.copy("a", "new", "cur")
    with open(store.list("cur")[0], "a") as copy:
        copy.write(", more")
    assert content(store, "new") == {"a": "text"}
    assert content(store, "cur") == {"a": "text, more"}
    assert store.list("tmp") == []


def test_a_copy_may_have_a_name_as_long_as_names_can_be(store: FileStore) -> None:
    """Its partial file bears a longer name than it does itself, but for that of its own making."""
    write(store, "n" * 255, "new")
    store.copy("n" * 255, "new", "cur")
    assert content(store, "cur") == {"n" * 255: "text"}


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_no_name_leads_out_of_the_store(store: FileStore, name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("outside")
    for call in (
        lambda: store.create(name),
        lambda: store.remove(name, "cur"),
        lambda: store.open_view(name),
    ):
        with pytest.raises(InvalidNameError):
            call()
    assert (tmp_path / "x").read_text() == "outside"


@pytest.mark.parametrize("name", ["", "x/..", "..", "x/", "/", "a\0b", b"bytes", 7], ids=repr)
def test_stripping_directories_leaves_no_way_out_either(store: FileStore, name: str) -> None:
    for call in (store.move, store.copy):
        with pytest.raises(InvalidNameError):
            call(name, "new", "cur")


def test_removing_by_the_path_of_another_section_is_refused(store: FileStore) -> None:
    write(store, "a", "new")
    with pytest.raises(InvalidNameError):
        store.remove(store.list("new")[0], "cur")
    assert content(store, "new") == {"a": "text"}


def test_symbolic_links_are_moved_and_removed_but_not_followed(
    store: FileStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for section in ("tmp", "new"):
        os.symlink(secret, os.path.join(store.path, section, "link"))
    with pytest.raises(StoreIOError, match="symbolic links are not followed"):
        store.create("link")
    with pytest.raises(StoreIOError):
        store.copy("link", "new", "cur")
    with pytest.raises(StoreIOError):
        store.open_view("link")
    assert store.claim() is None, "a link is no message"
    store.move("link", "new", "cur")
    store.remove("link", "cur")
    assert secret.read_text() == "secret"


def test_a_pipe_is_not_waited_for(store: FileStore) -> None:
    os.mkfifo(os.path.join(store.path, "new", "pipe"))
    with pytest.raises(StoreIOError, match="pipe"):
        store.copy("pipe", "new", "cur")
    assert store.claim() is None


def test_a_section_that_leads_elsewhere_is_no_section(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.rmdir(os.path.join(store.path, "cur"))
    os.symlink(tmp_path / "elsewhere", os.path.join(store.path, "cur"))
    for call in (store.prepare, lambda: store.list("new"), lambda: FileStore(store.path).put(b"")):
        with pytest.raises(StoreIOError, match="cur"):
            call()


def test_a_file_in_the_store_s_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreIOError, match="cannot prepare the store: File exists"):
        FileStore(tmp_path / "file").prepare()


@pytest.mark.parametrize("section", ["old", "", "..", "new/../../x", None])
def test_sections_are_three(store: FileStore, section: str) -> None:
    write(store, "a", "new")
    for call in (
        lambda: store.list(section),
        lambda: store.move("a", section, "new"),
        lambda: store.move("a", "new", section),
        lambda: store.copy("a", section, "new"),
        lambda: store.copy("a", "new", section),
        lambda: store.remove("a", section),
    ):
        with pytest.raises(UnknownSectionError, match="use tmp, new or cur") as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert content(store, "new") == {"a": "text"}
    assert store.counts() == {"tmp": 0, "new": 1, "cur": 0}


def test_what_is_not_there_is_missing(store: FileStore) -> None:
    for call in (
        lambda: store.move("a", "new", "cur"),
        lambda: store.copy("a", "new", "cur"),
        lambda: store.remove("a", "new"),
        lambda: store.create("a", "r"),
    ):
        with pytest.raises(FileMissingError, match="name 'a'") as caught:
            call()
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.errno == 2


def test_without_prepare_every_call_says_so(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "none")
    for call in (
        lambda: store.create("a"),
        lambda: store.list("new"),
        lambda: store.move("a", "new", "cur"),
        lambda: store.copy("a", "new", "cur"),
        lambda: store.remove("a", "new"),
        lambda: store.put(b""),
        lambda: store.open_view("a"),
        lambda: store.ack("a"),
        lambda: list(store),
        store.claim,
        store.recover,
        store.wait,
        store.counts,
    ):
        with pytest.raises(StoreNotPreparedError, match=r"call prepare\(\) first"):
            call()
    assert not (tmp_path / "none").exists()


def test_a_store_prepared_anew_in_the_same_place_is_found(store: FileStore) -> None:
    """Handles hold directories open, and must not go on in removed ones."""
    other, third = FileStore(store.path), FileStore(store.path)
    other.put(b"old")
    third.put(b"old")
    os.rename(store.path, store.path + ".aside")
    FileStore(store.path).prepare()
    assert other.claim() is None
    store.put(b"lost")  # the directory it knows is in use, only elsewhere
    for directory, _, names in os.walk(store.path + ".aside", topdown=False):
        for name in names:
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
    name = store.put(b"found")
    assert list(other) == [name]
    assert third.open_view(name) == b"found"


def test_a_removed_store_is_an_error_not_an_empty_one(store: FileStore) -> None:
    store.put(b"x")
    for section in ("tmp", "new", "cur"):
        for path in store.list(section):
            os.unlink(path)
    for section in ("tmp", "new", "cur"):
        os.rmdir(os.path.join(store.path, section))
    for call in (store.claim, lambda: store.put(b"x"), lambda: store.wait(60)):
        with pytest.raises(StoreNotPreparedError):
            call()


@pytest.mark.parametrize("opened_before", [False, True])
def test_what_another_user_owns_is_an_access_error(tmp_path: Path, opened_before: bool) -> None:
    """Run as another user if we are root, whom no mode keeps out."""
    store = FileStore(tmp_path / "store")
    store.prepare()
    # Has Python import what it needs, which the other user may not read either.
    store.put(b"x")
    if not opened_before:
        store = FileStore(tmp_path / "store")
    child = os.fork()
    if child == 0:
        os.chmod(tmp_path / "store", 0)
        os.chmod(tmp_path / "store" / "tmp", 0)
        if os.getuid() == 0:
            os.setgroups([])
            os.setresuid(65534, 65534, 65534)
        try:
            store.put(b"x")
        except StoreAccessError as error:
            os._exit(0 if isinstance(error, PermissionError) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    os.chmod(tmp_path / "store", 0o700)
    os.chmod(tmp_path / "store" / "tmp", 0o700)


def test_a_closed_store_says_so(store: FileStore) -> None:
    store.close()
    store.close()
    for call in (lambda: store.put(b""), store.claim, lambda: store.list("new"), store.prepare):
        with pytest.raises(StoreClosedError):
            call()


_USE_AND_COUNT = """
import os, sys
from proxyflow.storage.maildir import FileStore

before = len(os.listdir("/proc/self/fd"))
with FileStore(sys.argv[1]) as store:
    store.prepare()
    store.create("a").close()
    store.move("a", "tmp", "new")
    store.copy("a", "new", "cur")
    store.put(b"x" * 100_000)
    with store.claim() as message:
        message.read()
        message.view().release()
    store.counts()
    store.recover()
    store.wait(0)
del store, message
print(len(os.listdir("/proc/self/fd")) - before)
"""


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    # In a process of its own: what other tests left open may be closed at any time.
    script = [sys.executable, "-c", _USE_AND_COUNT, tmp_path / "store"]
    assert subprocess.run(script, capture_output=True, text=True, check=True).stdout == "0\n"


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FileStore("store")
    monkeypatch.chdir("/")
    store.prepare()
    assert (tmp_path / "store" / "new").is_dir()
    with pytest.raises(InvalidNameError):
        FileStore("a\0b")


def test_an_empty_store_is_true_as_any_object_was(store: FileStore) -> None:
    assert len(store) == 0
    assert store


def test_errors_travel_between_processes_with_all_they_say() -> None:
    for name in maildir.__all__:
        kind = getattr(maildir, name)
        if not issubclass(kind, MaildirError):
            continue
        error = kind("sorry", store="/s", name="n", remedy="retry")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert str(again) == str(error) == "sorry; store /s; name 'n'; retry"
        assert getattr(again, "errno", None) == getattr(error, "errno", None)


def test_the_public_names_are_these() -> None:
    """A name added or lost here is a promise made or broken."""
    assert [name for name in maildir.__all__ if not name.endswith("Error")] == [
        "Delivery",
        "FileStore",
        "Group",
        "Message",
        "Topic",
    ]
    assert sorted(maildir.__all__) == maildir.__all__
