"""Convex weights that join forecasters, fitted exactly on validation windows and drawn halfway to equal ones.

With weights that sum to one the blend's error is the same sum of the parts' errors, so all that the fit needs of a
window is the ``[P, P]`` matrix of products of errors: forecasts need not be kept, and any blocks of windows can be
left out afterwards. No test data are involved.

Fitted weights lean on whatever did best in the validation period, and networks did well there also because they were
stopped and chosen by it. Equal weights know nothing and are for that reason often better later: the "forecast
combination puzzle" (Smith and Wallis, Oxford Bulletin of Economics and Statistics 71, 2009). The mean of both is the
usual compromise (Diebold and Pauly, International Journal of Forecasting 6, 1990).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from .._core.errors import DataError, InvalidArgument, check_int
from .._core.types import WindowSource
from ..data.batches import EVAL_BATCH
from .batches import check_forecast
from .predict import iterate_forecasts

_OPTIMALITY = 1e-12
EVEN_SHARE = 0.5  # of the weight that is spread evenly
NEAR = 1.2  # a part gets of it if its error is at most that of the best part times this


@dataclass(frozen=True)
class BlendFit:
    """Weights and what validation says about them.

    Attributes:
        weights: part → weight to use: convex, in the order of the parts.
        convex: the fitted weights, before anything is spread evenly.
        val_mse: of the blend with ``weights``, on the windows of the fit.
        part_mse: part → its own MSE on these windows.
        block_weights: the weights fitted on each contiguous block alone: how stable the fit is.
        held_out_mse: mean over the blocks of the MSE on a block, of weights made from the others.
        held_out_first: the same mean for the first part alone.
        fell_back: the cautious rule chose the first part alone.
    """

    weights: dict[str, float]
    convex: dict[str, float]
    val_mse: float
    part_mse: dict[str, float]
    block_weights: list[dict[str, float]]
    held_out_mse: float
    held_out_first: float
    fell_back: bool


class BlendStatistics:
    """Products of the parts' errors, one ``[P, P]`` float64 matrix per window, added batch by batch.

    Args:
        names: the parts, in the order in which ``update`` gets their forecasts.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names or len(set(names)) != len(names):
            raise InvalidArgument(f"names={list(names)} must be at least one name, none twice.")
        self.names = tuple(names)
        self._grams: list[torch.Tensor] = []

    def update(self, preds: Sequence[torch.Tensor], target: torch.Tensor) -> None:
        """Add a batch of consecutive windows: forecasts and target, each ``[B, H, C]``.

        Raises:
            InvalidArgument: another number of forecasts than names, or a shape that differs.
            DataError: an error that is not finite.
        """
        if len(preds) != len(self.names):
            raise InvalidArgument(f"preds has {len(preds)} forecasts; the parts are {list(self.names)}.")
        if not target.numel():
            return
        for name, pred in zip(self.names, preds, strict=True):
            check_forecast(f"part {name!r}", pred, target)
        y = target.detach().double()
        errors = torch.stack([(pred.detach().double() - y).flatten(1) for pred in preds], dim=1)  # [B, P, H*C]
        gram = (errors @ errors.transpose(1, 2) / errors.shape[2]).cpu()
        finite = torch.isfinite(gram.diagonal(dim1=1, dim2=2)).all(0).tolist()
        bad = [name for name, ok in zip(self.names, finite, strict=True) if not ok]
        if bad:
            raise DataError(f"the errors of {bad} are not finite on some validation window; leave these parts out.")
        self._grams.append(gram)

    @property
    def grams(self) -> torch.Tensor:
        """Mean error products of every window so far, ``[n, P, P]``."""
        if not self._grams:
            raise DataError("no window was added; a blend needs validation windows.")
        return torch.cat(self._grams)

    def solve(self) -> torch.Tensor:
        """Return the convex weights ``[P]`` (float64) with the smallest mean squared error on all windows."""
        return convex_weights(self.grams.mean(0))

    def fit(
        self,
        *,
        blocks: int = 3,
        gap: int = 0,
        cautious: bool = False,
        starts: torch.Tensor | None = None,
        even: Sequence[str] = (),
    ) -> BlendFit:
        """Fit the weights and judge them by leaving out contiguous blocks.

        Args:
            blocks: contiguous parts of the windows, in order; at least 2, fewer if there are fewer windows.
            gap: rows next to a held-out block in which no window of its fit begins, H - 1 for targets that do not
                overlap; it shrinks where nothing would remain.
            starts: row at which each window begins, int64 ``[n]``, in any order: the blocks are of rows. None: the
                windows advance by one row.
            cautious: keep the blend only if it beats the first part alone in ``held_out_mse``, else give that part
                all the weight. It guards against weights that only fit the noise of the validation windows.
            even: parts that share half of the weight evenly, those of them whose error is within a fifth of the least
                error of any part; nothing is spread where fewer than two remain.

        Raises:
            InvalidArgument: ``even`` has a name that is no part.
        """
        check_int("blocks", blocks, low=2)
        check_int("gap", gap, low=0)
        grams, shared = self.grams, self._places(even)
        convex = convex_weights(grams.mean(0))
        rows = torch.arange(len(grams)) if starts is None else starts.cpu()
        order = rows.argsort(stable=True)
        in_time, folds = grams[order], _folds(rows[order], blocks, gap)
        held, first = _held_out(in_time, folds, shared)
        fell_back = cautious and not held < first
        used = _unit(len(self.names)) if fell_back else _eased(convex, grams.mean(0), shared)
        return BlendFit(
            weights=self._named(used),
            convex=self._named(convex),
            val_mse=_error(used, grams.mean(0)),
            part_mse=self._named(grams.mean(0).diagonal()),
            block_weights=[self._named(convex_weights(in_time[start:stop].mean(0))) for start, stop, _ in folds],
            held_out_mse=held,
            held_out_first=first,
            fell_back=fell_back,
        )

    def _places(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InvalidArgument(f"even={list(names)} names {unknown}; the parts are {list(self.names)}.")
        return [place for place, name in enumerate(self.names) if name in names]

    def _named(self, values: torch.Tensor) -> dict[str, float]:
        return dict(zip(self.names, values.tolist(), strict=True))


def fit_blend(
    predictions: Mapping[str, torch.Tensor],
    target: torch.Tensor,
    *,
    blocks: int = 3,
    gap: int = 0,
    cautious: bool = False,
    even: Sequence[str] = (),
) -> BlendFit:
    """Fit convex weights of forecasts that are at hand.

    Args:
        predictions: part → validation forecasts ``[n, H, C]`` in window order; the first is what ``cautious`` falls
            back to (the ridge).
        target: ``[n, H, C]``.
        blocks: as ``BlendStatistics.fit``.
        gap: as ``BlendStatistics.fit``.
        cautious: as ``BlendStatistics.fit``.
        even: as ``BlendStatistics.fit``.
    """
    statistics = BlendStatistics(list(predictions))
    for start in range(0, target.shape[0], EVAL_BATCH):
        rows = slice(start, start + EVAL_BATCH)
        statistics.update([pred[rows] for pred in predictions.values()], target[rows])
    return statistics.fit(blocks=blocks, gap=gap, cautious=cautious, even=even)


def collect_blend(
    parts: Mapping[str, nn.Module],
    source: WindowSource,
    *,
    batch_size: int = EVAL_BATCH,
    device: torch.device | str = "cpu",
) -> BlendStatistics:
    """Return the blend statistics of models on a (validation) source, in one pass and without keeping forecasts."""
    statistics = BlendStatistics(list(parts))
    for forecasts, target in iterate_forecasts(parts, source, batch_size=batch_size, device=device, role="validation"):
        statistics.update(list(forecasts.values()), target)
    return statistics


def fit_blend_on(
    parts: Mapping[str, nn.Module],
    val: WindowSource,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = EVAL_BATCH,
    cautious: bool = True,
    even: Sequence[str] = (),
) -> BlendFit:
    """Fit the blend of models on every window of a validation source.

    Where the source knows the row of each window, the held-out blocks are of rows, in whatever order the windows come,
    and a gap of H - 1 rows keeps their targets apart from those of the fit.

    Args:
        parts: name → module on ``device``; the first is what ``cautious`` falls back to (the linear path).
        val: validation windows.
        device: where the models are.
        batch_size: windows per forward pass.
        cautious: as ``BlendStatistics.fit``.
        even: as ``BlendStatistics.fit``.

    Raises:
        DataError, InvalidArgument: as ``iterate_forecasts`` and ``BlendStatistics.update``.
    """
    statistics = collect_blend(parts, val, batch_size=batch_size, device=device)
    starts = val.starts
    return statistics.fit(gap=0 if starts is None else val.horizon - 1, cautious=cautious, starts=starts, even=even)


def convex_weights(gram: torch.Tensor) -> torch.Tensor:
    """Return ``argmin wᵀ G w`` over ``w >= 0, Σw = 1``, ``[P]`` float64, for a positive semidefinite ``gram [P, P]``.

    An active-set method for the point of least norm in a convex hull (Wolfe, Mathematical Programming 11, 1976): it
    ends after finitely many steps at the exact minimum, up to rounding. On a tie the earlier part is kept.
    """
    g = gram.double()
    scale = float(g.diagonal().max())
    if scale <= 0:
        return _unit(g.shape[0])
    best = int(g.diagonal().argmin())
    support, weights = [best], _unit(g.shape[0], best)
    for _ in range(4 * 2 ** min(g.shape[0], 12)):
        slope = g @ weights
        entering = int(slope.argmin())
        if entering in support or float(weights @ slope - slope[entering]) <= _OPTIMALITY * scale:
            break
        support.append(entering)
        weights = _to_face_minimum(g, weights, support)
        support = [part for part in support if weights[part] > 0]
    return weights


def _to_face_minimum(g: torch.Tensor, weights: torch.Tensor, support: list[int]) -> torch.Tensor:
    """Move to the minimum over the face of ``support``, dropping parts whose weight reaches zero on the way."""
    active = list(support)
    while True:
        face = g[active][:, active]
        goal = torch.zeros_like(weights)
        goal[active] = _affine_minimum(face)
        falling = [part for part in active if goal[part] <= 0]
        if not falling:
            return goal
        ratios = [float(weights[part] / (weights[part] - goal[part])) if weights[part] > 0 else 0.0 for part in falling]
        step = min(ratios)
        weights = weights + step * (goal - weights)
        weights[falling[ratios.index(step)]] = 0.0
        weights = weights.clamp_min(0.0) / weights.clamp_min(0.0).sum()
        active.remove(falling[ratios.index(step)])


def _affine_minimum(face: torch.Tensor) -> torch.Tensor:
    """Return ``argmin vᵀ F v`` over ``Σv = 1``."""
    size = face.shape[0]
    if size == 1:
        return torch.ones(1, dtype=face.dtype)
    # Differences to the first part turn the constraint into an unconstrained problem that keeps its digits.
    reduced = face[1:, 1:] - face[1:, :1] - face[:1, 1:] + face[0, 0]
    rest = torch.linalg.lstsq(reduced, (face[0, 0] - face[1:, 0])[:, None], driver="gelsd").solution[:, 0]
    return torch.cat([1.0 - rest.sum(0, True), rest])


def _folds(rows: torch.Tensor, blocks: int, gap: int) -> list[tuple[int, int, torch.Tensor]]:
    """Return ``(start, stop, indices to fit on)`` of each block; a single window is both block and fit.

    ``rows`` are the beginnings of the windows, ascending.
    """
    count = len(rows)
    edges = [count * i // min(blocks, count) for i in range(min(blocks, count) + 1)]
    folds = []
    for start, stop in pairwise(edges):
        room = gap
        keep = (rows < rows[start] - room) | (rows > rows[stop - 1] + room)
        while room and not bool(keep.any()):
            room //= 2
            keep = (rows < rows[start] - room) | (rows > rows[stop - 1] + room)
        folds.append((start, stop, torch.nonzero(keep if bool(keep.any()) else ~keep).flatten()))
    return folds


def _eased(convex: torch.Tensor, gram: torch.Tensor, even: list[int]) -> torch.Tensor:
    """Return the weights drawn towards equal ones of those parts ``even`` that are near the best part."""
    errors = gram.diagonal()
    near = [part for part in even if errors[part] <= NEAR * errors.min()]
    if len(near) < 2:
        return convex
    equal = torch.zeros_like(convex)
    equal[near] = 1.0 / len(near)
    return torch.lerp(convex, equal, EVEN_SHARE)


def _held_out(grams: torch.Tensor, folds: list[tuple[int, int, torch.Tensor]], even: list[int]) -> tuple[float, float]:
    """Return the mean over blocks of the held-out MSE of the weights, and that of the first part."""
    blend, first = 0.0, 0.0
    for start, stop, others in folds:
        block = grams[start:stop].mean(0)
        fitted = grams[others].mean(0)
        blend += _error(_eased(convex_weights(fitted), fitted, even), block)
        first += float(block[0, 0])
    return blend / len(folds), first / len(folds)


def _error(weights: torch.Tensor, gram: torch.Tensor) -> float:
    return float(weights @ gram @ weights)


def _unit(size: int, index: int = 0) -> torch.Tensor:
    weights = torch.zeros(size, dtype=torch.float64)
    weights[index] = 1.0
    return weights
