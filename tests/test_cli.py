"""The command line on a small CSV, and its errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core import logging as logs
from foreblocks.darts._core.errors import DataError
from foreblocks.darts.architecture.linear import fit_ridge_pair
from foreblocks.darts.cli import main
from foreblocks.darts.data import load_dataset, prepare, read_csv
from foreblocks.darts.search.run_folder import RunFolder
from foreblocks.darts.search.run_page import write_page


def write_csv(path: Path, rows: int = 400) -> Path:
    t = np.arange(rows)
    noise = np.random.default_rng(0).standard_normal((rows, 2))
    values = np.stack([np.sin(t / 4.0), np.cos(t / 7.0)], 1) + 0.2 * noise
    start = np.datetime64("2024-01-01T00")
    lines = [f"{start + np.timedelta64(i, 'h')},{a:.5f},{b:.5f}" for i, (a, b) in enumerate(values)]
    path.write_text("\n".join(["date,a,b", *lines]) + "\n")
    return path


SIZE = "--candidates 2 --top-k 1 --trial-steps 2 --search-epochs 1 --final-epochs 1 --max-train-batches 2 --workers 1"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The file, the run folder and what was printed of one small search."""
    folder = tmp_path_factory.mktemp("cli")
    data, run, shown = write_csv(folder / "x.csv"), folder / "run", io.StringIO()
    with contextlib.redirect_stdout(shown):
        window = ["--lookback", "24", "--horizon", "4", "--hidden-dims", "8"]
        code = main(["search", "--data", str(data), "--run-dir", str(run), *window, *SIZE.split()])
    assert code == 0
    return data, run, shown.getvalue()


def test_search_ends_with_a_table_and_a_run_folder(searched: tuple[Path, Path, str]) -> None:
    _, run, shown = searched
    for name in ("last_value", "seasonal_naive", "ridge_shared", "ridge_per_channel", "blend", "total:"):
        assert name in shown
    assert (run / "model" / "model.safetensors").is_file()
    assert "baselines" in json.loads((run / "result.json").read_text())
    assert len((run / "events.jsonl").read_text().splitlines()) > 5
    recipe = json.loads((run / "model" / "scaler.json").read_text())
    assert (recipe["lookback"], recipe["horizon"], recipe["channels"]) == (24, 4, ["a", "b"])


