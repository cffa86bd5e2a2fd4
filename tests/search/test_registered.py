"""What a script has registered is known in worker processes, so they change no result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts.data import WindowDataset
from foreblocks.darts.evaluation import losses
from foreblocks.darts.ops import registry as ops
from foreblocks.darts.search.executor import ProcessExecutor
from foreblocks.darts.search.proxies import registry as proxies
from foreblocks.darts.search.registered import Registered

# As in a script or notebook: no other process can import these.
SCRIPT = """
from torch import nn
from foreblocks.darts.evaluation.losses import register_loss
from foreblocks.darts.ops import register_op
from foreblocks.darts.search.proxies import register_proxy

@register_op("Scaled", family="filter", cost=0.1, causal=True)
class Scaled(nn.Module):
    def __init__(self, dim, length, *, dropout=0.0):
        super().__init__()
        self.layer = nn.Linear(dim, dim)

    def forward(self, x):
        return FACTOR * self.layer(x)

@register_proxy("weights", direction=-1)
class Weights:
    def compute(self, passes):
        return float(FACTOR)

FACTOR = 0.5
register_loss("absolute", lambda forecast, target: (forecast - target).abs().mean())
"""


@pytest.fixture
def _script() -> Iterator[None]:
    before = Registered.here()
    exec(SCRIPT, {"__name__": "__main__"})
    yield
    before.enter()


def _search(workers: int) -> dict[str, Any]:
    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).cumsum(0)
    parts = [WindowDataset(values, 12, 4, first=first, last=last) for first, last in ((0, 120), (108, 160), (148, 200))]
    trainer = DARTSTrainer(2, [8], 4, 12, "cpu", all_ops=["Identity", "TCN", "Scaled"])
    return trainer.multi_fidelity_search(
        *parts, num_candidates=3, top_k=2, search_epochs=1, final_epochs=1, trial_steps=1, max_train_batches=2,
        loss_type="absolute", max_workers=workers,
    )  # fmt: skip


def _ignore(*_result: Any) -> None:
    pass


@pytest.mark.usefixtures("_script")
def test_worker_processes_know_the_ops_losses_and_proxies_of_a_script() -> None:
    here, there = _search(1), _search(2)
    assert here["failed_candidates"] == there["failed_candidates"] == {}
    assert any("Scaled" in record["selected_ops"] for record in here["candidates"])
    for left, right in zip(here["candidates"], there["candidates"], strict=True):
        assert left["metrics"]["metrics"] == right["metrics"]["metrics"]
        assert left["metrics"]["extras"]["weights"] == right["metrics"]["extras"]["weights"] == 0.5
    assert here["blend"] == there["blend"]


def test_what_is_no_longer_registered_is_forgotten_by_workers() -> None:
    known = ProcessExecutor(2).map(
        lambda _: (ops.op_names(), losses.loss_names(), proxies.proxy_names()), [0, 1], _ignore
    )
    assert known == [(ops.op_names(), losses.loss_names(), proxies.proxy_names())] * 2


@pytest.mark.usefixtures("_script")
def test_only_what_is_no_part_of_the_package_is_carried() -> None:
    own = Registered.here()
    found = [{info.name for info in own.ops}, {info.name for info in own.proxies}, set(own.losses)]
    for names, mine, built_in in zip(found, ("Scaled", "weights", "absolute"), ("TCN", "synflow", "mse"), strict=True):
        assert mine in names
        assert built_in not in names
