"""Phase 1 of a search: the zero-cost metrics of one candidate, in the shapes that the documented API returns.

A network is evaluated once per batch, however many weight schemes are asked for, and comes back untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .._core.errors import DataError, check_int
from .._core.seeding import generator, seeded
from .._core.types import Batch, WindowSource
from ..data.sources import read_batch
from ..data.windows import collate_windows
from ..evaluation.batches import check_finite, unpack_batch
from .nas_metrics import Config
from .proxies import ProxyReport, base_weights, evaluate_proxies, proxy_names, resolve_proxies
from .scoring import score_from_metrics
from .weight_schemes import build_weight_schemes

_CLIP_SIGMA = 2.5
_CLIP_ROUNDS = 5
_CLIP_MIN = 3


def screening_windows(source: WindowSource, count: int, seed: int = 0) -> Batch:
    """Return ``count`` windows spread over a whole source: one at random in each of ``count`` equal strata.

    The first windows of a series overlap almost fully and say nearly the same; spread ones rank networks stably.

    Args:
        source: windows, of the training rows.
        count: how many; all windows if the source has fewer.
        seed: the same seed draws the same windows.

    Raises:
        DataError: the source is empty, or one of the windows is not finite.
    """
    total = len(source)
    if total == 0:
        raise DataError("the source has no window to screen on.")
    count = min(check_int("count", count, low=1), total)
    borders = torch.arange(count + 1, dtype=torch.int64) * total // count
    share = torch.rand(count, generator=generator("screening", seed, total, count), dtype=torch.float64)
    widths = borders[1:] - borders[:-1]
    chosen = borders[:-1] + (share * widths).long().clamp(max=widths - 1)
    return read_batch(source, chosen, role="train", batch=0)


def score_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    weights: Mapping[str, float] | None = None,
    loss_type: str = "mse",
    fast_mode: bool = True,
    x_future: Tensor | None = None,
) -> dict[str, Any]:
    """Return the result of ``evaluate_zero_cost_metrics`` for one batch ``x [B, L, C]``, ``y [B, H, C]``.

    All B windows are used, and ``x_future [B, H, F]`` where the network takes it. ``weights`` are those of
    ``aggregate_score``; None means the contract's.
    """
    report = evaluate_proxies(model, x, y, loss_type=loss_type, fast_mode=fast_mode, x_future=x_future)
    config = Config(weights=_weights(weights), max_samples=x.shape[0], fast_mode=fast_mode)
    return _result(_summary([report], _clipped_mean), config)


def evaluate_zero_cost_metrics_raw(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    device: str | torch.device | None = None,
    max_samples: int = 32,
    num_batches: int = 1,
    fast_mode: bool = True,
    extra_proxies: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the metrics of a network without weighing them (contract 2.5).

    Args:
        model: maps ``[B, L, C]`` to ``[B, H, C]``.
        dataloader: yields ``(x, y, ...)``; a map-style dataset is read in batches of ``max_samples``.
        device: where to compute; None means where ``model`` is.
        max_samples: windows used of each batch.
        num_batches: batches used.
        fast_mode: see ``proxies.evaluate_proxies``.
        extra_proxies: further proxies by name (``proxies.proxy_names``), reported in ``extras``.

    Returns:
        ``raw_metrics`` {name: mean over the batches that have a value}, ``success_rates`` {name: share of batches},
        ``errors`` {name: reason} and ``base_weights``; ``extras`` holds values outside the contract and
        ``extra_errors`` the reasons of those without. Without any batch ``raw_metrics`` is empty and
        ``errors["_global"]`` says so.

    Raises:
        DataError: a batch is no ``(x, y)`` pair of tensors with three dimensions.
    """
    reports = _reports(model, dataloader, device, (max_samples, num_batches), fast_mode, extra_proxies)
    if not reports:
        errors = {"_global": "the loader yields no batch"}
        return {
            "raw_metrics": {},
            "success_rates": {},
            "errors": errors,
            "base_weights": base_weights(),
            "extras": {},
            "extra_errors": {},
        }
    summary = _summary(reports, _plain_mean)
    return {
        "raw_metrics": summary["metrics"],
        "success_rates": summary["rates"],
        "errors": summary["errors"],
        "base_weights": base_weights(),
        "extras": summary["extras"],
        "extra_errors": summary["extra_errors"],
    }


