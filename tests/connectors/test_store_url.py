"""A URL says the same after a round trip, whatever the names in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyflow import Store
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.just("\udcff"),
    min_size=1,
)


@given(
    names, st.dictionaries(names, names), st.none() | st.from_regex("[a-z2-7]{10}", fullmatch=True)
)
def test_what_is_written_is_read(path: str, options: dict[str, str], session: str | None) -> None:
    url = StoreURL("file", "", f"/{path}", options, session)
    assert StoreURL.parse(str(url)) == url
    assert hash(StoreURL.parse(str(url))) == hash(url)


@pytest.mark.parametrize(
    "name", ["with space", "a#b?c=d&e%20", "umlaut-ü", "new\nline", b"\xff\xfe"]
)
def test_a_directory_of_any_name_will_do(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    with Store(path, compress=True) as store:
        key = store.put("text")
        assert os.path.isdir(path)
        assert Store.from_config(store.config()).get(key) == "text"


def test_flags_read_as_people_write_them() -> None:
    url = StoreURL.parse("x://?a=1&b=Yes&d=off&e=0")
    assert [url.flag(name) for name in "abde"] == [True, True, False, False]
    assert url.flag("missing", default=True)


@pytest.mark.parametrize("value", ["", "2", "maybe"])
def test_what_is_no_flag_is_refused_with_the_words_that_are(value: str) -> None:
    """Nobody has to guess whether an option without a value is on."""
    with pytest.raises(ConfigError, match=r"neither yes nor no; write 1, .* or 0, .* or off"):
        StoreURL.parse(f"x://?verify={value}").flag("verify")


def test_an_option_of_none_is_dropped() -> None:
    url = StoreURL.parse("x://host/path?a=1#session")
    assert str(url.replace(options={"a": None, "b": "2"}, session=None)) == "x://host/path?b=2"


def test_known_options_are_listed() -> None:
    known = "known here: none; with every store: cache, compress, verify"
    with pytest.raises(ConfigError, match=known):
        StoreURL.parse("x://?a=1").check_options(frozenset())
