"""The documentation says what the code does."""

from pathlib import Path

from handlers.sessions.machine import TABLE, Phase, Transition

DOCS = Path(__file__).parents[2] / "docs"


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
