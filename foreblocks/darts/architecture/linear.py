"""The closed-form linear path: ridge regression from lookback to horizon on centred windows.

The normal equations of all windows are collected once in float64; every centring, penalty and mode follows from them
without another pass over the data. Validation errors are quadratic forms of the validation windows' own statistics,
so the penalty is chosen exactly, over all windows and at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .._core.errors import DataError, InvalidArgument, check_channels, check_choice, check_int, check_real, nearest
from .._core.types import WindowSource, layout_of
from ._moments import window_moments

MODES = ("shared", "per_channel")
CENTRES = ("last", "mean")
PENALTIES = (*(digit * 10.0**exponent for exponent in range(-7, 1) for digit in (1, 2, 5)), 10.0)
"""Default grid: 1, 2, 5 of each decade from 1e-7 to 10, relative to the mean diagonal of the normal equations."""


@dataclass(frozen=True)
class LinearSpec:
    """What rebuilds a ``LinearForecaster`` before its weights are loaded.

    Attributes:
        mode: ``shared`` (one map for all channels) or ``per_channel`` (one map each).
        centre: what is subtracted per window and channel and added back: its ``last`` value or its ``mean``.
        input_dim: channels C.
        seq_length: lookback L.
        horizon: forecast steps H.
        target_channels: channels that are forecast; None for all.
    """

    mode: str
    centre: str
    input_dim: int
    seq_length: int
    horizon: int
    target_channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_choice("centre", self.centre, CENTRES)
        for name in ("input_dim", "seq_length", "horizon"):
            check_int(name, getattr(self, name), low=1)
        if self.target_channels is not None:
            chosen = check_channels("target_channels", self.target_channels, self.input_dim, empty=False)
            object.__setattr__(self, "target_channels", chosen)

    @property
    def output_dim(self) -> int:
        """C_out: channels that are forecast."""
        return self.input_dim if self.target_channels is None else len(self.target_channels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinearSpec:
        """Inverse of ``to_dict``; unknown or missing keys raise ``InvalidArgument``."""
        names = list(cls.__dataclass_fields__)
        for key in data:
            if key not in names:
                raise InvalidArgument(f"LinearSpec has no field {key!r}.{nearest(key, names)}")
        missing = [name for name in names if name not in data and name != "target_channels"]
        if missing:
            raise InvalidArgument(f"LinearSpec needs the fields {missing}.")
        return cls(**data)


class LinearForecaster(nn.Module):
    """Fixed linear map ``x [B, L, C] -> [B, H, C_out]`` on centred windows; it has buffers and no parameters.

    Built with zero weights, which forecasts the centre itself; ``load_state_dict`` or ``from_weight`` fills it.

    Args:
        spec: mode, centring and sizes.
    """

    weight: torch.Tensor
    targets: torch.Tensor | None

    def __init__(self, spec: LinearSpec) -> None:
        super().__init__()
        self.spec = spec
        shape: tuple[int, ...] = (spec.horizon, spec.seq_length)
        if spec.mode == "per_channel":
            shape = (spec.output_dim, *shape)
        self.register_buffer("weight", torch.zeros(shape))
        targets = None if spec.target_channels is None else torch.tensor(spec.target_channels)
        self.register_buffer("targets", targets, persistent=False)

    @classmethod
    def from_weight(cls, spec: LinearSpec, weight: torch.Tensor) -> LinearForecaster:
        """Return a forecaster with ``weight`` (``[H, L]`` or ``[C_out, H, L]``, any float type; kept as float32)."""
        module = cls(spec)
        if weight.shape != module.weight.shape:
            raise InvalidArgument(f"weight has shape {tuple(weight.shape)}; {spec} needs {tuple(module.weight.shape)}.")
        module.weight.copy_(weight)
        return module

    def forward(self, x: torch.Tensor, x_future: torch.Tensor | None = None) -> torch.Tensor:
        """Return forecasts ``[B, H, C_out]`` for windows ``x [B, L, C]``; ``x_future`` has no part in them.

        Raises:
            InvalidArgument: ``x`` has another lookback or channel count.
        """
        spec = self.spec
        if x.dim() != 3 or x.shape[1] != spec.seq_length or x.shape[2] != spec.input_dim:
            raise InvalidArgument(f"x has shape {tuple(x.shape)}; expected [B, {spec.seq_length}, {spec.input_dim}].")
        if self.targets is not None:
            x = x.index_select(2, self.targets)
        level = x[:, -1:, :] if spec.centre == "last" else x.mean(dim=1, keepdim=True)
        series = (x - level).transpose(1, 2)  # [B, C, L]
        if spec.mode == "shared":
            change = series @ self.weight.t()  # [B, C, H]
        else:
            change = torch.einsum("bcl,chl->bch", series, self.weight)
        return change.transpose(1, 2) + level

    def extra_repr(self) -> str:
        """Show the spec in ``repr``."""
        return str(self.spec)


@dataclass(frozen=True)
class NormalEquations:
    """Sums over windows of centred products, float64, one group per channel (or one for all).

    Attributes:
        xtx: ``[G, L, L]``.
        xty: ``[G, L, H]``.
        yty: ``[G]``, sum of squared centred targets.
        count: windows times channels in each group.
    """

    xtx: torch.Tensor
    xty: torch.Tensor
    yty: torch.Tensor
    count: int

    def pooled(self) -> NormalEquations:
        """Return the equations of one map for all groups: the sums over them."""
        total = self.count * self.xtx.shape[0]
        return NormalEquations(self.xtx.sum(0, True), self.xty.sum(0, True), self.yty.sum(0, True), total)

    def scale(self) -> torch.Tensor:
        """Return the mean diagonal of ``xtx`` ``[G]``, the unit of penalties; 1 where all inputs are constant."""
        mean = self.xtx.diagonal(dim1=-2, dim2=-1).mean(-1)
        return torch.where(mean > 0, mean, torch.ones_like(mean))

    def squared_error(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the sum of squared errors ``[G]`` of the maps ``weight [G, H, L]`` on these windows."""
        w = weight.to(self.xtx)
        return ((w @ self.xtx) * w).sum((1, 2)) - 2 * (w.transpose(1, 2) * self.xty).sum((1, 2)) + self.yty


