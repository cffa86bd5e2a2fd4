"""Tables and the verdict."""

from __future__ import annotations

import pytest

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.evaluation.report import figure, format_result_table, format_table, verdict

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


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.0000"), (0.36981, "0.3698"), (-12.5, "-12.5000"), (0.0012, "0.0012"), (2.318e-14, "2.318e-14"),
     (0.00063, "0.00063"), (4.4855787e18, "4.486e+18"), (float("inf"), "inf"), (float("nan"), "nan")],
)  # fmt: skip
def test_small_and_large_scores_can_be_told_apart(value, shown):
    assert figure(value) == shown
    assert format_table([[value]], ["mse"]).splitlines()[-1].strip() == shown


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


def test_a_simple_forecaster_within_the_noise_makes_further_search_unlikely_to_pay():
    far = {**RESULTS, "blend": {"mse": 0.30}}
    assert "unlikely to pay" not in verdict(far)
    near = {**RESULTS, "blend": {"mse": 0.3670}}
    assert "unlikely to pay: ridge_shared (MSE 0.3698) is within 1 % of the best that was found (0.3670)." in verdict(
        near
    )
    behind = {**far, "best_preset": {"preset": "patchtst", "mse": 0.29, "mae": 0.3}}
    text = verdict(behind)
    assert "unlikely to pay: the preset patchtst (MSE 0.2900) is not behind the best that was found (0.3000)." in text
    assert "preset patchtst 0.2900 0.3000" in " ".join(format_result_table(behind).split())


@pytest.mark.parametrize(("theirs", "judged"), [(0.3670, "is within the noise of"), (0.4, "beats"), (0.3, "loses to")])
def test_a_rival_search_is_compared_blend_with_blend(theirs, judged):
    rival = {"method": "evolution", "steps": {"search": 1530, "final": 10}, "blend": {"mse": theirs, "mae": 0.4}}
    text = verdict({**RESULTS, "search_baseline": rival})
    change = 100 * (0.3641 / theirs - 1)
    assert text.splitlines()[-1] == (
        f"With as many training steps (1,530) the search {judged} regularised evolution: blend against blend, "
        f"MSE 0.3641 to {theirs:.4f} ({change:+.1f} %)."
    )
    failed = verdict({**RESULTS, "search_baseline": {"method": "random", "steps": {"search": 3}}})
    assert failed.splitlines()[-1].startswith("The rival, random search, failed")


@pytest.mark.parametrize(("ours", "judged"), [(0.0, "is within the noise of"), (0.1, "loses to")])
def test_a_rival_without_any_error_is_compared(ours, judged):
    rival = {"method": "random", "steps": {"search": 3}, "blend": {"mse": 0.0}}
    text = verdict({**RESULTS, "blend": {**RESULTS["blend"], "mse": ours}, "search_baseline": rival})
    assert judged in text


def test_what_is_absent_is_left_out():
    text = format_result_table({"baselines": {"last_value": {"mse": 1.0, "mae": 0.5}}})
    assert text.splitlines()[-1].split() == ["last_value", "1.0000", "0.5000"]
    assert verdict({"baselines": {}, "network": {"mse": 1.0}}) == ""


def test_summaries_say_when_there_is_nothing():
    trainer = DARTSTrainer(2, device="cpu")
    assert trainer.get_search_summary() == "No searches performed yet."
    assert trainer.get_training_summary() == "No training sessions completed yet."


def test_summaries_have_the_figures_of_each_result():
    search = {
        "search_config": {"num_candidates": 8, "top_k": 3},
        "phase_seconds": {"phase1": 1.25, "phase3": 2.0},
        "final_results": {"final_metrics": {"mse": 0.25}},
        "num_parameters": 12345,
        "op_counts": {"TCN": 2, "GRN": 1},
        "verdict": "The final model beats ridge.",
    }
    trainer = DARTSTrainer(2, device="cpu")
    trainer.search_history = [search, search]
    first, *rest = trainer.get_search_summary().splitlines()
    assert first == "search 1: 8 candidates, 3 searched, 3.2 s: test MSE 0.2500"
    assert rest[:2] == ["  12,345 parameters, TCN x2, GRN x1", "  The final model beats ridge."]
    assert rest[2].startswith("search 2:")
    trainer.training_history = [
        {"train_losses": [1, 2], "best_val_loss": 0.5, "training_time": 3.0, "final_metrics": {"mse": 0.75}},
        {
            "train_losses": [1],
            "training_info": {"best_val_loss": 0.25},
            "training_time": 4.0,
            "final_metrics": {"mse": 0.125},
        },
        {"train_losses": [1], "training_info": {"best_val_loss": 0.25}, "training_time": 4.0},
    ]
    assert trainer.get_training_summary().splitlines() == [
        "training 1 (search): 2 epochs, best validation loss 0.5000, validation MSE 0.7500, 3.0 s",
        "training 2 (final): 1 epoch, best validation loss 0.2500, test MSE 0.1250, 4.0 s",
        "training 3 (final): 1 epoch, best validation loss 0.2500, 4.0 s",
    ]
