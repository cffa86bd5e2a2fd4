"""Tables on disk read back to the same dates and numbers, and appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foreblocks.darts._core.errors import InvalidArgument, OptionalDependencyError
from foreblocks.darts.data import check_table_path, read_csv, write_table

DATES = np.array(["2024-03-31T00:00", "2024-03-31T01:00"], dtype="datetime64[us]")
VALUES = np.array([[0.1, 1e-20], [-12345.678, 3e9]], dtype=np.float32)


@pytest.mark.parametrize("offset", [None, np.timedelta64(7_200_000_000, "us"), np.timedelta64(-12_600_000_000, "us")])
def test_a_csv_reads_back_the_same(tmp_path: Path, offset):
    write_table(tmp_path / "f.csv", DATES, ["a", "b"], VALUES, offset=offset)
    back = read_csv(tmp_path / "f.csv")
    np.testing.assert_array_equal(back.dates, DATES)
    np.testing.assert_array_equal(back.values.astype(np.float32), VALUES)
    assert back.channels == ["a", "b"]
    assert (back.offsets is None) == (offset is None)
    assert offset is None or (back.offsets == offset).all()
    assert [path.name for path in tmp_path.iterdir()] == ["f.csv"]


def test_integers_and_whole_days_are_plain(tmp_path: Path):
    write_table(tmp_path / "i.csv", np.array([7, 8]), ["a"], VALUES[:, :1], date_column="row")
    assert (tmp_path / "i.csv").read_text() == "row,a\n7,0.1\n8,-12345.678\n"
    write_table(tmp_path / "d.csv", DATES.astype("datetime64[D]").astype("datetime64[us]"), ["a"], VALUES[:, :1])
    assert (tmp_path / "d.csv").read_text().splitlines()[1] == "2024-03-31,0.1"


@pytest.mark.parametrize("offset", [None, np.timedelta64(7_200_000_000, "us")])
def test_parquet_reads_back_the_same(tmp_path: Path, offset):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "f.parquet", DATES, ["a", "b"], VALUES, offset=offset)
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["date", "a", "b"]
    assert str(table.schema.field("date").type) == ("timestamp[us]" if offset is None else "timestamp[us, tz=UTC]")
    np.testing.assert_array_equal(table["date"].to_numpy().astype("datetime64[us]"), DATES)
    np.testing.assert_array_equal(np.stack([table["a"].to_numpy(), table["b"].to_numpy()], 1), VALUES)


def test_paths_are_checked_before_any_work(tmp_path: Path, monkeypatch):
    for bad, message in (
        ("f.xlsx", "must end in .csv or .parquet"), ("none/f.csv", "is missing or read-only"), ("", "must end in")
    ):  # fmt: skip
        with pytest.raises(InvalidArgument, match=message):
            check_table_path(tmp_path / bad, argument="--out")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidArgument, match="is a folder"):
        check_table_path(tmp_path / "folder.csv")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(OptionalDependencyError, match=r"foreblocks-darts\[parquet\]"):
        check_table_path(tmp_path / "f.parquet")
    assert check_table_path(tmp_path / "f.csv") == tmp_path / "f.csv"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "f.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="zip"):
        write_table(path, DATES, ["a", "b"], VALUES[:1])
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.csv"]


@pytest.mark.parametrize("name", ["f.csv", "f.parquet"])
def test_a_channel_with_the_name_of_the_date_column_is_refused(tmp_path: Path, name: str):
    pytest.importorskip("pyarrow")
    with pytest.raises(InvalidArgument, match="date_column='date' is a channel too"):
        write_table(tmp_path / name, DATES, ["date", "b"], VALUES)
    assert list(tmp_path.iterdir()) == []
