"""Figures: what they draw equals the data given, they write only where told, and they keep no global state."""

from __future__ import annotations

import builtins
import logging

import numpy as np
import pytest
import torch
from torch import nn

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError, InvalidArgument, OptionalDependencyError
from foreblocks.darts.data import WindowDataset
from foreblocks.darts.evaluation.forecast_plot import plot_forecast
from foreblocks.darts.evaluation.plotting import (
    batched_forecast,
    plot_alpha_evolution,
    plot_prediction,
    plot_training_curve,
)

pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install 'foreblocks-darts[plot]'")


class Shifted(nn.Module):
    """Repeats the last value plus step / 10, so that the averages differ from every single window."""

    def forward(self, x):
        return x[:, -1:] + torch.arange(3).view(1, 3, 1) / 10


@pytest.fixture
def windows():
    series = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).cumsum(0)
    return series, *WindowDataset(series, 5, 3).gather(torch.arange(10))


def test_windows_of_another_dtype_are_given_in_that_of_the_weights(windows):
    _, x, _ = windows
    model = nn.Linear(2, 2)
    assert torch.equal(batched_forecast(model, x.double()), batched_forecast(model, x))


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


# ---- training curve ----------------------------------------------------------------------------------------------


def test_the_curve_holds_the_losses_and_marks_the_best_epoch(tmp_path):
    figure = plot_training_curve([3.0, 2.0, 1.5], [2.5, 1.0, 1.25], title="A run", save_path=str(tmp_path / "c.png"))
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "A run"
    assert lines(axes)["train"].get_xydata().tolist() == [[1, 3.0], [2, 2.0], [3, 1.5]]
    assert lines(axes)["validation"].get_ydata().tolist() == [2.5, 1.0, 1.25]
    assert "best: 1 in epoch 2" in lines(axes)
    assert axes.get_yscale() == "linear"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def test_a_wide_range_is_logarithmic_and_a_nan_is_a_gap():
    (axes,) = plot_training_curve([50.0, 5.0, 0.5], [60.0, float("nan"), 0.75]).axes
    assert axes.get_yscale() == "log"
    assert np.isnan(lines(axes)["validation"].get_ydata()[1])
    (axes,) = plot_training_curve([-5.0, 1.0], []).axes
    assert axes.get_yscale() == "linear"
    assert "validation" not in lines(axes)


def test_bad_losses_and_paths_are_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="both empty"):
        plot_training_curve([], [])
    with pytest.raises(InvalidArgument, match="val_losses must be a list of numbers"):
        plot_training_curve([1.0], ["low"])
    with pytest.raises(InvalidArgument, match="choose a suffix among"):
        plot_training_curve([1.0], [1.0], save_path=str(tmp_path / "c.docx"))
    with pytest.raises(InvalidArgument, match="cannot be written"):
        plot_training_curve([1.0], [1.0], save_path=str(tmp_path / "none" / "c.png"))


# ---- alphas ------------------------------------------------------------------------------------------------------


def snapshots():
    return [
        [("cell_0_edge_0", np.array([0.5, 0.5])), ("cell_0_edge_1", np.array([0.2, 0.3, 0.5]))],
        [("cell_0_edge_0", np.array([0.75, 0.25])), ("cell_0_edge_1", np.array([0.1, 0.8, 0.1]))],
    ]