def test_show_prints_data_ops_scores_times_and_size(searched: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    _, run, _ = searched
    assert main(["show", str(run)]) == 0
    shown = capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert "data:    x, 2 channels (a, b), step 1 hour" in shown
    assert "windows: 24 rows in, 4 out" in shown
    for cell in result["arch_spec"]["cells"]:
        for edge in cell["edges"]:
            assert f"{edge['source']}->{edge['target']} {edge['op']['name']}" in shown
    for name, metrics in result["baselines"].items():
        assert name in shown
        assert f"{metrics['mse']:.4f}" in shown
    assert f"{result['num_parameters']:,} parameters" in shown
    for phase, seconds in result["phase_seconds"].items():
        assert re.search(rf"{phase} +{seconds:.1f}", shown)


def test_a_run_has_a_page_that_can_be_made_again(searched: tuple, tmp_path: Path) -> None:
    _, run, _ = searched
    page = (run / "report.html").read_text(encoding="utf-8")
    result = json.loads((run / "result.json").read_text())
    assert "Forecasting x" in page
    for metrics in (*result["baselines"].values(), result["network"], result["blend"]):
        assert f"{metrics['mse']:.4f}" in page
    assert main(["show", str(run), "--html", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_an_unfinished_run_has_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "candidates.json").write_text("[{}]")
    assert main(["show", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert "did not finish, so it has no page" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_show_says_what_an_unfinished_run_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "candidates.json").write_text("[{}, {}]")
    assert main(["show", str(tmp_path)]) == 0
    assert "did not finish; there is:\n  2 scored candidates" in capsys.readouterr().out
    (tmp_path / "result.json").write_text('{"finalists": [1]}')
    assert main(["show", str(tmp_path)]) == 2
    assert "not what a search writes" in capsys.readouterr().err
    (tmp_path / "result.json").write_text("{")
    assert main(["show", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'result.json'}: cannot be read as JSON")
    assert main(["show", str(tmp_path / "none")]) == 2


def test_predict_goes_on_where_the_file_ends(searched: tuple, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, run, _ = searched
    out = tmp_path / "forecast.csv"
    assert main(["predict", "--run", str(run), "--data", str(data), "--out", str(out)]) == 0
    assert "4 rows x 2 channels, 2024-01-17 16:00:00 to 2024-01-17 19:00:00" in capsys.readouterr().out
    header, *rows = out.read_text().splitlines()
    assert header == "date,a,b"
    assert [row.split(",")[0] for row in rows] == [f"2024-01-17 {hour}:00:00" for hour in (16, 17, 18, 19)]
    assert all(abs(float(cell)) < 3 for row in rows for cell in row.split(",")[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["forecast.csv"]


def test_an_exported_file_forecasts_what_predict_does(searched: tuple, tmp_path: Path, capsys) -> None:
    data, run, _ = searched
    assert main(["predict", "--run", str(run), "--data", str(data), "--out", str(tmp_path / "f.csv")]) == 0
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "m.pt2")]) == 0
    said = capsys.readouterr().out
    assert "x [batch, 24, 2] -> forecast [batch, 4, 2], float64 in the units of the data" in said
    values = np.loadtxt(data, delimiter=",", skiprows=1, usecols=(1, 2))
    # The line that is printed is all that a user of the file needs.
    x = torch.from_numpy(values[None, -24:])
    call = next(line.removeprefix("use: ") for line in said.splitlines() if line.startswith("use: "))
    forecast = eval(call, {"torch": torch, "x": x})[0]
    expected = np.loadtxt(tmp_path / "f.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    np.testing.assert_allclose(forecast.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_export_names_what_is_wrong(searched: tuple, tmp_path: Path, capsys) -> None:
    _, run, _ = searched
    for options, message in (
        (["--out", str(tmp_path / "m.pth")], "--out="),
        (["--out", str(tmp_path / "m.onnx"), "--kind", "aoti"], "must end in '.pt2' for kind='aoti'"),
        (["--out", str(tmp_path / "m.pt2"), "--kind", "onxx"], "Did you mean 'onnx'?"),
        (["--out", str(tmp_path / "no" / "m.pt2")], "does not exist"),
    ):
        assert main(["export", "--run", str(run), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", "--run", str(tmp_path), "--out", str(tmp_path / "m.pt2")]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_predict_draws_where_it_is_told(searched: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib: pip install 'foreblocks-darts[plot]'")
    data, run, _ = searched
    call = ["predict", "--run", str(run), "--data", str(data), "--out", str(tmp_path / "f.csv"), "--plot"]
    assert main([*call, str(tmp_path / "f.foo")]) == 2
    assert "choose a suffix" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*call, str(tmp_path / "f.png")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "f.png"]


def test_predict_reads_a_set_of_the_catalog(tmp_path: Path, real_data_dir: Path, capsys) -> None:
    prepared = prepare(load_dataset("ETTh1", real_data_dir), lookback=24, horizon=4)
    ridges, _, _ = fit_ridge_pair(prepared.train, prepared.val)
    RunFolder.open(tmp_path).save_model(ridges["shared"], prepared.recipe.to_dict())
    call = ["predict", "--run", str(tmp_path), "--data", "etth1", "--data-dir", str(real_data_dir)]
    assert main([*call, "--out", str(tmp_path / "f.csv")]) == 0
    assert "4 rows x 7 channels, 2018-06-26 20:00:00 to 2018-06-26 23:00:00" in capsys.readouterr().out


def test_predict_reads_chosen_columns_and_fills_gaps(searched: tuple, tmp_path: Path, capsys) -> None:
    data, run, _ = searched
    header, *rows = data.read_text().splitlines()
    wide = tmp_path / "wide.csv"
    body = [f"{row.split(',')[0]},text,{'' if k == 390 else row.split(',')[1]},{row.split(',')[2]}" for k, row in
            enumerate(rows)]  # fmt: skip
    wide.write_text("\n".join(["date,station,a,b", *body]) + "\n")
    call = ["predict", "--run", str(run), "--data", str(wide), "--out", str(tmp_path / "f.csv")]
    for extra, message in (
        ([], "wide.csv has ['station'], which the run was not trained on"),
        (["--columns", "a"], "--columns lacks ['b']"),
        (["--columns", "b", "a"], "column 'a', line 392: the cell is empty"),
        (["--columns", "b", "a", "--impute", "linear", "--out", str(tmp_path / "f.json")], "must end in .csv"),
        (["--columns", "b", "a", "--impute", "linear", "--out", str(wide)], "is the file of --data"),
    ):
        assert main([*call, *extra]) == 2
        assert message in capsys.readouterr().err
    assert header == "date,a,b"
    assert main([*call, "--columns", "b", "a", "--impute", "linear"]) == 0
    assert (tmp_path / "f.csv").read_text().startswith("date,a,b\n2024-01-17 16:00:00,")


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from foreblocks.darts.cli import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(str({'torch', 'numpy'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "0\n"
    assert "--impute" in done.stdout


def test_bad_input_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = write_csv(tmp_path / "x.csv")
    broken.write_text(broken.read_text().replace("2024-01-02T00,", "2024-01-02T00,oops", 1))
    for arguments in (["--data", str(broken)], ["--data", str(tmp_path / "none.csv")], []):
        assert main(["search", *arguments, "--run-dir", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "x.csv", "--data-dir", "."], "--data-dir . does not apply to --data x.csv"),
        (["--demo", "--data-dir", "."], "--data-dir . does not apply to --demo"),
        (["--demo", "--impute", "ffill"], "--impute ffill does not apply to --demo"),
        (["--data", "ETTh1", "--impute", "linear"], "--impute linear does not apply to --data ETTh1"),
        (["--data", "ETTh1", "--decimal", ","], "--decimal , does not apply to --data ETTh1"),
    ],
)
def test_options_that_do_not_apply_are_refused(
    tmp_path: Path, monkeypatch, capsys, options: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "x.csv")
    for command in (["search", "--run-dir", "run"], ["predict", "--run", "run", "--out", "f.csv"]):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_offline_with_a_file_is_said(searched: tuple, tmp_path: Path, monkeypatch, caplog) -> None:
    data, run, _ = searched
    monkeypatch.setattr(logs, "_said", set())
    call = ["predict", "--run", str(run), "--data", str(data), "--out", str(tmp_path / "f.csv")]
    assert main(call) == 0
    assert "--offline" not in caplog.text
    assert main([*call, "--offline"]) == 0
    assert [r.getMessage() for r in caplog.records if "--offline has no effect" in r.getMessage()]


def test_decimal_commas_are_read_when_asked(searched: tuple, tmp_path: Path, capsys) -> None:
    data, run, _ = searched
    comma = tmp_path / "x.csv"
    comma.write_text(data.read_text().replace(",", ";").replace(".", ","))
    call = ["predict", "--run", str(run), "--data", str(comma), "--out", str(tmp_path / "f.csv")]
    assert main(call) == 2
    assert "--decimal ," in capsys.readouterr().err
    assert main([*call, "--decimal", ","]) == 0
    assert main(["predict", "--run", str(run), "--data", str(data), "--out", str(tmp_path / "g.csv")]) == 0
    assert (tmp_path / "f.csv").read_text() == (tmp_path / "g.csv").read_text()


def test_names_that_cannot_be_written_end_nothing(searched: tuple, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "Zürich"
    shutil.copytree(searched[1], run)
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["show", str(run)]) == 0
    shown.flush()
    assert b"Z\\xfcrich" in shown.buffer.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file name is always text")
def test_file_names_that_are_no_text_are_read_and_shown(searched: tuple, tmp_path: Path) -> None:
    odd = os.fsdecode(b"Z\xfcrich")
    assert read_csv(write_csv(tmp_path / f"{odd}.csv")).name == "Z\ufffdrich"
    shutil.copytree(searched[1], tmp_path / odd)
    assert "Z?rich" in write_page(tmp_path / odd).read_text(encoding="utf-8")


def test_a_folder_beside_does_not_hide_a_set_of_the_catalog(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ETTh1").mkdir()
    assert main(["search", "--data", "ETTh1", "--data-dir", str(tmp_path), "--run-dir", "run"]) == 2
    assert "ETTh1: not found in the folder" in capsys.readouterr().err


def test_predict_never_writes_over_what_it_reads(searched: tuple, tmp_path: Path, capsys) -> None:
    data, run, _ = searched
    known = write_csv(tmp_path / "known.csv")
    command = ["predict", "--run", str(run), "--data", str(data), "--future", str(known), "--out", str(known)]
    before = known.read_text()
    assert main(command) == 2
    assert "is the file of --future" in capsys.readouterr().err
    assert known.read_text() == before


def test_the_method_of_the_search_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def search(_self: DARTSTrainer, *_loaders: object, **keywords: object) -> None:
        seen.update(keywords)
        raise DataError("that is all")

    monkeypatch.setattr(DARTSTrainer, "multi_fidelity_search", search)
    data = ["search", "--data", str(write_csv(tmp_path / "x.csv")), "--lookback", "24", "--horizon", "4"]
    assert main(data) == 2
    assert (seen["relaxation"], seen["perturbation"], seen["compile"]) == ("softmax", "none", "none")
    assert main([*data, "--relaxation", "drnas", "--perturbation", "random", "--compile", "edge"]) == 2
    assert seen["compile"] == "edge"
    assert (seen["relaxation"], seen["perturbation"], seen["seasonal_period"]) == ("drnas", "random", 24)
    assert main([*data, "--period", "0"]) == 2
    assert seen["seasonal_period"] == 0  # refused by the search, not replaced
    with pytest.raises(SystemExit):
        main([*data, "--relaxation", "dirichlet"])


def test_columns_known_ahead_go_through_search_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = write_csv(tmp_path / "all.csv").read_text().splitlines()
    data, plan, run = tmp_path / "x.csv", tmp_path / "plan.csv", tmp_path / "run"
    data.write_text("\n".join(lines[:391]) + "\n")
    plan.write_text("\n".join([lines[0], *lines[391:]]) + "\n")
    window = ["--lookback", "24", "--horizon", "4", "--hidden-dims", "8", "--targets", "a", "--future-columns", "b"]
    assert main(["search", "--data", str(data), "--run-dir", str(run), *window, *SIZE.split()]) == 0
    assert "forecasts a; known ahead b" in capsys.readouterr().out
    assert main(["show", str(run)]) == 0
    assert "known:   b (ahead)" in capsys.readouterr().out
    call = ["predict", "--run", str(run), "--data", str(data), "--out", str(tmp_path / "f.csv")]
    assert main(call) == 2
    assert "trained with ['b'] known ahead" in capsys.readouterr().err
    assert main([*call, "--future", str(data)]) == 2
    assert "row 0 is of 2024-01-01" in capsys.readouterr().err
    whole = plan.read_text()
    plan.write_text(re.sub(r"(?m)^(2024-01-17T07,.*),.*$", r"\1,", whole))
    assert main([*call, "--future", str(plan)]) == 2
    assert "column 'b', line 3: the cell is empty" in capsys.readouterr().err
    assert main([*call, "--future", str(plan), "--impute", "linear"]) == 0
    plan.write_text(whole)
    assert main([*call, "--future", str(plan)]) == 0
    first, *rows = (tmp_path / "f.csv").read_text().splitlines()
    assert first == "date,a"
    assert [row.split(",")[0] for row in rows] == [line.split(",")[0].replace("T", " ") + ":00:00" for line in
                                                   lines[391:395]]  # fmt: skip
