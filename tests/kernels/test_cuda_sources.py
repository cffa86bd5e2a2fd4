"""The CUDA sources through nvcc, on a machine without a GPU: no spilled register, and only torch's stable interface."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foreblocks.darts.kernels import _native

from .gpu_tools import need, nvcc

ROOT = Path(__file__).resolve().parents[2]
SPILLS_FAIL = ["-Xptxas", "--warn-on-spills,-Werror"]
# 96 values that all live at once, in at most 32 registers.
SPILLING = """
__global__ void __launch_bounds__(1024, 2) spill(const float* x, float* y) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[95 - i] + v[(i * 7) % 96];
}
"""


def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("foreblocks_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*call: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, call)), cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)


def compile_cuda(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    setup = build()
    include = Path(torch.__file__).parent / "include"
    macros = ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={setup.OLDEST_TORCH_HEX}", "-Icsrc", f"-I{include}"]
    return run(nvcc(), *setup.NVCC_FLAGS, *SPILLS_FAIL, *macros, "-Xcompiler", "-fPIC", "-c", source, "-o", target)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    need("nvcc")
    folder = tmp_path_factory.mktemp("objects")
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    assert {f"csrc/cuda/{source.name}" for source in sources} == {s for s in build().CUDA_SOURCES if s.endswith(".cu")}
    made = []
    for source in sources:
        target = folder / f"{source.stem}.o"
        done = compile_cuda(source, target)
        assert done.returncode == 0, done.stderr
        made.append(target)
    return made


def test_a_spilled_register_fails(tmp_path: Path):
    need("nvcc")
    (tmp_path / "spill.cu").write_text(SPILLING)
    done = compile_cuda(tmp_path / "spill.cu", tmp_path / "spill.o")
    assert done.returncode != 0
    assert "spilled to local memory" in done.stderr


def test_the_library_uses_only_the_stable_interface(objects: list[Path], tmp_path: Path):
    need("torch_abi_audit")
    library, module = tmp_path / "_C_cuda.abi3.so", tmp_path / "module.o"
    python = f"-I{sysconfig.get_path('include')}"
    done = run("g++", "-O2", "-fPIC", f"-DPy_LIMITED_API={build().OLDEST_PYTHON_HEX}", python,
               "-c", "csrc/cuda/module.cpp", "-o", module)  # fmt: skip
    assert done.returncode == 0, done.stderr
    torch_libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    # nvcc adds its runtime as a static library.
    done = run(nvcc(), "-shared", "-Xlinker", "--no-as-needed", module, *objects, "-o", library, *torch_libraries)
    assert done.returncode == 0, done.stderr
    audit = Path(sys.executable).parent / "torch-abi-audit"
    done = run(audit, "--check", "both", library)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Torch ABI:   STABLE" in done.stdout
    assert "Min torch:   2.10.0" in done.stdout


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_without_a_cuda_torch_nothing_is_built_or_loaded():
    assert build().cuda_extension() == []
    assert _native.load_cuda() == f"torch {torch.__version__} is built without CUDA"
    assert _native.missing("selective_scan", "cuda") == _native.load_cuda()
    assert _native.missing("selective_scan", "xpu") is not None
