"""Compile, for GPUs that are not here, exactly what the library would launch.

A launch of a kernel is caught before it reaches a driver; its arguments give the signature that Triton compiles ahead
of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

NAMES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
# What one program may use of a multiprocessor's shared memory on every target.
SHARED_BYTES = 99 * 1024


@dataclass(frozen=True)
class Launch:
    """One kernel with everything that decides its machine code."""

    kernel: Any
    signature: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    def compile(self, capability: int) -> Any:
        """Return the compiled kernel for ``sm_<capability>``."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        constants = {}
        for name, value in self.constants:
            spot, *inner = name.split(".")
            constants[(names.index(spot), *map(int, inner))] = value
        source = ASTSource(self.kernel, dict(self.signature), constants)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(self.options))


def _describe(name: str, value: Any, constants: list[tuple[str, Any]], constant: bool) -> Any:
    if isinstance(value, tuple):
        return tuple(_describe(f"{name}.{k}", each, constants, constant) for k, each in enumerate(value))
    if isinstance(value, torch.Tensor):
        return NAMES[value.dtype]
    if constant or value is None:
        constants.append((name, value))
        return "constexpr"
    return "fp32" if isinstance(value, float) else "i32"


@contextmanager
def caught() -> Iterator[list[Launch]]:
    """Collect every launch in the block; nothing runs."""
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []

    def run(
        self: Any, *arguments: Any, grid: Any, warmup: bool, num_warps: int, enable_fp_fusion: bool, **constants: Any
    ) -> None:
        assert all(0 < size < 2**31 for size in grid)
        options = (("num_warps", num_warps), ("enable_fp_fusion", enable_fp_fusion))
        found: list[tuple[str, Any]] = []
        given = {**dict(zip(self.arg_names, arguments, strict=False)), **constants}
        assert list(given) == self.arg_names, "an argument is missing or misplaced"
        fixed = {parameter.name for parameter in self.params if parameter.is_constexpr}
        signature = tuple((name, _describe(name, given[name], found, name in fixed)) for name in self.arg_names)
        launches.append(Launch(self, signature, tuple(found), options))

    before = JITFunction.run
    JITFunction.run = run
    try:
        yield launches
    finally:
        JITFunction.run = before
