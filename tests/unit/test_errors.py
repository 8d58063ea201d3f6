"""The error tree: drawn as it is, one code for each leaf, and a body that every client can read."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from handlers import errors
from handlers.errors import CellstateError, ConfigurationError


def below(kind: type[CellstateError]) -> Iterator[type[CellstateError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


TREE = [kind for kind in below(CellstateError) if kind.__module__ == errors.__name__]
PARENTS = {kind.__base__ for kind in TREE}
LEAVES = [kind for kind in TREE if kind not in PARENTS and kind is not ConfigurationError]  # it never becomes a response
DRAWN = re.compile(r"^    ([│ ]*)(?:├──|└──) (\w+)(?: +(\d{3})? *(.*))?$", re.MULTILINE)


def drawn() -> Iterator[tuple[str, str, str, str]]:
    """Class, parent, status and remark of each line of the docstring's tree."""
    above = ["CellstateError"]
    for bars, name, status, remark in DRAWN.findall(errors.__doc__ or ""):
        depth = len(bars) // 4
        above[depth + 1 :] = [name]
        yield name, above[depth], status, remark


def test_the_drawing_is_the_tree():
    assert [(name, parent) for name, parent, _, _ in drawn()] == [(kind.__name__, kind.__base__.__name__) for kind in TREE]


def test_the_drawing_states_each_leafs_status_and_whether_to_try_again():
    stated = {name: (status, "retryable" in remark) for name, _, status, remark in drawn()}
    assert {kind.__name__: (str(kind.status), kind.retryable) for kind in LEAVES} == {
        name: value for name, value in stated.items() if value[0]
    }


def test_every_leaf_has_a_code_of_its_own():
    codes = [kind.code for kind in LEAVES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes), codes


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_leaf_has_the_status_of_an_error(kind):
    assert 400 <= kind.status <= 599
    assert kind.status < 500 or kind.status == 503 or kind is errors.InternalError, "only a defect of ours is a 500"


def test_what_may_be_tried_again_is_never_the_requests_fault():
    assert {kind.code for kind in LEAVES if kind.retryable} == {"overloaded", "quota_exceeded", "store_unavailable", "draining"}


def test_a_body_is_code_message_details_and_retryable_only_where_it_is():
    assert orjson.loads(orjson.dumps(errors.StepConflict("m", expected=4).body())) == {
        "code": "step_conflict", "message": "m", "details": {"expected": 4},
    }  # fmt: skip
    assert errors.Overloaded("m").body() == {"code": "overloaded", "message": "m", "details": {}, "retryable": True}


def test_the_tree_needs_the_standard_library_only():
    module = ast.parse(Path(errors.__file__).read_text())
    imported = [node for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == ["from typing import Any, ClassVar"]
