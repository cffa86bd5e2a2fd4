"""The analyzer: the same on every source, right on planted searches, and honest with few candidates."""

from __future__ import annotations

import csv
import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import DataError, InvalidArgument, OptionalDependencyError
from foreblocks.darts.config import DEFAULT_OPS
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.evaluation import analyzer as module
from foreblocks.darts.evaluation.analysis import insights
from foreblocks.darts.evaluation.analyzer import (
    FIGURES,
    StreamlinedDARTSAnalyzer,
    analyze_darts_search,
    analyze_enhanced_darts_search,
)

L, H, C = 16, 4, 2
needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
needs_pandas = pytest.mark.skipif(find_spec("pandas") is None, reason="needs pandas")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[DARTSTrainer, Path]:
    """A small real search with everything that it can write."""
    root = tmp_path_factory.mktemp("runs")
    t = torch.arange(500.0)[:, None]
    noise = torch.randn(500, C, generator=torch.Generator().manual_seed(0))
    series = torch.sin(t / torch.tensor([4.0, 7.0])) + 0.3 * noise
    data = [WindowDataset(series, L, H, first=a, last=b) for a, b in ((0, 300), (284, 400), (384, 500))]
    trainer = DARTSTrainer(input_dim=C, hidden_dims=[8], forecast_horizon=H, seq_length=L, device="cpu")
    trainer.multi_fidelity_search(
        *data, num_candidates=6, top_k=3, search_epochs=4, final_epochs=1, max_train_batches=2, max_val_batches=1,
        trial_steps=2, final_max_train_batches=2, run_dir=root / "run", collect_stats=True, stats_dir=str(root),
        run_name="stats", max_samples=8,
    )  # fmt: skip
    return trainer, root


def candidate(identity: int, ops: list[str], score: float, **more: object) -> dict:
    macro = {"channel_mode": "mixed", "series_norm": "revin", "head": "flatten", "patch_len": 1}
    return {
        "candidate_id": identity, "model": None, "metrics": {"metrics": {"synflow": score, "params": 10.0 + identity}},
        "score": score, "rank_score": score, "selected_ops": ops, "hidden_dim": 8, "num_cells": 1, "num_nodes": 3,
        "arch_mode": "encoder_only", "transformer_self_attention_type": "sdp", "transformer_ffn_variant": "swiglu",
        "macro": macro, **more,
    }  # fmt: skip


def spec(ops: list[str]) -> dict:
    """The stored form of a network of one cell with an edge for each op."""
    edges = [{"source": 0, "target": k + 1, "op": {"name": op, "path": "a:b"}} for k, op in enumerate(ops)]
    macro = {"input_dim": 1, "seq_length": 8, "horizon": 2, "hidden_dim": 8}
    return {"macro": macro, "cells": [{"num_nodes": len(ops) + 1, "edges": edges}]}


def planted(losses: list[float], scores: list[float], *, improve: float = 0.5, kept: list[str] | None = None) -> dict:
    """A search in which every candidate was trained over two rungs; the loss falls to ``improve`` times itself."""
    rng = random.Random(0)
    pool = [op for op in DEFAULT_OPS if op != "Identity"]
    candidates = [candidate(k, ["Identity", *rng.sample(pool, 4)], score) for k, score in enumerate(scores)]
    rungs = [
        {
            "rung_index": number, "epoch_budget": epochs,
            "results": [{"candidate_id": k, "val_loss": loss * factor} for k, loss in enumerate(losses)],
        }
        for number, (epochs, factor) in enumerate(((2, 1.0), (4, improve)))
    ]  # fmt: skip
    trained = [
        {"candidate": c, "val_loss": loss * improve, "arch_spec": spec(kept or c["selected_ops"])}
        for c, loss in zip(candidates[:2], losses, strict=False)
    ]
    return {
        "candidates": candidates, "top_candidates": candidates[: len(losses)], "trained_candidates": trained,
        "best_candidate": min(trained, key=lambda entry: entry["val_loss"]), "rungs": rungs,
    }  # fmt: skip


def finding(result: dict, number: int) -> insights.Finding:
    analyzer = StreamlinedDARTSAnalyzer(result)
    return insights.findings(analyzer.records, analyzer.rows)[number]


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_a_result_a_trainer_and_a_run_folder_tell_the_same(run: tuple[DARTSTrainer, Path]) -> None:
    trainer, root = run
    live = StreamlinedDARTSAnalyzer(trainer.search_history[-1])
    for source in (trainer, root / "run", str(root / "run")):
        other = StreamlinedDARTSAnalyzer(source)
        assert other.rows == live.rows
        assert other.patterns == live.patterns
        assert other.generate_insights_report().splitlines()[1:] == live.generate_insights_report().splitlines()[1:]


