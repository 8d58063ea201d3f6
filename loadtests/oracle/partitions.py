"""Divide a history into partitions: groups of sessions that forks, or exported states, relate. Each partition is judged alone."""

from collections.abc import Sequence

from loadtests.history import Operation


def partitions(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Return the operations by partition, each in the order given."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for operation in operations:
        first, *others = [*sessions_of(operation), *_states(operation)]
        for other in others:
            parent[root(other)] = root(first)
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(root(operation.invocation.session), []).append(operation)
    return list(found.values())


def sessions_of(operation: Operation) -> list[str]:
    """Return the sessions that an operation reads or changes: its own, and the target of a fork."""
    asked = operation.invocation
    return [asked.session, *([asked.to] if asked.to else [])]


def _states(operation: Operation) -> list[str]:
    """Name the state strings that went in or came out; no session can have such a name."""
    return [f"state {state}" for state in (operation.invocation.state, operation.answer.state) if state]
