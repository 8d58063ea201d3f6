"""The documentation says what the code does."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers import errors
from handlers.errors import CellstateError, ConfigurationError
from handlers.metrics import HISTOGRAMS, METRICS, PREFIX
from handlers.sessions.machine import TABLE, Phase, Transition
from host.open_files import OpenFiles

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROBLEMS = (DOCS / "when-it-goes-wrong.md").read_text()


def rendered_table() -> str:
    """The session table as docs/sessions.md prints it."""
    phases = list(Phase)
    lines = ["| | " + " | ".join(phase.value for phase in phases) + " |", "|---" * (len(phases) + 1) + "|"]
    for operation, row in TABLE.items():
        cells = [
            move.value if isinstance(move, Transition) else f"{move.status} `{move.code}`" for move in (row[phase] for phase in phases)
        ]
        lines.append(f"| **{operation.value}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_session_page_prints_the_table_that_the_code_reads() -> None:
    assert rendered_table() in (DOCS / "sessions.md").read_text(), f"docs/sessions.md should contain:\n{rendered_table()}"


def leaves(kind: type[CellstateError]) -> Iterator[type[CellstateError]]:
    """The errors that are answered: those that no other error derives from."""
    for derived in kind.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield from list(leaves(derived)) or [derived]


def test_every_error_code_has_a_row_on_the_page_for_operators() -> None:
    answered = {f"{kind.status} {kind.code}" for kind in leaves(CellstateError) if kind is not ConfigurationError}
    rows = re.findall(r"^\| (.*?) \| ", PROBLEMS, re.MULTILINE)
    told = {code for row in rows for code in re.findall(r"`(\d{3} \w+_?\w*)`", row)}
    assert answered - told == set()
    assert told - answered == set()


def test_messages_that_the_page_quotes_are_the_codes() -> None:
    code = "".join(path.read_text() for folder in ("handlers", "host") for path in sorted((ROOT / folder).rglob("*.py")))
    symptoms = " ".join(re.findall(r"^\| (.*?) \| ", PROBLEMS, re.MULTILINE))
    quoted = [part.strip() for text in re.findall(r'"([^"]+)"', symptoms) for part in text.split("…") if part.strip()]
    assert len(quoted) > 8
    assert [text for text in quoted if text not in code] == []


def test_the_tests_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(tests/\S+\.py)`", PROBLEMS + (DOCS / "security.md").read_text()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_metrics_that_the_pages_name_exist() -> None:
    own = {path.stem for path in ROOT.glob("cellstate_*.py")}
    of_serve = set(re.findall(r"^(cellstate_\w+) ", OpenFiles(0, 0).exposition(), re.MULTILINE)) | {"cellstate_model_answers"}
    known = {f"{PREFIX}{name}" for name in (*METRICS, *HISTOGRAMS)} | of_serve | own
    named = {name for page in DOCS.glob("*.md") for name in re.findall(r"\bcellstate_[a-z]\w+", page.read_text())}
    assert named - known == set()


@pytest.mark.parametrize("module", ["host", "host.sessions"])
def test_the_commands_that_the_pages_for_operators_name_exist(module: str) -> None:
    pages = "".join((DOCS / f"{name}.md").read_text() for name in ("when-it-goes-wrong", "operations", "security", "deploying", "keys"))
    verbs = set(re.findall(rf"python -m {re.escape(module)} (?:URL |https?://\S+ )?([a-z]+)\b", pages))
    told = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert verbs
    assert [verb for verb in sorted(verbs) if not re.search(rf"\b{verb}\b", told)] == []
