"""Whatever is staged and committed in whatever order, the KVS holds what a simple tree would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from proxyflow.storage import kvs

NAMES = ["a", "b", "c", "n" * 600]
KEYS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple)
VALUES = st.one_of(st.integers(), st.text(max_size=5), st.just(bytes(9000)))


class LinkTo:
    """A link of the model."""

    def __init__(self, target: tuple[str, ...]) -> None:
        self.target = target


class TooManyLinks(Exception):
    """More than ten in a row."""


# In the model a directory is a dict, and nothing is None.
Node = Any


def find(root: dict[str, Node], path: tuple[str, ...], make: bool = False) -> Node:
    here: Node = root
    todo = list(path)
    links = 0
    while todo:
        name = todo.pop(0)
        node = here.get(name)
        if isinstance(node, LinkTo):
            links += 1
            if links > 10:
                raise TooManyLinks
            todo[:0] = node.target
            here = root
        elif isinstance(node, dict):
            here = node
        elif make:
            here[name] = {}
            here = here[name]
        else:
            return None if todo else node
    return here


def copied(node: Node) -> Node:
    return {name: copied(below) for name, below in node.items()} if isinstance(node, dict) else node


def apply(root: dict[str, Node], operations: list[tuple[tuple[str, ...], Node]]) -> dict[str, Node]:
    changed: dict[str, Node] = copied(root)
    for path, node in operations:
        parent = find(changed, path[:-1], make=node is not None)
        if node is not None:
            parent[path[-1]] = copied(node)
        elif isinstance(parent, dict):
            parent.pop(path[-1], None)
    return changed


class KVSMachine(RuleBasedStateMachine):
    """The KVS beside the model, with two handles: what one commits the other sees."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.handle = kvs.open(self.url)
        self.reader = kvs.open(self.url)
        with kvs.get_dir(self.handle) as root:
            root.clear()
        self.model: dict[str, Node] = {}
        self.staged: list[tuple[tuple[str, ...], Node]] = []

    def teardown(self) -> None:
        self.handle.close()
        self.reader.close()

    @rule(path=KEYS, value=VALUES)
    def put(self, path: tuple[str, ...], value: Any) -> None:
        kvs.put(self.handle, ".".join(path), value)
        self.staged.append((path, (value,)))

    @rule(path=KEYS)
    def mkdir(self, path: tuple[str, ...]) -> None:
        kvs.put_mkdir(self.handle, ".".join(path))
        self.staged.append((path, {}))

    @rule(path=KEYS)
    def unlink(self, path: tuple[str, ...]) -> None:
        kvs.put_unlink(self.handle, ".".join(path))
        self.staged.append((path, None))

    @rule(path=KEYS, leads_to=KEYS)
    def symlink(self, path: tuple[str, ...], leads_to: tuple[str, ...]) -> None:
        kvs.put_symlink(self.handle, ".".join(path), ".".join(leads_to))
        self.staged.append((path, LinkTo(leads_to)))

    @rule()
    def commit(self) -> None:
        staged, self.staged = self.staged, []
        try:
            changed = apply(self.model, staged)
        except TooManyLinks:
            with pytest.raises(kvs.LinkLoopError):
                kvs.commit(self.handle)
        else:
            kvs.commit(self.handle)
            self.model = changed

    @rule(path=KEYS, value=VALUES)
    def swap(self, path: tuple[str, ...], value: Any) -> None:
        key = ".".join(path)
        try:
            old = find(self.model, path)
            if isinstance(old, dict):
                return
            expected = kvs.MISSING if old is None else old[0]
            # The link's target holds the old value, but the link itself is replaced.
            changed = apply(self.model, [(path, (value,))])
        except TooManyLinks:
            return
        assert kvs.compare_and_swap(self.handle, key, expected, value)
        self.model = changed

    @rule(path=KEYS)
    def look(self, path: tuple[str, ...]) -> None:
        key = ".".join(path)
        try:
            node = find(self.model, path)
        except TooManyLinks:
            with pytest.raises(kvs.LinkLoopError):
                kvs.get(self.reader, key)
            return
        assert kvs.exists(self.reader, key) == (node is not None)
        assert kvs.isdir(self.reader, key) == isinstance(node, dict)
        if node is None:
            with pytest.raises(kvs.KeyNotFoundError):
                kvs.get(self.reader, key)
        elif isinstance(node, dict):
            assert list(kvs.get_dir(self.reader, key)) == sorted(node)
        else:
            value = kvs.get(self.reader, key)
            assert value == (node[0].decode() if isinstance(node[0], bytes) else node[0])

    @invariant()
    def trees_are_the_same(self) -> None:
        expected = {}
        pending = [("", self.model)]
        while pending:
            path, node = pending.pop()
            below = {name: child for name, child in node.items() if isinstance(child, dict)}
            expected[path] = (sorted(below), sorted(set(node) - set(below)))
            pending += [(kvs.join(path, name), child) for name, child in below.items()]
        found = {path: listing for path, *listing in kvs.walk(".", flux_handle=self.reader)}
        assert {path: tuple(listing) for path, listing in found.items()} == expected


def test_the_kvs_is_a_tree(url: str) -> None:
    machine = type("Machine", (KVSMachine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
