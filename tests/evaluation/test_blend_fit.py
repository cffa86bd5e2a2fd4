"""Convex weights against brute force, and the cautious rule."""

from __future__ import annotations

import itertools

import pytest
import torch

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts._core.seeding import generator
from foreblocks.darts.data import WindowDataset
from foreblocks.darts.evaluation.baselines import LastValue, SeasonalNaive
from foreblocks.darts.evaluation.blend import BlendStatistics, collect_blend, convex_weights, fit_blend, fit_blend_on
from foreblocks.darts.evaluation.predict import predict_source, score_models


def noisy(count, *levels, key="blend"):
    g = generator(key, count, *levels)
    target = torch.randn(count, 4, 2, generator=g)
    common = torch.randn(count, 4, 2, generator=g)
    preds = {
        f"p{i}": target + level * torch.randn(count, 4, 2, generator=g) + 0.3 * i * common
        for i, level in enumerate(levels)
    }
    return preds, target


def mse(weights, preds, target):
    total = sum(w * p.double() for w, p in zip(weights, preds.values(), strict=True))
    return float((total - target.double()).square().mean())


def on_every_face(gram):
    """Minimum over the simplex by solving the optimality system of each subset of parts."""
    best, count = (float("inf"), None), len(gram)
    for size in range(1, count + 1):
        for subset in itertools.combinations(range(count), size):
            face = gram[list(subset)][:, list(subset)]
            system = torch.ones(size + 1, size + 1, dtype=torch.float64)
            system[:size, :size], system[size, size] = face, 0.0
            right = torch.zeros(size + 1, dtype=torch.float64)
            right[size] = 1.0
            values = torch.linalg.pinv(system) @ right
            if (values[:size] < -1e-10).any():
                continue
            weights = torch.zeros(count, dtype=torch.float64)
            weights[list(subset)] = values[:size].clamp_min(0)
            error = float(weights @ gram @ weights)
            best = min(best, (error, weights), key=lambda b: b[0])
    return best


def test_two_parts_have_the_closed_form():
    preds, target = noisy(40, 0.5, 0.8)
    e0, e1 = (p.double() - target.double() for p in preds.values())
    expected = float(((e1 - e0) * e1).sum() / (e1 - e0).square().sum())
    fit = fit_blend(preds, target)
    assert 0 < expected < 1
    assert fit.weights["p0"] == pytest.approx(expected, abs=1e-10)
    assert fit.val_mse == pytest.approx(mse(fit.weights.values(), preds, target), rel=1e-9)
    assert fit.part_mse["p1"] == pytest.approx(float(e1.square().mean()), rel=1e-9)


def test_two_parts_equal_a_fine_grid():
    preds, target = noisy(40, 0.5, 0.8)
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    best = min(grid.tolist(), key=lambda w: mse((w, 1 - w), preds, target))
    assert fit_blend(preds, target).weights["p0"] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("trial", range(5))
def test_the_minimum_over_the_simplex_is_exact(count, trial):
    g = generator("gram", count, trial)
    rows = 2 if trial == 4 else 8  # fewer rows than parts: the Gram matrix is singular
    errors = torch.randn(rows, count, generator=g, dtype=torch.float64) + 0.8
    gram = errors.t() @ errors
    weights = convex_weights(gram)
    least, _ = on_every_face(gram)
    assert weights.min() >= 0
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(weights @ gram @ weights) == pytest.approx(least, abs=1e-8 * float(gram.max()))


def test_degenerate_parts():
    same = torch.ones(3, 3, dtype=torch.float64)
    assert convex_weights(same).tolist() == [1.0, 0.0, 0.0]
    assert convex_weights(torch.zeros(2, 2)).tolist() == [1.0, 0.0]
    worse = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert convex_weights(worse).tolist() == [1.0, 0.0]
    assert convex_weights(worse.flip(0, 1)).tolist() == [0.0, 1.0]


def test_batches_do_not_change_the_fit():
    preds, target = noisy(90, 0.5, 0.6, 0.9)
    whole = fit_blend(preds, target, gap=3)
    for size in (1, 7, 90):
        statistics = BlendStatistics(list(preds))
        for start in range(0, 90, size):
            rows = slice(start, start + size)
            statistics.update([p[rows] for p in preds.values()], target[rows])
        again = statistics.fit(gap=3)
        assert again.weights == pytest.approx(whole.weights, abs=1e-12)
        assert again.held_out_mse == pytest.approx(whole.held_out_mse, rel=1e-12)
        assert statistics.solve().tolist() == pytest.approx(list(whole.weights.values()), abs=1e-12)


def test_blocks_leave_out_their_neighbours():
    preds, target = noisy(30, 0.5, 0.8)
    fit = fit_blend(preds, target, blocks=3, gap=4)
    edges = [0, 10, 20, 30]
    held, first = [], []
    for k, (start, stop) in enumerate(itertools.pairwise(edges)):
        keep = [i for i in range(30) if i < start - 4 or i >= stop + 4]
        part = fit_blend({n: p[keep] for n, p in preds.items()}, target[keep]).weights
        block = {n: p[start:stop] for n, p in preds.items()}
        held.append(mse(part.values(), block, target[start:stop]))
        first.append(mse((1, 0), block, target[start:stop]))
        assert fit.block_weights[k] == pytest.approx(fit_blend(block, target[start:stop]).weights, abs=1e-9)
    assert fit.held_out_mse == pytest.approx(sum(held) / 3, rel=1e-9)
    assert fit.held_out_first == pytest.approx(sum(first) / 3, rel=1e-9)