def evaluate_zero_cost_metrics(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    device: str | torch.device | None = None,
    max_samples: int = 32,
    num_batches: int = 1,
    fast_mode: bool = True,
    ablation: bool = False,
    n_random: int = 10,
    random_sigma: float = 0.1,
    seed: int = 0,
    extra_proxies: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the metrics of a network and their weighted score (contract 2.6).

    Batches are joined by a mean clipped at 2.5 standard deviations. A metric without a value is absent from
    ``metrics``, False in ``success_rates`` and explained in ``error_messages``.

    Args:
        model: maps ``[B, L, C]`` to ``[B, H, C]``.
        dataloader: yields ``(x, y, ...)``; a map-style dataset is read in batches of ``max_samples``.
        device: where to compute; None means where ``model`` is.
        max_samples: windows used of each batch.
        num_batches: batches used.
        fast_mode: see ``proxies.evaluate_proxies``.
        ablation: also score under every scheme of ``build_weight_schemes``; the network is still evaluated once.
        n_random: random schemes of the ablation.
        random_sigma: their relative spread.
        seed: their seed.
        extra_proxies: further proxies by name (``proxies.proxy_names``), reported in ``extras``.

    Returns:
        ``metrics, success_rates, error_messages, aggregate_score, config, extras, extra_errors``; with ``ablation``
        instead ``ablation, base_weights, schemes, per_scheme`` {scheme: {aggregate_score, metrics, success_rates}} and
        ``error_messages``.

    Raises:
        DataError: there is no batch, or one is no ``(x, y)`` pair.
    """
    schemes = build_weight_schemes(n_random, random_sigma, seed) if ablation else {}
    reports = _reports(model, dataloader, device, (max_samples, num_batches), fast_mode, extra_proxies)
    if not reports:
        raise DataError("dataloader yields no batch to screen on.")
    summary = _summary(reports, _clipped_mean)
    config = Config(max_samples=max_samples, num_batches=num_batches, fast_mode=fast_mode)
    result = _result(summary, config)
    if not ablation:
        return result
    return {
        "ablation": True,
        "base_weights": base_weights(),
        "schemes": list(schemes),
        "per_scheme": {name: _under_scheme(result, weights) for name, weights in schemes.items()},
        "error_messages": result["error_messages"],
    }


def _under_scheme(result: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    return {
        "aggregate_score": score_from_metrics(result["metrics"], weights),
        "metrics": {n: v for n, v in result["metrics"].items() if n in weights},
        "success_rates": {n: ok for n, ok in result["success_rates"].items() if n in weights},
    }


def _weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    return base_weights() if weights is None else dict(weights)


def _reports(
    model: nn.Module,
    dataloader: Iterable[Any],
    device: str | torch.device | None,
    sizes: tuple[int, int],
    fast_mode: bool,
    extra_proxies: Sequence[str],
) -> list[ProxyReport]:
    names = resolve_proxies((*proxy_names(default=True), *extra_proxies))
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # A loader draws its base seed, and a shuffled one its order, from the global state: fixed here and given back, so
    # that every candidate sees the same windows.
    with seeded("screening"):
        batches = list(_batches(dataloader, *sizes))
    return [
        evaluate_proxies(model, b.x, b.y, fast_mode=fast_mode, names=names, x_future=b.x_future)
        for b in (batch.to(device) for batch in batches)
    ]


def _batches(dataloader: Iterable[Any], max_samples: int, num_batches: int) -> Iterator[Batch]:
    check_int("max_samples", max_samples, low=1)
    check_int("num_batches", num_batches, low=1)
    if isinstance(dataloader, Dataset):
        dataloader = DataLoader(dataloader, max_samples, collate_fn=collate_windows)
    if not isinstance(dataloader, Iterable):
        raise DataError(f"dataloader={dataloader!r} must be a DataLoader, a Dataset or batches of (x, y).")
    iterator = iter(dataloader)
    for number in range(num_batches):
        batch = next(iterator, None)
        if batch is None:
            return
        if not isinstance(batch, Sequence) or len(batch) < 2:
            raise DataError(f"batch {number} is a {type(batch).__name__}; screening needs (x, y) with targets.")
        read = unpack_batch(batch, "cpu")
        if read.x.dim() != 3 or read.y.dim() != 3:
            raise DataError(f"batch {number} must hold tensors x [B, L, C] and y [B, H, C].")
        check_finite(read, batch=number, first=0, role="screening")
        if len(read):
            yield read[:max_samples]


def _summary(reports: Sequence[ProxyReport], join: Any) -> dict[str, Any]:
    names = dict.fromkeys(name for report in reports for name in (*report.values, *report.errors))
    contract = set(proxy_names(contract=True))
    values = {n: [r.values[n] for r in reports if n in r.values] for n in names}
    joined = {n: join(v) for n, v in values.items() if v}
    return {
        "metrics": {n: v for n, v in joined.items() if n in contract},
        "extras": {n: v for n, v in joined.items() if n not in contract},
        "rates": {n: len(v) / len(reports) for n, v in values.items() if n in contract},
        "errors": {n: r.errors[n] for r in reports for n in r.errors if n in contract},
        "extra_errors": {n: r.errors[n] for r in reports for n in r.errors if n not in contract},
    }


def _result(summary: Mapping[str, Any], config: Config) -> dict[str, Any]:
    metrics = summary["metrics"]
    return {
        "metrics": metrics,
        "success_rates": {name: name in metrics for name in summary["rates"]},
        "error_messages": {name: reason for name, reason in summary["errors"].items() if name not in metrics},
        "aggregate_score": score_from_metrics(metrics, config.weights),
        "config": config,
        "extras": summary["extras"],
        "extra_errors": summary["extra_errors"],
    }


def _plain_mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _clipped_mean(values: Sequence[float]) -> float:
    """Return the mean without values beyond 2.5 standard deviations, clipped again up to five times."""
    kept = np.asarray(values, dtype=float)
    for _ in range(_CLIP_ROUNDS):
        if kept.size < _CLIP_MIN:
            break
        inside = np.abs(kept - kept.mean()) <= _CLIP_SIGMA * kept.std()
        if inside.all() or not inside.any():
            break
        kept = kept[inside]
    return float(kept.mean())
