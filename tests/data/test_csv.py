from __future__ import annotations

import datetime
import gzip
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.data.csv import parse_csv, read_csv
from foreblocks.darts.data.frame import SeriesFrame, check_finite

GOOD = "date,a,b\n2020-01-01 00:00:00,1,2\n2020-01-01 01:00:00,3,4.5\n2020-01-01 02:00:00,-5e1,6\n"


def parse(text: str, **kwargs) -> SeriesFrame:
    return parse_csv(text.encode(), "mine", **kwargs)


def error_of(text: str) -> str:
    with pytest.raises(DataError) as caught:
        parse(text)
    return str(caught.value)


def test_reads_dates_channels_values_step():
    frame = parse(GOOD)
    assert frame.channels == ["a", "b"]
    assert frame.values.dtype == np.float64
    assert frame.values.tolist() == [[1, 2], [3, 4.5], [-50, 6]]
    assert frame.dates[1] == np.datetime64("2020-01-01T01:00")
    assert frame.step == datetime.timedelta(hours=1)
    assert (frame.name, frame.notes, len(frame)) == ("mine", (), 3)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_file_plain_or_packed(tmp_path: Path, suffix: str):
    path = tmp_path / f"my.series{suffix}"
    raw = GOOD.encode()
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    frame = read_csv(str(path))
    assert frame.name == "my.series"
    assert frame.values.shape == (3, 2)


def test_missing_and_broken_files(tmp_path: Path):
    with pytest.raises(DataError, match="nothing"):
        read_csv(tmp_path / "nothing.csv")
    (tmp_path / "fake.csv.gz").write_bytes(GOOD.encode())
    with pytest.raises(DataError, match="fake"):
        read_csv(tmp_path / "fake.csv.gz")
    packed = gzip.compress(GOOD.encode() * 50)
    (tmp_path / "short.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="short"):
        read_csv(tmp_path / "short.csv.gz")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty"]),
        (" \n\n", ["empty"]),
        ("date,a,b\n", ["no rows"]),
        ("date\n2020-01-01\n", ["'date'", "channels"]),
        ("2020-01-01,1,2\n2020-01-02,3,4\n", ["line 1", "header", "2020-01-01"]),
        ("0,1,2\n1,3,4\n", ["line 1", "header"]),
        ("date,a,a\n2020-01-01,1,2\n", ["'a'", "columns 2 and 3"]),
        ("date,a,\n2020-01-01,1,2\n", ["column 3", "no name"]),
        (GOOD + "2020-01-01 03:00:00,7,x\n", ["'b'", "line 5", "'x'"]),
        (GOOD + "2020-01-01 03:00:00,7,\n", ["'b'", "line 5", "empty"]),
        (GOOD + "2020-01-01 03:00:00,nan,8\n", ["'a'", "line 5", "nan"]),
        (GOOD + "2020-01-01 03:00:00,7,-inf\n", ["'b'", "line 5", "inf"]),
        (GOOD + "2020-01-01 03:00:00,1_000,8\n", ["'a'", "line 5", "1_000"]),
        (GOOD + "2020-01-01 03:00:00,7\n", ["line 5", "2 cells", "'b'"]),
        (GOOD + "2020-01-01 03:00:00,7,8,9\n", ["line 5", "4 cells", "3"]),
        (GOOD + "yesterday,7,8\n", ["'date'", "line 5", "'yesterday'"]),
        (GOOD + "2020-13-01 00:00:00,7,8\n", ["'date'", "line 5", "2020-13-01"]),
        (GOOD + ",7,8\n", ["'date'", "line 5"]),
        (GOOD + "2020-01-01 02:00:00,7,8\n", ["'date'", "line 5", "duplicate of line 4"]),
        (GOOD + "2020-01-01 00:00:00,7,8\n", ["'date'", "line 5", "duplicate of line 2"]),
        (GOOD + "2019-12-31 00:00:00,7,8\n", ["'date'", "line 5", "not sorted"]),
        ("n,a\n3,1\n2,1\n", ["'n'", "line 3", "not sorted"]),
        ('date,a\n2020-01-01,"1\n', ["line 2", "CSV"]),
    ],
)
def test_bad_input_names_column_and_line(text: str, parts: list[str]):
    message = error_of(text)
    assert message.startswith("mine")
    for part in parts:
        assert part in message


def test_line_numbers_count_blank_lines():
    assert "line 6" in error_of("date,a\n\n2020-01-01,1\n\n\n2020-01-02,x\n")


def test_bad_encoding_names_line_and_a_way_out():
    raw = b"date,a\n2020-01-01,1\n2020-01-02,2 \xb5\n"
    with pytest.raises(DataError, match=r"line 3: byte 0xb5 .*latin-1"):
        parse_csv(raw, "mine")
    header = "date,°C\n2020-01-01,1\n".encode("latin-1")
    assert parse_csv(header, "mine", encoding="latin-1").channels == ["°C"]
    with pytest.raises(DataError, match="klingon"):
        parse_csv(header, "mine", encoding="klingon")