def test_rows_hold_what_the_search_measured(run: tuple[DARTSTrainer, Path]) -> None:
    trainer, _ = run
    result = trainer.search_history[-1]
    analyzer = StreamlinedDARTSAnalyzer(trainer)
    rows = {row["candidate_id"]: row for row in analyzer.rows}
    documented = {
        "candidate_id", "zero_cost_score", "num_operations", "hidden_dim", "num_cells", "num_nodes",
        "zcm_aggregate_score", "uses_attention", "likely_attention", "attention_weight", "encoder_type",
        "decoder_type", "is_top_candidate", "was_trained", "val_loss", "is_best", "zcm_synflow",
        *(f"op_{op}" for op in DEFAULT_OPS), *(f"final_{name}" for name in ("mse", "rmse", "mae", "mape", "r2_score")),
    }  # fmt: skip
    assert all(documented <= set(row) for row in analyzer.rows)
    assert len({tuple(row) for row in analyzer.rows}) == 1
    for record in result["candidates"]:
        row = rows[record["candidate_id"]]
        assert row["zero_cost_score"] == record["score"]
        assert {op for op in DEFAULT_OPS if row[f"op_{op}"]} == set(record["selected_ops"])
        assert row["trial_val_loss"] == (record["trial"]["val_loss"] if "trial" in record else None)
    for entry in result["trained_candidates"]:
        row = rows[entry["candidate"]["candidate_id"]]
        assert row["was_trained"]
        assert row["val_loss"] == entry["val_loss"]
        assert row["first_rung_val_loss"] == entry["phase3_round_history"][0]["derived_val_loss"]
    assert [i for i, row in rows.items() if row["is_best"]] == [result["best_candidate"]["candidate"]["candidate_id"]]
    assert {i for i, row in rows.items() if row["is_top_candidate"]} == {
        r["candidate_id"] for r in result["top_candidates"]
    }
    for finalist in result["finalists"]:
        assert rows[finalist["candidate_id"]]["final_mse"] == finalist["test"]["mse"]


def test_statistics_hold_less_and_say_so(run: tuple[DARTSTrainer, Path]) -> None:
    trainer, root = run
    live = {row["candidate_id"]: row for row in StreamlinedDARTSAnalyzer(trainer).rows}
    for source in (root / "stats", root / "stats" / "stats.json"):
        analyzer = StreamlinedDARTSAnalyzer(source)
        for row in analyzer.rows:
            other = live[row["candidate_id"]]
            assert {key: row[key] for key in ("zero_cost_score", "val_loss", "is_best", "was_trained")} == {
                key: other[key] for key in ("zero_cost_score", "val_loss", "is_best", "was_trained")
            }
            assert row["rank_score"] is None
        assert "No derived architecture is recorded." in analyzer.generate_insights_report()
        assert analyzer.patterns["operation_analysis"]["totals"]["overall"] == 1, "only the best one's ops are known"


def test_an_interrupted_run_is_read_as_far_as_it_goes(run: tuple[DARTSTrainer, Path], tmp_path: Path) -> None:
    _, root = run
    records = json.loads((root / "run" / "candidates.json").read_text())
    screened = [{key: value for key, value in record.items() if key != "rungs"} for record in records]
    (tmp_path / "candidates.json").write_text(json.dumps(screened))
    early = StreamlinedDARTSAnalyzer(tmp_path)
    assert not any(row["was_trained"] or row["is_best"] for row in early.rows)
    (tmp_path / "candidates.json").write_text(json.dumps(records))
    later = StreamlinedDARTSAnalyzer(tmp_path)
    assert sum(row["was_trained"] for row in later.rows) == 3
    assert "No retrained model is recorded." in later.generate_insights_report()


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no run folder"):
        StreamlinedDARTSAnalyzer(tmp_path)
    with pytest.raises(InvalidArgument, match="no 'candidates'"):
        StreamlinedDARTSAnalyzer({})
    with pytest.raises(InvalidArgument, match="search_results=int"):
        StreamlinedDARTSAnalyzer(3)
    with pytest.raises(InvalidArgument, match="has not finished"):
        StreamlinedDARTSAnalyzer(DARTSTrainer(input_dim=1, device="cpu"))
    (tmp_path / "candidates.json").write_text("[{")
    with pytest.raises(DataError, match=r"candidates\.json"):
        StreamlinedDARTSAnalyzer(tmp_path)
    (tmp_path / "stats.json").write_text("{}")
    with pytest.raises(DataError, match=r"per_candidate\.csv is missing"):
        StreamlinedDARTSAnalyzer(tmp_path)
    (tmp_path / "per_candidate.csv").write_text("run_id,phase\n")
    with pytest.raises(DataError, match="does not hold the statistics"):
        StreamlinedDARTSAnalyzer(tmp_path)