class RidgeStatistics:
    """Moments of the windows of a source, float64 and per channel: all that a ridge needs of the data.

    Args:
        xx: ``[C, L, L]``, sums over windows of products of two input steps.
        xy: ``[C, L, H]``, the same of an input and a target step.
        yy: ``[C]``, sums of squared targets.
        count: number of windows.
        input_dim: channels of the windows; None for C.
        target_channels: which of them the C are; None for all.
    """

    def __init__(
        self,
        xx: torch.Tensor,
        xy: torch.Tensor,
        yy: torch.Tensor,
        count: int,
        *,
        input_dim: int | None = None,
        target_channels: tuple[int, ...] | None = None,
    ) -> None:
        self.xx, self.xy, self.yy, self.count = xx, xy, yy, count
        self.input_dim = xx.shape[0] if input_dim is None else input_dim
        self.target_channels = target_channels

    @classmethod
    def collect(cls, source: WindowSource) -> RidgeStatistics:
        """Read every window of ``source`` once; of its channels, only those that it forecasts.

        Runs of windows that advance by one row go through a recurrence on the series itself, whose cost does not
        grow with L times the windows; all others are gathered in chunks of bounded memory.

        Raises:
            DataError: the source is empty or holds a value that is not finite (window and channel named).
        """
        if len(source) == 0:
            raise DataError("a ridge needs at least one window; the source is empty.")
        moments = window_moments(source)
        lookback = source.lookback
        xx, xy = moments[:, :lookback, :lookback], moments[:, :lookback, lookback:]
        yy = moments[:, lookback:, lookback:].diagonal(dim1=-2, dim2=-1).sum(-1)
        return cls(
            xx.contiguous(), xy.contiguous(), yy, len(source),
            input_dim=source.channels, target_channels=layout_of(source).target_channels,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, L, H)``, C the channels that are forecast."""
        channels, lookback, horizon = self.xy.shape
        return channels, lookback, horizon

    def centred(self, centre: str) -> NormalEquations:
        """Return the normal equations of windows from which ``centre`` was subtracted (inputs and targets).

        With the level ``m = cᵀx`` (``c`` picks the last step or averages) the products follow from the raw ones:
        ``(x - m)(x - m)ᵀ = T xxᵀ Tᵀ`` with ``T = I - 1cᵀ``, ``(x - m)(y - m)ᵀ = T (xyᵀ - xxᵀ c 1ᵀ)``.
        """
        check_choice("centre", centre, CENTRES)
        horizon = self.xy.shape[2]
        xx_c = self.xx[:, :, -1] if centre == "last" else self.xx.mean(2)  # [C, L] = Σ x m
        xy_c = self.xy[:, -1, :] if centre == "last" else self.xy.mean(1)  # [C, H] = Σ y m
        mm = xx_c[:, -1] if centre == "last" else xx_c.mean(1)  # [C] = Σ m²
        square = mm[:, None, None]
        xtx = self.xx - xx_c[:, :, None] - xx_c[:, None, :] + square
        xty = self.xy - xx_c[:, :, None] - xy_c[:, None, :] + square
        yty = self.yy - 2 * xy_c.sum(1) + horizon * mm
        return NormalEquations(xtx, xty, yty, self.count)

    def equations(self, mode: str, centre: str) -> NormalEquations:
        """Return the centred equations, pooled over channels for ``mode="shared"``."""
        check_choice("mode", mode, MODES)
        each = self.centred(centre)
        return each.pooled() if mode == "shared" else each


def solve(equations: NormalEquations, penalty: float | torch.Tensor) -> torch.Tensor:
    """Return the ridge maps ``[G, H, L]`` (float64) of each group.

    Args:
        equations: centred normal equations.
        penalty: above 0, one number or one per group ``[G]``; the diagonal gets ``penalty * mean(diag(xtx))``, so
            it depends neither on the unit of the data nor on the number of windows.

    Raises:
        InvalidArgument: a penalty that is not above 0.
    """
    relative = torch.as_tensor(penalty, dtype=torch.float64).expand(equations.yty.shape)
    if not bool((relative > 0).all()):
        raise InvalidArgument(f"penalty={penalty} must be above 0: centred windows are never of full rank.")
    ridge = relative * equations.scale()
    eye = torch.eye(equations.xtx.shape[-1], dtype=torch.float64)
    # One factorisation at a time: a batched solve of [7, 336, 336] failed inside MKL.
    maps = [
        torch.cholesky_solve(xty, torch.linalg.cholesky(xtx + value * eye)).t()
        for xtx, xty, value in zip(equations.xtx, equations.xty, ridge, strict=True)
    ]
    return torch.stack(maps)


def penalty_errors(train: NormalEquations, val: NormalEquations, penalties: Sequence[float]) -> torch.Tensor:
    """Return validation sums of squared errors ``[G, len(penalties)]`` of the ridges fitted on ``train``.

    One eigendecomposition ``xtx = Q diag(e) Qᵀ`` serves all penalties: with ``d = 1 / (e + λ)`` and ``S = Qᵀ xty``
    the map is ``Q diag(d) S`` and its validation error a quadratic form in ``d``.
    """
    rows = []
    for g, unit in enumerate(train.scale()):
        values, vectors = torch.linalg.eigh(train.xtx[g])
        projected = vectors.t() @ train.xty[g]
        quadratic = (vectors.t() @ val.xtx[g] @ vectors) * (projected @ projected.t())
        linear = (projected * (vectors.t() @ val.xty[g])).sum(1)
        levels = torch.tensor(list(penalties), dtype=torch.float64) * unit
        inverse = 1.0 / (values.clamp_min(0.0)[None, :] + levels[:, None])  # [penalties, L]
        rows.append(((inverse @ quadratic) * inverse).sum(1) - 2 * inverse @ linear + val.yty[g])
    return torch.stack(rows)


def fit_ridge(
    train: WindowSource | RidgeStatistics,
    val: WindowSource | RidgeStatistics,
    *,
    mode: str,
    centre: str = "last",
    penalties: Sequence[float] = PENALTIES,
) -> tuple[LinearForecaster, dict[str, Any]]:
    """Fit a ridge on all windows of ``train``; choose what is free by the mean squared error on all of ``val``.

    Args:
        train: windows to fit on, or their statistics.
        val: windows that choose the penalty (one per channel with ``mode="per_channel"``) and the centre.
        mode: ``shared`` or ``per_channel``.
        centre: ``last``, ``mean``, or ``auto`` for the better of both on ``val``.
        penalties: grid, relative to the mean diagonal of the normal equations, each above 0.

    Returns:
        The forecaster and ``{"mode", "centre", "penalty": float or list[float], "val_mse": float}``.

    Raises:
        DataError: no windows, or a value that is not finite.
        InvalidArgument: ``train`` and ``val`` differ in L, H or C, or an option is not allowed.
    """
    check_choice("mode", mode, MODES)
    check_choice("centre", centre, (*CENTRES, "auto"))
    grid = [check_real(f"penalties[{i}]", value, low=1e-300) for i, value in enumerate(penalties)]
    if not grid:
        raise InvalidArgument("penalties is empty; give at least one value above 0.")
    fitted, held = _statistics(train), _statistics(val)
    if fitted.shape != held.shape:
        raise InvalidArgument(f"train has (C, L, H) = {fitted.shape}, val has {held.shape}; they must agree.")
    options = [_fit(fitted, held, mode, name, grid) for name in (CENTRES if centre == "auto" else (centre,))]
    return min(options, key=lambda option: option[1]["val_mse"])


def fit_ridge_pair(
    train: WindowSource | RidgeStatistics, val: WindowSource | RidgeStatistics, *, centre: str = "last"
) -> tuple[dict[str, LinearForecaster], dict[str, dict[str, Any]], str]:
    """Fit the shared and the per-channel ridge from one pass over the data.

    Returns:
        ``(models, info, star)``: models and ``fit_ridge`` infos by mode, and the mode with the lower validation
        error (the shared one on a tie).
    """
    fitted, held = _statistics(train), _statistics(val)
    fits = {mode: fit_ridge(fitted, held, mode=mode, centre=centre) for mode in MODES}
    info = {mode: fit[1] for mode, fit in fits.items()}
    return {mode: fit[0] for mode, fit in fits.items()}, info, min(MODES, key=lambda mode: info[mode]["val_mse"])


def _statistics(data: WindowSource | RidgeStatistics) -> RidgeStatistics:
    return data if isinstance(data, RidgeStatistics) else RidgeStatistics.collect(data)


def _fit(
    train: RidgeStatistics, val: RidgeStatistics, mode: str, centre: str, grid: Sequence[float]
) -> tuple[LinearForecaster, dict[str, Any]]:
    fitted, held = train.equations(mode, centre), val.equations(mode, centre)
    best = penalty_errors(fitted, held, grid).argmin(dim=1)
    penalty = torch.tensor(list(grid), dtype=torch.float64)[best]
    weight = solve(fitted, penalty)
    channels, lookback, horizon = train.shape
    error = held.squared_error(weight).sum() / (val.count * channels * horizon)
    chosen = penalty.tolist()
    info = {
        "mode": mode,
        "centre": centre,
        "penalty": chosen[0] if mode == "shared" else chosen,
        "val_mse": max(float(error), 0.0),
    }
    spec = LinearSpec(mode, centre, train.input_dim, lookback, horizon, train.target_channels)
    return LinearForecaster.from_weight(spec, weight[0] if mode == "shared" else weight), info
