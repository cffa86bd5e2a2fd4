"""What runs where, and why: the table behind ``foreblocks-darts kernels``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _native
from .dispatch import DTYPES, OPERATIONS, forced


@dataclass(frozen=True)
class KernelRow:
    """One line of the report.

    Attributes:
        operation: public name.
        device: device type.
        dtype: such as ``"float32"``.
        implementation: what runs, or None if the forced one cannot.
        reasons: reason against each implementation that is not chosen; "comes later" for one that could run too.
    """

    operation: str
    device: str
    dtype: str
    implementation: str | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class KernelReport:
    """All choices of this process.

    Attributes:
        forced: value of ``FOREBLOCKS_DARTS_KERNELS``.
        isa: instruction set of the compiled CPU kernels, or None without them.
        missing: why there are no compiled kernels, or None.
        rows: operation × device × dtype.
    """

    forced: str
    isa: str | None
    missing: str | None
    rows: tuple[KernelRow, ...]

    def __str__(self) -> str:
        head = f"compiled kernels: {self.isa}" if self.missing is None else f"no compiled kernels: {self.missing}"
        lines = [f"{head}; FOREBLOCKS_DARTS_KERNELS={self.forced}"]
        width = max((len(row.operation) for row in self.rows), default=0)
        for row in self.rows:
            why = "; ".join(f"not {name}: {reason}" for name, reason in row.reasons.items())
            chosen = row.implementation or "cannot run"
            line = (
                f"{row.operation:<{width}}  {row.device:<4}  {row.dtype:<8}  {chosen:<10} {f'({why})' if why else ''}"
            )
            lines.append(line.rstrip())
        return "\n".join(lines)


def report() -> KernelReport:
    """Return which implementation every operation uses on the devices of this machine, with the reasons."""
    isa, missing = _native.load()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = [_row(name, device, dtype) for name in OPERATIONS for device in devices for dtype in DTYPES]
    return KernelReport(forced(), isa, missing, tuple(rows))


def _row(name: str, device: str, dtype: torch.dtype) -> KernelRow:
    operation = OPERATIONS[name]
    reasons = operation.reasons(torch.empty(0, device=device, dtype=dtype))
    wish = forced()
    chosen: str | None
    if wish == "auto":
        chosen = next(each for each, reason in reasons.items() if reason is None)
    else:
        chosen = wish if wish in reasons and reasons[wish] is None else None
    against = {each: reason for each, reason in reasons.items() if reason is not None}
    if chosen is None and wish not in reasons:
        against[wish] = "this operation has none"
    return KernelRow(name, device, str(dtype).removeprefix("torch."), chosen, against)
