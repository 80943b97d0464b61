"""The graph of tags: walk, blobs and findtags."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxyflow.storage.tagblob import DDFS, TagNotFound, Unauthorized

Name = Callable[[], str]


def link(tag: str) -> list[str]:
    return [f"tag://{tag}"]


def blob(number: int) -> list[str]:
    return [f"http://node/{number}"]


def test_walk_is_preorder_and_yields_path_tags_and_blobs(ddfs: DDFS, name: Name) -> None:
    top, left, right = name(), name(), name()
    ddfs.tag(top, [link(left), blob(0), link(right)])
    ddfs.tag(left, [blob(1)])
    ddfs.tag(right, [blob(2)])
    at = [f"tag://{tag}" for tag in (top, left, right)]
    assert list(ddfs.walk(top)) == [
        ((at[0],), [at[1], at[2]], [blob(0)]),
        ((at[0], at[1]), [], [blob(1)]),
        ((at[0], at[2]), [], [blob(2)]),
    ]
    assert list(ddfs.blobs(top)) == [blob(0), blob(1), blob(2)]
    assert list(ddfs.findtags([top])) == [
        (at[0], [at[1], at[2]], [blob(0)]),
        (at[1], [], [blob(1)]),
        (at[2], [], [blob(2)]),
    ]


def test_missing_tags_are_yielded_empty_or_raised(ddfs: DDFS, name: Name) -> None:
    top, gone = name(), name()
    ddfs.tag(top, [link(gone), blob(0)])
    path = (f"tag://{top}", f"tag://{gone}")
    assert list(ddfs.walk(top))[1] == (path, (), ())
    assert list(ddfs.blobs(top)) == [blob(0)]
    assert [tag for tag, _, _ in ddfs.findtags([top])] == [path[0]]

    walk = ddfs.walk(top, ignore_missing=False)
    assert next(walk)[0] == path[:1]
    assert next(walk) == (path, None, None)
    with pytest.raises(TagNotFound):
        next(walk)
    with pytest.raises(TagNotFound):
        list(ddfs.blobs(top, ignore_missing=False))
    with pytest.raises(TagNotFound):
        list(ddfs.findtags(top, ignore_missing=False))


def test_a_protected_tag_stops_the_walk_even_when_missing_ones_do_not(
    ddfs: DDFS, name: Name
) -> None:
    top, closed = name(), name()
    ddfs.tag(top, [link(closed)])
    ddfs.tag(closed, [], token="secret")
    with pytest.raises(Unauthorized):
        list(ddfs.walk(top))
    with pytest.raises(Unauthorized):
        list(ddfs.blobs(top))


def test_walking_with_a_token_and_a_path_before(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [blob(0)], token="secret")
    assert list(ddfs.walk(tag, tagpath=("tag://root",), token="secret")) == [
        (("tag://root", f"tag://{tag}"), [], [blob(0)])
    ]


def test_cycles_end(ddfs: DDFS, name: Name) -> None:
    one, two = name(), name()
    ddfs.tag(one, [link(two), link(one), blob(1)])
    ddfs.tag(two, [link(one), blob(2)])
    at_one, at_two = f"tag://{one}", f"tag://{two}"
    assert list(ddfs.walk(one)) == [
        ((at_one,), [at_two, at_one], [blob(1)]),
        ((at_one, at_two), [at_one], [blob(2)]),
    ]
    assert list(ddfs.blobs(one)) == [blob(1), blob(2)]
    assert len(list(ddfs.findtags([one]))) == 2


def test_a_diamond_yields_each_blob_once(ddfs: DDFS, name: Name) -> None:
    top, left, right, bottom = name(), name(), name(), name()
    ddfs.tag(top, [link(left), link(right)])
    for side in (left, right):
        ddfs.tag(side, [link(bottom), blob(1)])
    ddfs.tag(bottom, [blob(2)])
    assert list(ddfs.blobs(top)) == [blob(1), blob(2)]
    paths = [path for path, _, _ in ddfs.walk(top)]
    assert len(paths) == 5
    assert len(list(ddfs.findtags([top]))) == 4


def test_a_blob_appended_twice_to_one_tag_stays_two(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [blob(1)])
    ddfs.tag(tag, [blob(1)])
    assert list(ddfs.blobs(tag)) == [blob(1), blob(1)]


def test_many_diamonds_in_a_row_take_linear_time(local: DDFS) -> None:
    depth = 60
    for level in range(depth):
        local.put(f"t{level}", [link(f"l{level}"), link(f"r{level}")])
        for side in "lr":
            local.put(f"{side}{level}", [link(f"t{level + 1}")])
    local.put(f"t{depth}", [blob(1)])
    assert list(local.blobs("t0")) == [blob(1)]
    # One line per link: following every path would take 2 ** 60.
    assert len(list(local.walk("t0"))) == 1 + 4 * depth


def test_chains_of_thousands_need_no_recursion(local: DDFS) -> None:
    depth = 3000
    for level in range(depth):
        local.put(f"t{level}", [link(f"t{level + 1}")])
    local.put(f"t{depth}", [blob(1)])
    assert sum(1 for _ in local.walk("t0")) == depth + 1
    assert list(local.blobs("t0")) == [blob(1)]
    assert sum(1 for _ in local.findtags(["t0"])) == depth + 1


def test_the_caller_may_prune_the_walk(local: DDFS) -> None:
    local.tag("top", [link("left"), link("right")])
    local.tag("left", [])
    local.tag("right", [])
    seen = []
    for path, tags, _ in local.walk("top"):
        seen.append(path[-1])
        if "tag://left" in tags:
            tags.remove("tag://left")
    assert seen == ["tag://top", "tag://right"]