def test_the_four_documented_keys_are_enough() -> None:
    candidates = [{"candidate_id": k, "score": float(k), "selected_ops": ["GRN"]} for k in range(3)]
    trained = [{"candidate": candidates[2], "val_loss": 0.5, "model": None}]
    result = {"candidates": candidates, "top_candidates": candidates[1:], "trained_candidates": trained}
    analyzer = StreamlinedDARTSAnalyzer({**result, "best_candidate": trained[0]})
    assert [row["candidate_id"] for row in analyzer.rows] == [2, 1, 0]
    assert analyzer.rows[0]["is_best"]
    assert insights.UNKNOWN in analyzer.generate_insights_report().lower()


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_a_planted_order_is_seen() -> None:
    scores = [1.0 - k / 20 for k in range(20)]
    good = finding(planted([1.0 + k / 10 for k in range(20)], scores), 0)
    assert good.answer == "yes"
    assert "Spearman +1.00" in good.evidence[0]
    bad = finding(planted([3.0 - k / 10 for k in range(20)], scores), 0)
    assert bad.answer == "no"
    assert "Spearman -1.00" in bad.evidence[0]


def test_few_candidates_are_too_few() -> None:
    rng = random.Random(1)
    result = planted([rng.random() + 1 for _ in range(5)], [rng.random() for _ in range(5)])
    assert [finding(result, k).answer for k in range(3)] == [insights.UNKNOWN] * 3
    report = StreamlinedDARTSAnalyzer(result).generate_insights_report()
    assert report.lower().count(insights.UNKNOWN) >= 3


def test_improvement_is_counted() -> None:
    scores = [1.0 - k / 20 for k in range(12)]
    losses = [1.0 + k / 10 for k in range(12)]
    better, worse = (finding(planted(losses, scores, improve=f), 1) for f in (0.5, 1.25))
    assert (better.answer, worse.answer) == ("yes", "no")
    assert "12 of 12" in better.evidence[0]
    assert "-50.0 %" in better.evidence[0]
    assert "+25.0 %" in worse.evidence[0]
    alone = finding({**planted(losses, scores), "rungs": planted(losses, scores)["rungs"][:1]}, 1)
    assert alone.answer == insights.UNKNOWN


@pytest.mark.parametrize(
    ("network", "blend", "answer"), [(0.8, 0.7, "yes"), (1.2, 0.9, "partly"), (1.2, 1.0, "no"), (None, None, "too few")]
)
def test_the_advantage_is_over_the_best_baseline(network: float | None, blend: float | None, answer: str) -> None:
    result = planted([1.0, 2.0], [0.9, 0.8])
    result["finalists"] = [
        {"name": "network", "candidate_id": 1, "val_loss": 0.4, "derived_loss": 1.0, "test": {}},
        {"name": "network_2", "candidate_id": 0, "val_loss": 0.5, "derived_loss": 0.5, "test": {}},
    ]
    result["baselines"] = {"last_value": {"mse": 2.0}, "ridge_shared": {"mse": 1.0}, "broken": {"mse": float("nan")}}
    result |= {} if network is None else {"network": {"mse": network}, "blend": {"mse": blend}}
    found = finding(result, 2)
    assert found.answer.startswith(answer)
    assert "leader of the search (candidate 0) is number 2 of 2" in found.evidence[0]
    if network is not None:
        assert "ridge_shared (1.0000)" in found.evidence[1]


def test_a_collapse_is_seen_and_told_from_a_narrow_draw() -> None:
    losses, scores = [1.0, 2.0], [0.9, 0.8]
    assert finding(planted(losses, scores, kept=["GRN", "TCN", "Wavelet", "PatchEmbed"]), 3).answer == "no"
    collapsed = planted(losses, scores, kept=["Identity"] * 4)
    found = finding(collapsed, 3)
    assert found.answer == "yes"
    assert "8 kept edges in 2 derived models: identity 100 %." in found.evidence[0]
    for record in collapsed["candidates"]:
        record["selected_ops"] = ["TCN", "TimeConv"]
    for entry in collapsed["trained_candidates"]:
        entry["arch_spec"] = spec(["TCN"] * 4)
    assert finding(collapsed, 3).answer == "partly"
    few = planted(losses[:1], scores[:1], kept=["TCN"])
    assert finding(few, 3).answer == insights.UNKNOWN


