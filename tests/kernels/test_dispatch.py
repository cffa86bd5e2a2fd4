"""The choice of an implementation, its report, and what the extension must not change in the process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from foreblocks.darts import cli, kernels
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.logging import _said
from foreblocks.darts.architecture.mixed_op import MixedOp
from foreblocks.darts.kernels import _native, dispatch
from foreblocks.darts.kernels.dispatch import Implementation, KernelUnavailable, Operation
from foreblocks.darts.search.proxies.recorder import ActivationRecorder

from .tools import needs_native, noise

pytestmark = pytest.mark.kernels


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def triple(x: torch.Tensor) -> torch.Tensor:
    return 3 * x


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch):
    """An operation whose native form takes float32 only; the environment is free to be set."""
    before = dict(dispatch.OPERATIONS)
    reason = lambda x: None if x.dtype == torch.float32 else "float32 only"  # noqa: E731
    yield Operation("trial", double, (Implementation("native", triple, reason),))
    dispatch.OPERATIONS.clear()
    dispatch.OPERATIONS.update(before)
    monkeypatch.undo()
    dispatch.reset()


def choose(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, wish)
    dispatch.reset()


def test_the_first_that_can_runs(operation, monkeypatch, caplog):
    choose(monkeypatch, "auto")
    _said.clear()
    x = noise(3)
    with caplog.at_level(logging.INFO, logger="foreblocks.darts"):
        assert operation.pick(x) is triple
        assert operation.pick(x.double()) is double
        assert operation.pick(x.double().requires_grad_()) is double
    said = [record.message for record in caplog.records]
    assert said == ["trial on cpu float64 runs as plain PyTorch (native: float32 only)"]


def test_a_forced_one_runs_or_raises(operation, monkeypatch):
    choose(monkeypatch, "reference")
    assert operation.pick(noise(3)) is double
    choose(monkeypatch, "native")
    assert operation.pick(noise(3)) is triple
    with pytest.raises(KernelUnavailable, match="native, but it cannot run trial on cpu float64: float32 only"):
        operation.pick(noise(3).double())
    choose(monkeypatch, "triton")
    with pytest.raises(KernelUnavailable, match="has only"):
        operation.pick(noise(3))
    with pytest.raises(InvalidArgument, match="FOREBLOCKS_DARTS_KERNELS='fastest'"):
        choose(monkeypatch, "fastest")


def test_whoever_looks_into_the_graph_sees_the_reference(operation, monkeypatch):
    choose(monkeypatch, "auto")
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(operation.pick(x))
        return x

    x = noise(3)
    torch.func.vmap(look)(x)
    torch.func.jvp(look, (x,), (x,))
    with ActivationRecorder(1):
        look(x)
    with FlopCounterMode(display=False):
        look(x)
    with forward_ad.dual_level():
        look(x)
    assert seen == [double] * 5
    with torch.device("cpu"):
        assert operation.pick(noise(3)) is triple


def test_report_names_every_operation_and_reason(operation, monkeypatch, capsys):
    choose(monkeypatch, "auto")
    found = kernels.report()
    rows = {(row.operation, row.dtype): row for row in found.rows if row.device == "cpu"}
    assert {name for name, _ in rows} == set(dispatch.OPERATIONS)
    assert rows["trial", "float32"].implementation == "native"
    assert rows["trial", "float64"].implementation == "reference"
    assert rows["trial", "float64"].reasons == {"native": "float32 only"}
    assert cli.main(["kernels"]) == 0
    assert capsys.readouterr().out == f"{found}\n"
    assert "not native: float32 only" in str(found)
    choose(monkeypatch, "triton")
    assert {row.implementation for row in kernels.report().rows if row.operation == "trial"} == {None}


@needs_native
def test_half_precision_is_compiled_but_for_products_and_attention():
    rows = {(row.operation, row.dtype): row for row in kernels.report().rows if row.device == "cpu"}
    for dtype in ("bfloat16", "float16"):
        plain = {name for name, each in rows if each == dtype and rows[name, each].implementation != "native"}
        assert plain == {"linear", "time_linear", "conv1d", "softmax_attention", "spectral_map", "residual_convs"}
        assert rows["linear", dtype].reasons["native"] == f"the compiled form has no {dtype}"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(_native.load()[1] is not None, reason="no compiled kernels")
def test_an_impossible_instruction_set_raises():
    done = run("import foreblocks.darts.kernels as k; k.report()", FOREBLOCKS_DARTS_ISA="v9")
    assert "InvalidArgument: FOREBLOCKS_DARTS_ISA=v9 is not allowed" in done.stderr


def test_import_leaves_denormal_numbers_alone():
    code = (
        "import torch, foreblocks.darts.kernels as k; k.report()\n"
        "x = torch.full((64,), 1e-40)\n"
        "print(bool(k.mixed_sum([x, x], torch.ones(2)).min() > 0), bool((x + x).min() > 0))"
    )
    assert run(code).stdout.split() == ["True", "True"]


def test_autocast_mixes_dtypes_as_without_kernels():
    torch.manual_seed(0)
    edge = MixedOp(8, 12, ["Identity", "TimeConv", "TCN", "DLinear", "GRN", "Fourier"]).eval()
    x = noise(3, 12, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = edge(x)
        low.float().sum().backward()
    torch.testing.assert_close(low.float(), edge(x), rtol=5e-2, atol=5e-2)
