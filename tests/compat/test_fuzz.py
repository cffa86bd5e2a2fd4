"""Mangled files and random networks: a result, or one clear error; never another exception.

``FUZZ_EXAMPLES=2000`` runs that many files; without it a few hundred run, always the same ones.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreblocks.darts import TimeSeriesDARTS
from foreblocks.darts._core.errors import DartsError
from foreblocks.darts.architecture.derive import derive_final_architecture
from foreblocks.darts.architecture.spec import ATTENTION_VARIANTS, FFN_VARIANTS, HEADS, SERIES_NORMS
from foreblocks.darts.cli import main
from foreblocks.darts.config import DEFAULT_ARCH_MODES, DEFAULT_OPS, IMPUTE_METHODS, RELAXATIONS
from foreblocks.darts.data import prepare

from .conftest import TINY, make_trainer
from .mangling import good_table, mangled

GIVEN = int(os.environ.get("FUZZ_EXAMPLES", "0"))
FILES = GIVEN or 300
NETWORKS = GIVEN // 4 or 60
LOOKBACK, HORIZON = 8, 2


def fuzz(examples: int) -> Any:
    """Settings of a fuzz: repeatable unless asked for more, and no folder of failures in the working folder."""
    return settings(
        max_examples=examples, deadline=None, derandomize=not GIVEN, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the unmangled table."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "good.csv"
    path.write_text("\n".join(",".join(row) for row in good_table(200, "hour")) + "\n")
    data = prepare(path, lookback=LOOKBACK, horizon=HORIZON)
    trainer = make_trainer(2, seq_length=LOOKBACK, forecast_horizon=HORIZON)
    sizes = {**TINY, "num_candidates": 1, "top_k": 1, "search_epochs": 1}
    trainer.multi_fidelity_search(
        *data.loaders(16), run_dir=folder / "run", scaler=data.recipe.to_dict(), finalists=1, **sizes
    )
    return folder / "run"


def check_error(error: Exception, path: Path) -> None:
    """The message names the file and is a line or two that a person can read."""
    text = str(error)
    assert path.name.partition(".")[0] in text
    assert len(text) < 1500
    assert "Traceback" not in text


def test_mangled_files_give_windows_or_one_clear_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: Counter[str] = Counter()

    @fuzz(FILES)
    @given(mangled(), st.sampled_from([None, *IMPUTE_METHODS]))
    def check(file: tuple[bytes, str], impute: str | None) -> None:
        path = tmp_path / f"mangled{file[1]}"
        path.write_bytes(file[0])
        caplog.clear()
        try:
            data = prepare(path, lookback=LOOKBACK, horizon=HORIZON, impute=impute)
        except DartsError as error:
            seen["error"] += 1
            check_error(error, path)
            return
        seen["data"] += 1
        for part in (data.train, data.val, data.test):
            x, y = part[len(part) - 1]
            assert torch.isfinite(x).all()
            assert torch.isfinite(y).all()
            assert x.shape == (LOOKBACK, len(data.channels))

    with caplog.at_level(logging.WARNING):
        check()
    assert min(seen["error"], seen["data"]) > FILES / 20, seen


def test_mangled_files_give_a_forecast_or_one_line_of_error(tmp_path: Path, run: Path) -> None:
    seen: Counter[int] = Counter()

    @fuzz(FILES)
    @given(mangled(), st.sampled_from([None, *IMPUTE_METHODS]))
    def check(file: tuple[bytes, str], impute: str | None) -> None:
        path, out = tmp_path / f"mangled{file[1]}", tmp_path / "forecast.csv"
        path.write_bytes(file[0])
        out.unlink(missing_ok=True)
        shown, complained = io.StringIO(), io.StringIO()
        given_impute = [] if impute is None else ["--impute", impute]
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complained):
            code = main(["predict", "--run", str(run), "--data", str(path), "--out", str(out), *given_impute])
        seen[code] += 1
        errors = [line for line in complained.getvalue().splitlines() if line.startswith("error: ")]
        if code == 0:
            assert errors == []
            rows = out.read_text().splitlines()[1:]
            assert len(rows) == HORIZON
            assert np.isfinite(np.array([row.split(",")[1:] for row in rows], dtype=float)).all()
        else:
            assert code == 2
            assert len(errors) == 1
            assert not out.exists()

    check()
    assert min(seen[0], seen[2]) > FILES / 50, seen  # both ends of it are tried


@st.composite
def networks(draw: Any) -> dict[str, Any]:
    """Draw arguments of a network: any ops, modes, sizes; some do not fit each other."""
    channels = draw(st.integers(1, 4))
    targets = st.lists(st.integers(0, channels - 1), min_size=1, max_size=channels, unique=True)
    width = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16]))
    return {
        "input_dim": channels, "seq_length": draw(st.integers(1, 40)), "forecast_horizon": draw(st.integers(1, 9)),
        "hidden_dim": width, "latent_dim": width, "num_heads": draw(st.sampled_from([1, 1, 2, 4])),
        "num_cells": draw(st.integers(1, 2)), "num_nodes": draw(st.integers(2, 4)),
        "selected_ops": draw(st.lists(st.sampled_from(DEFAULT_OPS), min_size=1, max_size=4, unique=True)),
        "arch_mode": draw(st.sampled_from(DEFAULT_ARCH_MODES)), "dropout": draw(st.sampled_from([0.0, 0.2])),
        "transformer_self_attention_type": draw(st.sampled_from(["auto", *ATTENTION_VARIANTS])),
        "transformer_ffn_variant": draw(st.sampled_from(["auto", *FFN_VARIANTS])),
        "relaxation": draw(st.sampled_from([None, *RELAXATIONS])), "head": draw(st.sampled_from(HEADS)),
        "series_norm": draw(st.sampled_from(SERIES_NORMS)), "patch_len": draw(st.sampled_from([1, 1, 2, 8, 16])),
        "channel_mode": draw(st.sampled_from(["mixed", "independent", "variate"])),
        "num_layers": draw(st.integers(0, 2)), "future_dim": draw(st.sampled_from([0, 0, 1, 3])),
        "target_channels": draw(st.none() | targets),
    }  # fmt: skip


def test_random_networks_learn_and_derive_or_say_why_not() -> None:
    seen: Counter[str] = Counter()

    @fuzz(NETWORKS)
    @given(networks(), st.integers(1, 3), st.integers(0, 99))
    def check(arguments: dict[str, Any], batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        try:
            model = TimeSeriesDARTS(**arguments)
        except DartsError as error:
            complaint = str(error)
        else:
            complaint = ""
        if complaint:
            seen["error"] += 1
            assert any(str(value) in complaint for value in arguments.values())
            return
        seen["network"] += 1
        macro = model.macro
        x = torch.randn(batch, macro.seq_length, macro.input_dim)
        future = torch.randn(batch, macro.horizon, macro.future_dim) if macro.future_dim else None
        shape = (batch, macro.horizon, macro.output_dim)
        output = model(x, future)
        assert output.shape == shape
        output.square().mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        with torch.no_grad():
            derived = derive_final_architecture(model)(x, future)
        assert derived.shape == shape
        assert torch.isfinite(derived).all()

    check()
    assert seen["network"] > NETWORKS / 3, seen
