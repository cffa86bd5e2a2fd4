"""Rival searches: they spend what the search spent, on architectures of the same space, and are judged alike."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from foreblocks.darts import DARTSTrainer
from foreblocks.darts._core.errors import InvalidArgument
from foreblocks.darts.architecture.build import build_network
from foreblocks.darts.architecture.cell import KEPT_INPUTS
from foreblocks.darts.architecture.derive import derive_spec
from foreblocks.darts.architecture.spec import ArchSpec
from foreblocks.darts.config import SEARCH_BASELINES, DARTSTrainConfig, FinalTrainConfig, MultiFidelitySearchConfig
from foreblocks.darts.data.windows import WindowDataset
from foreblocks.darts.evaluation.losses import get_loss_function
from foreblocks.darts.evaluation.report import RIVAL_NAMES
from foreblocks.darts.search import halving, tasks, trials
from foreblocks.darts.search.candidates import CandidateConfig, build_candidate, make_candidates
from foreblocks.darts.search.executor import SerialExecutor
from foreblocks.darts.search.rivals import shared_weights
from foreblocks.darts.search.rivals.architectures import candidate_of, mutate, random_spec
from foreblocks.darts.search.rivals.beside import METHODS
from foreblocks.darts.search.rivals.budget import affordable_count, halving_plan, in_epochs
from foreblocks.darts.search.rivals.course import Course
from foreblocks.darts.search.rivals.evolution import evolve
from foreblocks.darts.search.rivals.shared_weights import SharedTask, train_shared
from foreblocks.darts.search.settings import SearchSettings, candidate_seed
from foreblocks.darts.search.store import SearchStore, StoredExecutor
from foreblocks.darts.training.loop import LoopLimits, mean_loss, validation_batches

L, H, C = 24, 4, 3
TINY: dict[str, Any] = {
    "num_candidates": 4, "top_k": 2, "search_epochs": 2, "final_epochs": 1, "max_train_batches": 4, "trial_steps": 3,
    "final_max_train_batches": 4, "finalists": 2, "max_val_batches": 2, "cell_range": (1, 1), "node_range": (3, 3),
    "space": {"presets": ("mixed_last", "itransformer")},
}  # fmt: skip


def windows(test_noise: float = 0.0) -> list[WindowDataset]:
    t = torch.arange(500)[:, None]
    draw = torch.Generator().manual_seed(0)
    values = torch.sin(t / torch.tensor([3.0, 5.0, 9.0])) + 0.1 * torch.randn(500, C, generator=draw)
    values[400:] += test_noise * torch.randn(100, C, generator=draw)
    return [WindowDataset(values, L, H, first=a, last=b) for a, b in ((0, 300), (276, 400), (376, 500))]


OPS = ["Identity", "TimeConv", "ResidualMLP", "DLinear"]


def trainer() -> DARTSTrainer:
    return DARTSTrainer(C, [8, 16], H, L, "cpu", OPS, arch_modes=["encoder_only", "mamba"])


def search(parts: list[WindowDataset] | None = None, **changes: Any) -> dict[str, Any]:
    return trainer().multi_fidelity_search(*(parts or windows()), **{**TINY, **changes})


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return search()


@pytest.fixture(scope="module")
def judged() -> dict[str, Any]:
    return search(baseline="random", best_preset=True)


def test_the_plan_spends_the_budget_and_halves() -> None:
    for budget in (7, 40, 333, 2000):
        for count in (1, 2, 5, 8, 16):
            plan = halving_plan(budget, count, 2)
            spent = sum(number * steps for number, steps in plan)
            assert budget - plan[-1][0] < spent <= budget or budget < count
            assert [number for number, _ in plan[1:]] == [max(2, -(-number // 2)) for number, _ in plan[:-1]]
            assert all(later >= 2 * first for (_, first), (_, later) in pairwise(plan))
    assert halving_plan(2000, 6, 2) == [(6, 100), (3, 200), (2, 400)]
    assert affordable_count(2000, 100, 2) == 6
    assert in_epochs(10, 4) == (3, 3)
    assert in_epochs(3, 9) == (1, 3)


def test_every_rival_has_a_name_and_a_method() -> None:
    assert set(METHODS) == set(SEARCH_BASELINES) == set(RIVAL_NAMES)
    with pytest.raises(InvalidArgument, match="baseline='randm'"):
        search(baseline="randm")


def test_random_architectures_are_uniform_over_ops_and_inputs() -> None:
    space = trainer().space()
    candidate = next(c for c in make_candidates(space, 0, 30) if c.num_nodes == 4 and len(c.selected_ops) > 2)
    rng = random.Random(0)
    specs = [random_spec(candidate, rng) for _ in range(300)]
    edges = [edge for spec in specs for edge in spec.cells[0].edges]
    counts = [sum(e.op.name == name for e in edges) for name in candidate.selected_ops]
    assert min(counts) > 0.8 * sum(counts) / len(counts)
    into_last = [sorted(e.source for e in s.cells[0].edges if e.target == 3) for s in specs]
    assert all(len(sources) == KEPT_INPUTS for sources in into_last)
    assert min(into_last.count(pair) for pair in ([0, 1], [0, 2], [1, 2])) > 70


def test_mutations_change_one_thing_and_reach_every_choice() -> None:
    space = trainer().space()
    rng = random.Random(1)
    spec = random_spec(next(c for c in make_candidates(space, 0, 30) if c.num_nodes == 4), rng)
    changed = set()
    for _ in range(300):
        other = mutate(spec, space, rng)
        assert other != spec
        if other.macro != spec.macro:
            fields = {k for k, v in vars(other.macro).items() if v != getattr(spec.macro, k)}
            # What has to follow: heads divide the width, variates have no patches, a large head is factorised.
            assert len(fields - {"num_heads", "patch_len"}) <= 1 or "head" in fields
            changed |= fields
        elif len(other.cells) != len(spec.cells):
            changed.add("cells")
        else:
            lines = other.diff(spec)
            assert len({line.split(".edges[")[0] for line in lines}) == 1
            changed.add("source" if any("source" in line for line in lines) else "op")
    assert {"hidden_dim", "arch_mode", "series_norm", "channel_mode", "head", "op", "source", "cells"} <= changed


def test_a_long_chain_of_mutations_stays_in_the_space() -> None:
    space = trainer().space()
    rng = random.Random(2)
    spec = random_spec(make_candidates(space, 0, 1)[0], rng)
    x = torch.randn(2, L, C)
    for number in range(60):
        spec = mutate(spec, space, rng)
        low, high = space.config.cell_range
        assert low <= len(spec.cells) <= high
        assert spec.macro.hidden_dim in (8, 16)
        assert spec.macro.arch_mode in ("encoder_only", "mamba")
        assert CandidateConfig.from_dict(candidate_of(spec).to_dict()) == candidate_of(spec)
        if number % 10 == 0:
            assert build_network(spec, seed=0)(x).shape == (2, H, C)


def course(method: str, budget: int) -> Course:
    train, val, _ = windows()
    settings = SearchSettings(
        trainer().space(node_range=(3, 3)), MultiFidelitySearchConfig(), DARTSTrainConfig(), FinalTrainConfig(),
        LoopLimits(max_val_batches=2), trial_steps=4, finalists=2, baseline=method,
    )  # fmt: skip
    promoted = [(c, candidate_seed(0, n)) for n, c in enumerate(make_candidates(settings.space, 0, 3))]
    return Course(train, val, settings, SerialExecutor(), budget, promoted, trial_steps=12)


@pytest.mark.parametrize("method", SEARCH_BASELINES)
def test_the_budget_is_spent(method: str) -> None:
    conditions = course(method, 40)
    found = METHODS[method](conditions)
    assert 40 - conditions.tried < conditions.spent <= 40
    assert conditions.tried >= 4
    assert conditions.failures == {}
    losses = [entrant.val_loss for entrant in found]
    assert losses == sorted(losses)
    for entrant in found[:2]:
        network = build_network(entrant.spec, seed=0)
        network.load_state_dict(entrant.weights)
        assert network(torch.randn(2, L, C)).shape == (2, H, C)
    again = METHODS[method](course(method, 40))
    assert [(e.spec, e.val_loss) for e in again] == [(e.spec, e.val_loss) for e in found]


def test_evolution_mutates_the_best_of_a_sample_and_lets_the_oldest_go() -> None:
    conditions = course("evolution", 60)
    found = evolve(conditions)
    assert sorted(entrant.number for entrant in found) == list(range(15))
    assert len({entrant.spec for entrant in found}) == 15
    ops = {name for entrant in found for name in entrant.spec.op_counts()}
    assert ops <= set(OPS)


def test_a_search_reports_what_its_rival_spent(plain: dict, judged: dict) -> None:
    rival, made = judged["search_baseline"], judged["search_baseline"]["steps_of_search"]
    budget = sum(steps for kind, steps in made.items() if kind != "final")
    alphas = [entry["search_results"]["alpha_steps"] for entry in judged["trained_candidates"]]
    fought = 3 * judged["duels"]["of"]
    assert made == {
        "trial": 3 * 3,
        "weight": 2 * 2 * 4,
        "alpha": sum(alphas),
        "extra": 0,
        "tuning": 0,
        "duel": fought,
        "final": 2 * 4,
    }
    assert min(alphas) > 0
    assert 0 <= budget - rival["steps"]["search"] < rival["tried"]
    assert rival["steps"]["final"] == 2 * 4
    assert set(rival["seconds"]) == {"search", "final"}
    assert build_network(rival["spec"], seed=0)(torch.randn(2, L, C)).shape == (2, H, C)
    assert sum(rival["blend"]["weights"].values()) == pytest.approx(1.0)
    assert rival["network"]["mse"] > 0
    assert f"With as many training steps ({rival['steps']['search']}) the search" in judged["verdict"]
    for key in ("arch_spec", "network", "blend"):  # the search itself is the same without a rival
        assert judged[key] == plain[key]


@pytest.mark.parametrize(
    ("settings", "weight", "alpha"),
    [
        ({"perturbation": "adversarial", "perturbation_steps": 3}, 3, 0),
        ({"hessian_penalty_weight": 1.0, "hessian_fd_eps": 0.0}, 0, 2),
        ({"hessian_penalty_weight": 1.0, "hessian_fd_eps": 0.01}, 0, 3),
        ({"gradient_accumulation_steps": 3}, 0, 0),
    ],
    ids=["adversarial", "exact", "difference", "accumulated"],
)
def test_every_pass_of_a_search_counts(settings: dict[str, Any], weight: int, alpha: int) -> None:
    """4 batches an epoch and 2 epochs; noise begins after the first step."""
    one = {"num_candidates": 1, "top_k": 1, "finalists": 1, "trial_steps": 0, "warmup_epochs": 0}
    result = search(**one, **settings, baseline="random")
    made = result["search_baseline"]["steps_of_search"]
    assert made["weight"] == 8
    assert made["alpha"] > 0
    assert made["extra"] == weight * 7 + alpha * made["alpha"]
    budget = sum(steps for kind, steps in made.items() if kind != "final")
    assert 0 <= budget - result["search_baseline"]["steps"]["search"] < 3  # what division into equal epochs leaves


def test_without_the_keywords_there_is_nothing_beside(plain: dict) -> None:
    assert plain["search_baseline"] is None
    assert plain["best_preset"] is None
    assert "baseline" not in plain["phase_seconds"]
    assert "With as many training steps" not in plain["verdict"]


def test_the_best_preset_is_the_one_of_the_lowest_trial_and_is_not_searched(judged: dict) -> None:
    tried = [r for r in judged["candidates"] if r["preset"] is not None]
    best = min(tried, key=lambda r: r["trial"]["val_loss"])
    preset = judged["best_preset"]
    assert (preset["candidate_id"], preset["preset"]) == (best["candidate_id"], best["preset"])
    network = build_candidate(CandidateConfig.from_dict(best), seed=candidate_seed(0, best["candidate_id"]))
    assert preset["arch_spec"] == derive_spec(network)
    assert preset["mse"] > 0


def test_rivals_see_no_test_data(judged: dict) -> None:
    other = search(windows(test_noise=50.0), baseline="random", best_preset=True)
    for key in ("search_baseline", "best_preset"):
        assert other[key]["val_loss"] == judged[key]["val_loss"]
    assert other["search_baseline"]["spec"] == judged["search_baseline"]["spec"]
    assert other["search_baseline"]["blend"]["mse"] > judged["search_baseline"]["blend"]["mse"]


def test_a_failing_rival_does_not_cost_the_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = tasks.train_final_model

    def failing(network: Any, train: Any, val: Any, config: Any, limits: LoopLimits, **options: Any) -> Any:
        if limits.seed != 0:  # rivals train with seeds of their own
            raise RuntimeError("planted")
        return real(network, train, val, config, limits, **options)

    monkeypatch.setattr(tasks, "train_final_model", failing)
    result = search(baseline="random", run_dir=tmp_path, top_k=1, search_epochs=1)
    assert "planted" in result["search_baseline"]["failed"][0]
    assert "spec" not in result["search_baseline"]
    assert "random search, failed" in result["verdict"]
    assert json.loads((tmp_path / "result.json").read_text())["search_baseline"]["method"] == "random"


def test_a_finished_run_is_not_trained_again_for_another_rival(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"run_dir": tmp_path, "top_k": 1, "search_epochs": 1}
    alone = search(**small)

    def never(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(halving, "train_rung", never)
    monkeypatch.setattr(trials, "run_trial", never)
    for method in ("evolution", "random_ws"):
        found = search(**small, resume=True, baseline=method, best_preset=True)
        assert found["network"] == alone["network"]
        assert found["search_baseline"]["method"] == method
        assert not list((tmp_path / "states").glob(f"{method}_[0-9]*"))
    kept = ("spec", "val_loss", "network", "blend", "steps", "steps_of_search", "tried")
    monkeypatch.setattr(tasks, "train_final_model", never)
    monkeypatch.setattr(shared_weights, "train_paths", never)
    again = search(**small, resume=True, baseline="random_ws", best_preset=True)
    assert again["best_preset"] == found["best_preset"]
    assert {k: again["search_baseline"][k] for k in kept} == {k: found["search_baseline"][k] for k in kept}


def test_one_failing_architecture_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = course("evolution", 48)
    build = tasks.build_network

    def failing(spec: ArchSpec, *, seed: int) -> Any:
        if seed in {candidate_seed(0, 1), candidate_seed(0, 6)}:  # one of the first, and one child
            raise RuntimeError("planted")
        return build(spec, seed=seed)

    monkeypatch.setattr(tasks, "build_network", failing)
    found = evolve(conditions)
    assert set(conditions.failures) == {1, 6}
    assert len(found) == 10


def test_a_failed_architecture_that_succeeds_later_leaves_no_result_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A resumed evolution breeds other children then, and must not take the stored results of the first ones."""
    build = tasks.build_network

    def failing(spec: ArchSpec, *, seed: int) -> Any:
        if seed == candidate_seed(0, 2):
            raise RuntimeError("planted")
        return build(spec, seed=seed)

    def run(folder: Path, *, resume: bool) -> list[tuple[int, str, float]]:
        with SearchStore(folder, {"of": "a test"}, resume=resume) as store:
            conditions = course("evolution", 60)
            conditions.executor = StoredExecutor(conditions.executor, store)
            conditions.settings = replace(conditions.settings, run_dir=folder)
            return [(e.number, e.architecture.digest, e.val_loss) for e in evolve(conditions)]

    for folder in ("straight", "resumed"):
        (tmp_path / folder).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "build_network", failing)
        first = run(tmp_path / "resumed", resume=False)
    straight = run(tmp_path / "straight", resume=False)
    assert {digest for _, digest, _ in first} != {digest for _, digest, _ in straight}
    assert run(tmp_path / "resumed", resume=True) == straight


