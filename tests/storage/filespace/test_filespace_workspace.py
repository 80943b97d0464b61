"""Workspaces: identity, names, creating, finding and deleting filespaces, hubs that will not do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import run_python

import proxyflow.storage.filespace as package
from proxyflow.storage.filespace import (
    Filespace,
    FilespaceExistsError,
    FilespaceNotFoundError,
    HubCorruptError,
    HubUnavailableError,
    HubUnsupportedError,
    InvalidArgumentError,
    Workspace,
    errors,
)


def test_the_exported_names_are_pinned() -> None:
    assert package.__all__ == sorted(package.__all__)
    assert set(errors.__all__) <= set(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    assert {"Workspace", "Filespace", "SyncMode", "Filesystem", "ConnectManager"} <= set(
        package.__all__
    )


def test_the_seed_s_identity_of_a_link(link: Callable[..., Filespace]) -> None:
    filespace = link()
    assert filespace.name == "data"
    assert filespace.full_name == "data.lab"
    assert filespace.workspace_name == "lab"
    assert len(filespace.id) == len(filespace.workspace_id) == 32
    assert repr(filespace) == f"Filespace('data.lab', id='{filespace.id}')"
    assert link().id == filespace.id


def test_linking_by_name_creates_by_id_does_not(workspace: Workspace) -> None:
    info = workspace.create_filespace("data")
    by_name = workspace.link_filespace(name="data")
    by_full_name = workspace.link_filespace(name="data.lab")
    by_id = workspace.link_filespace(id=info.id)
    assert by_name.id == by_full_name.id == by_id.id == info.id
    assert len(workspace.linked_filespaces) == 3
    assert workspace.link_filespace(name="new").name == "new"
    assert [one.name for one in workspace.list_filespaces()] == ["data", "new"]
    assert workspace.find_filespace("none") is None
    with pytest.raises(FilespaceNotFoundError, match="has no filespace"):
        workspace.link_filespace(id="0" * 32)
    with pytest.raises(FilespaceNotFoundError, match=r"data\.other"):
        workspace.link_filespace(name="data.other")
    with pytest.raises(FilespaceExistsError):
        workspace.create_filespace("data")
    for arguments in ({}, {"name": "data", "id": info.id}, {"name": "a/b"}, {"name": ""}):
        with pytest.raises(InvalidArgumentError):
            workspace.link_filespace(**arguments)


def test_a_workspace_keeps_its_identity(tmp_path: Any) -> None:
    hub = str(tmp_path / "some where")
    first = Workspace(hub)
    again = Workspace("file://" + hub, "another-name")
    assert (first.id, first.name) == (again.id, again.name)
    assert first.name == "some-where"
    assert repr(again) == f"Workspace('some-where', id='{first.id}')"


def test_a_deleted_filespace_is_gone_and_one_made_again_is_another(
    link: Callable[..., Filespace], hub: tuple[str, dict[str, Any]]
) -> None:
    old = link()
    old.fs.write_file("/f", b"x")
    old.sync_all()
    with Workspace(hub[0], storage_options=hub[1]) as workspace:
        workspace.delete_filespace("data")
        assert workspace.list_filespaces() == []
        with pytest.raises(FilespaceNotFoundError):
            workspace.delete_filespace("data")
    with pytest.raises(FilespaceNotFoundError) as caught:
        old.fs.read_file("/f")
    assert isinstance(caught.value, KeyError)
    assert "does not exist" in str(caught.value)
    fresh = link()
    assert fresh.id != old.id
    assert fresh.fs.list_dir("/") == []
    old.unlink(discard=True)


def test_racing_to_create_one_workspace_and_filespace_makes_one(tmp_path: Any) -> None:
    identities: list[tuple[str, str]] = []
    barrier = threading.Barrier(6)

    def work() -> None:
        barrier.wait(timeout=60)
        filespace = Workspace(str(tmp_path / "hub")).link_filespace(name="data")
        identities.append((filespace.workspace_id, filespace.id))
        filespace.unlink()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(identities) == 6
    assert len(set(identities)) == 1


def test_stop_unlinks_everything_and_reports_what_failed(tmp_path: Any) -> None:
    workspace = Workspace(str(tmp_path / "hub"), sync_timeout=0.05)
    good, bad = (workspace.link_filespace(name=name) for name in ("good", "bad"))
    good.fs.write_file("/f", b"x")
    bad.fs.write_file("/f", b"x")
    head = tmp_path / "hub" / "filespaces" / bad.id / "head"
    data = head.read_bytes()
    head.write_bytes(b"damaged")
    with pytest.raises(ExceptionGroup, match="unlinking filespaces of 'hub' failed") as caught:
        workspace.stop()
    assert len(caught.value.exceptions) == 1
    assert not good.is_linked
    head.write_bytes(data)
    with workspace:
        pass
    assert not bad.is_linked


def test_hubs_that_cannot_publish_atomically_or_be_reached_are_refused(tmp_path: Any) -> None:
    with pytest.raises(HubUnsupportedError, match="use a directory or s3://"):
        Workspace("http://127.0.0.1:1/hub")
    (tmp_path / "file").touch()
    with pytest.raises(HubUnavailableError, match="hub directory"):
        Workspace(str(tmp_path / "file" / "hub"))
    options = {
        "key": "k",
        "secret": "s",
        "endpoint_url": "http://127.0.0.1:1",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    with pytest.raises(HubUnavailableError, match="s3://bucket/hub"):
        Workspace("s3://bucket/hub", storage_options=options)


@pytest.mark.parametrize("bad", [b"", b"{}", b'{"format": 1, "id": "../..", "name": "x"}', b"[1]"])
def test_a_damaged_or_forged_identity_is_named(tmp_path: Any, bad: bytes) -> None:
    """What is in a hub is not trusted: no identifier leads out of it."""
    hub = tmp_path / "hub"
    workspace = Workspace(str(hub))
    workspace.create_filespace("data")
    (hub / "names" / "data").write_bytes(bad)
    with pytest.raises(HubCorruptError, match="names/data"):
        workspace.link_filespace(name="data")
    (hub / "workspace").write_bytes(bad)
    with pytest.raises(HubCorruptError, match="workspace"):
        Workspace(str(hub))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, proxyflow.storage.filespace\n"
        "heavy = {'fsspec', 's3fs', 'botocore', 'numpy', 'asyncio', 'lucidlink'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    assert run_python(code).returncode == 0


def test_without_fsspec_a_directory_hub_works_and_a_url_says_what_to_install(
    tmp_path: Any,
) -> None:
    code = (
        "import sys\n"
        "sys.modules['fsspec'] = sys.modules['botocore'] = None\n"
        "sys.modules['botocore.session'] = None\n"
        "from proxyflow.storage.filespace import *\n"
        "f = Workspace(sys.argv[1]).link_filespace(name='data')\n"
        "f.fs.write_file('/x', b'1')\n"
        "f.connect.add_data_store('s', S3DataStoreConfig('a', 'b', 'bucket', 'us-east-1'))\n"
        "f.connect.link_file('/e', 's', 'k', size=1, checksum='c')\n"
        "for call in (lambda: Workspace('s3://bucket'), lambda: f.fs.read_file('/e')):\n"
        "    try:\n"
        "        call()\n"
        "    except MissingDependencyError as error:\n"
        "        sys.stdout.write(str(error) + '\\n')\n"
        "f.unlink()\n"
    )
    output = run_python(code, str(tmp_path / "hub")).stdout
    assert output.count("pip install") == 2


def test_an_unlinked_client_that_just_ends_leaves_nothing_for_long(tmp_path: Any) -> None:
    """A process that never unlinks is as good as killed: the next client sweeps."""
    hub = str(tmp_path / "hub")
    code = (
        "import sys\n"
        "from proxyflow.storage.filespace import Workspace\n"
        "f = Workspace(sys.argv[1]).link_filespace(name='data')\n"
        "f.fs.write_file('/pending', b'x')\n"
    )
    run_python(code, hub)
    with Workspace(hub).link_filespace(name="data") as filespace:
        clients = os.listdir(os.path.join(hub, "filespaces", filespace.id, "clients"))
        assert len(clients) == 1
        assert filespace.fs.list_dir("/") == []
