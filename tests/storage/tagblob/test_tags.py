"""Tags: what a tag object is and how it changes, the same on every engine."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable

import pytest

from proxyflow.storage.tagblob import (
    DDFS,
    Forbidden,
    InvalidName,
    InvalidTag,
    InvalidUrls,
    TagNotFound,
)

Name = Callable[[], str]

BLOB_A = ["disco://node1/ddfs/vol0/blob/7f/part-a$584-e8d2f-3a0"]
BLOB_A_LATER = ["disco://node2/ddfs/vol0/blob/01/part-a$584-e8d30-1"]
BLOB_B = ["disco://node1/ddfs/vol0/blob/10/part-b$584-e8d2f-3a1"]


def test_tag_object_has_the_documented_fields_and_no_tokens(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"]], token="secret")
    found = ddfs.get(tag, token="secret")
    assert set(found) == {"version", "id", "last-modified", "urls", "user-data"}
    assert found["version"] == 1
    assert re.fullmatch(re.escape(tag) + r"\$[0-9a-f]+-[0-9a-f]+-[0-9a-f]+", found["id"])
    assert re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", found["last-modified"])
    assert found["user-data"] == {}


def test_append_puts_the_new_batch_before_the_old_urls(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"], ["http://a/2"]])
    ddfs.tag(tag, [["http://a/3", "http://b/3"], ["http://a/4"]])
    assert ddfs.urls(tag) == [
        ["http://a/3", "http://b/3"],
        ["http://a/4"],
        ["http://a/1"],
        ["http://a/2"],
    ]


def test_empty_append_creates_a_missing_tag_and_changes_no_other(ddfs: DDFS, tag: str) -> None:
    assert not ddfs.exists(tag)
    ddfs.tag(tag, [])
    assert ddfs.urls(tag) == []
    before = ddfs.get(tag)["id"]
    ddfs.tag(tag, [])
    ddfs.tag(tag, [], update=True)
    assert ddfs.get(tag)["id"] == before


def test_put_replaces_the_urls_and_keeps_the_attributes(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"]])
    ddfs.setattr(tag, "kind", "log")
    ddfs.put(tag, [["http://a/2"]])
    assert ddfs.urls(tag) == [["http://a/2"]]
    assert ddfs.attrs(tag) == {"kind": "log"}


def test_a_change_answers_with_urls_of_the_new_version(ddfs: DDFS, tag: str) -> None:
    for change in (ddfs.tag, ddfs.put):
        (url,) = change(tag, [["http://a/1"]])
        assert url.startswith("disco://")
        assert "/tag/" in url
        assert url.endswith(ddfs.get(tag)["id"])


def test_every_version_has_a_later_id(ddfs: DDFS, tag: str) -> None:
    ids = []
    for _ in range(5):
        ddfs.tag(tag, [["http://a/1"]])
        moment = ddfs.get(tag)["id"].split("$")[1]
        ids.append(tuple(int(part, 16) for part in moment.split("-")))
    assert ids == sorted(set(ids))


def test_update_drops_blobs_whose_name_is_there(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [BLOB_A])
    ddfs.tag(tag, [BLOB_A_LATER, BLOB_B, BLOB_B], update=True)
    assert ddfs.urls(tag) == [BLOB_B, BLOB_A]


def test_update_drops_linked_tags_that_are_there(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["tag://x"]])
    ddfs.tag(tag, [["tag://y"], ["tag://x"], ["tag://y"]], update=True)
    assert ddfs.urls(tag) == [["tag://y"], ["tag://x"]]


def test_update_keeps_a_blob_that_has_the_name_of_a_linked_tag(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["tag://part-a"]])
    ddfs.tag(tag, [BLOB_A], update=True)
    assert ddfs.urls(tag) == [BLOB_A, ["tag://part-a"]]


def test_update_never_drops_other_urls(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"]])
    ddfs.tag(tag, [["http://a/1"], ["http://a/1"]], update=True)
    assert len(ddfs.urls(tag)) == 3


def test_update_keeps_the_order_of_the_batch(ddfs: DDFS, tag: str) -> None:
    batch = [[f"tag://t{number}"] for number in range(5)]
    ddfs.tag(tag, batch, update=True)
    assert ddfs.urls(tag) == batch


def test_deleting_the_urls_forgets_what_update_compares(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [BLOB_A], update=True)
    ddfs.delattr(tag, "ddfs:urls")
    assert ddfs.urls(tag) == []
    ddfs.tag(tag, [BLOB_A], update=True)
    assert ddfs.urls(tag) == [BLOB_A]


def test_delayed_appends_are_seen_by_the_next_operation(ddfs: DDFS, tag: str) -> None:
    for number in range(5):
        ddfs.tag(tag, [[f"http://a/{number}"]], delayed=True)
    assert len(ddfs.urls(tag)) == 5


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize(
    "urls",
    [
        [[]],
        [["http://a/1"], []],
        ["http://a/1"],
        [[1]],
        "http://a/1",
        {},
        None,
        [[""]],
        [["\ud800"]],
    ],
    ids=repr,
)
def test_bad_urls_are_refused_and_change_nothing(
    ddfs: DDFS, tag: str, urls: object, update: bool
) -> None:
    ddfs.tag(tag, [["http://a/0"]])
    with pytest.raises(InvalidUrls) as caught:
        ddfs.tag(tag, urls, update=update)
    assert caught.value.code == 403
    with pytest.raises(InvalidUrls):
        ddfs.put(tag, urls)
    assert ddfs.urls(tag) == [["http://a/0"]]


def test_tags_are_given_by_name_or_url(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(f"tag://{tag}", [["http://a/1"]])
    assert ddfs.urls(tag) == ddfs.urls(f"tag://{tag}") == ddfs.urls([f"tag://{tag}"])


@pytest.mark.parametrize("bad", ["", "a/b", "http://a", "disco://h/x", None, []], ids=repr)
def test_what_cannot_be_a_tag_is_an_invalid_tag(ddfs: DDFS, bad: object) -> None:
    with pytest.raises(InvalidTag):
        ddfs.get(bad)


@pytest.mark.parametrize("bad", ["a b", "../x", "tag://a/b", "ü", "a\n", "a$1-2-3", "x" * 512])
def test_illegal_names_are_refused_and_do_not_exist(ddfs: DDFS, bad: str) -> None:
    with pytest.raises(InvalidName) as caught:
        ddfs.tag(bad, [])
    assert caught.value.code == 403
    assert not ddfs.exists(bad)


def test_names_of_the_full_length_work(ddfs: DDFS, tag: str) -> None:
    longest = tag + "x" * (511 - len(tag))
    other = longest[:-1] + "y"
    ddfs.tag(longest, [["http://a/1"]])
    ddfs.tag(other, [["http://a/2"]])
    assert ddfs.urls(longest) == [["http://a/1"]]
    assert ddfs.list(tag) == [longest, other]
    ddfs.delete(longest)
    assert ddfs.list(tag) == [other]


def test_missing_tags_are_404(ddfs: DDFS, tag: str) -> None:
    with pytest.raises(TagNotFound) as caught:
        ddfs.get(tag)
    assert caught.value.code == 404
    assert caught.value.name == tag
    assert not ddfs.exists(tag)


def test_deleted_tags_are_gone_and_start_blank_again(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"]], token="secret")
    ddfs.setattr(tag, "a", "1", token="secret")
    assert ddfs.delete(tag, token="secret") == "deleted"
    assert not ddfs.exists(tag)
    assert tag not in ddfs.list(tag)
    with pytest.raises(TagNotFound):
        ddfs.urls(tag)
    ddfs.tag(tag, [["http://a/2"]])
    assert ddfs.get(tag)["urls"] == [["http://a/2"]]
    assert ddfs.attrs(tag) == {}


def test_deleting_a_missing_tag_is_no_error(ddfs: DDFS, tag: str) -> None:
    assert ddfs.delete(tag) == "deleted"


def test_list_is_sorted_and_by_prefix(ddfs: DDFS, tag: str) -> None:
    for suffix in ("b:1", "a", "b:2"):
        ddfs.tag(f"{tag}:{suffix}", [])
    assert ddfs.list(f"{tag}:") == [f"{tag}:a", f"{tag}:b:1", f"{tag}:b:2"]
    assert ddfs.list(f"{tag}:b") == [f"{tag}:b:1", f"{tag}:b:2"]
    assert ddfs.list(f"{tag}:none") == []
    assert f"{tag}:a" in ddfs.list()


def test_a_tag_of_ten_thousand_urls_is_kept_whole(ddfs: DDFS, tag: str) -> None:
    many = [[f"http://node/{number}"] for number in range(10_000)]
    ddfs.put(tag, many)
    ddfs.tag(tag, [["http://node/last"]])
    assert ddfs.urls(tag) == [["http://node/last"], *many]


def test_a_store_travels_to_another_process_without_its_tokens(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://a/1"]])
    copy = pickle.loads(pickle.dumps(ddfs))
    assert copy.urls(tag) == [["http://a/1"]]
    assert repr(copy) == repr(ddfs) == f"DDFS master at {ddfs.master}"


def test_tokens_of_the_environment_are_not_pickled(
    local: DDFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDFS_WRITE_TOKEN", "s3cr3t-token")
    assert b"s3cr3t-token" not in pickle.dumps(local)


def test_errors_of_the_403_kind_are_forbidden(ddfs: DDFS, tag: str) -> None:
    with pytest.raises(Forbidden):
        ddfs.tag("a b", [])
    with pytest.raises(Forbidden):
        ddfs.tag(tag, [[]])
