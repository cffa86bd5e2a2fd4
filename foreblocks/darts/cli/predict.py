"""``foreblocks-darts predict --run RUN --data X.csv --out forecast.csv``: forecast what follows a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._core.errors import InvalidArgument
from .sources import add_data_arguments, check_one_source, is_file, read_file, read_frame


def add_predict(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict", help="forecast what follows a file, in its units", allow_abbrev=False,
        description="Forecast the rows that follow the last one of a file, with the model of a run. The file needs the "
        "channels and the step of the data that the run was trained on, and at least as many rows as it looks back.",
    )  # fmt: skip
    parser.add_argument("--run", dest="run_folder", metavar="RUN", required=True, help="folder of a run")
    add_data_arguments(parser)
    parser.add_argument("--future", help="a CSV with the rows that follow, of the columns that the run knows ahead")
    parser.add_argument("--out", required=True, help="file to write, .csv or .parquet")
    parser.add_argument("--plot", help="figure to write as well: .png, .pdf, .svg")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.set_defaults(run=_predict)


def _predict(a: argparse.Namespace) -> int:
    from ..data import check_table_path, write_table
    from ..data.csv import read_channels
    from ..data.tables import format_dates
    from ..evaluation.figures import check_figure_path
    from ..search.saved_run import SavedRun, check_channels, forecast_frame

    check_one_source(a)
    out = check_table_path(a.out, argument="--out")
    if a.plot:
        check_figure_path(a.plot, argument="--plot")
    for option, read in (("--data", a.data), ("--future", a.future)):
        if read and Path(read).exists() and out.exists() and out.samefile(read):
            raise InvalidArgument(f"--out {a.out} is the file of {option}; name another one.")
    run = SavedRun(Path(a.run_folder))
    if is_file(a):
        names = a.columns or read_channels(a.data)
        check_channels(run.recipe, names, "--columns" if a.columns else Path(a.data).name)
        frame = read_file(a, a.data, run.recipe.channels)
    else:
        frame, _ = read_frame(a)
    future = read_file(a, a.future, run.recipe.future or None) if a.future else None
    forecast = forecast_frame(run, frame, future=future, device=a.device)
    date_column = "date"
    while date_column in forecast.channels:
        date_column += "_"
    write_table(
        out, forecast.dates, forecast.channels, forecast.values, date_column=date_column, offset=forecast.offset
    )
    first, last = format_dates(forecast.dates[[0, -1]], forecast.offset)
    print(f"{out}: {len(forecast.dates)} rows x {len(forecast.channels)} channels, {first} to {last}")
    if a.plot:
        _plot(a.plot, frame, forecast, lookback=run.recipe.lookback)
    return 0


def _plot(path: str, frame: Any, forecast: Any, *, lookback: int) -> None:
    """Draw the forecast after the rows that the model saw, or four horizons of them where that is less."""
    from ..evaluation.forecast_plot import plot_forecast

    rows = slice(-min(lookback, max(4 * len(forecast.dates), 24)), None)
    offset = 0 if forecast.offset is None else forecast.offset
    known = frame.select(forecast.channels)
    plot_forecast(
        known.dates[rows] + offset, known.values[rows], forecast.dates + offset, forecast.values,
        names=forecast.channels, title=f"{frame.name}: the next {len(forecast.dates)} rows", save_path=path,
    )  # fmt: skip
    print(f"{path}: the forecast after the last rows of {frame.name}")
