"""Every Triton kernel in every configuration, compiled ahead of time for GPUs that are not here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from .gpu_tools import interpreted, need
from .launches import SHARED_BYTES, Launch, caught

CAPABILITIES = (80, 90, 100)
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("triton")
    if interpreted():
        pytest.skip("the kernels are interpreted in this process")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def mixed_sums() -> Iterator[None]:
    module = importlib.import_module("foreblocks.darts.kernels.triton_mixture")
    for total in (100, (1 << 18) + 1, (1 << 22) + 1):
        yield module.choose(total)
        for dtype in DTYPES:
            # Meta tensors are never read, and cost no memory.
            xs = [torch.empty(total, dtype=dtype, device="meta") for _ in range(3)]
            weights = torch.empty(3, dtype=dtype, device="meta")
            for normalize in (False, True):
                module.forward(xs, weights, normalize, normalize)
            module.backward(xs[0], xs, weights, True, [0, 2])
            module.backward(xs[0], [], weights, False, [0, 1, 2])


def norms() -> Iterator[None]:
    module = importlib.import_module("foreblocks.darts.kernels.triton_norm")
    for number, (dim, _) in enumerate(module.CONFIGS):
        yield module.choose(dim)
        for dtype in DTYPES:
            x = torch.empty(3, 5, dim, dtype=dtype, device="meta")
            row = torch.empty(dim, dtype=dtype, device="meta")
            scale = torch.empty(3, 1, dim, dtype=dtype, device="meta")
            full, bare = (row, row, x, x, scale), (row, None, None, None, None)
            inputs, needs = (full, 15) if (number + (dtype == torch.float32)) % 2 else (bare, 3)
            codes = number % 4, 3 - number % 4
            out, stats = module.forward(x, *inputs, number % 2 == 1, 1e-6, *codes)
            module.backward(out, stats, x, *inputs, number % 2 == 1, 1e-6, *codes, needs)


def scans() -> Iterator[None]:
    module = importlib.import_module("foreblocks.darts.kernels.triton_scan")
    for number, states in enumerate((7, 16, 32, 64, 256)):
        yield module.choose(states)
        for dtype in (torch.float32, torch.float64)[: 2 if states == 16 else 1]:
            u, row = (torch.empty(*shape, dtype=dtype, device="meta") for shape in ((2, 40, 34), (34,)))
            side = torch.empty(2, 40, 2, states, dtype=dtype, device="meta")
            rest = (row, u, row) if number % 2 else (None, None, None)
            inputs = (u, u, torch.empty(34, states, dtype=dtype, device="meta"), side, side, *rest, number % 2 == 1)
            out, _, chunks = module.forward(*inputs, True)
            module.forward(*inputs, False)
            module.backward(out, chunks, *inputs)


def saliencies() -> Iterator[None]:
    module = importlib.import_module("foreblocks.darts.kernels.triton_saliency")
    for largest in (100, 1 << 15):
        yield module.choose(largest)
        for dtype in (*DTYPES, torch.float64):
            # Not meta tensors: the sizes would lie there, too.
            module.forward([torch.zeros(largest, dtype=dtype)], [torch.zeros(largest, dtype=dtype)])


GROUPS: dict[str, Callable[[], Iterator[None]]] = {
    "triton_mixture": mixed_sums,
    "triton_norm": norms,
    "triton_scan": scans,
    "triton_saliency": saliencies,
}


@pytest.mark.parametrize("name", GROUPS)
def test_every_configuration_compiles(name: str):
    module = importlib.import_module(f"foreblocks.darts.kernels.{name}")
    with caught() as launches:
        seen = list(GROUPS[name]())
    assert set(seen) == {config for _, config in module.CONFIGS}
    assert {launch.kernel for launch in launches} == set(module.KERNELS)
    # The largest configuration for every target; of the others each for one, since all pairs would only take longer.
    for number, launch in enumerate(dict.fromkeys(launches)):
        check(launch, CAPABILITIES[number % len(CAPABILITIES)])
    for launch in {launch.kernel: launch for launch in launches}.values():
        for capability in CAPABILITIES:
            check(launch, capability)


def check(launch: Launch, capability: int) -> None:
    compiled = launch.compile(capability)
    assert len(compiled.asm["cubin"]) > 0
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SHARED_BYTES


def test_a_kernel_that_is_wrong_does_not_compile():
    module = importlib.import_module("foreblocks.darts.kernels.triton_mixture")
    xs = [torch.empty(10, device="meta") for _ in range(2)]
    with caught() as launches:
        module.forward(xs, torch.empty(2, device="meta"), False, False)
    (launch,) = launches
    broken = tuple((name, "i32" if name == "out" else kind) for name, kind in launch.signature)
    with pytest.raises(Exception, match=r"out|pointer|int32"):
        Launch(launch.kernel, broken, launch.constants, launch.options).compile(90)
