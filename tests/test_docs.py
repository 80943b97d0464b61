"""The documentation names everything there is, and nothing that is not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyflow
from proxyflow import errors
from proxyflow.connectors import connector_class
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError
from proxyflow.options import NAMES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()


# Stores of Redis by other ways, and as what the table of options knows them.
FAMILIES = {
    "rediss": {"redis"},
    "redis+unix": {"redis", "redis+unix"},
    "unix": {"redis", "redis+unix"},
}
SCHEMES = [*FAMILIES, "ddfs+file", "ddfs+s3", "disco", "file", "filespace", "flux", "lmdb"]
SCHEMES += ["maildir", "memory", "redis", "shm"]


def code_in(text: str) -> set[str]:
    """Return the words in code, inline or in blocks."""
    parts = re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL)
    return {word for part in parts for word in re.findall(r"\w+", part)}


def options_of(scheme: str) -> set[str]:
    """Return the options that URLs of a scheme may have, as the error about others lists them."""
    url = StoreURL(scheme, path="/nowhere", options={"nosuchoption": "1"})
    with pytest.raises(ConfigError, match="unknown option 'nosuchoption'") as caught:
        connector_class(scheme).from_url(url)
    listed = str(caught.value.remedy).removeprefix("known here: ").partition(";")[0]
    return set() if listed == "none" else set(listed.split(", "))


def option_rows() -> dict[str, set[str]]:
    """Return the stores that the table of options names for each option."""
    rows = re.findall(r"^\| `([a-z]+)` \| ([^|]+) \|", CONFIGURATION, re.MULTILINE)
    return {option: set(re.findall(r"`([^`]+)`", stores)) for option, stores in rows}


def used_variables() -> Iterator[str]:
    """Yield the environment variables of ours that the code reads by their name."""
    for folder in ("proxyflow", "integrations"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from re.findall(r"[\"'](PROXYFLOW_[A-Z_]+)[\"']", path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_public_name_is_explained() -> None:
    words = set().union(*(code_in(page.read_text()) for page in PAGES))
    assert set(proxyflow.__all__) <= words
    assert set(errors.__all__) <= code_in((ROOT / "docs/objects.md").read_text())


def test_every_extra_is_in_the_readme() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    extras = project["optional-dependencies"]
    assert [extra for extra in extras if f"`{extra}`" not in readme] == []


def test_every_store_is_in_the_docs() -> None:
    # In a process of its own: other tests make connectors known.
    program = "import proxyflow; print(*proxyflow.known_connectors())"
    known = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert known == sorted(SCHEMES)
    stores = (ROOT / "docs/stores.md").read_text() + (ROOT / "README.md").read_text()
    assert [scheme for scheme in known if f"`{scheme}://" not in stores] == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_table_of_options_is_right(scheme: str) -> None:
    """What it says of a store is what the store accepts, no more and no less."""
    family = FAMILIES.get(scheme, {scheme})
    documented = {option for option, stores in option_rows().items() if stores & family}
    assert documented - NAMES == options_of(scheme)
    assert set(option_rows()) >= NAMES


def test_every_variable_is_in_the_table() -> None:
    missing = {name for name in used_variables() if f"`{name}`" not in CONFIGURATION}
    assert missing == set()


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_of_the_readme_run(number: int, tmp_path: Path) -> None:
    """As they are shown, but for their size and the directory they use."""
    block = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)[number]
    program = block.replace("/dev/shm/run1", f"{tmp_path}/run1").replace("20_000_000", "200_000")
    assert "__main__" in program
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