def test_caution_keeps_a_blend_that_holds_and_drops_one_that_does_not():
    preds, target = noisy(60, 0.5, 0.5)
    steady = fit_blend(preds, target, cautious=True)
    assert not steady.fell_back
    assert steady.weights == steady.convex
    assert steady.held_out_mse < steady.held_out_first
    # The parts cancel in the first block only; elsewhere the second is worse, so its weight does not carry over.
    fickle = {"p0": target + 0.5, "p1": target + 0.6}
    fickle["p1"][:20] = target[:20] - 0.5
    loose, careful = (fit_blend(fickle, target, cautious=c) for c in (False, True))
    assert loose.weights["p1"] > 0
    assert loose.val_mse < loose.part_mse["p0"]
    assert careful.fell_back
    assert careful.weights == {"p0": 1.0, "p1": 0.0}
    assert careful.convex == loose.weights
    assert careful.val_mse == careful.part_mse["p0"]


def test_half_of_the_weight_is_spread_evenly_over_the_named_parts_near_the_best():
    preds, target = noisy(60, 0.5, 0.4, 0.3, 3.0)
    plain = fit_blend(preds, target)
    fit = fit_blend(preds, target, even=["p0", "p1", "p3"])
    assert fit.part_mse["p3"] > 1.2 * min(fit.part_mse.values()) > max(fit.part_mse["p0"], fit.part_mse["p1"])
    assert fit.convex == plain.convex == plain.weights
    equal = {"p0": 0.5, "p1": 0.5, "p2": 0.0, "p3": 0.0}
    assert fit.weights == pytest.approx({name: (fit.convex[name] + equal[name]) / 2 for name in preds})
    assert fit.val_mse == pytest.approx(mse(fit.weights.values(), preds, target), rel=1e-9)
    alone = fit_blend(preds, target, even=["p0", "p3"])
    assert alone.weights == plain.weights


def test_what_is_held_out_judges_the_weights_that_are_used():
    preds, target = noisy(60, 0.5, 0.51, 0.52)
    fit = fit_blend(preds, target, even=list(preds))
    held = []
    for start in (0, 20, 40):
        inside = torch.zeros(60, dtype=torch.bool)
        inside[start : start + 20] = True
        weights = fit_blend({n: p[~inside] for n, p in preds.items()}, target[~inside], even=list(preds)).weights
        held.append(mse(weights.values(), {n: p[inside] for n, p in preds.items()}, target[inside]))
    assert fit.held_out_mse == pytest.approx(sum(held) / 3, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_windows_are_enough(count):
    preds, target = noisy(count, 0.5, 0.8)
    fit = fit_blend(preds, target, gap=95, cautious=True)
    assert sum(fit.weights.values()) == pytest.approx(1.0)
    assert len(fit.block_weights) == min(count, 3)


def test_models_on_a_source():
    values = torch.randn(200, 2, generator=generator("source")).cumsum(0)
    val = WindowDataset(values, 12, 4)
    models = {"last": LastValue(4), "season": SeasonalNaive(3, 12, 4)}
    kept = {name: predict_source(model, val)[0] for name, model in models.items()}
    target = predict_source(models["last"], val)[1]
    expected = fit_blend(kept, target, gap=3, cautious=True)
    found = fit_blend_on(models, val, batch_size=17)
    assert found.weights == pytest.approx(expected.weights, abs=1e-9)
    assert found.held_out_mse == pytest.approx(expected.held_out_mse, rel=1e-9)
    assert found.part_mse["last"] == pytest.approx(score_models(models, val)["last"]["mse"], rel=1e-9)
    assert collect_blend(models, val).grams.shape == (len(val), 2, 2)


def test_bad_input_is_named():
    preds, target = noisy(10, 0.5, 0.8)
    with pytest.raises(InvalidArgument, match="part 'p1' returned shape"):
        fit_blend({"p0": preds["p0"], "p1": preds["p1"][:, :3]}, target)
    with pytest.raises(DataError, match=r"\['p1'\] are not finite"):
        fit_blend({"p0": preds["p0"], "p1": preds["p1"] / 0}, target)
    with pytest.raises(DataError, match="no window"):
        fit_blend({"p0": preds["p0"][:0]}, target[:0])
    with pytest.raises(InvalidArgument, match=r"even=\['p0', 'net'\] names \['net'\]"):
        fit_blend(preds, target, even=["p0", "net"])
    with pytest.raises(InvalidArgument, match="names"):
        BlendStatistics(["a", "a"])
    with pytest.raises(InvalidArgument, match="1 forecasts"):
        BlendStatistics(["a", "b"]).update([target], target)


@pytest.mark.parametrize(("stride", "gap"), [(1, 3), (2, 1), (5, 0)])
def test_held_out_blocks_are_of_rows_in_whatever_order_the_windows_come(stride, gap):
    values = torch.randn(300, 2, generator=generator("source")).cumsum(0)
    val = WindowDataset(values, 12, 4, stride=stride)
    shuffled = val.subset(torch.randperm(len(val), generator=generator("order")))
    models = {"last": LastValue(4), "season": SeasonalNaive(3, 12, 4)}
    expected = collect_blend(models, val).fit(gap=gap)  # in windows: those whose targets overlap the block
    for source in (val, shuffled):
        found = fit_blend_on(models, source, cautious=False)
        assert found.held_out_mse == pytest.approx(expected.held_out_mse, rel=1e-9)
        assert found.held_out_first == pytest.approx(expected.held_out_first, rel=1e-9)
        for block, wanted in zip(found.block_weights, expected.block_weights, strict=True):
            assert block == pytest.approx(wanted, abs=1e-9)
