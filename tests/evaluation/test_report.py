"""Tables and the verdict."""

from __future__ import annotations

import pytest

from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.evaluation.report import format_result_table, format_table, verdict

RESULTS = {
    "baselines": {
        "last_value": {"mse": 1.2944, "mae": 0.7132},
        "ridge_shared": {"mse": 0.3698, "mae": 0.3913},
        "ridge_per_channel": {"mse": 0.3758, "mae": 0.3951},
    },
    "ridge_star": "ridge_shared",
    "network": {"mse": 0.3801, "mae": 0.4012},
    "blend": {"mse": 0.3641, "mae": 0.3899, "weights": {"ridge": 0.7, "network": 0.3}},
    "num_parameters": 123456,
    "op_counts": {"Identity": 1, "TCN": 3},
    "phase_seconds": {"screen": 12.34, "train": 100.0},
    "arch": "ArchSpec abc: encoder_only\n  cell 0: 0->1 TCN",
}


def test_columns_are_aligned():
    table = format_table([["a", 1.0, "x"], ["long", 12.5, "yy"], ["b", None, ""]], ["name", "mse", "note"])
    assert table.splitlines() == [
        "name      mse  note",
        "----  -------  ----",
        "a      1.0000  x",
        "long  12.5000  yy",
        "b           -",
    ]
    assert format_table([], ["a", "b"]).splitlines() == ["a  b", "-  -"]
    with pytest.raises(InvalidArgument, match="2 headers"):
        format_table([["a"]], ["x", "y"])


def test_the_report_shows_everything_once():
    text = "\n".join(" ".join(line.split()) for line in format_result_table(RESULTS).splitlines())
    for part in (
        "ridge_shared * 0.3698 0.3913",
        "network alone 0.3801 0.4012",
        "blend 0.3641 0.3899",
        "* the better ridge on validation",
        "0.700 ridge + 0.300 network",
        "123,456 parameters",
        "TCN x3, Identity x1",
        "cell 0: 0->1 TCN",
        "112.3",
    ):
        assert text.count(part) == 1, part


def test_a_loss_to_the_best_baseline_is_said():
    text = verdict(RESULTS)
    assert "The network (MSE 0.3801) does not beat the best baseline, ridge_shared (0.3698)." in text
    assert "The blend (MSE 0.3641) beats the best baseline, ridge_shared (0.3698), by 1.5 %." in text
    tied = {**RESULTS, "blend": {**RESULTS["blend"], "mse": 0.3698}}
    assert "The blend (MSE 0.3698) does not beat" in verdict(tied)
    broken = {**RESULTS, "network": {"mse": float("nan"), "mae": float("nan")}}
    assert "The network (MSE nan) does not beat" in verdict(broken)


def test_what_is_absent_is_left_out():
    text = format_result_table({"baselines": {"last_value": {"mse": 1.0, "mae": 0.5}}})
    assert text.splitlines()[-1].split() == ["last_value", "1.0000", "0.5000"]
    assert verdict({"baselines": {}, "network": {"mse": 1.0}}) == ""
