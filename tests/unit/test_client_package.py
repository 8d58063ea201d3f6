"""The package as a whole: its public face, and life without NumPy."""

import inspect
import subprocess
import sys

import pytest

import cellstate
from cellstate import AsyncClient, AsyncStream, Client, Stream


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (Stream, AsyncStream)])
def test_both_clients_have_the_same_methods(one, other):
    def public(kind):
        members = inspect.getmembers(kind, lambda member: inspect.isfunction(member) or isinstance(member, property))
        return {name: member for name, member in members if not name.startswith("_")}

    ours, theirs = public(one), public(other)
    assert set(ours) - {"close"} == set(theirs) - {"close", "aclose"}
    for name in set(ours) & set(theirs) - {"run"}:
        if inspect.isfunction(ours[name]):
            assert parameters(ours[name]) == parameters(theirs[name]), name


def parameters(function):
    return [(parameter.name, parameter.kind, parameter.default) for parameter in inspect.signature(function).parameters.values()]


def test_every_public_name_is_listed_and_documented():
    assert sorted(cellstate.__all__) == cellstate.__all__
    assert {kind.__name__ for kind in every(cellstate.CellstateError)} <= set(cellstate.__all__)
    assert all(
        getattr(cellstate, name).__doc__ for name in cellstate.__all__ if not issubclass(getattr(cellstate, name), cellstate.ApiError)
    )


def every(kind):
    return {kind}.union(*(every(child) for child in kind.__subclasses__()))


def test_without_numpy_results_are_lists():
    program = "import sys; sys.modules['numpy'] = None; import cellstate; print(cellstate.Result({'prediction': [[1.5]]}).prediction)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": "client"})
    assert found.stdout == "[[1.5]]\n"
