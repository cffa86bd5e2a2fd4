"""The command line as a user meets it: errors of one line, bars on a terminal, plain lines elsewhere, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from foreblocks.darts.cli import main
from foreblocks.darts.cli.interrupt import Interrupts
from foreblocks.darts.training.events import Event

SMALL = (
    "--lookback 24 --horizon 4 --hidden-dims 8 --candidates 3 --top-k 1 --trial-steps 0 --search-epochs 1 "
    "--final-epochs 1 --max-train-batches 1 --final-max-train-batches 1 --workers 1 --arch-modes encoder_only"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = 400
    values = np.random.default_rng(0).standard_normal((rows, 2)).cumsum(0)
    start = np.datetime64("2024-01-01T00")
    lines = [f"{start + np.timedelta64(i, 'h')},{a:.5f},{b:.5f}" for i, (a, b) in enumerate(values)]
    path = tmp_path_factory.mktemp("data") / "x.csv"
    path.write_text("\n".join(["date,a,b", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "a", "c"], "'c'"),
        (["--lookback", "5000"], "too few rows: the train part has"),
        (["--horizon", "200"], "too few rows"),
        (["--lookback", "0"], "lookback=0 must be at least 1"),
        (["--data", "missing.csv"], "missing.csv: cannot be read"),
        (["--data", "ETTh9"], "data set 'ETTh9' is unknown; known are ['ETTh1'"),
        (["--data", "ETTh1", "--data-dir", "{tmp}", "--offline"], "ETTh1"),
        (["--demo"], "give either --data FILE_OR_NAME or --demo"),
        (["--top-k", "4"], "top_k=4 must not exceed num_candidates=3"),
        (["--search-epochs", "0"], "search_epochs=0 must be at least 1"),
        (["--workers", "0"], "max_workers=0 must be at least 1"),
        (["--ops", "TimeConvv"], "Did you mean 'TimeConv'?"),
        (["--arch-modes", "rnn"], "arch_modes='rnn' is not allowed"),
        (["--hidden-dims", "0"], "hidden_dims=0 must be at least 1"),
        (["--run-dir", "{tmp}/file/run"], "cannot be written"),
        (["--device", "toaster"], "toaster"),
    ],
)
def test_bad_input_is_one_line_with_code_2(
    data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert main(["search", "--data", str(data), "--run-dir", str(tmp_path / "run"), *SMALL.split(), *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--lookback", "many"], ["--lookbak", "24"]])
def test_a_bad_option_is_code_2_too(data: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["search", "--data", str(data), *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def command(data: Path, run: Path, *more: str) -> list[str]:
    search = ["search", "--data", str(data), "--run-dir", str(run), *SMALL.split(), *more]
    return [sys.executable, "-m", "foreblocks.darts.cli", *search]


def test_a_terminal_shows_a_bar_and_a_pipe_plain_lines(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="the bar needs rich: pip install 'foreblocks-darts[cli]'")
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with (tmp_path / "lines").open("w") as plain:
        on_terminal = subprocess.Popen(
            command(data, tmp_path / "a"), stdout=subprocess.DEVNULL, stderr=writer, env=environment
        )
        in_pipe = subprocess.Popen(command(data, tmp_path / "b"), stdout=subprocess.DEVNULL, stderr=plain)
        os.close(writer)
        shown = read_all(reader)
        assert on_terminal.wait(timeout=120) == 0
        assert in_pipe.wait(timeout=120) == 0
    assert "\x1b[" in shown
    assert "phase1" in shown
    assert "phase_start" not in shown
    lines = (tmp_path / "lines").read_text()
    assert "\x1b" not in lines
    assert lines.splitlines()[0] == "phase_start: phase phase1"
    assert any(line.startswith("candidate_scored: candidate_id 0, score ") for line in lines.splitlines())


def read_all(descriptor: int) -> str:
    """Return what is written to a terminal until its other side is closed."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux says that nobody writes any more
            part = b""
        if not part:
            os.close(descriptor)
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)])
def test_an_interrupt_keeps_what_is_finished(data: Path, tmp_path: Path, workers: int, number: signal.Signals) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(data, run, "--candidates", "40", "--workers", str(workers)),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(run / "events.jsonl", "candidate_scored", process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # what a terminal sends: to the workers, too
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    wait_for_nobody(process.pid)
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "interrupted; 'foreblocks-darts resume' goes on with what is in the run folder."
    assert 0 < len(json.loads((run / "candidates.json").read_text())) < 40


def test_a_killed_search_leaves_no_worker_behind(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(data, run, "--candidates", "40", "--workers", "2"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(run / "events.jsonl", "candidate_scored", process)
    process.kill()
    process.wait(timeout=60)
    wait_for_nobody(process.pid)


def test_a_lost_ctrl_c_is_raised_at_the_next_sign_of_work() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored in a job of the background
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.on_event(Event.PHASE_END, {})  # unwinding, not work
        with pytest.raises(KeyboardInterrupt):
            interrupts.on_event(Event.CANDIDATE_SCORED, {})
        interrupts.on_event(Event.CANDIDATE_SCORED, {})
    assert signal.getsignal(signal.SIGINT) is before


def wait_for_nobody(group: int) -> None:
    """Wait until no process of the group is left: no worker stays behind."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("worker processes stayed behind")


def wait_for(path: Path, text: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + 90
    while not (path.is_file() and text in path.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