def test_every_choice_has_a_panel_with_its_trace():
    choices = {"cell_0_edge_0": ["Identity", "TCN"], "cell_0_edge_1": ["Identity", "TCN", "GRN"]}
    figure = plot_alpha_evolution(snapshots(), save_path=None, choices=choices)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "cell 0 edge 0: Identity 0.75",
        "cell 0 edge 1: TCN 0.80",
    ]
    drawn = [line.get_xydata().tolist() for line in panels[1].get_lines() if len(line.get_xdata())]
    assert drawn == [[[0, 0.2], [5, 0.1]], [[0, 0.3], [5, 0.8]], [[0, 0.5], [5, 0.1]]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["GRN", "Identity", "TCN"]
    colours = [panel.get_lines()[1].get_color() for panel in panels]  # TCN, in both panels
    assert colours[0] == colours[1]


def test_labels_come_from_the_snapshots_or_are_numbered():
    labelled = [[(name, p, ["a", "b", "c"][: len(p)]) for name, p in snapshot] for snapshot in snapshots()]
    assert plot_alpha_evolution(labelled, save_path=None).axes[0].get_title(loc="left").endswith("a 0.75")
    assert plot_alpha_evolution(snapshots(), save_path=None).axes[0].get_title(loc="left").endswith("choice 0 0.75")


def test_the_default_file_is_alpha_evolution_png(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plot_alpha_evolution(snapshots(), save_path=None)
    assert not list(tmp_path.iterdir())
    plot_alpha_evolution(snapshots())
    assert [path.name for path in tmp_path.iterdir()] == ["alpha_evolution.png"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no snapshot"),
        ([[]], "no snapshot"),
        ([[("edge",)]], r"alpha_values\[0\] must hold"),
        ([[("edge", [[0.5, 0.5]])]], "one list of a fixed length"),
        ([[("edge", [0.5, 0.5])], [("edge", [1.0])]], r"alpha_values\[1\], 'edge'"),
        ([[("edge", [0.5, 0.5], ["a"])]], "2 probabilities and 1 labels"),
    ],
)
def test_other_traces_are_refused(values, message):
    with pytest.raises(InvalidArgument, match=message):
        plot_alpha_evolution(values, save_path=None)


def test_the_traces_of_a_search_plot_with_the_names_of_their_ops():
    trainer = DARTSTrainer(2, [8], 3, 12, "cpu", ["Identity", "GRN", "DLinear"], ["encoder_only"])
    series = torch.randn(120, 2, generator=torch.Generator().manual_seed(1))
    source = WindowDataset(series, 12, 3)
    model = trainer.build_candidate(trainer.make_candidate(0, 0))
    result = trainer.train_darts_model(model, source, source, epochs=6, max_train_batches=1, max_val_batches=1)
    figure = trainer.plot_alpha_evolution(result["alpha_values"], None)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(model.get_all_alphas())
    assert list(result["alpha_choices"]) == list(model.get_all_alphas())
    for axes, (name, probabilities) in zip(panels, result["alpha_values"][-1], strict=True):
        winner = result["alpha_choices"][name][int(probabilities.argmax())]
        assert axes.get_title(loc="left") == f"{name.replace('_', ' ')}: {winner} {probabilities.max():.2f}"


# ---- forecasts ---------------------------------------------------------------------------------------------------


def test_the_forecast_stands_at_its_rows(windows):
    series, x, y = windows
    figure = plot_prediction(Shifted(), x, y, names=["a", "b"])
    forecast = batched_forecast(Shifted(), x)
    for channel, axes in enumerate(figure.axes):
        drawn = lines(axes)
        np.testing.assert_array_equal(drawn["forecast"].get_xdata(), range(5, 17))
        np.testing.assert_allclose(drawn["forecast"].get_ydata(), forecast[:, channel])
        np.testing.assert_array_equal(drawn["actual"].get_xdata(), range(17))
        np.testing.assert_allclose(drawn["actual"].get_ydata(), series[:17, channel], rtol=1e-6)
        error = float((forecast[:, channel] - series[5:17, channel]).abs().mean())
        assert axes.get_title(loc="left") == f"{'ab'[channel]}   MAE {error:.4g}"


def test_arrays_are_drawn_as_tensors_are(windows):
    _, x, y = windows
    assert torch.equal(batched_forecast(Shifted(), x.numpy()), batched_forecast(Shifted(), x))
    drawn = [
        [line.get_ydata() for line in plot_prediction(Shifted(), *pair).axes[0].lines]
        for pair in ((x, y), (x.numpy(), y.numpy()))
    ]
    assert all(np.array_equal(*pair) for pair in zip(*drawn, strict=True))


def test_a_full_series_is_drawn_with_the_windows_at_their_offset(windows, caplog):
    series, x, _ = windows
    figure = plot_prediction(Shifted(), x[4:], None, full_series=series, offset=4)
    drawn = lines(figure.axes[0])
    np.testing.assert_array_equal(drawn["actual"].get_xdata(), range(1, 25))  # 8 rows of forecast, 8 on each side
    np.testing.assert_allclose(drawn["actual"].get_ydata(), series[1:25, 0])
    assert drawn["forecast"].get_xdata()[0] == 9
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        plot_prediction(Shifted(), x[4:], None, full_series=series, offset=9)
    assert "not at row offset=9" in caplog.text


def test_plots_without_a_match_are_refused(windows):
    series, x, y = windows
    with pytest.raises(InvalidArgument, match="y_val=None needs full_series"):
        plot_prediction(Shifted(), x, None)
    with pytest.raises(DataError, match=r"y_val must be \(10, 3, 2\)"):
        plot_prediction(Shifted(), x, y[:, :2])
    with pytest.raises(DataError, match=r"full_series must be \[rows, 2\]"):
        plot_prediction(Shifted(), x, y, full_series=series[:, :1])
    with pytest.raises(InvalidArgument, match="must be 2 names"):
        plot_prediction(Shifted(), x, y, names=["one"])
    with pytest.raises(InvalidArgument, match="figsize"):
        plot_prediction(Shifted(), x, y, figsize=(4, -1))
    with pytest.raises(InvalidArgument, match="needs a final_model"):
        DARTSTrainer(2, device="cpu").plot_prediction(x, y)


def test_what_follows_a_series_begins_at_its_last_point(tmp_path):
    dates = np.datetime64("2024-01-01T00", "us") + np.arange(30) * np.timedelta64(1, "h")
    values = np.arange(60.0).reshape(30, 2)
    figure = plot_forecast(
        dates[:24], values[:24], dates[24:], values[24:] + 1, names=["a", "b"], title="x", save_path=tmp_path / "f.svg"
    )
    for channel, axes in enumerate(figure.axes):
        drawn = lines(axes)
        np.testing.assert_array_equal(drawn["known"].get_ydata(), values[:24, channel])
        np.testing.assert_array_equal(drawn["forecast"].get_ydata()[0], values[23, channel])
        np.testing.assert_array_equal(drawn["forecast"].get_ydata()[1:], values[24:, channel] + 1)
        np.testing.assert_array_equal(drawn["forecast"].get_xdata(), dates[23:])
    assert b"<svg" in (tmp_path / "f.svg").read_bytes()
    many = plot_forecast(
        np.arange(3), np.ones((3, 20)), np.array([3]), np.ones((1, 20)), names=[str(k) for k in range(20)]
    )
    assert len(many.axes) == 12
    assert "first 12 of 20 channels" in many.get_suptitle()
    with pytest.raises(DataError, match="at least one row"):
        plot_forecast(dates[:0], values[:0], dates[24:], values[24:], names=["a", "b"])


def test_the_trainer_shows_by_default_and_says_when_it_cannot(windows, caplog, monkeypatch, tmp_path):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    trainer = DARTSTrainer(2, device="cpu")
    trainer.final_model = Shifted()
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        figure = trainer.plot_prediction(*windows[1:])
    assert "opens no window" in caplog.text
    assert tuple(figure.get_size_inches()) == (14, 8)
    assert plt.get_fignums() == []
    assert not list(tmp_path.iterdir())


def test_no_setting_of_matplotlib_is_changed(windows):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot_training_curve([1.0], [1.0])
    plot_prediction(Shifted(), *windows[1:])
    assert dict(mpl.rcParams) == before


def test_without_matplotlib_the_error_has_the_pip_line(monkeypatch):
    real = builtins.__import__

    def blocked(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr("importlib.import_module", lambda name: blocked(name))
    with pytest.raises(OptionalDependencyError, match=r"pip install 'foreblocks-darts\[plot\]'"):
        plot_training_curve([1.0], [1.0])
