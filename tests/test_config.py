"""The configuration dataclasses: plain round trips, strict keys, clear ranges, lists equal to the op registry."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest

from foreblocks.darts import config
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.config import (
    AblationSearchConfig,
    DARTSConfig,
    DARTSSearchSpaceConfig,
    DARTSTrainConfig,
    FinalTrainConfig,
    MultiFidelitySearchConfig,
    RobustPoolSearchConfig,
)
from foreblocks.darts.ops import get_op, op_families, op_names

CLASSES = [
    AblationSearchConfig,
    DARTSConfig,
    DARTSSearchSpaceConfig,
    DARTSTrainConfig,
    FinalTrainConfig,
    MultiFidelitySearchConfig,
    RobustPoolSearchConfig,
]


def test_default_lists_equal_the_registry() -> None:
    ours = {name for name in op_names() if get_op(name).path.startswith("foreblocks.darts.ops.")}
    assert ours == set(config.DEFAULT_OPS)
    assert len(config.DEFAULT_OPS) == len(ours)
    registered = op_families(config.DEFAULT_OPS)
    for family, ops in config.DEFAULT_OP_FAMILIES.items():
        assert set(registered[family]) - {"Identity"} == set(ops), family
    assert set(registered) == set(config.DEFAULT_OP_FAMILIES)


@pytest.mark.parametrize("cls", CLASSES)
def test_round_trip_through_json(cls: Any) -> None:
    built = cls()
    text = json.dumps(built.to_dict())
    assert cls.from_dict(json.loads(text)) == built
    assert pickle.loads(pickle.dumps(built)) == built
    assert copy.deepcopy(built) == built


def test_nested_dictionaries() -> None:
    built = DARTSConfig.from_dict({"input_dim": 7, "train": {"epochs": 3}, "space": {"cell_range": [2, 3]}})
    assert (built.input_dim, built.train.epochs, built.space.cell_range) == (7, 3, (2, 3))
    assert built.final == FinalTrainConfig()
    assert built.to_dict()["space"]["cell_range"] == [2, 3]


def test_defaults_and_dictionaries_share_nothing() -> None:
    first, second = DARTSSearchSpaceConfig(), DARTSSearchSpaceConfig()
    first.op_families["conv"].append("Mine")
    first.all_ops.append("Mine")
    assert "Mine" not in second.op_families["conv"]
    assert "Mine" not in config.DEFAULT_OPS
    first.to_dict()["all_ops"].clear()
    assert first.all_ops


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ({"epoch": 3}, "'epochs'"),
        ({"learning_rat": 1.0}, "'arch_learning_rate'|'model_learning_rate'"),
        ([], "mapping"),
    ],
)
def test_an_unknown_key_raises_with_the_nearest(data: Any, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        DARTSTrainConfig.from_dict(data)


def test_an_unknown_nested_key_raises() -> None:
    with pytest.raises(InvalidArgument, match=r"FinalTrainConfig has no field 'patienc'.*Did you mean 'patience'"):
        DARTSConfig.from_dict({"final": {"patienc": 3}})


@pytest.mark.parametrize(
    ("cls", "bad", "message"),
    [
        (DARTSConfig, {"input_dim": 0}, "input_dim=0 must be at least 1"),
        (DARTSConfig, {"train": {"epochs": 3}}, "must be a DARTSTrainConfig; use from_dict"),
        (DARTSTrainConfig, {"epochs": 0}, "epochs=0"),
        (DARTSTrainConfig, {"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        (DARTSTrainConfig, {"model_learning_rate": float("nan")}, "model_learning_rate=nan must be finite"),
        (DARTSTrainConfig, {"temperature_schedule": "cosin"}, "Did you mean 'cosine'"),
        (DARTSTrainConfig, {"edge_identity_cap": 1.5}, "edge_identity_cap=1.5 must be between"),
        (
            DARTSTrainConfig,
            {"regularization_weights": [1.0, -0.5]},
            r"regularization_weights\[1\]=-0.5 must be at least 0",
        ),
        (DARTSTrainConfig, {"regularization_weights": ["a"]}, r"regularization_weights\[0\]='a' must be a number"),
        (DARTSTrainConfig, {"edge_sharpening_max_weight": -1.0}, "edge_sharpening_max_weight=-1.0 must be at least 0"),
        (FinalTrainConfig, {"patience": -1}, "patience=-1"),
        (DARTSSearchSpaceConfig, {"arch_modes": ["mambo"]}, "arch_modes='mambo'.*Did you mean 'mamba'"),
        (DARTSSearchSpaceConfig, {"node_range": (1, 3)}, r"node_range\[0\]=1"),
        (DARTSSearchSpaceConfig, {"cell_range": (3, 2)}, r"cell_range\[1\]=2"),
        (DARTSSearchSpaceConfig, {"hidden_dims": []}, "hidden_dims="),
        (DARTSSearchSpaceConfig, {"all_ops": "TCN"}, "all_ops='TCN' must be a list"),
        (DARTSSearchSpaceConfig, {"min_ops": 4, "max_ops": 2}, "max_ops=2 must be at least 4"),
        (MultiFidelitySearchConfig, {"final_epochs": 0}, "final_epochs=0"),
        (MultiFidelitySearchConfig, {"max_workers": 0}, "max_workers=0"),
        (MultiFidelitySearchConfig, {"phase3_reduction_factor": 1}, "phase3_reduction_factor=1"),
        (MultiFidelitySearchConfig, {"phase1_rescore_mode": "pol"}, r"\['pool', 'fixed'\].*Did you mean 'pool'"),
        (AblationSearchConfig, {"random_sigma": -1.0}, "random_sigma"),
        (RobustPoolSearchConfig, {"robustness_mode": "sperman"}, "Did you mean 'spearman'"),
    ],
)
def test_values_out_of_range_are_named(cls: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        cls(**bad)


@pytest.mark.parametrize("mode", config.ROBUSTNESS_MODES)
def test_every_robustness_mode_is_legal(mode: str) -> None:
    assert RobustPoolSearchConfig(robustness_mode=mode).robustness_mode == mode


def test_devices() -> None:
    import torch

    assert DARTSConfig(device="cpu").resolve_device() == "cpu"
    assert DARTSConfig().resolve_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert DARTSConfig(device=torch.device("cpu")).to_dict()["device"] == "cpu"  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="device='gpu9'"):
        DARTSConfig(device="gpu9").resolve_device()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_text_is_no_switch_number_or_seed(cls: Any) -> None:
    for entry in dataclasses.fields(cls):
        if entry.type in ("bool", "int", "float"):
            for value in ("false", "x", None, []):
                with pytest.raises(InvalidArgument, match=f"{entry.name}="):
                    cls(**{entry.name: value})
        if entry.type == "bool":
            assert [getattr(cls(**{entry.name: value}), entry.name) for value in (0, 1)] == [False, True]
