"""Files of series: CSV and Parquet of the same series are the same rows, and what is wrong is named with its file, line and column."""

import datetime
import decimal
import gzip
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellstate_series import SeriesFileError, number, opened, stem

TIMES = [datetime.datetime(2018, 9, 29, hour) for hour in (0, 1, 2)]


def cells(path):
    with opened(path) as rows:
        return list(rows.header), [list(row) for _, row in rows.rows]


def written(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_and_csv_are_the_same_rows(tmp_path):
    table = {"series": pa.array(["a", "a", "b"]).dictionary_encode(), "time": pa.array(TIMES, pa.timestamp("ns")), "load": [1.5, None, 3.0]}
    (tmp_path / "a.csv").write_text("series,time,load\na,2018-09-29T00:00:00,1.5\na,2018-09-29T01:00:00,\nb,2018-09-29T02:00:00,3.0\n")
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write((tmp_path / "a.csv").read_text())
    expected = cells(tmp_path / "a.csv")
    assert cells(written(tmp_path / "a.parquet", **table)) == expected
    assert cells(tmp_path / "a.csv.gz") == expected


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([0.1, float("nan"), None]), ["0.1", "", ""]),
        (pa.array([0.1, 2, None], pa.float32()), [repr(0.10000000149011612), "2.0", ""]),
        (pa.array([1, None, -3]), ["1", "", "-3"]),
        (pa.array([decimal.Decimal("1.50"), None, None]), ["1.50", "", ""]),
        (pa.array(["x", None, "y"], pa.large_string()), ["x", "", "y"]),
        (pa.array([datetime.date(2018, 9, 29)] * 3), ["2018-09-29"] * 3),
        (pa.array(TIMES, pa.timestamp("s", "America/Chicago")), [f"2018-09-28T{hour}:00:00-05:00" for hour in (19, 20, 21)]),
    ],
)
def test_the_text_of_a_column(tmp_path, column, texts):
    assert cells(written(tmp_path / "a.parquet", x=column))[1] == [[text] for text in texts]


def test_rows_are_told_across_batches_and_row_groups(tmp_path):
    pq.write_table(pa.table({"x": range(5_000)}), tmp_path / "a.parquet", row_group_size=700)
    with opened(tmp_path / "a.parquet") as rows:
        found = [(where, int(x)) for where, [x] in rows.rows]
    assert found == [(f"{tmp_path / 'a.parquet'}, row {i + 1}", i) for i in range(5_000)]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1], [2], [3]]), "a.parquet: x: expected numbers, text or times, got a column of list<"),
        (pa.array([True, False, None]), "a.parquet: x: expected numbers, text or times, got a column of bool"),
        (pa.array([1, 2, 3], pa.timestamp("ns")), "a.parquet: Casting from timestamp[ns] to timestamp[us] would lose data"),
    ],
)
def test_columns_that_are_no_series(tmp_path, column, message):
    with pytest.raises(SeriesFileError) as caught:
        cells(written(tmp_path / "a.parquet", x=column))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "none.parquet", "none.csv", "a.csv.gz"])
def test_files_that_are_none(tmp_path, name):
    for there in ("a.parquet", "a.csv.gz"):
        (tmp_path / there).write_bytes(b"load\n1\n")
    with pytest.raises(SeriesFileError) as caught:
        cells(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SeriesFileError, match=r"pip install -r requirements/parquet\.txt, or write the file as CSV"):
        cells(tmp_path / "a.parquet")


def test_a_line_is_that_of_an_editor(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfnote,load\n"two\nlines",1\nx,2,3\n')
    with pytest.raises(SeriesFileError) as caught:
        cells(tmp_path / "a.csv")
    assert str(caught.value) == f"{tmp_path / 'a.csv'}:4: 3 cells, the header has 2"


def test_a_column_that_is_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("time,load\n")
    with opened(tmp_path / "a.csv") as rows, pytest.raises(SeriesFileError) as caught:
        rows.column("power")
    assert str(caught.value) == f"{tmp_path / 'a.csv'}: no column 'power'; its columns are 'time', 'load'"


def test_numbers():
    assert (number("1.5", "", ""), str(number(" ", "", ""))) == (1.5, "nan")
    for text, message in (
        ("two", "a.csv:3: load: expected a number or nothing, got 'two'"),
        ("-inf", "expected a finite number or nothing"),
    ):
        with pytest.raises(SeriesFileError) as caught:
            number(text, "a.csv:3", "load")
        assert message in str(caught.value)


def test_stems(tmp_path):
    assert [stem(tmp_path / name) for name in ("a.csv", "a.csv.gz", "a.parquet", "a.b")] == ["a", "a", "a", "a.b"]
