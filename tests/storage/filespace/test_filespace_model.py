"""Two clients in two processes under random operations, against a model of a few lines.

The model says what is promised: a client sees what is published with its own changes made on
top; syncing publishes them; a change whose name others have given to something else goes to a
``_conflicted`` name. That all reads equal the model means: no write is lost, nothing is visible
early, nothing is torn.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from filespace_worker import Remote
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from proxyflow.storage.filespace import FsExistsError, FsNotFoundError

NAMES = st.sampled_from(["a", "b", "c", "a_conflicted"])
CLIENTS = st.sampled_from([0, 1])
SIZES = st.sampled_from([0, 1, 100, 5000, 200_000])

State = dict[str, tuple[int, bytes]]  # name -> identity of the file, content


class Model:
    """What one client sees: `published` with the changes of `journal` made on top."""

    def __init__(self) -> None:
        self.journal: list[tuple[Any, ...]] = []

    def append(self, *op: Any) -> None:
        """Add a change; a file written twice, or written and deleted, between syncs counts once."""
        call, name, *rest = op
        expect = rest[-1]
        for index in range(len(self.journal) - 1, -1, -1):
            before = self.journal[index]
            if name not in (before[1], before[2] if before[0] == "move" else None):
                continue
            if call != "move" and before[0] == "put" and before[2][1] == expect:
                if call == "put":
                    self.journal[index] = ("put", name, rest[0], before[3])
                elif before[3] is None:
                    del self.journal[index]
                else:
                    self.journal[index] = ("delete", name, before[3])
                return
            break
        self.journal.append(op)

    def view(self, published: State) -> State:
        """Return what the client sees; rewrites the journal to what its changes came to."""
        state, moved, done = dict(published), dict[str, str](), []
        for call, name, *rest in self.journal:
            name = moved.get(name, name)
            now = state.get(name)
            if call == "put":
                (identity, content), expect = rest
                if now is not None and now[1] != expect:
                    moved[name] = free_name(state, name)
                    name, now = moved[name], None
                done.append(("put", name, (identity, content), now[1] if now else None))
                state[name] = (identity, content)
            elif call == "delete" and now is not None and now[1] == rest[0]:
                done.append(("delete", name, *rest))
                del state[name]
            elif call == "move" and now is not None and now[0] == rest[1]:
                target = moved.get(rest[0], rest[0])
                if target == name:
                    continue  # the conflict has given it the very name it was to get
                if target in state:
                    moved[target] = free_name(state, target)
                    target = moved[target]
                done.append(("move", name, target, now[0]))
                state[target] = state.pop(name)
        self.journal = done
        return state


def free_name(state: State, name: str) -> str:
    suffixes = itertools.chain(["_conflicted"], (f"_conflicted_{n}" for n in itertools.count(2)))
    return next(name + suffix for suffix in suffixes if name + suffix not in state)


class TwoClients(RuleBasedStateMachine):
    remotes: list[Remote]
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        name = f"f{next(self.numbers)}"
        for remote in self.remotes:
            remote("link", name)
        self.published: State = {}
        self.models = [Model(), Model()]

    def sees(self, client: int) -> State:
        return self.models[client].view(self.published)

    @rule(client=CLIENTS, name=NAMES, size=SIZES, streamed=st.booleans())
    def write(self, client: int, name: str, size: int, streamed: bool) -> None:
        number = next(self.numbers)
        content = (b"%d:" % number + b"." * size)[: max(size, len(b"%d:" % number))]
        old = self.sees(client).get(name)
        self.remotes[client]("stream" if streamed else "write_file", f"/{name}", content)
        identity = old[0] if old else number
        self.models[client].append("put", name, (identity, content), old[1] if old else None)

    @rule(client=CLIENTS, name=NAMES)
    def delete(self, client: int, name: str) -> None:
        old = self.sees(client).get(name)
        if old is None:
            with pytest.raises(FsNotFoundError):
                self.remotes[client]("delete", f"/{name}")
            return
        self.remotes[client]("delete", f"/{name}")
        self.models[client].append("delete", name, old[1])

    @rule(client=CLIENTS, source=NAMES, destination=NAMES)
    def move(self, client: int, source: str, destination: str) -> None:
        state = self.sees(client)
        call = ("move", f"/{source}", f"/{destination}")
        if source not in state or destination in state:
            error = FsNotFoundError if source not in state else FsExistsError
            with pytest.raises(error):
                self.remotes[client](*call)
            return
        self.remotes[client](*call)
        self.models[client].append("move", source, destination, state[source][0])

    @rule(client=CLIENTS)
    def sync(self, client: int) -> None:
        self.remotes[client]("sync_all")
        self.published = self.sees(client)
        self.models[client].journal = []

    @invariant()
    def every_client_sees_what_the_model_says(self) -> None:
        for client, remote in enumerate(self.remotes):
            expected = {name: content for name, (_, content) in self.sees(client).items()}
            assert remote("tree") == expected


@pytest.fixture(scope="module")
def remotes() -> Iterator[list[Remote]]:
    with tempfile.TemporaryDirectory() as hub:
        pair = [Remote(hub), Remote(hub)]
        yield pair
        for remote in pair:
            remote.stop()


def _run(remotes: list[Remote], examples: int, steps: int) -> None:
    machine = type("Machine", (TwoClients,), {"remotes": remotes})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_two_clients_agree_with_the_model(remotes: list[Remote]) -> None:
    _run(remotes, examples=25, steps=25)


@pytest.mark.soak
def test_two_clients_agree_with_the_model_for_long(remotes: list[Remote]) -> None:
    _run(remotes, examples=500, steps=60)
