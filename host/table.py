"""Tables as text, for the operator's commands."""

from collections.abc import Collection, Sequence


def align(rows: Sequence[Sequence[object]], right: Collection[int] = ()) -> list[str]:
    """Return one line a row, with the cells of each column padded to the same width; the columns `right` are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(_pad(text, width, i in right) for i, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in cells
    ]


def _pad(text: str, width: int, to_the_right: bool) -> str:
    return text.rjust(width) if to_the_right else text.ljust(width)