def test_a_planted_effect_of_an_op_is_the_only_significant_one() -> None:
    rng = random.Random(4)
    scores = [1.0 - k / 100 for k in range(60)]
    result = planted([1.0] * 60, scores)
    for rung in result["rungs"]:
        for row in rung["results"]:
            has = "Wavelet" in result["candidates"][row["candidate_id"]]["selected_ops"]
            row["val_loss"] = (0.5 if has else 1.5) + 0.3 * rng.random()
    for record in result["candidates"]:
        record["score"] = record["rank_score"] = rng.random()
    table = StreamlinedDARTSAnalyzer(result).correlations()
    significant = [(r["architectural_feature"], r["performance_metric"]) for r in table if r["significant"]]
    assert significant == [("op_Wavelet", "first_rung_val_loss")]
    assert table[0]["correlation"] < -0.9
    assert "Wavelet and first-rung loss" in StreamlinedDARTSAnalyzer(result).generate_insights_report()


def test_patterns_count_all_ops(run: tuple[DARTSTrainer, Path]) -> None:
    trainer, _ = run
    result = trainer.search_history[-1]
    patterns = StreamlinedDARTSAnalyzer(result).patterns
    assert {"component_analysis", "attention_analysis", "final_analysis", "operation_analysis"} <= set(patterns)
    assert set(patterns["component_analysis"]) == {"encoder", "decoder", "rnn_type"}
    counts = patterns["operation_analysis"]
    assert set(counts["overall"]) == set(DEFAULT_OPS)
    for op in DEFAULT_OPS:
        assert counts["overall"][op] == sum(op in r["selected_ops"] for r in result["candidates"])
        assert counts["top_candidates"][op] == sum(op in r["selected_ops"] for r in result["top_candidates"])
    assert counts["totals"] == {"overall": 6, "top_candidates": 3, "trained_candidates": 3}
    assert all(sum(shares.values()) == pytest.approx(1.0) for shares in patterns["families"].values())
    assert patterns["final_analysis"]["test_mse"]["blend"] == result["blend"]["mse"]
    json.dumps(patterns)


# ---- tables and figures ----------------------------------------------------------------------------------------------


@needs_pandas
def test_data_frames(run: tuple[DARTSTrainer, Path]) -> None:
    analyzer = StreamlinedDARTSAnalyzer(run[0])
    assert list(analyzer.analysis_df["candidate_id"]) == [row["candidate_id"] for row in analyzer.rows]
    frame = analyzer.analyze_correlations(method="spearman", correction="benjamini-hochberg")
    documented = ["architectural_feature", "performance_metric", "correlation", "p_value", "significant", "sample_size"]
    assert list(frame.columns)[:6] == documented
    assert set(frame["correction"]) == {"benjamini-hochberg"}
    assert ((frame["ci_low"] <= frame["correlation"]) & (frame["correlation"] <= frame["ci_high"])).all()


