"""Opens a file of series, CSV or Parquet, as a header and rows of text, and says where in the file something is wrong.

Building and hosting both read series, and share nothing else: hence a module of its own.
"""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

TIME, NAME = "time", "series"  # columns


class SeriesFileError(Exception):
    """The file cannot be read as series. The message is one line that names the file, and the line and column where there are some."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The cells of one file, as text; an empty cell was not measured. Iterate once: each row comes with where it stands in the file.

    Rows of Parquet are counted from 1, lines of CSV as an editor counts them.
    """

    path: Path
    header: Sequence[str]
    rows: Iterable[tuple[str, Sequence[str]]]

    def column(self, name: str) -> int:
        """Return the place of a column. Raises SeriesFileError where there is none."""
        if name not in self.header:
            raise SeriesFileError(f"{self.path}: no column {name!r}; its columns are {', '.join(map(repr, self.header))}")
        return self.header.index(name)


@contextmanager
def opened(path: Path) -> Iterator[Rows]:
    """Open a file by its ending: `.parquet`; `.gz` is CSV that is gzipped, anything else CSV.

    Raises:
        SeriesFileError: also while rows are read.
    """
    if path.suffix == ".parquet":
        with _translated(path):
            yield _parquet(path)
        return
    try:
        with _text(path) as file:
            yield _csv(path, file)
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as e:
        raise SeriesFileError(f"{path}: {e}") from e


def stem(path: Path) -> str:
    """Return the name of a file without its ending."""
    return path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".parquet")


def number(text: str, where: str, column: str) -> float:
    """Return a cell's number, NaN where it is empty. Raises SeriesFileError where it is none, or infinite."""
    try:
        found = float(text) if text.strip() else math.nan
    except ValueError as e:
        raise SeriesFileError(f"{where}: {column}: expected a number or nothing, got {text[:40]!r}") from e
    if math.isinf(found):
        raise SeriesFileError(f"{where}: {column}: expected a finite number or nothing, got {text[:40]!r}")
    return found


def _text(path: Path) -> TextIO:
    encoding = "utf-8-sig"  # spreadsheets begin a file with a mark of its encoding
    return gzip.open(path, "rt", encoding=encoding, newline="") if path.suffix == ".gz" else path.open(encoding=encoding, newline="")


def _csv(path: Path, file: TextIO) -> Rows:
    reader = csv.reader(file)
    header = next(reader, [])

    def rows() -> Iterator[tuple[str, Sequence[str]]]:
        for row in reader:
            cells = row or [""]  # the only column, and nothing was measured
            where = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise SeriesFileError(f"{where}: {len(cells)} cells, the header has {len(header)}")
            yield where, cells

    return Rows(path, header, rows())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Translate the errors of pyarrow, which is not installed everywhere."""
    try:
        import pyarrow
    except ModuleNotFoundError as e:
        raise SeriesFileError(
            f"{path}: Parquet is read by pyarrow, which is not installed: pip install -r requirements/parquet.txt, or write the file as CSV"
        ) from e
    try:
        yield
    except (OSError, pyarrow.ArrowException) as e:
        raise SeriesFileError(f"{path}: {' '.join(str(e).split())}") from e


def _parquet(path: Path) -> Rows:
    """Read row groups one after the other, so that the whole file is never in memory twice."""
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)

    def rows() -> Iterator[tuple[str, Sequence[str]]]:
        before = 0
        with file:
            for batch in file.iter_batches():
                columns = [_cells(column, f"{path}: {name}") for name, column in zip(batch.schema.names, batch.columns, strict=True)]
                for row, cells in enumerate(zip(*columns, strict=True), before + 1):
                    yield f"{path}, row {row}", cells
                before += batch.num_rows

    return Rows(path, file.schema_arrow.names, rows())


def _cells(column: Any, where: str) -> list[str]:
    """Return the text of a column of Parquet: numbers to the last digit, times in ISO 8601, and nothing for null and NaN."""
    import pyarrow
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_timestamp(kind):
        column = column.cast(pyarrow.timestamp("us", kind.tz))  # refuses to leave nanoseconds out
        return ["" if value is None else value.isoformat() for value in column.to_pylist()]
    if types.is_floating(kind):
        return ["" if value is None or value != value else repr(value) for value in column.to_pylist()]
    if types.is_integer(kind) or types.is_decimal(kind) or types.is_date(kind) or types.is_string(kind) or types.is_large_string(kind):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    raise SeriesFileError(f"{where}: expected numbers, text or times, got a column of {kind}")
