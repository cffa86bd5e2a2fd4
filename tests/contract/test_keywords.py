"""The table of keywords that do not simply work, and how keywords fold into a configuration."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.keywords import TABLE, fold_keywords, keyword, warn_keywords
from foreblocks.darts.config import DARTSTrainConfig

API: dict[str, Any] = json.loads((Path(__file__).parent / "api.json").read_text())
# Keywords that the search understands beyond its signature, and trainer keywords that a config has no field for.
BEYOND = {"phase3_verbose": "True", "diversity_check_freq": "1"}
DEFAULTS = {
    "epochs": 50,
    "patience": 15,
    "model_weight_decay": 1e-4,
    "weight_decay": None,
    "edge_sharpening_start_frac": 0.35,
    "edge_sharpening_start_epoch": None,
    "progressive_shrinking": True,
    "use_progressive_training": None,
    "pruning_enabled": None,
}


def _documented(function: str) -> dict[str, str | None]:
    if function == "TimeSeriesDARTS":
        entries = API["TimeSeriesDARTS"]
    elif function in API["dataclasses"]:
        return {name: entry["default"] for name, entry in API["dataclasses"][function].items()}
    else:
        entries = API["trainer"][function]
    return {entry["name"]: entry.get("default_repr") for entry in entries}


@pytest.mark.parametrize("function", TABLE)
def test_the_table_lists_documented_keywords_with_their_defaults(function: str) -> None:
    known = {**BEYOND, **_documented("train_darts_model"), **_documented(function)}
    for name, entry in TABLE[function].items():
        assert name in known, name
        assert known[name] is None or repr(entry.default) == known[name], name
        assert entry.status in ("alias", "obsolete", "pending")
        assert entry.reason


@pytest.mark.parametrize("function", TABLE)
def test_an_alias_leads_to_a_keyword_that_works(function: str) -> None:
    for entry in TABLE[function].values():
        if entry.status == "alias":
            assert keyword(function, str(entry.replacement)).status == "works"


def test_a_keyword_without_entry_works() -> None:
    assert keyword("train_darts_model", "epochs").status == "works"
    assert keyword("no_such_function", "epochs").status == "works"


def test_explicit_wins_over_config_wins_over_default() -> None:
    stored = DARTSTrainConfig(epochs=7, patience=3)
    folded = fold_keywords("train_darts_model", {**DEFAULTS, "epochs": 9}, stored, DEFAULTS)
    assert (folded["epochs"], folded["patience"]) == (9, 3)
    folded = fold_keywords("train_darts_model", DEFAULTS, None, DEFAULTS)
    assert (folded["epochs"], folded["patience"]) == (50, 15)
    assert "weight_decay" not in folded


def test_a_keyword_beyond_the_signature_counts_as_given() -> None:
    folded = fold_keywords("multi_fidelity_search", {"use_gdas": False}, DARTSTrainConfig(use_gdas=True), {})
    assert folded == {"use_gdas": False}


@pytest.mark.parametrize(
    ("given", "target", "value"),
    [
        ({"weight_decay": 0.5}, "model_weight_decay", 0.5),
        ({"edge_sharpening_start_epoch": 10, "epochs": 40}, "edge_sharpening_start_frac", 0.25),
        ({"edge_sharpening_start_epoch": 100, "epochs": 40}, "edge_sharpening_start_frac", 1.0),
        ({"use_progressive_training": False}, "progressive_shrinking", False),
        ({"pruning_enabled": False}, "progressive_shrinking", False),
        ({"use_progressive_training": True, "pruning_enabled": False}, "progressive_shrinking", False),
    ],
)
def test_aliases_fold_into_their_keyword(given: dict[str, Any], target: str, value: Any) -> None:
    with pytest.warns(DeprecationWarning, match=target):
        folded = fold_keywords("train_darts_model", given, None, DEFAULTS)
    assert folded[target] == value
    assert not set(folded) & {"weight_decay", "edge_sharpening_start_epoch", "pruning_enabled"}


def test_switching_pruning_on_does_not_undo_an_explicit_off() -> None:
    given = {"pruning_enabled": True, "use_progressive_training": False}
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        assert fold_keywords("train_darts_model", given, None, DEFAULTS)["progressive_shrinking"] is False


def test_an_alias_wins_over_the_config() -> None:
    stored = DARTSTrainConfig(model_weight_decay=0.25)
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        folded = fold_keywords("train_darts_model", {"weight_decay": 0.5}, stored, DEFAULTS)
    assert folded["model_weight_decay"] == 0.5


def test_an_alias_beside_its_keyword_raises() -> None:
    given = {"weight_decay": 0.5, "model_weight_decay": 0.25}
    with (
        pytest.warns(DeprecationWarning, match="is deprecated"),
        pytest.raises(InvalidArgument, match=r"model_weight_decay=0\.25"),
    ):
        fold_keywords("train_darts_model", given, None, DEFAULTS)


def test_the_warning_points_at_the_caller_of_the_method() -> None:
    trainer = DARTSTrainer(input_dim=2, hidden_dims=[8], forecast_horizon=4, seq_length=12, device="cpu")
    with (
        pytest.warns(DeprecationWarning, match="is deprecated") as caught,
        pytest.raises(InvalidArgument, match="epoc"),
    ):
        trainer.train_darts_model(None, [], [], epochs=0, weight_decay=0.5)
    line = Path(__file__).read_text().splitlines()[caught[0].lineno - 1]
    assert {warning.filename for warning in caught} == {__file__}
    assert "trainer.train_darts_model(None" in line


def test_dead_keywords_are_said_in_one_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"):
        warn_keywords("train_final_model", {"swa_start": 9, "gradient_accumulation_steps": 2, "patience": 3})
    assert len(caplog.records) == 1
    assert "swa_start=9 has no effect any more" in caplog.text
    assert "gradient_accumulation_steps=2 has no effect yet" in caplog.text
    assert "patience" not in caplog.text


@pytest.mark.parametrize("values", [{"temperature": 1.0, "use_swa": False}, {}])
def test_defaults_say_nothing(values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="foreblocks.darts"):
        warn_keywords("train_darts_model", values)
    assert not caplog.records


def test_a_value_that_describes_what_happens_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"):
        warn_keywords("TimeSeriesDARTS", {"use_drnas": False, "use_fair_darts_hierarchical": False})
    assert not caplog.records


def test_an_alias_that_was_not_folded_is_named() -> None:
    with pytest.warns(DeprecationWarning, match="use model_weight_decay"):
        warn_keywords("train_darts_model", {"weight_decay": 0.5})