def test_byte_order_mark_windows_lines_quotes_and_separators():
    for separator in ",;\t":
        text = f'"date"{separator}"a b"\r\n"2020-01-01"{separator}"1"\r\n'
        frame = parse_csv(b"\xef\xbb\xbf" + text.encode(), "mine")
        assert frame.channels == ["a b"]
        assert frame.values.tolist() == [[1.0]]


GERMAN = "date;a;b\n01.01.2020;1,5;-2\n02.01.2020;,25;2,3e-1\n"


def test_decimal_commas_are_named_with_a_way_out_and_read_when_asked(tmp_path: Path):
    assert "column 'a', line 2: '1,5' is not a number with a decimal point" in error_of(GERMAN)
    assert "decimal=',' (read_csv) or --decimal ," in error_of(GERMAN)
    assert "decimal" not in error_of("date;a\n2020-01-01;1,5,6\n")
    (tmp_path / "x.csv").write_text(GERMAN)
    assert read_csv(tmp_path / "x.csv", decimal=",").values.tolist() == [[1.5, -2.0], [0.25, 0.23]]
    quoted = parse('date,a\n2020-01-01,"1,5"\n2020-01-02,\n2020-01-03,"2,5"\n', decimal=",", impute="linear")
    assert quoted.values.tolist() == [[1.5], [2.0], [2.5]]


@pytest.mark.parametrize(("cell", "said"), [("1.5", "'1.5' is not a number with a decimal comma"), ("1.234,5", "'1.2")])
def test_a_point_is_no_part_of_a_number_with_a_decimal_comma(cell: str, said: str):
    with pytest.raises(DataError, match=re.escape(f"column 'b', line 4: {said}")):
        parse(GERMAN + f"03.01.2020;1;{cell}\n", decimal=",")
    with pytest.raises(InvalidArgument, match="decimal=';' is not allowed"):
        parse(GERMAN, decimal=";")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2020-01-31", "2020-02-01"], ["2020-01-31", "2020-02-01"]),
        (["2020-01-31T05", "2020-01-31T06"], ["2020-01-31T05", "2020-01-31T06"]),
        (["2020-01-31T05:00:00Z", "2020-01-31T06:00:00Z"], ["2020-01-31T05", "2020-01-31T06"]),
        (["2020-01-31T05:00:00+02:00", "2020-01-31T05:00:00+01:00"], ["2020-01-31T03", "2020-01-31T04"]),
        (["1990/1/1 0:00", "1990/1/2 0:00"], ["1990-01-01", "1990-01-02"]),
        (["31.12.2019 23:00", "01.01.2020 00:00"], ["2019-12-31T23", "2020-01-01"]),
        (["12/31/2019 11:00 PM", "1/1/2020 12:00 AM"], ["2019-12-31T23", "2020-01-01"]),
        (["20200131", "20200201"], ["2020-01-31", "2020-02-01"]),
        (["1949-01", "1949-02"], ["1949-01-01", "1949-02-01"]),
        (["2020-01-01 00:00:00.25", "2020-01-01 00:00:00.50"], ["2020-01-01T00:00:00.25", "2020-01-01T00:00:00.50"]),
    ],
)
def test_date_forms(cells: list[str], expected: list[str]):
    frame = parse("date,a\n" + "".join(f"{cell},1\n" for cell in cells))
    assert frame.dates.tolist() == np.array(expected, dtype="datetime64[us]").tolist()


def test_months_have_the_step_of_a_month():
    frame = parse("Month,Passengers\n1949-11,104\n1949-12,118\n1950-01,115\n")
    assert str(frame.date_step) == "1 month"
    assert frame.dates_after(1).tolist() == [datetime.datetime(1950, 2, 1)]


def test_row_numbers_before_the_dates_are_named():
    assert "column 'date', line 2: '2020-01-01' is a date, but the dates are read from the first column" in error_of(
        ",date,a\n0,2020-01-01,1\n1,2020-01-02,2\n"
    )


def test_ambiguous_order_takes_the_even_one(caplog: pytest.LogCaptureFixture):
    days = [f"{day}/1/2020" for day in range(1, 6)]
    with caplog.at_level(logging.WARNING):
        frame = parse("date,a\n" + "".join(f"{day},1\n" for day in days))
    assert frame.step == datetime.timedelta(days=1)
    assert "day/month/year" in caplog.text


def test_integer_index_has_no_step():
    frame = parse("n,a\n0,1\n1,2\n2,4\n")
    assert frame.dates.tolist() == [0, 1, 2]
    assert frame.step is None