def test_shared_weights_are_trained_on_every_op_carried_and_inherited() -> None:
    train, val, _ = windows()
    candidate = next(c for c in make_candidates(trainer().space(), 0, 30) if len(c.selected_ops) > 2)
    config = FinalTrainConfig(learning_rate=2e-3, loss_type="mse")
    task = SharedTask(candidate, 1, train, val, config, LoopLimits(batch_size=16, max_val_windows=64), 30)
    before = build_candidate(candidate, seed=1).state_dict()
    first = train_shared(task)
    changed = {name for name, value in first["state"].items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if "logits" in name}
    for name in candidate.selected_ops[1:]:
        assert any(f".ops.{name}." in key for key in changed)
    network = build_network(ArchSpec.from_dict(first["spec"]), seed=0)
    network.load_state_dict(first["weights"])
    loss = mean_loss(
        network, val, validation_batches(val, task.limits), get_loss_function("mse"), limits=task.limits, role="val"
    )
    assert loss == pytest.approx(first["val_loss"], rel=1e-5)
    untrained = train_shared(replace(task, steps=1, config=replace(config, learning_rate=0.0)))
    carried = train_shared(replace(task, steps=1, state=first["state"], config=replace(config, learning_rate=0.0)))
    assert carried["val_loss"] == pytest.approx(first["val_loss"], rel=1e-5)
    assert carried["val_loss"] < untrained["val_loss"]
