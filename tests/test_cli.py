"""The command line on a small CSV, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError
from foreblocks.darts.cli import main


def write_csv(path: Path, rows: int = 400) -> Path:
    t = np.arange(rows)
    noise = np.random.default_rng(0).standard_normal((rows, 2))
    values = np.stack([np.sin(t / 4.0), np.cos(t / 7.0)], 1) + 0.2 * noise
    start = np.datetime64("2024-01-01T00")
    lines = [f"{start + np.timedelta64(i, 'h')},{a:.5f},{b:.5f}" for i, (a, b) in enumerate(values)]
    path.write_text("\n".join(["date,a,b", *lines]) + "\n")
    return path


def test_search_ends_with_a_table_and_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_csv(tmp_path / "x.csv"), tmp_path / "run"
    size = (
        "--candidates 2 --top-k 1 --search-epochs 1 --final-epochs 1 --max-train-batches 2 --hidden-dims 8 --workers 1"
    )
    code = main(
        ["search", "--data", str(data), "--lookback", "24", "--horizon", "4", "--run-dir", str(run), *size.split()]
    )
    shown = capsys.readouterr().out
    assert code == 0
    for name in ("last_value", "seasonal_naive", "ridge_shared", "ridge_per_channel", "blend", "total:"):
        assert name in shown
    assert (run / "model" / "model.safetensors").is_file()
    assert (run / "model" / "scaler.json").is_file()
    assert "baselines" in json.loads((run / "result.json").read_text())
    assert len((run / "events.jsonl").read_text().splitlines()) > 5


def test_bad_input_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = write_csv(tmp_path / "x.csv")
    broken.write_text(broken.read_text().replace("2024-01-02T00,", "2024-01-02T00,oops", 1))
    for arguments in (["--data", str(broken)], ["--data", str(tmp_path / "none.csv")], []):
        assert main(["search", *arguments, "--run-dir", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "Traceback" not in error


def test_the_method_of_the_search_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def search(_self: DARTSTrainer, *_loaders: object, **keywords: object) -> None:
        seen.update(keywords)
        raise DataError("that is all")

    monkeypatch.setattr(DARTSTrainer, "multi_fidelity_search", search)
    data = ["search", "--data", str(write_csv(tmp_path / "x.csv")), "--lookback", "24", "--horizon", "4"]
    assert main(data) == 2
    assert (seen["relaxation"], seen["perturbation"]) == ("softmax", "none")
    assert main([*data, "--relaxation", "drnas", "--perturbation", "random"]) == 2
    assert (seen["relaxation"], seen["perturbation"]) == ("drnas", "random")
    with pytest.raises(SystemExit):
        main([*data, "--relaxation", "dirichlet"])
