"""Attributes and tokens, the same on every engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyflow.storage.tagblob import (
    DDFS,
    AttributeNotFound,
    Forbidden,
    InvalidAttribute,
    InvalidToken,
    InvalidUrls,
    TagNotFound,
    Unauthorized,
)

ODD = "a/b?c=d&e#f %41 \u00fc\u20ac\U0001f600\"'\\\n"


def test_attributes_are_set_read_and_deleted(ddfs: DDFS, tag: str) -> None:
    ddfs.setattr(tag, "kind", "log")
    ddfs.setattr(tag, "kind", "data")
    ddfs.setattr(tag, "size", "12")
    assert ddfs.getattr(tag, "kind") == "data"
    assert ddfs.attrs(tag) == {"kind": "data", "size": "12"}
    assert ddfs.delattr(tag, "kind") == "deleted"
    assert ddfs.attrs(tag) == {"size": "12"}


def test_setting_an_attribute_creates_the_tag(ddfs: DDFS, tag: str) -> None:
    ddfs.setattr(tag, "kind", "log")
    assert ddfs.urls(tag) == []


def test_deleting_a_missing_attribute_is_no_error_but_a_missing_tag_is(
    ddfs: DDFS, tag: str
) -> None:
    with pytest.raises(TagNotFound):
        ddfs.delattr(tag, "kind")
    ddfs.tag(tag, [])
    assert ddfs.delattr(tag, "kind") == "deleted"


def test_missing_attributes_are_404(ddfs: DDFS, tag: str) -> None:
    with pytest.raises(TagNotFound):
        ddfs.getattr(tag, "kind")
    ddfs.tag(tag, [])
    with pytest.raises(AttributeNotFound) as caught:
        ddfs.getattr(tag, "kind")
    assert caught.value.code == 404
    assert caught.value.name == "kind"


def test_any_text_is_a_legal_attribute(ddfs: DDFS, tag: str) -> None:
    ddfs.setattr(tag, ODD, ODD)
    assert ddfs.attrs(tag) == {ODD: ODD}
    assert ddfs.getattr(tag, ODD) == ODD
    ddfs.delattr(tag, ODD)
    assert ddfs.attrs(tag) == {}


def test_the_urls_are_an_attribute_too(ddfs: DDFS, tag: str) -> None:
    ddfs.setattr(tag, "ddfs:urls", [["http://a/1"]])
    assert ddfs.getattr(tag, "ddfs:urls") == [["http://a/1"]]
    assert ddfs.attrs(tag) == {}
    with pytest.raises(InvalidUrls):
        ddfs.setattr(tag, "ddfs:urls", "http://a/1")


@pytest.mark.parametrize("attr", ["ddfs:other", "ddfs:"])
def test_no_other_attribute_of_the_system_exists(ddfs: DDFS, tag: str, attr: str) -> None:
    ddfs.tag(tag, [])
    with pytest.raises(AttributeNotFound):
        ddfs.getattr(tag, attr)
    with pytest.raises(AttributeNotFound):
        ddfs.setattr(tag, attr, "x")
    with pytest.raises(AttributeNotFound):
        ddfs.delattr(tag, attr)


def test_attributes_up_to_the_limits_are_kept(ddfs: DDFS, tag: str) -> None:
    ddfs.setattr(tag, "n" * 1024, "v" * 4094)
    assert ddfs.getattr(tag, "n" * 1024) == "v" * 4094


@pytest.mark.parametrize(
    ("attr", "value"),
    [
        ("n" * 1025, "v"),
        ("\u00fc" * 513, "v"),
        ("n", "v" * 4095),
        ("n", "\u00fc" * 700),
        ("", "v"),
        ("n", 1),
        ("n", None),
        ("n", ["v"]),
        ("\ud800", "v"),
        ("n", "\ud800"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_attributes_above_the_limits_are_refused(
    ddfs: DDFS, tag: str, attr: str, value: object
) -> None:
    ddfs.tag(tag, [])
    with pytest.raises(InvalidAttribute) as caught:
        ddfs.setattr(tag, attr, value)
    assert caught.value.code == 403
    assert ddfs.attrs(tag) == {}


def test_a_tag_has_at_most_a_thousand_attributes(local: DDFS) -> None:
    for number in range(1000):
        local.setattr("data", f"a{number}", "v")
    with pytest.raises(InvalidAttribute):
        local.setattr("data", "one more", "v")
    local.setattr("data", "a0", "w")
    assert len(local.attrs("data")) == 1000


# -- tokens -----------------------------------------------------------------------------------


def test_the_token_of_the_creator_protects_the_tag(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"]], token="secret")
    for wrong in (None, "other", ""):
        with pytest.raises(Unauthorized) as caught:
            ddfs.get(tag, token=wrong)
        assert caught.value.code == 401
        for change in (
            lambda t: ddfs.tag(tag, [], token=t),
            lambda t: ddfs.put(tag, [], token=t),
            lambda t: ddfs.setattr(tag, "a", "b", token=t),
            lambda t: ddfs.delattr(tag, "a", token=t),
            lambda t: ddfs.delete(tag, token=t),
            lambda t: ddfs.push(tag, [(b"x", "x")], token=t),
        ):
            with pytest.raises(Unauthorized):
                change(wrong)
    assert ddfs.urls(tag, token="secret") == [["http://a/1"]]
    assert ddfs.exists(tag)


def test_a_tag_created_without_a_token_is_open(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [], token=None)
    ddfs.tag(tag, [["http://a/1"]], token="any")
    assert ddfs.urls(tag, token="other") == [["http://a/1"]]


def test_a_read_token_reads_and_does_not_write(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [], token="w")
    ddfs.setattr(tag, "ddfs:read-token", "r", token="w")
    assert ddfs.urls(tag, token="r") == []
    with pytest.raises(Unauthorized):
        ddfs.tag(tag, [], token="r")
    assert ddfs.urls(tag, token="w") == []


def test_a_tag_open_for_writing_still_wants_its_read_token(ddfs: DDFS, tag: str) -> None:
    ddfs.setattr(tag, "ddfs:read-token", "r")
    ddfs.tag(tag, [["http://a/1"]])
    with pytest.raises(Unauthorized):
        ddfs.get(tag)
    assert ddfs.urls(tag, token="r") == [["http://a/1"]]


def test_deleting_tokens_opens_the_tag(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [], token="secret")
    ddfs.delattr(tag, "ddfs:read-token", token="secret")
    assert ddfs.urls(tag) == []
    ddfs.delattr(tag, "ddfs:write-token", token="secret")
    ddfs.tag(tag, [["http://a/1"]])


def test_tokens_are_shown_to_those_who_hold_them_only(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [])
    assert ddfs.getattr(tag, "ddfs:read-token") is None
    assert ddfs.getattr(tag, "ddfs:write-token") is None
    ddfs.setattr(tag, "ddfs:read-token", "r")
    ddfs.setattr(tag, "ddfs:write-token", "w")
    assert ddfs.getattr(tag, "ddfs:read-token", token="r") == "r"
    assert ddfs.getattr(tag, "ddfs:write-token", token="w") == "w"
    with pytest.raises(Unauthorized):
        ddfs.getattr(tag, "ddfs:write-token", token="r")
    with pytest.raises(Forbidden):
        ddfs.getattr(tag, "ddfs:read-token", token="w")


@pytest.mark.parametrize("token", ["with:colon", "sp ace", "\u00fc\u20ac", "a\nb\r\n\0", "=" * 64])
def test_tokens_may_hold_any_text(ddfs: DDFS, tag: str, token: str) -> None:
    ddfs.tag(tag, [["http://a/1"]], token=token)
    assert ddfs.urls(tag, token=token) == [["http://a/1"]]
    with pytest.raises(Unauthorized):
        ddfs.urls(tag, token=token + "x")


@pytest.mark.parametrize(
    "token", ["t" * 4097, "\ud800", b"bytes", 777777], ids=lambda t: repr(t)[:9]
)
def test_what_cannot_be_a_token_is_refused_without_showing_it(
    ddfs: DDFS, tag: str, token: object
) -> None:
    with pytest.raises(InvalidToken) as caught:
        ddfs.tag(tag, [], token=token)  # type: ignore[arg-type]
    assert str(token) not in str(caught.value)
    assert not ddfs.exists(tag)


def test_tokens_come_from_the_environment(
    ddfs: DDFS, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ddfs.tag(tag, [], token="w")
    ddfs.setattr(tag, "ddfs:read-token", "r", token="w")
    monkeypatch.setenv("DDFS_READ_TOKEN", "r")
    assert ddfs.urls(tag) == []
    with pytest.raises(Unauthorized):
        ddfs.tag(tag, [["http://a/1"]])
    monkeypatch.setenv("DDFS_WRITE_TOKEN", "w")
    ddfs.tag(tag, [["http://a/1"]])
    assert ddfs.urls(tag) == [["http://a/1"]]


def test_tokens_come_from_settings(local: DDFS) -> None:
    settings = {"DDFS_READ_TOKEN": "secret", "DDFS_WRITE_TOKEN": "secret"}
    ours = DDFS(local.master, settings=settings)
    ours.tag("data", [])
    assert ours.urls("data") == []
    assert "secret" not in repr(ours)
    with pytest.raises(Unauthorized):
        local.urls("data")


def test_nothing_stored_or_said_gives_a_token_away(local: DDFS, tmp_path: Path) -> None:
    local.tag("data", [["http://a/1"]], token="s3cr3t-token")
    local.setattr("data", "ddfs:read-token", "s3cr3t-reader", token="s3cr3t-token")
    with pytest.raises(Unauthorized) as caught:
        local.get("data", token="s3cr3t-guess")
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in repr(local.get("data", token="s3cr3t-token"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"s3cr3t" in path.read_bytes() for path in files)


def test_stored_files_are_for_their_owner_only(local: DDFS, tmp_path: Path) -> None:
    local.push("data", [(b"bytes", "blob")])
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0