@needs_matplotlib
def test_saving_writes_the_documented_files_there_and_only_there(
    run: tuple[DARTSTrainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foreblocks.darts.evaluation.figures.DPI", 40)  # quick to write
    analyzer = analyze_darts_search(run[0], plot_dir="here/figures")
    names = {
        "encoder_decoder_analysis.png", "operation_analysis.png", "performance_analysis.png",
        "architecture_space_exploration.png", "metric_architecture_correlations.png",
        "architecture_configurations.png", "correlation_analysis.png", "analysis_data.csv", "correlations.csv",
        "analysis_patterns.json", "insights_report.txt",
    }  # fmt: skip
    folder = tmp_path / "here" / "figures"
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert (folder / "insights_report.txt").read_text() == analyzer.generate_insights_report()
    with (folder / "analysis_data.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["candidate_id"]) for row in table] == [row["candidate_id"] for row in analyzer.rows]
    assert json.loads((folder / "analysis_patterns.json").read_text()) == analyzer.patterns


def test_without_plots_nothing_is_written(
    run: tuple[DARTSTrainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    analyzer = analyze_enhanced_darts_search(run[0], save_plots=False)
    assert isinstance(analyzer, StreamlinedDARTSAnalyzer)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_comes_first(
    run: tuple[DARTSTrainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *, extra: str, feature: str) -> None:
        raise OptionalDependencyError(f"{feature} needs {name}: pip install 'foreblocks-darts[{extra}]'")

    monkeypatch.setattr(module, "require", refuse)
    with pytest.raises(OptionalDependencyError, match=r"foreblocks-darts\[plot\]"):
        analyze_darts_search(run[0], plot_dir=str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def drawings(result: object) -> dict:
    analyzer = StreamlinedDARTSAnalyzer(result)
    return {name: method(analyzer) for name, method in FIGURES.items()}


def texts(figure: object) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


@needs_matplotlib
def test_every_figure_draws_every_source(run: tuple[DARTSTrainer, Path]) -> None:
    trainer, root = run
    single = {"candidates": [candidate(0, ["Identity"], 1.0)]}
    bare = {"candidates": [{"candidate_id": 0, "score": float("nan")}]}
    for source in (trainer, root / "stats", planted([1.0, 20.0, 30.0], [0.3, 0.2, 0.1]), single, bare):
        for figure in drawings(source).values():
            figure.canvas.draw()


@needs_matplotlib
def test_figures_leave_pyplot_alone(run: tuple[DARTSTrainer, Path]) -> None:
    import matplotlib
    from matplotlib import pyplot

    before = (dict(matplotlib.rcParams), pyplot.get_fignums())
    drawings(run[0])
    assert (dict(matplotlib.rcParams), pyplot.get_fignums()) == before


@needs_matplotlib
def test_all_ops_are_named_and_the_bars_are_the_counts(run: tuple[DARTSTrainer, Path]) -> None:
    analyzer = StreamlinedDARTSAnalyzer(run[0])
    figure = analyzer.plot_operation_analysis()
    figure.canvas.draw()
    offered = figure.axes[0]
    names = [tick.get_text() for tick in offered.get_yticklabels()]
    assert sorted(names) == sorted(DEFAULT_OPS)
    counts = analyzer.patterns["operation_analysis"]["overall"]
    widths = {names[round(bar.get_y() + bar.get_height() / 2 + 0.2)]: bar.get_width() for bar in offered.containers[0]}
    assert widths == pytest.approx({op: 100 * counts[op] / 6 for op in names})
    for other in (analyzer.plot_architecture_configurations(), analyzer.plot_metric_architecture_correlations()):
        assert all(
            op in texts(other)
            for op in {op for row in analyzer.rows for op in DEFAULT_OPS if row[f"op_{op}"]} - {"Identity"}
        )


@needs_matplotlib
def test_options_of_the_figures(run: tuple[DARTSTrainer, Path]) -> None:
    analyzer = StreamlinedDARTSAnalyzer(run[0])
    assert "Spearman" in texts(analyzer.plot_metric_architecture_correlations("spearman"))
    shown = texts(analyzer.plot_architecture_configurations(top_k=2))
    assert sum(f"candidate {row['candidate_id']}" in shown.splitlines() for row in analyzer.rows) == 2
    assert tuple(analyzer.plot_encoder_decoder_analysis(figsize=(9, 5)).get_size_inches()) == (9, 5)
    with pytest.raises(InvalidArgument, match="method='kendall'"):
        analyzer.plot_metric_architecture_correlations("kendall")
    with pytest.raises(InvalidArgument, match="top_k=0"):
        analyzer.plot_architecture_configurations(0)


@needs_matplotlib
def test_the_rungs_and_the_heat_map_show_the_data() -> None:
    result = planted([1.0, 2.0, 3.0, 4.0, 5.0], [0.9, 0.3, 0.5, 0.2, 0.7])
    analyzer = StreamlinedDARTSAnalyzer(result)
    rungs = analyzer.plot_performance_analysis().axes[2]
    lines = sorted((list(line.get_xdata()), list(line.get_ydata())) for line in rungs.lines)
    assert lines == [([2, 4], [loss, 0.5 * loss]) for loss in (1.0, 2.0, 3.0, 4.0, 5.0)]
    axes = analyzer.plot_metric_architecture_correlations().axes[0]
    down, across = ([tick.get_text() for tick in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels()))
    shown = axes.images[0].get_array()
    table = {(r["architectural_feature"], r["performance_metric"]): r["correlation"] for r in analyzer.correlations()}
    op = next(op for op in DEFAULT_OPS if (f"op_{op}", "first_rung_val_loss") in table)
    value = float(shown[down.index(op), across.index("first-rung loss")])
    assert value == pytest.approx(table[f"op_{op}", "first_rung_val_loss"])


@needs_matplotlib
def test_a_loss_that_was_not_measured_is_left_out_of_the_rungs() -> None:
    result = planted([1.0, 2.0, 3.0, 4.0, 5.0], [0.9, 0.3, 0.5, 0.2, 0.7])
    result["rungs"][1]["results"][0]["val_loss"] = None
    lines = StreamlinedDARTSAnalyzer(result).plot_performance_analysis().axes[2].lines
    assert sorted(len(line.get_xdata()) for line in lines) == [1, 2, 2, 2, 2]
