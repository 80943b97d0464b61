"""LucidLink's SDK behind our classes: every name and parameter we use exists in the real SDK.

There is no service to talk to here. The SDK's own classes, autospecced, stand in for it: a call
that the SDK does not have, or with other parameters, fails as it would there.
"""

from __future__ import annotations

import errno
import inspect
import io
from datetime import UTC, datetime
from typing import Any
from unittest.mock import MagicMock, create_autospec

import lucidlink
import lucidlink.connect
import lucidlink.exceptions as sdk_errors
import pytest

from proxyflow.storage.filespace import (
    DataStoreInUseError,
    ExternalObjectNotFoundError,
    Filespace,
    FilespaceError,
    Filesystem,
    FsExistsError,
    FsNotFoundError,
    HubUnavailableError,
    InvalidArgumentError,
    LocalDataStoreConfig,
    S3Credentials,
    S3DataStoreConfig,
    SyncMode,
    UnsupportedOperationError,
    Workspace,
)

CONFIG = S3DataStoreConfig("AKIA", "secret", "bucket", "eu-central-1")


def spec(kind: type, **attributes: Any) -> Any:
    """Return a stand-in for an instance of an SDK class, which has exactly what that has."""
    fake = create_autospec(kind, instance=True)
    for name, value in attributes.items():
        assert hasattr(kind, name), f"{kind.__name__} has no {name}"
        setattr(fake, name, value)
    return fake


def entry(name: str, kind: str = "file", size: int = 3) -> lucidlink.FsEntry:
    return lucidlink.FsEntry(
        id="e1",
        name=name,
        type=lucidlink.EntryType(kind),
        size=size,
        modified_at=2_000_000_000,
        created_at=1_000_000_000,
        inode_id="i1",
        num_hard_links=1,
    )


def missing(path: str = "/x") -> Exception:
    return sdk_errors.FsNotFoundError(errno.ENOENT, "No such file or directory", path)


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for a logged-in client of the SDK with one filespace, all of it autospecced."""
    parts: dict[str, Any] = {
        "fs": spec(lucidlink.FileSystem),
        "utils": spec(lucidlink.FsUtils),
        "stores": spec(lucidlink.connect.DataStores),
        "store": spec(lucidlink.connect.S3DataStore),
    }
    parts["connect"] = spec(lucidlink.connect.ConnectManager, data_stores=parts["stores"])
    parts["workspace"] = spec(lucidlink.Workspace, id="w1", name="lab")
    parts["filespace"] = spec(
        lucidlink.Filespace,
        id="f1",
        name="data",
        workspace=parts["workspace"],
        file_system=parts["fs"],
        connect=parts["connect"],
        is_linked=True,
    )
    info = lucidlink.FilespaceInfo(id="f1", name="data", created_at=datetime.now(UTC))
    parts["workspace"].list_filespaces.return_value = [info]
    parts["workspace"].link_filespace.return_value = parts["filespace"]
    parts["client"] = spec(lucidlink.Client, workspace=parts["workspace"])
    parts["stores"].get.return_value = parts["store"]
    parts["stores"].add.return_value = parts["store"]
    parts["stores"].list.return_value = [parts["store"]]
    parts["store"].info.return_value = lucidlink.connect.S3DataStoreInfo(
        name="s",
        kind=lucidlink.connect.DataStoreKind.S3,
        bucket_name="bucket",
        region="eu-central-1",
        endpoint="",
        access_key="AKIA",
        url_expiration_minutes=1,
        use_virtual_addressing=False,
        rekey_state=lucidlink.connect.DataStoreRekeyState.NO_REKEY,
    )
    client_class = create_autospec(lucidlink.Client)
    client_class.return_value = parts["client"]
    utils_class = create_autospec(lucidlink.FsUtils)
    utils_class.return_value = parts["utils"]
    monkeypatch.setattr(lucidlink, "Client", client_class)
    monkeypatch.setattr(lucidlink, "FsUtils", utils_class)
    monkeypatch.setenv("TOKEN", "sa_live:key:secret")
    return parts


@pytest.fixture
def workspace(sdk: dict[str, Any]) -> Workspace:
    return Workspace.lucidlink(token_env="TOKEN")


@pytest.fixture
def filespace(workspace: Workspace) -> Filespace:
    return workspace.link_filespace(name="data", root_path="/root")


@pytest.fixture
def fs(filespace: Filespace) -> Filesystem:
    return filespace.fs


def test_logging_in_and_linking(sdk: dict[str, Any], workspace: Workspace) -> None:
    (credentials,) = sdk["client"].login.call_args.args
    assert credentials.token == "sa_live:key:secret"
    assert "secret" not in repr(workspace)
    assert (workspace.id, workspace.name) == ("w1", "lab")
    filespace = workspace.link_filespace(id="f1")
    assert filespace.full_name == "data.lab"
    assert (filespace.name, filespace.id, filespace.workspace_id) == ("data", "f1", "w1")
    assert workspace.find_filespace("data") is not None
    for refused in (
        lambda: workspace.link_filespace(name="other"),
        lambda: workspace.create_filespace("other"),
        lambda: workspace.delete_filespace("data"),
    ):
        with pytest.raises(UnsupportedOperationError):
            refused()
    sdk["filespace"].is_linked = False
    workspace.stop()
    sdk["client"].close.assert_called_once_with()


def test_a_token_is_needed(sdk: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="NO_SUCH_VARIABLE"):
        Workspace.lucidlink(token_env="NO_SUCH_VARIABLE")


def test_syncing_and_unlinking(sdk: dict[str, Any], filespace: Filespace) -> None:
    """Our final sync raises when it fails; the SDK's own, best-effort, is switched off."""
    filespace.sync_all()
    filespace.refresh()
    filespace.compact()
    assert filespace.conflicts() == []
    assert sdk["filespace"].sync.call_count == 2
    filespace.unlink()
    assert sdk["filespace"].sync.call_count == 3
    assert sdk["filespace"].sync_barrier == lucidlink.SyncBarrier.NONE
    sdk["filespace"].unlink.assert_called_once_with()


