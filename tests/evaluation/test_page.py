"""The page of a search: complete, self-contained, and safe whatever the channels are called."""

from __future__ import annotations

import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from foreblocks.darts.evaluation.page import result_page

CELL = {
    "num_nodes": 4,
    "edges": [
        {"source": 0, "target": 1, "op": {"name": "TCN"}},
        {"source": 0, "target": 3, "op": {"name": "Fourier"}},
        {"source": 1, "target": 2, "op": {"name": "GRN"}},
    ],
}


def metrics(mse: float) -> dict[str, float]:
    return {"mse": mse, "mae": mse / 2}


def result(**changes: Any) -> dict[str, Any]:
    return {
        "verdict": "The network does not win.\nThe blend wins.",
        "baselines": {"last_value": metrics(0.8), "ridge_shared": metrics(0.4), "ridge_per_channel": metrics(0.5)},
        "ridge_star": "ridge_shared",
        "blend": {**metrics(0.2), "weights": {"ridge": 0.125, "ridge_per_channel": 0.0, "network": 0.875}},
        "finalists": [{"name": "network", "candidate_id": 7, "val_loss": 0.31, "test": metrics(0.25)}],
        "arch": "ArchSpec abc: encoder_only",
        "arch_spec": {"macro": {}, "cells": [CELL]},
        "final_results": {"train_losses": [1.0, 0.5], "val_losses": [0.9, 0.6]},
        "phase_seconds": {"phase1": 1.25},
        "failed_candidates": {"3": "RuntimeError: <boom>"},
        "trained_candidates": [{"candidate": {"candidate_id": 7}, "val_loss": 0.3333}],
        **changes,
    }


RECORD = {
    "candidate_id": 7, "preset": None, "selected_ops": ["Identity", "TCN"], "num_cells": 1, "num_nodes": 4,
    "macro": {"arch_mode": "mamba", "hidden_dim": 32, "channel_mode": "mixed", "patch_len": 8, "series_norm": "last"},
    "trial": {"val_loss": 0.4444},
}  # fmt: skip


def test_every_figure_is_on_the_page() -> None:
    page = result_page(result(), [RECORD], title="T", facts={"data": "two channels"})
    for text in ("The blend wins.", "two channels", "0.8000", "0.2500", "0.2000", "0.125", "0.875", "candidate 7",
                 "0.4444", "0.3333", "0.3100", "mamba, D 32, mixed, patch 8", "Identity, TCN", "1.2"):  # fmt: skip
        assert text in page, text
    shares = [float(share) for share in re.findall(r'style="width: ([\d.]+)%"', page)]
    assert shares == [100.0, 50.0, 62.5, 31.2, 25.0]


def test_what_was_trained_beside_the_search_has_its_rows() -> None:
    rival = {"method": "evolution", "network": metrics(0.6), "blend": {**metrics(0.3), "weights": {}}}
    preset = {"preset": "mixed_last", "candidate_id": 1, **metrics(0.7)}
    page = result_page(result(search_baseline=rival, best_preset=preset), title="T")
    rows = re.findall(r"<td>([^<]*) <span class=.muted.>beside the search</span></td>\s*<td class=.n.>([\d.]+)", page)
    assert rows == [
        ("preset mixed_last", "0.7000"), ("regularised evolution, network", "0.6000"),
        ("regularised evolution, blend", "0.3000"),
    ]  # fmt: skip
    failed = result_page(result(search_baseline={"method": "random"}, best_preset=None), title="T")
    assert "beside the search" not in failed


def test_what_users_name_is_text() -> None:
    page = result_page(result(), title="<script>alert(1)</script>", facts={"data": "<b>"})
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "RuntimeError: &lt;boom&gt;" in page


def test_the_page_needs_nothing_else() -> None:
    page = result_page(result(), [RECORD], title="T")
    links = [url for url in re.findall(r"""(?:href|src|url)\s*[=(]\s*["']?([^"')\s>]+)""", page) if url[0] != "#"]
    assert links == []


def test_every_edge_is_drawn_between_its_nodes_inside_the_picture() -> None:
    pytest.importorskip("matplotlib")
    page = result_page(result(), title="T")
    drawing = ElementTree.fromstring(re.search(r"<svg viewBox.*?</svg>", page, re.DOTALL)[0])
    circles = [float(circle.get("cx")) for circle in drawing.iter("circle")]
    ends = [[float(v) for v in re.findall(r"-?[\d.]+", path.get("d"))] for path in drawing.iter("path")]
    assert [(circles.index(e[0]), circles.index(e[6])) for e in ends] == [(0, 1), (0, 3), (1, 2)]
    labels = [(text.text, float(text.get("y"))) for text in drawing.iter("text")][:3]
    assert [name for name, _ in labels] == ["TCN", "Fourier", "GRN"]
    assert min(y for _, y in labels) > 10
    assert labels[1][1] < labels[0][1] == labels[2][1]


def test_without_matplotlib_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    page = result_page(result(), title="T")
    assert "No training curve" in page
    assert "pip install" in page


def test_a_loss_that_is_not_finite_has_no_bar() -> None:
    page = result_page(result(baselines={"last_value": metrics(float("inf"))}), title="T")
    assert page.count('class="bar"') == 2
