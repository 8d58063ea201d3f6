"""One place for each heavy dependency, a word from each module; what falls which way is import-linter's contract (pyproject.toml)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVED = sorted((ROOT / "handlers").rglob("*.py"))
STARTED = [*SERVED, *sorted((ROOT / "host").rglob("*.py"))]
PLACES = {
    "torch": "handlers/inference/backends/torchscript.py",
    "onnxruntime": "handlers/inference/backends/onnxruntime.py",
    "lmdb": "handlers/stores/lmdb.py",
    "valkey": "handlers/stores/valkey.py",
}


def imported(path: Path) -> Iterator[str]:
    """The first name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import fails in the host"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize(("module", "place"), PLACES.items(), ids=PLACES)
def test_a_heavy_dependency_has_one_place_in_what_is_started_to_serve(module, place):
    assert [path.relative_to(ROOT).as_posix() for path in STARTED if module in imported(path)] == [place]


def test_the_exporter_never_reaches_a_store():
    assert not [path for path in (ROOT / "export").rglob("*.py") if "lmdb" in imported(path)]


def test_no_module_that_serves_knows_the_host():
    assert not [path for path in SERVED if "ts" in imported(path)]


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_that_serves_says_what_it_does(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text
    assert len(text) > 40