def test_nothing_is_synced_when_not_asked_for(sdk: dict[str, Any], workspace: Workspace) -> None:
    workspace.link_filespace(name="data", sync_mode=SyncMode.SYNC_NONE).unlink()
    sdk["filespace"].sync.assert_not_called()


def test_the_file_system_maps_every_call(sdk: dict[str, Any], fs: Filesystem) -> None:
    native, utils = sdk["fs"], sdk["utils"]
    native.read_dir.return_value = [entry("b", "dir"), entry("a"), entry("l", "symlink")]
    assert [(one.name, one.type) for one in fs.read_dir("/d")] == [
        ("a", "file"),
        ("b", "dir"),
        ("l", "link"),
    ]
    native.read_dir.assert_called_with("/root/d")
    fs.create_dir("/x/y")
    assert [call.args for call in native.create_dir.call_args_list] == [
        ("/root",),
        ("/root/x",),
        ("/root/x/y",),
    ]
    fs.delete_dir("/x")
    native.delete_dir.assert_called_with("/root/x")
    fs.delete_dir("/x", recursive=True)
    utils.delete_tree.assert_called_with("/root/x")
    fs.move("/a", "/../../b")
    native.move.assert_called_with("/root/a", "/root/b")
    fs.delete("/a")
    fs.truncate("/a", 5)
    native.truncate.assert_called_with("/root/a", 5)
    native.get_entry.return_value = entry("a")
    assert fs.get_entry("/a").size == 3
    assert fs.content("/a").local_path is None
    assert fs.file_exists("/a")
    assert not fs.dir_exists("/a")
    native.statistics.return_value = lucidlink.FileSystemStatistics(
        entries_count=4, storage_size=5, external_files_size=6, external_files_count=7
    )
    assert fs.statistics().entries_count == 4
    utils.read_bytes.return_value = b"abc"
    assert fs.read_file("/a") == b"abc"
    assert bytes(fs.view("/a")) == b"abc"
    fs.write_file("/a", b"x")
    fs.write_buffers("/a", [b"x", b"y"])
    utils.write_bytes.assert_called_with("/root/a", b"xy")
    fs.create_symlink("/t", "/l")
    native.read_symlink.return_value = "/t"
    assert fs.read_symlink("/l") == "/t"
    native.open.return_value = io.BytesIO(b"abc")
    assert fs.open("/a", "rt", encoding="utf-8").read() == b"abc"
    with pytest.raises(UnsupportedOperationError):
        fs.open("/a", lock_type="shared")


