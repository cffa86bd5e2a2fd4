"""The facade: what a keyword says happens, and what is not allowed is refused by name before any work."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from foreblocks.darts import DARTSConfig, DARTSTrainConfig, DARTSTrainer, FinalTrainConfig
from foreblocks.darts import trainer as facade
from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.architecture.blend import BlendedForecaster
from foreblocks.darts.architecture.linear import LinearForecaster, LinearSpec
from foreblocks.darts.search import finish
from foreblocks.darts.search.candidates import make_candidates
from foreblocks.darts.training.checkpoint import save_model

L, H, C = 12, 4, 2
SMALL = {
    "num_candidates": 2, "search_epochs": 1, "final_epochs": 1, "top_k": 1, "finalists": 1, "trial_steps": 0,
    "max_train_batches": 2, "final_max_train_batches": 2,
}  # fmt: skip


def loader(seed: int = 0) -> DataLoader:
    series = torch.randn(60, C, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    windows = series.unfold(0, L + H, 1).transpose(1, 2)
    return DataLoader(TensorDataset(windows[:, :L], windows[:, L:]), batch_size=16)


def trainer(**changes: Any) -> DARTSTrainer:
    base = {"input_dim": C, "hidden_dims": [8], "forecast_horizon": H, "seq_length": L, "device": "cpu"}
    return DARTSTrainer(**{**base, **changes})


def search(made: DARTSTrainer, **changes: Any) -> dict[str, Any]:
    return made.multi_fidelity_search(loader(0), loader(1), loader(2), **{**SMALL, **changes})


def network(made: DARTSTrainer) -> Any:
    return made.derive_final_architecture(made.build_candidate(made.make_candidate()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"input_dim": 3}}, "config is a dict; it must be a DARTSConfig"),
        ({"config": DARTSTrainConfig()}, "config is a DARTSTrainConfig"),
        ({"hidden_dims": 32}, "hidden_dims=32 must be a list"),
        ({"arch_modes": "mamba"}, "arch_modes='mamba' must be a list"),
        ({"attention_variants": "sdp"}, "attention_variants='sdp' must be a list"),
        ({"attention_variants": ["sdpp"]}, "attention_variants='sdpp' is not allowed.*'sdp'"),
        ({"ffn_variants": [1]}, "ffn_variants='1' is not allowed"),
        ({"family_range": 3}, "family_range=3 must be a pair"),
        ({"op_families": ["conv"]}, r"op_families=\['conv'\] must be a dictionary"),
        ({"op_families": {"conv": "TCN"}}, "must be a list"),
        ({"op_families": {"conv": ["TCNN"]}}, "unknown op 'TCNN'.*'TCN'"),
        ({"on_unknown": "drop"}, "on_unknown='drop' is not allowed"),
    ],
)
def test_the_constructor_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        trainer(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": DARTSConfig()}, "config is a DARTSConfig; it must be a MultiFidelitySearchConfig"),
        ({"seed": "a"}, "seed='a' must be a whole number"),
        ({"keep_models": "no"}, "keep_models='no' must be True or False"),
        ({"best_preset": "no"}, "best_preset='no' must be True or False"),
        ({"scaler": [1.0]}, "scaler is a list; it must be a dictionary"),
        ({"max_ops": 1, "min_ops": 1}, "max_ops=1 leaves no op beside Identity"),
        ({"space": {"channel_modes": "mixed"}}, "channel_modes='mixed' must be a list"),
        ({"space": {"heads": ["flat"]}}, "heads='flat' is not allowed"),
        ({"space": {"heads": []}}, "heads is empty"),
        ({"space": {"patch_lens": [8]}}, r"patch_lens=\[8\] has no length up to half of seq_length=12"),
    ],
)
def test_a_search_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        search(trainer(), **changes)


def test_gradients_are_not_clipped_to_nothing() -> None:
    with pytest.raises(InvalidArgument, match="grad_clip_norm=0 leaves nothing"):
        trainer().train_final_model(None, loader(), loader(), loader(), grad_clip_norm=0)


def test_epochs_of_a_search_are_search_epochs() -> None:
    with pytest.raises(TypeError, match=r"unknown keyword 'epochs'. Did you mean '.*epochs'"):
        search(trainer(), epochs=7)


def test_trainings_refuse_the_configuration_of_something_else() -> None:
    made = trainer()
    with pytest.raises(InvalidArgument, match="config is a FinalTrainConfig; it must be a DARTSTrainConfig"):
        made.train_darts_model(None, loader(), loader(), config=FinalTrainConfig(epochs=1))
    with pytest.raises(InvalidArgument, match="config is a DARTSConfig; it must be a FinalTrainConfig"):
        made.train_final_model(None, loader(), loader(), loader(), config=DARTSConfig())


def test_unknown_ops_of_families_are_passed_over_on_request() -> None:
    made = trainer(op_families={"conv": ["TCN", "Nope"]}, on_unknown="ignore")
    assert made.space().families["conv"][0] == "TCN"


def test_max_ops_bounds_every_candidate() -> None:
    space = trainer().space(max_ops=2)
    assert {len(c.selected_ops) for c in make_candidates(space, 0, 20)} == {2}
    assert all("Identity" in c.selected_ops for c in make_candidates(space, 0, 20))


def test_patch_lens_bound_presets_too() -> None:
    candidates = make_candidates(trainer(seq_length=96).space(patch_lens=[1]), 0, 12)
    assert {c.macro.patch_len for c in candidates} == {1}


@pytest.mark.parametrize(("train", "final"), [(True, False), (False, True)])
def test_a_configuration_switches_amp_off_by_phase(train: bool, final: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def spy(*args: Any, **_: Any) -> None:
        seen.append(args[3])
        raise InterruptedError

    monkeypatch.setattr(facade, "run_multi_fidelity_search", spy)
    config = DARTSConfig(C, H, L, train=DARTSTrainConfig(use_amp=train), final=FinalTrainConfig(use_amp=final))
    with pytest.raises(InterruptedError):
        search(trainer(config=config))
    assert (seen[0].train.use_amp, seen[0].limits.use_amp, seen[0].final.use_amp) == (train, train, final)
    with pytest.raises(InterruptedError):
        search(trainer(config=config), use_amp=False)
    assert (seen[1].train.use_amp, seen[1].limits.use_amp, seen[1].final.use_amp) == (False, False, False)
    with pytest.raises(InterruptedError):
        search(trainer())
    assert (seen[2].train.use_amp, seen[2].limits.use_amp, seen[2].final.use_amp) == (True, True, True)


def test_final_training_has_the_amp_of_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    task = finish.TrainTask

    def spy(*args: Any, **kwargs: Any) -> Any:
        made = task(*args, **kwargs)
        seen.append(made.limits.use_amp)
        return made

    monkeypatch.setattr(finish, "TrainTask", spy)
    search(trainer(config=DARTSConfig(C, H, L, final=FinalTrainConfig(use_amp=False))))
    assert seen == [False]


def test_rates_are_tried_for_as_many_epochs_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(facade, "bilevel_lr_sensitivity", lambda *args, **_: seen.append(args[4].epochs))
    made = trainer(config=DARTSConfig(C, H, L, train=replace(DARTSTrainConfig(), epochs=3)))
    for epochs in (50, 7):
        made.bilevel_lr_sensitivity(lambda: None, loader(), loader(), epochs=epochs)
    assert seen == [50, 7]


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_decides_whether_final_epochs_are_logged(verbose: bool, caplog: pytest.LogCaptureFixture) -> None:
    made = trainer()
    with caplog.at_level(logging.INFO, "foreblocks.darts"):
        made.train_final_model(network(made), loader(), loader(1), loader(2), epochs=1, verbose=verbose)
    assert ("final epoch 1/1" in caplog.text) is verbose


def test_without_final_metrics_the_test_set_is_not_read() -> None:
    class Unreadable(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("the test set was read")

    made = trainer()
    result = made.train_final_model(
        network(made), loader(), loader(1), DataLoader(Unreadable()), epochs=1, compute_final_metrics=False
    )
    assert not {"final_metrics", "test_loss"} & set(result)


@pytest.mark.parametrize("content", [b"hello", b"", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Any, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model.pth is no checkpoint"):
        trainer().load_model(str(path))
    with pytest.raises(FileNotFoundError):
        trainer().load_model(str(tmp_path / "other.pth"))


def test_nobody_is_told_to_load_a_pickled_model(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(DataError) as caught:
        trainer().load_model(str(tmp_path / "model.pth"))
    assert str(caught.value).endswith("model.pth is no checkpoint of plain tensors and data (UnpicklingError).")


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"input_dim": 3}, "input_dim=3, seq_length=12, forecast_horizon=4"),
        ({"seq_length": 24}, "input_dim=2, seq_length=24, forecast_horizon=4"),
        ({"forecast_horizon": 6}, "input_dim=2, seq_length=12, forecast_horizon=6"),
    ],
    ids=["channels", "lookback", "horizon"],
)
@pytest.mark.parametrize("kind", ["searched", "network", "linear", "blend"])
def test_a_model_of_other_sizes_is_refused(kind: str, changes: dict[str, int], sizes: str, tmp_path: Path) -> None:
    made = trainer()
    parts = {"network": network(made), "linear": LinearForecaster(LinearSpec("shared", "last", C, L, H))}
    models = {**parts, "searched": made.build_candidate(made.make_candidate()), "blend": BlendedForecaster(parts)}
    path = str(tmp_path / "model.pth")
    save_model(models[kind], path)
    assert trainer().load_model(path)["model"] is not None
    other = trainer(**changes)
    message = f"holds a model for input_dim=2, seq_length=12, forecast_horizon=4, but this trainer has {sizes}."
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        other.load_model(path)
    assert other.final_model is None


def test_a_second_search_gives_what_a_fresh_trainer_gives() -> None:
    made = trainer()
    search(made, seed=1)
    again, fresh = search(made), search(trainer())
    assert again["arch_spec"] == fresh["arch_spec"]
    assert again["final_results"]["final_metrics"] == fresh["final_results"]["final_metrics"]
    x = torch.randn(3, L, C)
    assert torch.equal(again["final_model"](x), fresh["final_model"](x))
