"""The façade: the long documented signatures, and nothing else.

Each method folds its keywords into a configuration (explicit keyword, then configuration, then default) and makes one
call. No logic lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from . import ops  # noqa: F401 - registers the ops
from ._core.ambient import usual_torch
from ._core.device import resolve_device
from ._core.errors import InvalidArgument, check_channels, check_int, check_keywords, check_list, check_range
from ._core.keywords import fold_keywords, keywords_with_defaults, warn_keywords
from ._core.logging import get_logger
from ._core.types import Layout, WindowSource, layout_of
from .architecture.derive import derive_final_architecture
from .architecture.network import TimeSeriesDARTS
from .config import (
    AblationSearchConfig,
    DARTSConfig,
    DARTSSearchSpaceConfig,
    DARTSTrainConfig,
    FinalTrainConfig,
    MultiFidelitySearchConfig,
    RobustPoolSearchConfig,
)
from .data.sources import check_sources, loader_batch_size
from .evaluation import plotting, report
from .evaluation.predict import score_models
from .ops.registry import check_families, resolve_ops
from .search.ablation import ablation_weight_search
from .search.candidates import CandidateConfig, SearchSpace, build_candidate, make_candidate
from .search.lr_sensitivity import RateGrid, bilevel_lr_sensitivity
from .search.multi_fidelity import run_multi_fidelity_search
from .search.op_scoring import DEFAULT_PROXY, score_operations, start_alphas
from .search.progress import Progress
from .search.robust_pool import robust_initial_pool_over_op_pools
from .search.scoring import RANK_METHOD
from .search.settings import SearchSettings
from .search.zero_cost import evaluate_zero_cost_metrics, evaluate_zero_cost_metrics_raw, screening_windows
from .training import checkpoint
from .training.darts_loop import train_darts_model
from .training.events import Callback
from .training.final_trainer import train_final_model
from .training.loop import LoopLimits
from .training.select import DeriveSettings, derive_by_race

logger = get_logger(__name__)

_SEARCH_EXTRAS = ("final_learning_rate", "final_loss_type", "final_patience", "final_weight_decay", "phase3_verbose")
_SPACE_NAMES = ("channel_modes", "series_norms", "heads", "patch_lens", "presets")


class DARTSTrainer:
    """Entry point of the search; see the module ``foreblocks.darts.config`` for every setting.

    Args:
        input_dim: channels C.
        hidden_dims: widths a candidate may have; None means 32, 64, 128.
        forecast_horizon: steps H.
        seq_length: lookback L.
        device: ``auto``, a device name or a ``torch.device``.
        all_ops: ops a candidate may use; None means the sixteen of ``DEFAULT_OPS``.
        arch_modes: sequence parts a candidate may have; None means all four.
        op_families: family → ops; None means the documented families.
        family_range: least and most families of a candidate.
        attention_variants: attention kernels a candidate may have; ``auto`` means all.
        ffn_variants: feed-forward blocks a candidate may have; ``auto`` means all.
        config: a ``DARTSConfig``; keywords that differ from their default win over it.
        on_unknown: ``raise``, or ``ignore`` to log and drop unknown ops.
        future_dim: covariates F that are known for the horizon, the third part of ``(x, y, x_future)`` batches; None
            takes as many as the training data of a search have.
        target_channels: channels of x that are forecast, in the order of the output; y holds them, or all channels.
            None takes those that a ``WindowDataset`` says, else all.

    Attributes:
        final_model: model of the last search or of ``load_model``; None before.
        search_history: results of ``multi_fidelity_search``.
        training_history: results of ``train_darts_model`` and ``train_final_model``.
        partial_search: the finished parts of a search that was interrupted or ended in an error; else None.

    Raises:
        InvalidArgument: a value is not allowed; the message names it.
    """

    def __init__(
        self,
        input_dim: int = 3,
        hidden_dims: list[int] | None = None,
        forecast_horizon: int = 6,
        seq_length: int = 12,
        device: str | torch.device = "auto",
        all_ops: list[str] | None = None,
        arch_modes: list[str] | None = None,
        op_families: dict[str, list[str]] | None = None,
        family_range: tuple[int, int] = (1, 3),
        attention_variants: list[str] | None = None,
        ffn_variants: list[str] | None = None,
        *,
        config: DARTSConfig | None = None,
        on_unknown: str = "raise",
        future_dim: int | None = None,
        target_channels: Sequence[int] | None = None,
    ) -> None:
        self.config = _config_of(config, DARTSConfig)
        base = config or DARTSConfig()
        folded = _folded(DARTSTrainer, locals(), base.space, base)
        self.input_dim = check_int("input_dim", folded["input_dim"], low=1)
        self.forecast_horizon = check_int("forecast_horizon", folded["forecast_horizon"], low=1)
        self.seq_length = check_int("seq_length", folded["seq_length"], low=1)
        self.future_dim = None if future_dim is None else check_int("future_dim", future_dim, low=0)
        self.target_channels = None
        if target_channels is not None:
            self.target_channels = check_channels("target_channels", target_channels, self.input_dim, empty=False)
        self.device = str(resolve_device(folded["device"]))
        self.all_ops = resolve_ops(folded["all_ops"], on_unknown=on_unknown)
        self.hidden_dims = check_list("hidden_dims", folded["hidden_dims"])
        self.arch_modes = check_list("arch_modes", folded["arch_modes"])
        self.op_families = check_families(folded["op_families"], on_unknown=on_unknown)
        self.family_range = check_range("family_range", folded["family_range"], low=1)
        self.attention_variants, self.ffn_variants = (
            [str(v).lower() for v in check_list(name, folded[name])] for name in ("attention_variants", "ffn_variants")
        )
        self.search_history: list[dict[str, Any]] = []
        self.training_history: list[dict[str, Any]] = []
        self.final_model: nn.Module | None = None
        self.partial_search: Progress | None = None
        self.space()  # checks every list once, here

    # ---- candidates ----------------------------------------------------------------------------------------------

    def space(self, layout: Layout | None = None, **changes: Any) -> SearchSpace:
        """Return the search space of this trainer.

        Args:
            layout: covariates and targets of the data; None means what the trainer was told.
            changes: fields of ``DARTSSearchSpaceConfig`` or of ``SearchSpace`` to replace (None leaves a field).
        """
        given = {name: value for name, value in changes.items() if value is not None}
        extra: dict[str, Any] = {
            name: tuple(check_list(name, given.pop(name))) for name in _SPACE_NAMES if name in given
        }
        base = (self.config or DARTSConfig()).space
        config = replace(
            base,
            **{
                "all_ops": self.all_ops,
                "arch_modes": self.arch_modes,
                "op_families": self.op_families,
                "hidden_dims": self.hidden_dims,
                "family_range": self.family_range,
                "attention_variants": self.attention_variants,
                "ffn_variants": self.ffn_variants,
                # Larger cells than the dataclass default, unless a configuration says otherwise.
                "node_range": base.node_range if self.config else (3, 4),
                **given,
            },
        )
        layout = layout or Layout(self.future_dim or 0, self.target_channels)
        return SearchSpace(
            self.input_dim, self.seq_length, self.forecast_horizon, tuple(self.all_ops), config=config,
            **extra, **layout._asdict(),
        )  # fmt: skip

    def make_candidate(self, seed: int = 0, index: int = 0) -> CandidateConfig:
        """Return candidate ``index`` of ``seed``: the one that a search with that seed samples there."""
        return make_candidate(self.space(), check_int("seed", seed), check_int("index", index, low=0))

    @usual_torch()
    def build_candidate(self, config: CandidateConfig | Mapping[str, Any], seed: int = 0) -> TimeSeriesDARTS:
        """Build the searched network of a candidate or of a candidate record, on this trainer's device."""
        if isinstance(config, Mapping):
            config = CandidateConfig.from_dict(config)
        return build_candidate(config, seed=seed, device=self.device)

    # ---- phases --------------------------------------------------------------------------------------------------

    @usual_torch()
    def evaluate_zero_cost_metrics_raw(
        self,
        model: nn.Module,
        dataloader: Any,
        max_samples: int = 32,
        num_batches: int = 1,
        fast_mode: bool = True,
        *,
        extra_proxies: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return ``{raw_metrics, success_rates, errors, base_weights}`` of a model; the model stays as it was."""
        return evaluate_zero_cost_metrics_raw(
            model.to(self.device), dataloader, device=self.device, max_samples=max_samples, num_batches=num_batches,
            fast_mode=fast_mode, extra_proxies=extra_proxies,
        )  # fmt: skip

    @usual_torch()
    def evaluate_zero_cost_metrics(
        self,
        model: nn.Module,
        dataloader: Any,
        max_samples: int = 32,
        num_batches: int = 1,
        fast_mode: bool = True,
        ablation: bool = False,
        n_random: int = 10,
        random_sigma: float = 0.1,
        seed: int = 0,
        *,
        extra_proxies: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return metrics and their weighted score, or with ``ablation`` the score under every weight scheme."""
        return evaluate_zero_cost_metrics(
            model.to(self.device), dataloader, device=self.device, max_samples=max_samples, num_batches=num_batches,
            fast_mode=fast_mode, ablation=ablation, n_random=n_random, random_sigma=random_sigma, seed=seed,
            extra_proxies=extra_proxies,
        )  # fmt: skip

    @usual_torch()
    def score_operations(
        self, model: nn.Module, dataloader: Any, *, proxy: str = DEFAULT_PROXY, max_samples: int = 64, seed: int = 0
    ) -> dict[str, dict[str, float]]:
        """Return ``{"cell_i_edge_j": {op: importance}}``: what a zero-cost proxy loses when the op is left out.

        ``max_samples`` windows, spread over the data, are used; no training. ``train_darts_model(...,
        alpha_init="zero_cost")`` starts the alphas from these scores.
        """
        (source,) = self._sources(train=dataloader)
        windows = screening_windows(source, max_samples, seed).to(self.device)
        return score_operations(model.to(self.device), windows.x, windows.y, proxy=proxy, x_future=windows.x_future)

    @usual_torch()
    def derive_final_architecture(
        self,
        model: nn.Module,
        *,
        derive: str | DeriveSettings = "argmax",
        train_loader: Any = None,
        val_loader: Any = None,
        config: DARTSTrainConfig | None = None,
        seed: int = 0,
        max_val_batches: int | None = None,
    ) -> nn.Module:
        """Return the discrete network that a searched model points to, with its weights, in eval mode.

        Without loaders the alphas decide. With both, ``derive`` does as in ``multi_fidelity_search``: what wins on
        the validation windows is returned; ``config`` is that of the search, ``seed`` orders batches and decisions.

        Raises:
            InvalidArgument: ``derive`` asks for a measurement, and a loader is missing.
        """
        settings = derive if isinstance(derive, DeriveSettings) else DeriveSettings(derive)
        if train_loader is None and val_loader is None and settings == DeriveSettings():
            return derive_final_architecture(model)
        if train_loader is None or val_loader is None:
            raise InvalidArgument(f"derive={derive!r} needs train_loader and val_loader.")
        train, val = self._sources(train=train_loader, validation=val_loader)
        return derive_by_race(
            model, train, val,
            _config_of(config, DARTSTrainConfig) or _part(self.config, "train") or DARTSTrainConfig(),
            self._limits(train_loader, seed, None, max_val_batches, amp=False), settings,
        )  # fmt: skip

    @usual_torch()
    def train_darts_model(
        self,
        model: nn.Module,
        train_loader: Any,
        val_loader: Any,
        *,
        epochs: int = 50,
        arch_learning_rate: float = 3e-3,
        model_learning_rate: float = 1e-3,
        model_weight_decay: float = 1e-4,
        arch_weight_decay: float = 1e-3,
        weight_decay: float | None = None,
        use_swa: bool = False,
        use_bilevel_optimization: bool = True,
        gradient_accumulation_steps: int = 1,
        use_amp: bool = False,
        loss_type: str = "huber",
        patience: int = 15,
        verbose: bool = True,
        warmup_epochs: int = 2,
        architecture_update_freq: int = 3,
        regularization_types: list[str] | None = None,
        regularization_weights: list[float] | None = None,
        use_regularization: bool = True,
        temperature_schedule: str = "cosine",
        hessian_penalty_weight: float = 0.0,
        hessian_fd_eps: float = 0.01,
        hessian_update_freq: int = 1,
        edge_diversity_weight: float = 0.03,
        edge_usage_balance_weight: float = 0.04,
        edge_identity_cap: float = 0.45,
        edge_identity_cap_weight: float = 0.02,
        identity_dominance_cap: float | None = None,
        edge_sharpening_max_weight: float = 0.03,
        edge_sharpening_start_frac: float = 0.35,
        edge_sharpening_strength: float | None = None,
        edge_sharpening_start_epoch: int | None = None,
        progressive_shrinking: bool = True,
        hybrid_pruning_start_epoch: int = 20,
        hybrid_pruning_interval: int = 10,
        hybrid_pruning_base_threshold: float = 0.15,
        hybrid_pruning_strategy: str = "performance",
        hybrid_pruning_freeze_logit: float = -20.0,
        use_progressive_training: bool | None = None,
        pruning_enabled: bool | None = None,
        pruning_start_epoch: int | None = None,
        pruning_threshold: float | None = None,
        bilevel_split_seed: int = 42,
        state_mix_ortho_reg_weight: float = 1e-3,
        arch_grad_ema_beta: float = 0.0,
        beta_darts_weight: float = 0.0,
        moe_balance_weight: float = 5e-3,
        transformer_exploration_weight: float = 0.01,
        temperature: float = 1.0,
        pruning_hard_epoch: int | None = None,
        log_arch_gradients: bool = False,
        use_gdas: bool = False,
        relaxation: str | None = None,
        perturbation: str = "none",
        perturbation_radius: float = 0.3,
        perturbation_steps: int = 7,
        collapse_growth: float | None = 1.3,
        collapse_every: int | None = None,
        alpha_init: str = "noise",
        compile: str = "none",
        config: DARTSTrainConfig | None = None,
        seed: int = 0,
        max_train_batches: int | None = None,
        max_val_batches: int | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[str, Any]:
        """Search one model: weights and alphas on separate blocks of the training windows.

        The fields of ``DARTSTrainConfig`` say what each keyword means; ``_core.keywords`` lists those without effect.
        ``seed`` decides batch order, dropout and samples; ``max_train_batches`` and ``max_val_batches`` bound an
        epoch. ``relaxation`` (or ``use_gdas=True``) switches the model to another one; else its own is kept.
        ``alpha_init="zero_cost"`` lets the alphas start from how much each op matters at initialisation.
        ``compile="edge"`` pays only where a timing says so: it lost on the CPU that we measured (``docs/kernels.md``).

        Returns:
            The documented dictionary: ``model, final_architecture, train_losses, val_losses, alpha_values,
            diversity_scores, best_val_loss, training_time, final_metrics``, and ``collapse``: per epoch the curvature
            of the alphas, its growth, the share of Identity and the entropy (``training.collapse``).
        """
        given = _given(self.train_darts_model, locals())
        settings = self._train_config(given, config)
        limits = self._limits(train_loader, seed, max_train_batches, max_val_batches, settings.use_amp)
        train, val = self._sources(train=train_loader, validation=val_loader)
        start_alphas(model, train, settings, seed)
        result = train_darts_model(model, train, val, settings, limits, callbacks=callbacks)
        model.to(self.device)
        result["final_metrics"] = score_models({"model": model}, val, device=self.device, role="validation")["model"]
        self.training_history.append(result)
        return result

    @usual_torch()
    def train_final_model(
        self,
        model: nn.Module,
        train_loader: Any,
        val_loader: Any,
        test_loader: Any,
        *,
        epochs: int = 100,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-5,
        patience: int = 20,
        loss_type: str = "huber",
        use_onecycle: bool = True,
        swa_start_ratio: float = 0.33,
        grad_clip_norm: float = 1.0,
        verbose: bool = True,
        use_amp: bool = True,
        gradient_accumulation_steps: int = 1,
        use_swa: bool = False,
        swa_start: int = 75,
        swa_lr: float = 5e-4,
        compute_final_metrics: bool = True,
        config: FinalTrainConfig | None = None,
        seed: int = 0,
        max_train_batches: int | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[str, Any]:
        """Train a network with early stopping, restore its best weights, and read the test set once.

        Returns:
            The documented dictionary: ``model, train_losses, val_losses, test_loss, training_time, final_metrics,
            training_info``. ``test_loss`` is the MSE. With ``compute_final_metrics=False`` the test set is not read,
            and neither ``final_metrics`` nor ``test_loss`` is there.
        """
        given = _given(self.train_final_model, locals())
        warn_keywords("train_final_model", given)
        folded = fold_keywords(
            "train_final_model", given, _config_of(config, FinalTrainConfig) or _part(self.config, "final"),
            _defaults(self.train_final_model),
        )  # fmt: skip
        settings = FinalTrainConfig(**_only(FinalTrainConfig, folded))
        limits = self._limits(train_loader, seed, max_train_batches, None, settings.use_amp)
        train, val, test = self._sources(train=train_loader, validation=val_loader, test=test_loader)
        result = train_final_model(model, train, val, settings, limits, callbacks=callbacks, verbose=verbose)
        if compute_final_metrics:
            result["final_metrics"] = score_models({"model": model}, test, device=self.device)["model"]
            result["test_loss"] = result["final_metrics"]["mse"]
        self.training_history.append(result)
        return result

    @usual_torch()
    def multi_fidelity_search(
        self,
        train_loader: Any,
        val_loader: Any,
        test_loader: Any,
        *,
        num_candidates: int = 10,
        search_epochs: int = 10,
        final_epochs: int = 100,
        max_samples: int = 32,
        top_k: int = 5,
        max_workers: int | None = None,
        collect_stats: bool = False,
        parallelism_levels: Sequence[int] | None = None,
        stats_dir: str = "search_stats",
        run_name: str | None = None,
        retrain_final_from_scratch: bool = True,
        discrete_arch_threshold: float = 0.3,
        use_amp: bool = True,
        seed: int = 0,
        run_dir: str | Path | None = None,
        resume: bool = False,
        keep_models: bool = False,
        cell_range: tuple[int, int] | None = None,
        node_range: tuple[int, int] | None = None,
        min_ops: int | None = None,
        max_ops: int | None = None,
        max_train_batches: int | None = None,
        max_val_batches: int | None = None,
        rank_method: str = RANK_METHOD,
        trial_steps: int = 100,
        finalists: int = 2,
        derive: str | DeriveSettings = "argmax",
        duel: bool = True,
        baseline: str | None = None,
        best_preset: bool = False,
        final_threads: int = 1,
        final_max_train_batches: int | None = None,
        seasonal_period: int | None = None,
        scaler: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        space: Mapping[str, Any] | None = None,
        config: MultiFidelitySearchConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Sample, screen, search, derive and retrain; return the documented dictionary with all scores.

        Args:
            train_loader: ``DataLoader`` (or window source) of ``x [B, L, C]``, ``y [B, H, C]`` and perhaps
                ``x_future [B, H, F]``.
            val_loader: the same for validation: every choice is made on it.
            test_loader: the same for the test; read once, at the very end.
            num_candidates: candidates to sample.
            search_epochs: epochs of the last rung.
            final_epochs: epochs of the final training.
            max_samples: windows for the zero-cost metrics (at least 64 are used).
            top_k: candidates that are searched.
            max_workers: worker processes; None runs here. The result is the same.
            collect_stats: write where the time went to ``stats_dir``, and add ``stats`` to the result.
            parallelism_levels: numbers of workers whose wall time is estimated; None means 1, 2, 4, 8 and all cores.
            stats_dir: folder of the statistics; each run has a folder of its own in it, ``stats_dir`` of the result.
            run_name: name of that folder; None makes one from the time.
            retrain_final_from_scratch: fresh weights for the final training; else those that the search found.
            discrete_arch_threshold: probability from which a choice counts as clear.
            use_amp: autocast to bfloat16 on CUDA.
            seed: decides candidates, weights and batches.
            run_dir: folder for the run; None writes nothing. One that holds a search already is refused.
            resume: go on with the search in ``run_dir``, from its last finished task or epoch to the result that it
                would have had; begin it if there is none. Another search, one with other settings or data, is refused.
            keep_models: put live networks into the result.
            cell_range: least and most cells; None means (1, 2).
            node_range: least and most nodes; None means (3, 4).
            min_ops: fewest ops of a candidate.
            max_ops: most ops of a candidate.
            max_train_batches: weight batches in a search epoch.
            max_val_batches: validation batches in a search epoch.
            rank_method: how the ranks of a candidate over the zero-cost metrics are joined: ``log_rank``, which
                orders the networks of TSNAS better (docs/tsnas.md: 0.82 and 0.80), or ``vote`` (0.77 and 0.74).
            trial_steps: steps of a short training that orders the better half (by zero-cost rank) of the candidates
                before ``top_k`` of them are searched; 0 leaves that to the zero-cost rank.
            finalists: survivors of the search that are retrained; the final model may join them.
            derive: how a searched network becomes one architecture: ``argmax`` (what the alphas point to), ``perturb``
                (what the network misses most, raced against ``argmax`` on validation), or a
                ``training.select.DeriveSettings`` with tuning steps, random rivals and the diversity rule.
            duel: retrain the architecture found only if ``trial_steps`` of training go better than with the operations
                drawn by chance, which are retrained otherwise; needs trials and ``retrain_final_from_scratch``.
            baseline: a rival search of the same space that gets as many training steps, for ``search_baseline`` of the
                result: ``random`` (with successive halving), ``random_ws`` (random paths of networks with shared
                weights) or ``evolution``; None for none.
            best_preset: retrain the best preset as it was drawn, unsearched, for ``best_preset`` of the result.
            final_threads: torch threads of each final training.
            final_max_train_batches: batches in an epoch of the final training.
            seasonal_period: steps of the seasonal naive baseline.
            scaler: plain description of the data, saved beside the model; with ``prepared.recipe.to_dict()`` the run
                can forecast in original units.
            callbacks: receive every event.
            space: further limits of the space: ``channel_modes``, ``series_norms``, ``heads``, ``patch_lens``,
                ``presets``.
            config: a ``MultiFidelitySearchConfig``.
            kwargs: fields of ``MultiFidelitySearchConfig`` and ``DARTSTrainConfig`` (except ``epochs``: that is
                ``search_epochs``), and ``final_learning_rate``, ``final_loss_type``, ``final_patience``,
                ``final_weight_decay``.

        Raises:
            TypeError: an unknown keyword; the nearest one is named.
            InvalidArgument, DataError, SearchFailed: see their messages.
        """
        given = _given(self.multi_fidelity_search, locals())
        allowed = {*_names(MultiFidelitySearchConfig), *_names(DARTSTrainConfig), *_SEARCH_EXTRAS} - {"epochs"}
        check_keywords("multi_fidelity_search", kwargs, allowed)
        check_keywords("space", space or {}, _SPACE_NAMES)
        if scaler is not None and not isinstance(scaler, Mapping):
            raise InvalidArgument(f"scaler is a {type(scaler).__name__}; it must be a dictionary, as recipe.to_dict().")
        search = self._search_config({**given, **kwargs}, config)
        train_given = {k: v for k, v in kwargs.items() if k in _names(DARTSTrainConfig)}
        train = self._train_config(train_given, None)
        # True is the default, against which a configuration may have a word.
        train = replace(train, use_amp=use_amp and (self.config is None or train.use_amp))
        settings = SearchSettings(
            space=self.space(
                cell_range=cell_range, node_range=node_range, min_ops=min_ops,
                max_ops=max_ops, **(space or {}),
            ),
            search=search,
            train=train,
            final=self._final_config(kwargs, use_amp),
            limits=self._limits(train_loader, seed, max_train_batches, max_val_batches, train.use_amp),
            rank_method=rank_method,
            trial_steps=trial_steps,
            finalists=finalists,
            derive=derive if isinstance(derive, DeriveSettings) else DeriveSettings(derive),
            duel=duel,
            baseline=baseline,
            best_preset=best_preset,
            final_threads=final_threads,
            final_max_train_batches=final_max_train_batches,
            keep_models=keep_models,
            run_dir=None if run_dir is None else Path(run_dir),
            resume=resume,
            seasonal_period=seasonal_period,
            scaler=None if scaler is None else dict(scaler),
            callbacks=callbacks,
        )  # fmt: skip
        return self._run(train_loader, val_loader, test_loader, settings)

    def multi_fidelity_search_with_stats(
        self, train_loader: Any, val_loader: Any, test_loader: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Call ``multi_fidelity_search`` with ``collect_stats=True`` unless said otherwise."""
        return self.multi_fidelity_search(train_loader, val_loader, test_loader, **{"collect_stats": True, **kwargs})

    # ---- studies -------------------------------------------------------------------------------------------------

    @usual_torch()
    def bilevel_lr_sensitivity(
        self,
        model_factory: Callable[[], nn.Module],
        train_loader: Any,
        val_loader: Any,
        *,
        model_lrs: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3),
        arch_lrs: Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2),
        seeds: Sequence[int] = (0, 1, 2),
        epochs: int = 30,
        save_csv_path: str | None = None,
        max_workers: int | None = None,
        max_train_batches: int | None = None,
        max_val_batches: int | None = None,
    ) -> Any:
        """Search the model of ``model_factory()`` under every combination of rates and seeds.

        Returns:
            A ``pandas.DataFrame`` with one row a run: ``model_lr, arch_lr, seed, best_val_loss_mixed,
            val_loss_derived, train_time_s, health_score, avg_identity_dominance``.
        """
        settings = replace(self._train_config({}, None), epochs=epochs)
        train, val = self._sources(train=train_loader, validation=val_loader)
        return bilevel_lr_sensitivity(
            model_factory, train, val, RateGrid(model_lrs, arch_lrs, seeds), settings,
            self._limits(train_loader, 0, max_train_batches, max_val_batches, settings.use_amp),
            max_workers=max_workers, save_csv_path=save_csv_path,
        )  # fmt: skip

    @usual_torch()
    def ablation_weight_search(
        self,
        train_loader: Any,
        val_loader: Any,
        test_loader: Any = None,
        *,
        num_candidates: int = 30,
        max_samples: int = 32,
        num_batches: int = 1,
        n_random: int = 50,
        random_sigma: float = 0.25,
        top_k: int = 5,
        seed: int = 0,
        max_workers: int | None = None,
        save_plots: bool = True,
        save_csv: bool = True,
        output_dir: str = "ablation_results",
        run_id: str | None = None,
        cell_range: tuple[int, int] = (1, 2),
        node_range: tuple[int, int] = (2, 4),
        min_ops: int = 2,
        max_ops: int | None = None,
        require_identity: bool = True,
    ) -> dict[str, Any]:
        """Rank the same candidates under many weight schemes; each is evaluated once, on training windows.

        ``val_loader`` and ``test_loader`` are accepted and not read. Pictures and tables go into ``output_dir``, or
        into its folder ``run_id``.

        Returns:
            The documented dictionary: ``candidates, scheme_names, schemes, score_matrix, rank_matrix, tables,
            random_analysis, artifacts, config``.
        """
        stored = _part(self.config, "ablation")
        folded = _folded(self.ablation_weight_search, locals(), _part(self.config, "space"), stored)
        if stored is not None and output_dir == "ablation_results":
            folded["output_dir"] = stored.save_dir
        folder = Path(folded["output_dir"], *([] if run_id is None else [run_id]))
        config = replace(
            stored or AblationSearchConfig(), **{**_only(AblationSearchConfig, folded), "save_dir": str(folder)}
        )
        (train,) = self._sources(train=train_loader)
        return ablation_weight_search(
            train, self.space(layout_of(train), **_only(DARTSSearchSpaceConfig, folded)), config,
            device=self.device, save_plots=save_plots, save_csv=save_csv,
        )  # fmt: skip

    @usual_torch()
    def robust_initial_pool_over_op_pools(
        self,
        *,
        val_loader: Any,
        n_pools: int = 25,
        pool_size_range: tuple[int, int] = (4, 10),
        pool_seed: int = 0,
        num_candidates: int = 30,
        top_k: int = 10,
        max_samples: int = 32,
        num_batches: int = 1,
        seed: int = 0,
        max_workers: int | None = None,
        use_weight_schemes: bool = False,
        n_random: int = 50,
        random_sigma: float = 0.25,
        robustness_mode: str = "topk_freq",
        topk_ref: int | None = None,
        min_ops: int = 2,
        max_ops: int | None = None,
        cell_range: tuple[int, int] = (1, 2),
        node_range: tuple[int, int] = (2, 4),
        hidden_dim_choices: list[int] | None = None,
        require_identity: bool = True,
    ) -> dict[str, Any]:
        """Rank candidates inside many random pools of ops and return those that are near the top of many.

        Returns:
            The documented dictionary: ``selected, robustness_table, pool_results, op_pools, config``.
        """
        stored = _part(self.config, "robust_pool")
        folded = _folded(self.robust_initial_pool_over_op_pools, locals(), stored)
        config = RobustPoolSearchConfig(**_only(RobustPoolSearchConfig, folded))
        (windows,) = self._sources(validation=val_loader)
        space = self.space(
            layout_of(windows), hidden_dims=config.hidden_dim_choices, **_only(DARTSSearchSpaceConfig, folded)
        )
        return robust_initial_pool_over_op_pools(windows, space, config, device=self.device)

    # ---- figures -------------------------------------------------------------------------------------------------

    def plot_alpha_evolution(
        self,
        alpha_values: list[Any],
        save_path: str | None = "alpha_evolution.png",
        *,
        choices: Mapping[str, Sequence[str]] | None = None,
    ) -> Any:
        """Plot the ``alpha_values`` of ``train_darts_model``, save the figure to ``save_path`` and return it.

        Ops are named by ``choices`` (``alpha_choices`` of a result), else by the training of this trainer that the
        traces come from. More in ``evaluation.plotting.plot_alpha_evolution``.
        """
        own = (r["alpha_choices"] for r in self.training_history if r.get("alpha_values") is alpha_values)
        return plotting.plot_alpha_evolution(alpha_values, save_path=save_path, choices=choices or next(own, None))

    def plot_prediction(
        self,
        X_val: torch.Tensor,
        y_val: torch.Tensor,
        *,
        full_series: Any = None,
        offset: int = 0,
        figsize: Any = (14, 8),
        show: bool = True,
        device: str | None = None,
        names: Any = None,
        batch_size: int = 256,
        save_path: str | None = None,
        x_future: torch.Tensor | None = None,
    ) -> Any:
        """Plot the forecasts of ``final_model`` over consecutive windows, show the figure and return it.

        Arguments and errors as in ``evaluation.plotting.plot_prediction``; ``device=None`` is the trainer's.

        Raises:
            InvalidArgument: there is no ``final_model`` yet.
        """
        if self.final_model is None:
            raise InvalidArgument("plot_prediction() needs a final_model: run a search or load_model() first.")
        return plotting.plot_prediction(
            self.final_model, X_val, y_val, full_series=full_series, offset=offset, figsize=figsize, show=show,
            device=device or self.device, names=names, batch_size=batch_size, save_path=save_path,
            x_future=x_future,
        )  # fmt: skip

    # ---- what is kept --------------------------------------------------------------------------------------------

    def get_search_summary(self) -> str:
        """Return what each search tried and found, and whether it beat the baselines."""
        return report.summarise_searches(self.search_history)

    def get_training_summary(self) -> str:
        """Return the epochs, the best validation loss, the test error and the time of each training."""
        return report.summarise_trainings(self.training_history)

    def save_best_model(self, filepath: str = "best_darts_model.pth") -> None:
        """Save the model of the search with the lowest validation loss; ``load_model`` brings it back.

        Raises:
            InvalidArgument: no search has finished.
        """
        if not self.search_history:
            raise InvalidArgument("save_best_model() needs a finished multi_fidelity_search().")
        best = min(self.search_history, key=lambda r: r["final_results"]["training_info"]["best_val_loss"])
        results = best["final_results"]
        checkpoint.save_model(
            best["final_model"], filepath, final_metrics=results["final_metrics"],
            training_info=results["training_info"], search_config=best["search_config"],
        )  # fmt: skip

    def load_model(self, filepath: str, model_class: Any = None) -> dict[str, Any]:
        """Load a file of ``save_best_model``, set ``final_model`` to the working model, and return the file's content.

        Args:
            filepath: the file.
            model_class: accepted for old scripts; the file says what to build.

        Returns:
            The checkpoint with one more key, ``model``: the working model in eval mode.

        Raises:
            DataError: the file is no checkpoint, or holds no architecture.
            InvalidArgument: the model was made for another ``input_dim``, ``seq_length`` or ``forecast_horizon`` than
                this trainer.
        """
        content = checkpoint.load_model_checkpoint(filepath, device=self.device)
        model = checkpoint.rebuild_model(content, self.device)
        wanted = {n: getattr(self, n) for n in ("input_dim", "seq_length", "forecast_horizon")}
        checkpoint.check_sizes(model, filepath, wanted)
        self.final_model = model
        return {**content, "model": model}

    # ---- folding -------------------------------------------------------------------------------------------------

    def _run(self, train: Any, val: Any, test: Any, settings: SearchSettings) -> dict[str, Any]:
        progress = self.partial_search = Progress()
        train, val, test = self._sources(train=train, validation=val, test=test)
        settings = replace(settings, space=replace(settings.space, **layout_of(train)._asdict()))
        try:
            result = run_multi_fidelity_search(train, val, test, settings, progress=progress)
        except KeyboardInterrupt:
            logger.warning("interrupted; what is finished is in trainer.partial_search and in the run folder.")
            raise
        self.partial_search = None
        self.search_history.append(result)
        self.training_history.append(result["final_results"])
        self.final_model = result["final_model"]
        return result

    def _sources(self, **loaders: Any) -> list[WindowSource]:
        """Return the window sources of loaders by role; the first says how many covariates the others must have."""
        return check_sources(
            loaders, input_dim=self.input_dim, seq_length=self.seq_length, horizon=self.forecast_horizon,
            layout=Layout(self.future_dim, self.target_channels),
        )  # fmt: skip

    def _limits(
        self, loader: Any, seed: int, train_batches: int | None, val_batches: int | None, amp: bool
    ) -> LoopLimits:
        check_int("seed", seed)
        for name, batches in (("max_train_batches", train_batches), ("max_val_batches", val_batches)):
            if batches is not None:
                check_int(name, batches, low=1)
        return LoopLimits(
            batch_size=loader_batch_size(loader), seed=seed, max_train_batches=train_batches,
            max_val_batches=val_batches, device=torch.device(self.device), use_amp=amp,
        )  # fmt: skip

    def _train_config(self, given: dict[str, Any], config: DARTSTrainConfig | None) -> DARTSTrainConfig:
        warn_keywords("train_darts_model", given)
        stored = _config_of(config, DARTSTrainConfig) or _part(self.config, "train")
        folded = fold_keywords("train_darts_model", given, stored, _defaults(self.train_darts_model))
        if not folded.get("use_regularization", True):
            off = ("edge_diversity_weight", "edge_usage_balance_weight", "edge_identity_cap_weight")
            folded.update(dict.fromkeys((*off, "edge_sharpening_max_weight", "beta_darts_weight"), 0.0))
            folded.update(regularization_types=[], regularization_weights=None)
        return DARTSTrainConfig(**_only(DARTSTrainConfig, folded))

    def _final_config(self, given: Mapping[str, Any], use_amp: bool) -> FinalTrainConfig:
        base = _part(self.config, "final") or FinalTrainConfig(patience=20)
        named = {name.removeprefix("final_"): given[name] for name in _SEARCH_EXTRAS[:4] if name in given}
        return replace(base, use_amp=use_amp and base.use_amp, **named)

    def _search_config(
        self, given: Mapping[str, Any], config: MultiFidelitySearchConfig | None
    ) -> MultiFidelitySearchConfig:
        stored = _config_of(config, MultiFidelitySearchConfig) or _part(self.config, "search")
        defaults = _defaults(self.multi_fidelity_search)
        names = _names(MultiFidelitySearchConfig)
        folded = fold_keywords(
            "multi_fidelity_search", {k: v for k, v in given.items() if k in names}, stored,
            {k: v for k, v in defaults.items() if k in names},
        )  # fmt: skip
        base = stored or MultiFidelitySearchConfig()
        return replace(base, **folded)


def _defaults(method: Any) -> dict[str, Any]:
    """Return the keyword-only parameters of a documented method with their defaults, without ours."""
    ours = ("config", "seed", "max_train_batches", "max_val_batches", "callbacks")
    return {name: default for name, default in keywords_with_defaults(method).items() if name not in ours}


def _folded(method: Any, scope: Mapping[str, Any], *parts: Any) -> dict[str, Any]:
    """Fold every parameter that has a default (a seed is one) with parts of the configuration, last wins."""
    defaults = keywords_with_defaults(method)
    given = {name: scope[name] for name in defaults}
    warn_keywords(method.__name__, given)
    stored = {name: value for part in parts if part is not None for name, value in vars(part).items()}
    return fold_keywords(method.__name__, given, SimpleNamespace(**stored), defaults)


def _given(method: Any, scope: Mapping[str, Any]) -> dict[str, Any]:
    return {name: scope[name] for name in _defaults(method)}


def _names(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]


def _only(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = _names(cls)
    return {name: value for name, value in values.items() if name in names}


def _config_of(config: Any, kind: type) -> Any:
    """Return ``config`` if it is None or of ``kind``: fields of another would be looked up in vain, without a word."""
    if config is not None and not isinstance(config, kind):
        raise InvalidArgument(f"config is a {type(config).__name__}; it must be a {kind.__name__}.")
    return config


def _part(config: DARTSConfig | None, name: str) -> Any:
    return None if config is None else getattr(config, name)
