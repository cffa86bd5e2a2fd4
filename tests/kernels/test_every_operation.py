"""What every operation of the table owes: odd sizes among its cases, compiling, exporting, and errors that name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foreblocks.darts import kernels
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.kernels import dispatch

from .cases import CASES, Case
from .tools import close, gradients, noise

pytestmark = pytest.mark.kernels

# First word of a case's name → the operation of the table that it runs.
OPERATIONS = {
    "average": "moving_average",
    "causal_conv": "depthwise_conv1d",
    "depthwise": "depthwise_conv1d",
    "depthwise_norm": "depthwise_norm_act",
    "scan": "selective_scan",
}


def operation(case: Case) -> str:
    word = case.name.partition("-")[0]
    return OPERATIONS.get(word, word)


def test_every_operation_has_cases():
    # The sums of saliency have no gradient and no case: test_saliency.
    assert {operation(case) for case in CASES} == set(dispatch.OPERATIONS) - {"saliency"}


FIRST = {case.name.partition("-")[0]: case for case in reversed(CASES)}


@pytest.mark.parametrize("word", FIRST)
def test_odd_sizes_are_tried(word: str):
    tried = [shapes[case.samples[0]] for case in CASES if case.name.partition("-")[0] == word for shapes in case.shapes]
    samples, steps, features = ({shape[k] for shape in tried if len(shape) == 3} for k in range(3))
    assert {1, 7} <= samples
    assert 1 in steps
    halves = 2 if word == "gated_act" else 1  # whose rows are two halves of one width
    assert {1, 15, 17} <= {size // halves for size in features}


@pytest.mark.parametrize("word", FIRST)
def test_compiles_whole_and_exports_without_our_operators(word: str):
    case = FIRST[word]
    tensors = case.tensors(0)

    class Block(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            result = case.call(*inputs)
            return result if isinstance(result, Tensor) else torch.cat([part.flatten() for part in result])

    leaves = [x for x in tensors if x.requires_grad]
    expected = Block()(*tensors)
    torch.compiler.reset()  # each word compiles the same lines anew
    out = torch.compile(Block(), fullgraph=True, backend="aot_eager")(*tensors)
    close(out, expected)
    close(torch.autograd.grad(out.sum(), leaves), gradients(expected, leaves))
    program = torch.export.export(Block(), tuple(tensors))
    assert not any("foreblocks" in str(node.target) for node in program.graph.nodes)
    close(program.module()(*tensors), expected)


X, ROW, TAPS = noise(2, 5, 6), noise(6), noise(6, 3)
Arguments = dict[str, Tensor]
CALLS: dict[str, tuple[Callable[..., object], Arguments]] = {
    "norm_act": (
        kernels.norm_act,
        {"x": X, "weight": ROW, "bias": ROW, "residual": X, "gate": X, "scale": noise(2, 1, 6)},
    ),
    "depthwise_conv1d": (kernels.depthwise_conv1d, {"x": X, "weight": TAPS, "bias": ROW}),
    "depthwise_norm_act": (
        kernels.depthwise_norm_act,
        {"x": X, "weight": TAPS, "norm_weight": ROW, "bias": ROW, "norm_bias": ROW},
    ),
    "moving_average": (lambda x: kernels.moving_average(x, 3), {"x": X}),
    "wavelet_split": (kernels.wavelet_split, {"x": X, "filters": noise(2, 4)}),
    "wavelet_merge": (
        lambda **tensors: kernels.wavelet_merge(**tensors, length=8),
        {"low": X, "high": X, "filters": noise(2, 4)},
    ),
    "linear": (kernels.linear, {"x": X, "weight": noise(4, 6), "bias": noise(4)}),
    "time_linear": (kernels.time_linear, {"x": X, "weight": noise(4, 5), "bias": noise(4)}),
    "conv1d": (kernels.conv1d, {"x": X, "weight": noise(4, 6, 3), "bias": noise(4)}),
    "residual_convs": (kernels.residual_convs, {"x": X, "weight": noise(2, 6, 6, 3), "bias": noise(2, 6)}),
    "spectral_map": (
        kernels.spectral_map,
        {"x": X, "forth": noise(6, 5), "back": noise(4, 6), "filter_real": noise(3, 6), "filter_imag": noise(3, 6),
         "weight": noise(12, 6), "bias_real": ROW, "bias_imag": ROW},
    ),
    "selective_scan": (
        kernels.selective_scan_steps,
        {"u": X, "delta": X, "A": -noise(6, 4).abs(), "B": noise(2, 5, 4), "C": noise(2, 5, 4), "D": ROW, "z": X,
         "delta_bias": ROW},
    ),
    "mixed_sum": (lambda weights, x: kernels.mixed_sum([x, x], weights), {"weights": noise(2), "x": X}),
    "softmax_attention": (lambda **qkv: kernels.softmax_attention(**qkv, heads=2), {"q": X, "k": X, "v": X}),
    "gated_act": (kernels.gated_act, {"x": X}),
    "saliency": (lambda params, grads: kernels.saliency([params], [grads]), {"params": X, "grads": X}),
}  # fmt: skip
WRONG = [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments]


def test_every_operation_is_called():
    assert set(CALLS) == set(dispatch.OPERATIONS)


# Any shape is right for these: the other arguments have to fit to it.
FREE = [("norm_act", "x"), ("gated_act", "x"), ("mixed_sum", "x"), ("saliency", "params")]


@pytest.mark.parametrize(("name", "argument"), [pair for pair in WRONG if pair not in FREE])
def test_a_wrong_shape_names_the_argument(name: str, argument: str):
    function, arguments = CALLS[name]
    function(**arguments)
    with pytest.raises(InvalidArgument, match=rf"\b{argument}\b"):
        function(**arguments | {argument: arguments[argument].unsqueeze(0)})


# The first two have one tensor, the third takes the dtype of u for all.
ALONE = ("moving_average", "gated_act", "selective_scan")


@pytest.mark.parametrize(("name", "argument"), [pair for pair in WRONG if pair[0] not in ALONE])
def test_a_wrong_dtype_names_an_argument_and_both_dtypes(name: str, argument: str):
    function, arguments = CALLS[name]
    names = "|".join("xs" if each == "x" and name == "mixed_sum" else each for each in arguments)
    with pytest.raises(InvalidArgument, match=rf"\b({names})\b.*torch\.float(32|64).*torch\.float(32|64)"):
        function(**arguments | {argument: arguments[argument].double()})


@pytest.mark.parametrize("name", CALLS)
def test_whole_numbers_are_refused(name: str):
    function, arguments = CALLS[name]
    with pytest.raises(InvalidArgument, match=r"got tensors of torch\.int64; it needs floating-point"):
        function(**{key: x.long() for key, x in arguments.items()})
