"""The CUDA kernels against their references in float64, each thread of a block emulated on the CPU.

What this cannot show: races that the fixed order of the fibers hides, and anything about speed.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foreblocks.darts.kernels import mixture, scan

from .tools import close, gradients, noise

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    out = tmp_path_factory.mktemp("emulated") / "kernels.so"
    here = Path(__file__).parent / "cuda_on_cpu"
    call = [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", f"-I{here}", f"-I{ROOT / 'csrc'}", "-o", str(out)]
    done = subprocess.run([*call, str(here / "drivers.cpp")], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(out))


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    assert all(x is None or x.is_contiguous() for x in tensors)
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))


def address(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


SIZES = [
    # batch, steps, channels, states, groups
    (1, 1, 1, 1, 1),
    (2, 35, 17, 7, 1),
    (1, 32, 33, 16, 1),
    (1, 41, 130, 4, 1),
    (2, 9, 34, 3, 2),
    (1, 70, 9, 64, 1),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("full", [True, False])
def test_scan(kernels: ctypes.CDLL, size: tuple[int, ...], full: bool):
    batch, steps, dim, states, groups = size
    row, inner, side = (dim,), (batch, steps, dim), (batch, steps, groups, states)
    shapes = [inner, inner, (dim, states), side, side, *((row, inner, row) if full else ())]
    inputs = [noise(*shape, seed=k) for k, shape in enumerate(shapes)] + [None] * (0 if full else 3)
    inputs[2] = -inputs[2].abs()
    if not full:
        inputs[1] = inputs[1].abs() * 0.3
    out, last, grad = torch.empty(inner), torch.empty(batch, dim, states), noise(*inner, seed=20)
    chunks = torch.empty(batch, -(-steps // scan.GPU_CHUNK), states, dim)
    grads = [None if x is None else torch.empty_like(x) for x in inputs]
    numbers = (ctypes.c_int64 * 6)(batch, steps, dim, states, groups, full)
    kernels.scan_float(pointers([*inputs, out, last, chunks, grad, *grads]), numbers)
    wide = [None if x is None else x.double().requires_grad_() for x in inputs]
    expected, expected_last = scan.reference(*wide, full)
    close(out, expected)
    close(last, expected_last)
    given = [x for x in grads if x is not None]
    close(given, gradients(expected, [x for x in wide if x is not None], grad.double()))


def test_scan_in_double_precision(kernels: ctypes.CDLL):
    inputs = [noise(2, 20, 5, seed=k, dtype=torch.float64) for k in range(2)]
    inputs += [-noise(5, 6, seed=2, dtype=torch.float64).abs()]
    inputs += [noise(2, 20, 1, 6, seed=k, dtype=torch.float64) for k in (3, 4)]
    inputs += [noise(5, seed=5, dtype=torch.float64), inputs[0] * 0.7, noise(5, seed=7, dtype=torch.float64)]
    out, last = torch.empty_like(inputs[0]), torch.empty(2, 5, 6, dtype=torch.float64)
    numbers = (ctypes.c_int64 * 6)(2, 20, 5, 6, 1, 1)
    kernels.scan_double(pointers([*inputs, out, last, None, None]), numbers)
    torch.testing.assert_close(out, scan.reference(*inputs, True)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("count", "total"), [(1, 1), (3, 1500), (8, 1024)])
def test_mixed_sum(kernels: ctypes.CDLL, count: int, total: int, normalize: bool):
    xs, weights = [noise(total, seed=k) for k in range(count)], noise(count, seed=9).abs() + 0.2
    out, grad, by_weights = torch.empty(total), noise(total, seed=11), torch.empty(count)
    squares = torch.empty(count, dtype=torch.float64)
    grads = [None if k == 1 else torch.empty(total) for k in range(count)]
    kernels.mixed_sum_float(
        pointers(xs), address(weights), ctypes.c_int64(count), ctypes.c_bool(normalize), ctypes.c_int64(total),
        address(out), address(squares), address(grad), pointers(grads), address(by_weights),
    )  # fmt: skip
    wide = [x.double().requires_grad_() for x in (*xs, weights)]
    expected, expected_squares = mixture.reference(wide[:-1], wide[-1], normalize, True)
    close(out, expected)
    close(squares, expected_squares)
    *by_xs, by_w = gradients(expected, wide, grad.double())
    close([x for x in grads if x is not None], [x for x, mine in zip(by_xs, grads, strict=True) if mine is not None])
    close(by_weights, by_w)