def test_connect_maps_every_call(sdk: dict[str, Any], filespace: Filespace) -> None:
    connect, stores, store = filespace.connect, sdk["stores"], sdk["store"]
    info = connect.add_data_store("s", CONFIG)
    assert info.settings["bucket_name"] == "bucket"
    assert "AKIA" not in repr(info)
    (name, config) = stores.add.call_args.args
    assert (name, config.secret_key) == ("s", "secret")
    assert connect.get_data_store("s") == info
    assert connect.list_data_stores() == [info]
    connect.remove_data_store("s")
    connect.rekey("s", S3Credentials("a", "b"))
    assert store.rekey.call_args.args[0].access_key == "a"
    connect.link_file("/f", "s", "key")
    store.link.assert_called_with("/root/f", "key", size=None, checksum=None)
    connect.link_file("/f", "s", "key", size=1, checksum="c")
    store.link.assert_called_with("/root/f", "key", size=1, checksum="c")
    files = [
        spec(lucidlink.connect.S3ExternalFile, entry_id=f"e{number}", get_path=MagicMock())
        for number in range(5)
    ]
    store.iter_files.side_effect = lambda: iter(files)
    first = connect.list_external_files("s", limit=3)
    assert first.has_more
    second = connect.list_external_files("s", limit=3, cursor=first.cursor)
    assert [one.entry_id for one in first.entries + second.entries] == [
        f"e{number}" for number in range(5)
    ]
    assert not second.has_more
    store.count.return_value = 5
    assert connect.count("s") == 5
    connect.unlink_file("/f")
    sdk["fs"].delete.assert_called_with("/root/f")
    store.get_file.side_effect = sdk_errors.InvalidArgumentError("not an external file")
    with pytest.raises(InvalidArgumentError):
        connect.unlink_file("/f")
    stores.get.side_effect = sdk_errors.DataStoreNotFoundError("none")
    assert connect.get_data_store("none") is None
    for refused in (
        lambda: connect.add_data_store("l", LocalDataStoreConfig("/x")),
        lambda: connect.use_credentials("s", S3Credentials("a", "b")),
        lambda: connect.link_files("/d", "s"),
    ):
        with pytest.raises(UnsupportedOperationError):
            refused()


def test_errors_are_ours_by_name(sdk: dict[str, Any], fs: Filesystem, filespace: Filespace) -> None:
    native = sdk["fs"]
    native.get_entry.side_effect = missing()
    assert not fs.file_exists("/x")
    with pytest.raises(FsNotFoundError) as caught:
        fs.get_entry("/x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/x")
    native.move.side_effect = sdk_errors.FsExistsError(17, "exists", "/a", None, "/b")
    with pytest.raises(FsExistsError) as exists:
        fs.move("/a", "/b")
    assert exists.value.filename2 == "/b"
    native.create_dir.side_effect = sdk_errors.FsExistsError(17, "exists", "/root")
    with pytest.raises(FsExistsError):
        fs.create_dir("/d")
    native.delete.side_effect = sdk_errors.ExternalObjectNotFoundError(5, "gone", "/x")
    with pytest.raises(ExternalObjectNotFoundError):
        fs.delete("/x")
    sdk["stores"].remove.side_effect = sdk_errors.DataStoreInUseError("in use", name="s")
    with pytest.raises(DataStoreInUseError):
        filespace.connect.remove_data_store("s")
    sdk["filespace"].sync.side_effect = sdk_errors.ServiceUnavailableError("no answer")
    with pytest.raises(HubUnavailableError):
        filespace.sync_all()
    sdk["filespace"].sync.side_effect = sdk_errors.RateLimitedError("slow down")
    with pytest.raises(FilespaceError, match="RateLimitedError: slow down"):
        filespace.sync_all()


def test_what_the_sdk_is_called_with_exists_in_it() -> None:
    """The parameters passed by keyword, which an autospec checks only where it is called."""
    expected = {
        lucidlink.FileSystem.open: {"buffering", "encoding", "errors", "newline"},
        lucidlink.connect.S3DataStore.link: {"size", "checksum"},
        lucidlink.connect.S3DataStoreConfig: {
            "access_key",
            "secret_key",
            "bucket_name",
            "region",
            "endpoint",
            "url_expiration_minutes",
            "use_virtual_addressing",
        },
        lucidlink.connect.S3Credentials: {"access_key", "secret_key"},
    }
    for callable_, names in expected.items():
        assert names <= set(inspect.signature(callable_).parameters)
    assert isinstance(inspect.getattr_static(lucidlink.Filespace, "sync_barrier"), property)
    assert issubclass(sdk_errors.ServiceUnavailableError, sdk_errors.LucidLinkError)
