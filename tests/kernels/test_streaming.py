"""The contract of the scan and of the causal convolution beyond one call: states, steps, fixed B and C, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts._core.errors import InvalidArgument

from .tools import close, gradients, noise

pytestmark = pytest.mark.kernels


def series(dtype: torch.dtype = torch.float32, states: int = 4) -> dict[str, Tensor]:
    made = {"u": (2, 6, 37), "delta": (2, 6, 37), "B": (2, states, 37), "C": (2, states, 37), "z": (2, 6, 37)}
    values = {name: noise(*shape, seed=k, dtype=dtype) for k, (name, shape) in enumerate(made.items())}
    values["A"] = -noise(6, states, seed=9).abs()
    return values | {"D": noise(6, seed=10), "delta_bias": noise(6, seed=11)}


def test_steps_one_by_one_equal_the_scan_and_end_in_its_state():
    args = series()
    y, last = kernels.selective_scan(**args, delta_softplus=True, return_last_state=True)
    state = torch.zeros(2, 6, 4)
    shared = {"A": args["A"], "D": args["D"], "dt_bias": args["delta_bias"], "dt_softplus": True}
    for t in range(37):
        at = {name: args[name][..., t] for name in ("B", "C", "z")}
        out, state = kernels.selective_state_update(state, args["u"][..., t], args["delta"][..., t], **at, **shared)
        close(out, y[..., t].double())
    close(state, last.double())
    assert not last.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_computes_in_float32(dtype: torch.dtype):
    args = series(dtype)
    out = kernels.selective_scan(**args, delta_softplus=True)
    wide = kernels.selective_scan(**{name: x.float() for name, x in args.items()}, delta_softplus=True)
    assert out.dtype == dtype
    assert torch.equal(out, wide.to(dtype))


def test_fixed_b_and_c_equal_repeated_ones():
    args = series() | {"B": noise(6, 4, seed=20), "C": noise(6, 4, seed=21)}
    for name in ("B", "C"):
        args[name].requires_grad_()
    out = kernels.selective_scan(**args, delta_softplus=True)
    spread = {name: args[name][None, :, :, None].expand(2, 6, 4, 37) for name in ("B", "C")}
    other = kernels.selective_scan(**args | spread, delta_softplus=True)
    close(out, other.double())
    leaves = [args["B"], args["C"]]
    close(gradients(out, leaves), [g.double() for g in gradients(other, leaves)])


def test_a_series_in_two_parts_equals_the_whole():
    x, weight, bias = noise(2, 5, 11), noise(5, 4, seed=2), noise(5, seed=3)
    whole, end = kernels.causal_conv1d(x, weight, bias, None, True, "silu")
    first, memory = kernels.causal_conv1d(x[..., :2], weight, bias, None, True, "swish")
    second, rest = kernels.causal_conv1d(x[..., 2:], weight, bias, memory, True, "silu")
    close(torch.cat([first, second], dim=-1), whole.double())
    assert torch.equal(rest, end)
    expected = F.silu(F.conv1d(F.pad(x, (3, 0)), weight.unsqueeze(1), bias, groups=5))
    close(whole, expected.double())
    state = torch.zeros(2, 5, 3)
    for t in range(11):
        out, state = kernels.causal_conv1d_update(x[..., t], state, weight, bias, "silu")
        close(out, whole[..., t].double())
    assert torch.equal(state, end)


BAD = [
    ({"delta": noise(2, 6, 36)}, r"delta has shape \(2, 6, 36\)"),
    ({"A": noise(5, 4)}, r"A has shape \(5, 4\)"),
    ({"A": torch.complex(noise(6, 4), noise(6, 4))}, "A is complex"),
    ({"B": noise(2, 3, 37)}, "B has shape"),
    ({"C": noise(2, 4, 4, 37)}, "C has 4 groups"),
    ({"D": noise(5)}, "D has shape"),
    ({"D": torch.empty(6, device="meta")}, "D is on meta, but the input is on cpu"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_of_the_scan_are_named(change: dict[str, Tensor], message: str):
    with pytest.raises(InvalidArgument, match=message):
        kernels.selective_scan(**series() | change)


def test_bad_arguments_of_the_others_are_named():
    x = noise(2, 5, 6)
    with pytest.raises(InvalidArgument, match=r"initial_states has shape \(2, 2, 6\)"):
        kernels.causal_conv1d_steps(x, noise(6, 4), None, noise(2, 2, 6))
    with pytest.raises(InvalidArgument, match=r"weight is torch\.float64"):
        kernels.depthwise_conv1d(x, noise(6, 4).double())
    with pytest.raises(InvalidArgument, match=r"dilation=0"):
        kernels.depthwise_conv1d(x, noise(6, 4), dilation=0)
    tapped = (kernels.depthwise_conv1d, noise(6, 4)), (kernels.conv1d, noise(4, 6, 3))
    for function, weight in (*tapped, (kernels.linear, noise(4, 6)), (kernels.time_linear, noise(4, 5))):
        with pytest.raises(InvalidArgument, match="activation='tanh'"):
            function(x, weight, activation="tanh")
    for function in (kernels.depthwise_conv1d, kernels.causal_conv1d_steps):
        with pytest.raises(InvalidArgument, match=r"weight has shape \(6, 0\) and so no tap"):
            function(x, noise(6, 0))
        with pytest.raises(InvalidArgument, match="x has no step: T must be"):
            function(x[:, :0], noise(6, 4))
    with pytest.raises(InvalidArgument, match="no tap"):
        kernels.depthwise_norm_act(x, noise(6, 0), noise(6))
    with pytest.raises(InvalidArgument, match="no tap"):
        kernels.conv1d(x, noise(4, 6, 0))
    for odd in (noise(2, 5), noise()):
        with pytest.raises(InvalidArgument, match=r"x has shape .* it must be \[\.\.\., 2 W\]"):
            kernels.gated_act(odd)
    with pytest.raises(InvalidArgument, match="activation='tanh'"):
        kernels.gated_act(x, activation="tanh")
    with pytest.raises(InvalidArgument, match="groups=4 must divide I = 6 and O = 4"):
        kernels.conv1d(x, noise(4, 1, 3), groups=4)
    with pytest.raises(InvalidArgument, match="x has 5 steps; with padding='valid' it needs at least 9"):
        kernels.conv1d(x, noise(4, 6, 5), dilation=2, padding="valid")
    with pytest.raises(InvalidArgument, match="stride=0"):
        kernels.conv1d(x, noise(4, 6, 3), stride=0)
    with pytest.raises(InvalidArgument, match=r"conv_state has shape \(2, 6, 4\)"):
        kernels.causal_conv1d_update(x[:, 0], noise(2, 6, 4), noise(6, 4))
    with pytest.raises(InvalidArgument, match=r"C has shape \(2, 3\)"):
        kernels.selective_state_update(noise(2, 6, 4), x[:, 0], x[:, 0], noise(6, 4), noise(2, 4), noise(2, 3))
    with pytest.raises(InvalidArgument, match="x is a single number"):
        kernels.norm_act(noise(), noise(1))
    filters = noise(2, 4)
    low, high = kernels.wavelet_split(x, filters)
    with pytest.raises(InvalidArgument, match=r"filters has 3 taps"):
        kernels.wavelet_split(x, filters[:, :3])
    with pytest.raises(InvalidArgument, match=r"filters has shape \(4, 2\)"):
        kernels.wavelet_split(x, filters.T)
    with pytest.raises(InvalidArgument, match="filters requires a gradient"):
        kernels.wavelet_merge(low, high, filters.clone().requires_grad_(), 5)
    with pytest.raises(InvalidArgument, match="length=7 does not fit: low has 4 steps, not 5"):
        kernels.wavelet_merge(low, high, filters, 7)
    with pytest.raises(InvalidArgument, match="x has no step"):
        kernels.wavelet_split(x[:, :0], filters)
    layer = noise(3, 6), noise(3, 6), noise(12, 6), noise(6), noise(6)
    with pytest.raises(InvalidArgument, match="back requires a gradient"):
        kernels.spectral_map(x, noise(6, 5), noise(4, 6).requires_grad_(), *layer)
    with pytest.raises(InvalidArgument, match="K must be at least 1"):
        kernels.residual_convs(x, noise(0, 6, 6, 3), noise(0, 6))
    with pytest.raises(InvalidArgument, match=r"bias has shape \(3, 6\)"):
        kernels.residual_convs(x, noise(2, 6, 6, 3), noise(3, 6))
    with pytest.raises(InvalidArgument, match="kernel=0"):
        kernels.moving_average(x, 0)
    with pytest.raises(InvalidArgument, match=r"scale has shape \(2, 5, 6\)"):
        kernels.norm_act(x, noise(6), scale=x)
    with pytest.raises(InvalidArgument, match="kind='batch'"):
        kernels.norm_act(x, noise(6), kind="batch")
