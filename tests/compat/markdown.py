"""The Python blocks of a Markdown page, made small enough to run as a test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
# What a page says at its real size → what a test runs. Keywords of one page shrink alike, so they still fit each other.
_SIZES = {
    "lookback": 24, "seq_length": 24, "horizon": 4, "forecast_horizon": 4, "num_candidates": 2, "search_epochs": 1,
    "final_epochs": 1, "epochs": 1, "top_k": 1, "max_samples": 8, "n_random": 2, "n_pools": 2, "max_train_batches": 2,
    "final_max_train_batches": 2,
}  # fmt: skip
_TEXTS = {
    "hidden_dims=[32, 64]": "hidden_dims=[8]",
    "hidden_dims=[32]": "hidden_dims=[8]",
    '"hidden_dims": [32]': '"hidden_dims": [8]',
    "model_lrs=(3e-4, 1e-3)": "model_lrs=(1e-3,)",
    "96 + 24": "24 + 4",
    ":96]": ":24]",
    "96:]": "24:]",
    "torch.randn(4, 96, 3)": "torch.randn(4, 24, 3)",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, the line of its fence, its code, and why it is not run (None: it is)."""

    page: Path
    line: int
    code: str
    reason: str | None


def python_blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page in order.

    A comment ``<!-- not run: reason -->`` on the line before a block marks one that a test cannot run.
    """
    text = page.read_text(encoding="utf-8")
    found = _FENCE.finditer(text)
    return [Block(page, text.count("\n", 0, m.start("code")), m["code"], m["reason"]) for m in found]


def at_tiny_size(code: str) -> str:
    """Return the code with every size that costs time replaced by a small one."""
    for name, value in _SIZES.items():
        code = re.sub(rf"\b{name}=\d+", f"{name}={value}", code)
        code = re.sub(rf'"{name}": \d+', f'"{name}": {value}', code)
    for text, small in _TEXTS.items():
        code = code.replace(text, small)
    return code