def test_irregular_steps_warn_once_with_the_first_line(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"):
        parse(GOOD + "2020-01-01 04:00:00,7,8\n2020-01-01 05:00:00,7,8\n2020-01-01 09:00:00,7,8\n")
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "line 5" in warnings[0]
    assert "2 of 5" in warnings[0]


def test_unordered_dates_only_when_asked():
    text = GOOD + "2020-01-01 02:00:00,7,8\n"
    assert len(parse(text, ordered=False)) == 4


def test_frame_checks_itself():
    dates = np.arange(3)
    with pytest.raises(DataError, match=r"\[rows, channels\]"):
        SeriesFrame(dates, ["a"], np.zeros(3))
    with pytest.raises(DataError, match="2 channel names for 1"):
        SeriesFrame(dates, ["a", "b"], np.zeros((3, 1)))
    with pytest.raises(DataError, match="3 dates for 2"):
        SeriesFrame(dates, ["a"], np.zeros((2, 1)))
    with pytest.raises(DataError, match="'a' appears twice"):
        SeriesFrame(dates, ["a", "a"], np.zeros((3, 2)))
    values = np.zeros((3, 2))
    values[2, 1] = np.nan
    with pytest.raises(DataError, match=r"'b', row 2 \(2\)"):
        check_finite(SeriesFrame(dates, ["a", "b"], values))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bad_cell_is_found_where_it_is(data: st.DataObject):
    rows, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))
    bad = data.draw(st.sampled_from(["", "NA", "nan", "inf", "1e999", "1,", "--", "1_0", "0x1", "-"]))
    bad = bad.replace(",", "") if bad != "1," else "1 2"
    cells = [[str(r + c) for c in range(width)] for r in range(rows)]
    cells[row][column] = bad
    header = ",".join(["date", *(f"c{c}" for c in range(width))])
    text = "\n".join([header, *(",".join([f"2020-01-{r + 1:02d}", *line]) for r, line in enumerate(cells))])
    message = error_of(text)
    assert f"'c{column}'" in message
    assert f"line {row + 2}:" in message


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1, max_size=9)
)
def test_values_survive_text_exactly(values: list[list[float]]):
    text = "n,a,b\n" + "".join(f"{k},{a!r},{b!r}\n" for k, (a, b) in enumerate(values))
    assert parse(text).values.tolist() == values


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_break_the_reader(raw: bytes):
    for prefix in (b"", b"date,a\n", b"date,a\n2020-01-01,1\n"):
        try:
            frame = parse_csv(prefix + raw, "mine")
        except DataError:
            continue
        assert np.isfinite(frame.values).all()


@pytest.mark.parametrize("name", ['"T, deg"', "T, deg", '"T\tdeg"'])
def test_separators_inside_a_name_do_not_separate(name: str):
    frame = parse(f"date;{name};b\n2020-01-01;1;2\n2020-01-02;3;4\n")
    assert frame.channels == [name.strip('"'), "b"]
    assert frame.values.tolist() == [[1, 2], [3, 4]]
    assert parse("date\ta;b\n2020-01-01\t1\n2020-01-02\t2\n").channels == ["a;b"]


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
def test_dates_of_every_unit_have_the_same_step(unit: str):
    days = (np.datetime64("2020-01-01") + np.arange(10)).astype(f"datetime64[{unit}]")
    frame = SeriesFrame(days, ["a"], np.ones((10, 1)))
    assert str(frame.date_step) == "1 day"
    assert frame.dates_after(1).tolist() == [datetime.datetime(2020, 1, 11)]


def test_dates_that_are_none_are_refused():
    with pytest.raises(DataError, match=r"dates must be datetime64 or integers, got <U10"):
        SeriesFrame(np.array(["2020-01-01"]), ["a"], np.ones((1, 1)))
    with pytest.raises(DataError, match="row 1 has no date"):
        SeriesFrame(np.array(["2020-01-01", "NaT"], dtype="datetime64[us]"), ["a"], np.ones((2, 1)))


def test_values_become_float64_or_are_refused():
    assert SeriesFrame(np.arange(2), ("a",), [[1], [2]]).values.dtype == np.float64
    assert SeriesFrame([3, 4], ("a",), np.ones((2, 1), np.float32)).channels == ["a"]
    for values in ([["x"]], np.ones((1, 1)) * 1j, [[1.0], [2.0, 3.0]]):
        with pytest.raises(DataError, match="values must be real numbers"):
            SeriesFrame(np.arange(len(values)), ["a"], values)


@pytest.mark.parametrize("zoned", [0, 1, 2])
def test_a_date_without_an_offset_among_others_is_refused(zoned: int):
    cells = [f"2020-01-0{day}T00:00" + ("Z" if day == zoned + 1 else "") for day in (1, 2, 3)]
    message = error_of("when,a\n" + "".join(f"{cell},{k}\n" for k, cell in enumerate(cells)))
    assert f"'{cells[zoned]}' (line {zoned + 2}) has an offset from UTC" in message
    assert "has none" in message
    assert "column 'when'" in message
