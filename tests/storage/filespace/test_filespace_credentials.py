"""Credentials of data stores: where they are, and above all where they are not."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
from filespace_support import ACCESS, SECRET, Bucket, files_below, run_python

from proxyflow.storage.filespace import (
    DataStoreCredentialsError,
    Filespace,
    HubCorruptError,
    InvalidArgumentError,
    LocalDataStoreConfig,
    S3Credentials,
    S3DataStoreConfig,
    Workspace,
)


def test_literal_keys_stay_in_the_process_that_gave_them(
    workspace: Workspace, filespace: Filespace, bucket: Bucket, tmp_path: Any, caplog: Any
) -> None:
    """Never in a repr, a pickle, a log or the hub; another process is told what to do."""
    bucket.put("k", b"content")
    with caplog.at_level(logging.DEBUG, logger="proxyflow"):
        info = filespace.connect.add_data_store("s3", bucket.config())
        filespace.connect.link_file("/x", "s3", "k")
        filespace.sync_all()
    assert workspace.link_filespace(name="data").fs.read_file("/x") == b"content"
    config = bucket.config()
    shown = [repr(config), repr(config.credentials), repr(info), repr(filespace), caplog.text]
    for text in shown:
        assert SECRET not in text
        assert ACCESS not in text
    for thing in (config, config.credentials):
        with pytest.raises(TypeError, match="holds secrets"):
            pickle.dumps(thing)
    for path in files_below(str(tmp_path)):
        data = (tmp_path / path).read_bytes()
        assert SECRET.encode() not in data
        assert ACCESS.encode() not in data
    code = (
        "import sys\n"
        "from proxyflow.storage.filespace import *\n"
        "hub, access, secret = sys.argv[1:]\n"
        "with Workspace(hub).link_filespace(name='data') as f:\n"
        "    try:\n"
        "        f.fs.read_file('/x')\n"
        "    except DataStoreCredentialsError as error:\n"
        "        sys.stdout.write(str(error) + '\\n')\n"
        "    f.connect.use_credentials('s3', S3Credentials(access, secret))\n"
        "    sys.stdout.write(f.fs.read_file('/x').decode())\n"
    )
    output = run_python(code, str(tmp_path / "hub"), ACCESS, SECRET).stdout
    assert "use_credentials('s3'" in output
    assert output.endswith("content")


def test_references_to_variables_work_in_every_process(
    filespace: Filespace, bucket: Bucket, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("k", b"content")
    names = {"access_key": "env:LAB_ACCESS_KEY_ID", "secret_key": "env:LAB_SECRET_ACCESS_KEY"}
    config = bucket.config(**names)
    assert pickle.loads(pickle.dumps(config)) == config
    assert pickle.loads(pickle.dumps(config.credentials)) == config.credentials
    assert "env:LAB_ACCESS_KEY_ID" in repr(config)
    info = filespace.connect.add_data_store("s3", config)
    assert "LAB_ACCESS_KEY_ID" in info.credentials
    with pytest.raises(DataStoreCredentialsError, match="LAB_ACCESS_KEY_ID"):
        filespace.connect.link_file("/x", "s3", "k")
    monkeypatch.setenv("LAB_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("LAB_SECRET_ACCESS_KEY", SECRET)
    filespace.connect.link_file("/x", "s3", "k")
    filespace.sync_all()
    code = (
        "import sys\n"
        "from proxyflow.storage.filespace import *\n"
        "with Workspace(sys.argv[1]).link_filespace(name='data') as f:\n"
        "    sys.stdout.write(f.fs.read_file('/x').decode())\n"
    )
    assert run_python(code, str(tmp_path / "hub")).stdout == "content"


def test_rotating_keys(
    workspace: Workspace,
    filespace: Filespace,
    bucket: Bucket,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linked files are read with the new keys from then on, by everyone who has them."""
    bucket.put("k", b"content")
    filespace.connect.add_data_store("s3", bucket.config())
    filespace.connect.rekey("s3", S3Credentials("unused", "so far"))
    filespace.connect.rekey("s3", bucket.config().credentials)
    filespace.connect.link_file("/x", "s3", "k")
    filespace.sync_all()
    other = workspace.link_filespace(name="data")
    monkeypatch.setenv("NEW_ACCESS_KEY_ID", "AKIANEW")
    monkeypatch.setenv("NEW_SECRET_ACCESS_KEY", "new secret")
    new = S3Credentials("env:NEW_ACCESS_KEY_ID", "env:NEW_SECRET_ACCESS_KEY")
    filespace.connect.rekey("s3", new)
    filespace.sync_all()
    found = other.connect.get_data_store("s3")
    assert found is not None
    assert "NEW_ACCESS_KEY_ID" in found.credentials
    assert other.fs.read_file("/x") == b"content"
    monkeypatch.delenv("NEW_ACCESS_KEY_ID")
    with pytest.raises(DataStoreCredentialsError, match="NEW_ACCESS_KEY_ID"):
        other.fs.read_file("/x")
    filespace.connect.add_data_store("local", LocalDataStoreConfig(str(tmp_path)))
    with pytest.raises(InvalidArgumentError, match="no credentials"):
        filespace.connect.rekey("local", new)


@pytest.mark.parametrize(
    "changes",
    [
        {"access_key": ""},
        {"secret_key": " "},
        {"access_key": "a\0b"},
        {"bucket_name": "b"},
        {"bucket_name": "a/b/c"},
        {"region": "", "endpoint": ""},
        {"endpoint": "ftp://host"},
        {"endpoint": "http://user:password@host"},
        {"url_expiration_minutes": 0},
        {"access_key": "env:PATH"},
        {"access_key": "env:AWS_SECRET_ACCESS_KEY"},
        {"secret_key": "env:AWS_ACCESS_KEY_ID"},
        {"secret_key": "env:HOME"},
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    good = {
        "access_key": "a",
        "secret_key": "b",
        "bucket_name": "bucket",
        "region": "eu-central-1",
    }
    assert S3DataStoreConfig(**good).endpoint == ""
    with pytest.raises(InvalidArgumentError) as caught:
        S3DataStoreConfig(**good | changes)
    assert "password" not in str(caught.value)


def test_a_local_root_must_be_absolute() -> None:
    with pytest.raises(InvalidArgumentError):
        LocalDataStoreConfig("relative")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"kind": "s3", "access_key": "env:HOME", "secret_key": "env:HOME"}, "forged"),
        ({"kind": "s3", "access_key": "AKIA", "secret_key": "clear"}, "in clear"),
        ({"kind": "ftp"}, "unknown kind"),
    ],
)
def test_forged_data_stores_in_the_hub_do_not_make_a_reader_send_its_variables(
    filespace: Filespace, record: dict[str, str], message: str
) -> None:
    """The hub may be written by others: what it says of credentials is checked."""
    from proxyflow.storage.filespace.entry import Kind, new_entry
    from proxyflow.storage.filespace.ops import Put

    client = filespace.fs.client  # type: ignore[attr-defined]
    client.record(Put(("stores", "evil"), new_entry(Kind.STORE, config=record)))
    filespace.connect.link_file("/x", "evil", "k", size=1, checksum="c")
    filespace.sync_all()
    with pytest.raises(HubCorruptError, match=message):
        filespace.fs.read_file("/x")
