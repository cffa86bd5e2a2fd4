"""``foreblocks-darts resume RUN``: the folder is all that it needs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foreblocks.darts.cli import main
from foreblocks.darts.cli.arguments import run_folder
from foreblocks.darts.training.state_file import StateFile

WINDOW = "--lookback 24 --horizon 4 --hidden-dims 8 --ops Identity TimeConv --arch-modes encoder_only"
EPOCHS = "--search-epochs 2 --final-epochs 2 --max-train-batches 2 --final-max-train-batches 2 --trial-steps 2"
SIZE = [*WINDOW.split(), *EPOCHS.split(), *["--candidates", "2", "--top-k", "1", "--finalists", "1", "--workers", "1"]]


def write_csv(path: Path) -> Path:
    rows = [f"2024-01-{1 + i // 24:02}T{i % 24:02},{i % 7},{(i * 7919 ^ i * i) % 101}" for i in range(360)]
    path.write_text("\n".join(["date,a,b", *rows]) + "\n")
    return path


def killed_in_an_epoch(monkeypatch: pytest.MonkeyPatch, arguments: list[str], nth: int = 1) -> int:
    """Run the command line, interrupted when the ``nth`` epoch border has been written."""
    save, left = StateFile.save, [nth]

    def last(file: StateFile, tree: Any) -> None:
        save(file, tree)
        left[0] -= file.path.name.endswith(".border.safetensors")
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "save", last)
        return main(arguments)


def table(shown: str) -> str:
    """Return the table of a result as it was printed, without the times."""
    return re.sub(r"(?m)^(total|phase\d).*$", "", shown[shown.index("run folder:") :].split("\n", 1)[1])


def test_resume_from_another_place_gives_the_same_model_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "x.csv")
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--data", "x.csv", "--run-dir", "whole", *SIZE]) == 0
    wanted = capsys.readouterr().out
    assert killed_in_an_epoch(monkeypatch, ["search", "--data", "x.csv", "--run-dir", "cut", *SIZE]) == 130
    assert "foreblocks-darts resume" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "cut").rename(tmp_path / "moved")
    assert main(["resume", "../moved", "--workers", "1"]) == 0
    assert table(capsys.readouterr().out) == table(wanted)
    found, whole = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("moved", "whole"))
    assert list(found) == list(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert json.loads((tmp_path / "moved" / "arguments.json").read_text())["data"] == str(tmp_path / "x.csv")


def test_resume_says_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_csv(tmp_path / "x.csv"), tmp_path / "run"
    assert killed_in_an_epoch(monkeypatch, ["search", "--data", str(data), "--run-dir", str(run), *SIZE]) == 130
    capsys.readouterr()

    def error(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "already holds an unfinished search" in error("search", "--data", str(data), "--run-dir", str(run), *SIZE)
    assert "there is no such folder" in error("resume", str(tmp_path / "nowhere"))
    assert "arguments.json is missing" in error("resume", str(tmp_path))
    text = data.read_text()
    lines = text.splitlines()
    data.write_text("\n".join([*lines[:9], lines[9].rsplit(",", 1)[0] + ",0.5", *lines[10:]]) + "\n")
    assert re.search(r"holds another search.*train data\.checksum", error("resume", str(run)))
    data.write_text(text)
    arguments = json.loads((run / "arguments.json").read_text())
    (run / "arguments.json").write_text(json.dumps({**arguments, "final_epochs": 3}))
    assert "search.final_epochs: 2 in the folder, 3 now" in error("resume", str(run))
    (run / "arguments.json").write_text(json.dumps({**arguments, "magic": 3}))
    assert "does not know ['magic']" in error("resume", str(run))
    (run / "arguments.json").write_text("{")
    assert "cannot be read" in error("resume", str(run))


def test_arguments_that_are_refused_leave_no_folder(tmp_path: Path) -> None:
    data, run = write_csv(tmp_path / "x.csv"), tmp_path / "run"
    assert main(["search", "--data", str(data), "--run-dir", str(run), *SIZE, "--top-k", "9"]) == 2
    assert not run.exists()


def test_a_new_search_gets_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder("mine", "demo", 0) == Path("mine")
    for name in ("demo-0", "demo-0-2", "demo-0-3"):
        assert run_folder(None, "demo", 0) == Path("runs") / name
        (Path("runs") / name).mkdir(parents=True)
    assert run_folder(None, "demo", 1) == Path("runs/demo-1")


def test_sigkill_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_csv(tmp_path / "x.csv"), tmp_path / "run"
    command = [sys.executable, "-u", "-m", "foreblocks.darts.cli", "search", "--data", str(data), "--run-dir", str(run)]
    with subprocess.Popen([*command, *SIZE], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for line in process.stderr:
            if line.startswith(("candidate_tried", "rung_end")):
                os.kill(process.pid, signal.SIGKILL)
                break
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (run / "result.json").exists()
    assert main(["resume", str(run)]) == 0
    assert "total:" in capsys.readouterr().out
    assert (run / "result.json").exists()
