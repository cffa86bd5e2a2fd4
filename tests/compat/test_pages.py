"""Every Python block of the documentation and of the README runs, at tiny size, in an empty working folder.

The blocks of a page run one after the other in one namespace. It starts with what the quick start makes: ``data``, the
three loaders, ``trainer`` and ``results``; ``my_series.csv`` lies in the folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.config import EVERYDAY_SEARCH
from foreblocks.darts.evaluation import losses
from foreblocks.darts.integrations import estimator
from foreblocks.darts.ops import registry as ops
from foreblocks.darts.search.proxies import registry as proxies

from .conftest import Searched, files
from .markdown import at_tiny_size, python_blocks
from .series import write_series

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guide").glob("*.md"))]
WITH_CODE = [page for page in PAGES if any(block.reason is None for block in python_blocks(page))]
#: page → what its blocks write, beside the data that they make themselves
WRITES = {
    "README.md": {"best_darts_model.pth", "model.pt2"},
    "quickstart.md": {"best_darts_model.pth"},
    "data.md": {"gappy.csv"},
    "studies.md": {"ablation_results"},
    "analysis.md": {"alphas.png"},
    "keep.md": {"best_darts_model.pth", "model.pt2", "runs"},
}


@pytest.fixture
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is forgotten after it."""
    monkeypatch.setattr(ops, "_REGISTRY", dict(ops._REGISTRY))
    monkeypatch.setattr(proxies, "_REGISTRY", dict(proxies._REGISTRY))
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))


@pytest.fixture
def _small_forecasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``DARTSForecaster`` that is told no sizes takes tiny ones."""
    tiny = {"num_candidates": 2, "top_k": 1, "trial_steps": 2, "finalists": 1, "search_epochs": 1, "final_epochs": 1}
    batches = dict.fromkeys(("max_train_batches", "max_val_batches", "final_max_train_batches"), 2)
    monkeypatch.setattr(estimator, "EVERYDAY_SEARCH", {**EVERYDAY_SEARCH, **tiny, **batches})


@pytest.mark.usefixtures("_registries", "_small_forecasters")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, searched: Searched) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    write_series(Path("my_series.csv"), rows=400)
    train, val, test = searched.loaders
    space: dict[str, Any] = {
        "__name__": "__main__", "torch": torch, "DARTSTrainer": DARTSTrainer, "data": searched.data,
        "train_loader": train, "val_loader": val, "test_loader": test, "trainer": searched.trainer,
        "results": searched.results,
    }  # fmt: skip
    histories = len(searched.trainer.search_history), len(searched.trainer.training_history)
    for block in python_blocks(page):
        if block.reason is None:
            # Line numbers of a traceback are those of the page.
            code = "\n" * block.line + at_tiny_size(block.code)
            exec(compile(code, str(page), "exec"), space)
    del searched.trainer.search_history[histories[0] :], searched.trainer.training_history[histories[1] :]
    searched.trainer.final_model = searched.results["final_model"]
    assert {name.split("/")[0] for name in files()} == {"my_series.csv"} | WRITES.get(page.name, set())


def test_the_pages_are_found_and_few_blocks_are_left_out() -> None:
    blocks = [block for page in PAGES for block in python_blocks(page)]
    assert len(WITH_CODE) >= 10
    assert len(blocks) > 40
    left_out = {f"{block.page.name}: {block.reason}" for block in blocks if block.reason is not None}
    assert left_out == {"data.md: reads a file from the network"}


def test_every_fence_of_python_is_a_block() -> None:
    for page in PAGES:
        assert page.read_text().count("```python") == len(python_blocks(page)), page


def test_sizes_shrink_and_the_rest_stays() -> None:
    code = "f(num_candidates=20, seq_length=96, seed=7, hidden_dims=[32, 64], arch_learning_rate=3e-3, epochs=20)"
    small = "f(num_candidates=2, seq_length=24, seed=7, hidden_dims=[8], arch_learning_rate=3e-3, epochs=1)"
    assert at_tiny_size(code) == small


@pytest.mark.parametrize(
    "text", ["```python\n1 / 0\n```\n", "Text\n\n```python\nx = 1\n```\n\n```python\n1 / 0\n```\n"]
)
def test_a_wrong_block_fails(text: str) -> None:
    page = Path("page.md")
    page.write_text(text)
    with pytest.raises(ZeroDivisionError):
        for block in python_blocks(page):
            exec(compile(block.code, str(page), "exec"), {})
    os.unlink(page)
