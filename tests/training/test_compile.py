"""``compile="edge"``: the same search by compiled edges, or an error before it begins."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from foreblocks.darts import DARTSTrainer, TimeSeriesDARTS
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts._core.seeding import seeded
from foreblocks.darts._core.types import Batch
from foreblocks.darts.architecture import compiled
from foreblocks.darts.architecture.compiled import CompiledEdge, compiled_edges
from foreblocks.darts.architecture.mixed_op import mixtures
from foreblocks.darts.config import DARTSTrainConfig, FinalTrainConfig, MultiFidelitySearchConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.evaluation.losses import get_loss_function
from foreblocks.darts.search.identity import differences, search_identity
from foreblocks.darts.search.settings import SearchSettings
from foreblocks.darts.training import darts_loop
from foreblocks.darts.training.bilevel import BilevelStepper, SearchPlan, new_state
from foreblocks.darts.training.darts_loop import SearchData, search_epochs
from foreblocks.darts.training.loop import LoopLimits

EDGE = DARTSTrainConfig(
    epochs=1, warmup_epochs=0, architecture_update_freq=1, compile="edge", collapse_every=0, verbose=False
)
LIMITS = LoopLimits(batch_size=8, max_train_batches=2, max_val_batches=1)
EdgeCalls = list[tuple[bool, bool]]


def network(**options: Any) -> TimeSeriesDARTS:
    with seeded("network"):
        return TimeSeriesDARTS(
            2, 4, 4, 4, 16, num_cells=1, num_nodes=3, selected_ops=["Identity", "ResidualMLP"], dropout=0.0,
            arch_mode="encoder_only", num_heads=1, num_layers=0, **options,
        )  # fmt: skip


def source() -> WindowDataset:
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    return WindowDataset(rows.cumsum(0) / 10, 16, 4, first=0, last=200)


def batch(seed: int, size: int = 8) -> Batch:
    made = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(size, 16, 2, generator=made), torch.randn(size, 4, 2, generator=made))


def stepper(model: TimeSeriesDARTS, **changes: Any) -> BilevelStepper:
    config = DARTSTrainConfig(**{"warmup_epochs": 0, **changes})
    return BilevelStepper(new_state(model, config), config, SearchPlan(1, 10), LIMITS, get_loss_function("huber"))


def gradients(made: BilevelStepper) -> tuple[list[Tensor], list[Tensor]]:
    """Both losses, and the gradients of the weights and then of the alphas, as the steps have them."""
    found: list[Tensor] = []
    model = made.state.model.train()
    losses = [made.weight_step(batch(1), apply=False)]
    found += [p.grad.clone() for p in model.weight_parameters() if p.grad is not None]
    made.state.weight_optimizer.zero_grad()
    arch = made.state.arch_optimizer
    assert arch is not None
    handle = arch.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in model.arch_parameters() if p.grad is not None)
    )
    losses.append(made.alpha_step(batch(2)))
    handle.remove()
    return losses, found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeCalls]:
    """The calls of the edge function in place of compiled ones: what needed a gradient (a weight, the alphas)."""
    seen: EdgeCalls = []

    def plain(function: Callable[..., Tensor], **_options: Any) -> Callable[..., Tensor]:
        def run(x: Tensor, weights: Tensor, *tensors: Tensor) -> Tensor:
            seen.append((tensors[0].requires_grad, weights.requires_grad))
            return function(x, weights, *tensors)

        return run

    monkeypatch.setattr(torch, "compile", plain)
    compiled.edge_function.cache_clear()
    yield seen
    compiled.edge_function.cache_clear()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch hides it by itself
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
def test_compiled_steps_have_the_losses_and_gradients_of_eager_ones() -> None:
    wanted_losses, wanted = gradients(stepper(network()))
    made = stepper(network())
    before = {name: value.clone() for name, value in made.state.model.state_dict().items()}
    with compiled_edges(made.state.model.edges, lambda: made.rehearse(batch(3), batch(4))) as form:
        assert form.used
        for name, value in made.state.model.state_dict().items():  # a rehearsal changes nothing
            assert torch.equal(value, before[name])
        with torch.compiler.set_stance("fail_on_recompile"):  # all edges share what the rehearsal compiled
            losses, found = gradients(made)
    torch.testing.assert_close(losses, wanted_losses, rtol=1e-5, atol=1e-6)
    assert len(found) == len(wanted) > 10
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_form_takes_what_was_rehearsed_and_no_more(calls: EdgeCalls) -> None:
    made = stepper(network())
    model = made.state.model
    with compiled_edges(model.edges, lambda: made.rehearse(batch(3), batch(4))):
        # Alpha passes: two of the three edges read the stem, whose output needs no gradient then.
        rehearsed = [(True, False)] * 3 + [(False, True)]
        assert calls == rehearsed
        model.train()
        made.weight_step(batch(1))
        made.alpha_step(batch(2))
        assert calls == rehearsed * 2
        calls.clear()
        made.weight_step(batch(1, size=5))  # the rest of an epoch
        model(batch(1).x)  # the gradients of weights and alphas, as for second derivatives
        with torch.no_grad():
            model(batch(1).x)
        model.eval()(batch(1).x)
        model.train()
        for p in model.arch_parameters():
            p.requires_grad_(False)
        for edge in model.edges:
            edge.force(1)
        model(batch(1).x)
        for edge in model.edges:
            edge.force(None)
            edge.drop(0)
        model(batch(1).x)
        for edge in model.edges:
            edge.drop(None)
            edge.keep_only(torch.tensor([False, True]))
        model(batch(1).x)
        assert calls == []
    assert made.state.model.state_dict().keys() == network().state_dict().keys()


def test_outside_the_block_the_edges_are_as_before(calls: EdgeCalls) -> None:
    made = stepper(network())
    with compiled_edges(made.state.model.edges, lambda: made.rehearse(batch(3), batch(4))):
        pass
    calls.clear()
    made.state.model.train()
    made.weight_step(batch(1))
    assert calls == []


@pytest.mark.parametrize("relaxation", ["softmax", "pc", "drnas", "fair"])
def test_a_search_is_the_same_with_the_edge_function(relaxation: str, calls: EdgeCalls) -> None:
    def run(compile_mode: str) -> tuple[list[float], list[Tensor]]:
        config = DARTSTrainConfig(**{**EDGE.to_dict(), "compile": compile_mode})
        state = new_state(network(relaxation=relaxation), config)
        data = SearchData.split(source(), source(), config, batch_size=LIMITS.batch_size)
        search_epochs(state, data, config, LIMITS)
        return state.history["train_losses"], list(state.model.state_dict().values())

    losses, values = run("edge")
    assert calls
    wanted_losses, wanted = run("none")
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"hessian_penalty_weight": 1.0, "hessian_fd_eps": eps} for eps in (0.0, 0.01)]
    + [{"perturbation": "adversarial", "perturbation_steps": 1}, {"collapse_every": 1}]
)  # fmt: skip
def test_second_derivatives_are_left_to_the_eager_form(changes: dict[str, Any], calls: EdgeCalls) -> None:
    config = DARTSTrainConfig(**{**EDGE.to_dict(), **changes})
    state = new_state(network(), config)
    data = SearchData.split(source(), source(), config, batch_size=LIMITS.batch_size)
    search_epochs(state, data, config, LIMITS)
    assert calls
    assert all(trained != alphas for trained, alphas in calls)


def test_one_function_serves_every_edge_of_a_structure(calls: EdgeCalls) -> None:
    first, second = network(), network()
    forms = [CompiledEdge(edge) for model in (first, second) for edge in model.edges]
    assert len({id(form._run) for form in forms}) == 1
    assert compiled.edge_function.cache_info().misses == 1


def test_dropout_masks_are_drawn_anew(calls: EdgeCalls) -> None:
    with seeded("network"):
        model = TimeSeriesDARTS(2, 4, 4, 4, 16, selected_ops=["Identity", "TimeConv"], dropout=0.5).train()
    edge = model.edges[0]
    for p in model.arch_parameters():
        p.requires_grad_(False)
    x = torch.randn(8, 16, 4).requires_grad_()
    form = CompiledEdge(edge)
    edge.set_compiled(form)
    with form.rehearsal():
        outputs = [edge(x, mixtures([edge])[0]) for _ in range(2)]
    assert len(calls) == 2
    assert not torch.equal(*outputs)


def test_sampled_ops_leave_nothing_to_compile(calls: EdgeCalls, caplog: pytest.LogCaptureFixture) -> None:
    state = new_state(network(relaxation="gdas"), EDGE)
    data = SearchData.split(source(), source(), EDGE, batch_size=LIMITS.batch_size)
    with caplog.at_level(logging.WARNING, logger="foreblocks.darts"):
        search_epochs(state, data, EDGE, LIMITS)
    assert "compile='edge' has no effect" in caplog.text
    assert calls == []


def _refuse(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError("No working C++ compiler found\nand a long trace")


def test_by_default_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", _refuse)
    compiled.edge_function.cache_clear()
    assert DARTSTrainConfig().compile == "none"
    trainer = DARTSTrainer(2, [4], 4, 16, "cpu")
    trainer.train_darts_model(network(), source(), source(), epochs=1, max_train_batches=2, max_val_batches=1)


def test_without_a_compiler_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Callable[..., Any], **_options: Any) -> Callable[..., Any]:
        return _refuse

    monkeypatch.setattr(torch, "compile", fail)
    compiled.edge_function.cache_clear()
    trainer = DARTSTrainer(2, [4], 4, 16, "cpu")
    model = network()
    before = [p.clone() for p in model.parameters()]
    message = r"compile='edge' cannot be used.* needs a C\+\+ compiler .*RuntimeError: No working C\+\+ compiler found$"
    with pytest.raises(InvalidArgument, match=message):
        trainer.train_darts_model(model, source(), source(), compile="edge", **SHORT)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    assert all(edge._compiled is None for edge in model.edges)
    with pytest.raises(InvalidArgument, match=message):  # and a search ends before its first phase
        trainer.multi_fidelity_search(source(), source(), source(), compile="edge")
    compiled.edge_function.cache_clear()


SHORT: dict[str, Any] = {"epochs": 1, "max_train_batches": 2, "max_val_batches": 1}


@pytest.mark.parametrize("value", ["all", True, None])
def test_another_value_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="compile="):
        DARTSTrainConfig(compile=value)


def test_the_keyword_reaches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def spy(made: BilevelStepper, _data: SearchData) -> Any:
        seen.append(made.config.compile)
        return nullcontext()

    monkeypatch.setattr(darts_loop, "_compiling", spy)
    DARTSTrainer(2, [4], 4, 16, "cpu").train_darts_model(network(), source(), source(), compile="edge", **SHORT)
    assert seen == ["edge"]


def test_it_is_part_of_what_makes_two_searches_the_same() -> None:
    space = DARTSTrainer(2, [4], 4, 16, "cpu").space()
    plain, edge = (
        search_identity(
            source(),
            source(),
            SearchSettings(
                space, MultiFidelitySearchConfig(), DARTSTrainConfig(compile=mode), FinalTrainConfig(), limits=LIMITS
            ),
        )
        for mode in ("none", "edge")
    )
    assert list(differences(plain, edge)) == ["train.compile"]
