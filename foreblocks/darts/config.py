"""The public configuration: one dataclass for each phase, and the default search space.

Standard library only, so that ``--help`` and a configuration file cost no import of torch. Every dataclass reads and
writes plain dictionaries (``from_dict``, ``to_dict``) that survive a round trip through JSON; an unknown key raises.
The meaning of a field stands beside it, after ``#:``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from ._core.errors import InvalidArgument, check_choice, check_int, check_list, check_real
from ._core.plain_config import PlainConfig

DEFAULT_ARCH_MODES: list[str] = ["encoder_decoder", "encoder_only", "decoder_only", "mamba"]
DEFAULT_OP_FAMILIES: dict[str, list[str]] = {
    "conv": ["TimeConv", "TCN", "ConvMixer", "MultiScaleConv", "PyramidConv"],
    "frequency": ["Wavelet", "Fourier", "DLinear", "TimesNet"],
    "attention": ["PatchEmbed", "InvertedAttention"],
    "mlp": ["GRN", "ResidualMLP", "TimeMixer", "NBeats"],
}
DEFAULT_OPS: list[str] = [
    *("Identity", "TimeConv", "GRN", "Wavelet", "Fourier", "TCN", "ResidualMLP", "ConvMixer", "MultiScaleConv"),
    *("PyramidConv", "PatchEmbed", "InvertedAttention", "DLinear", "TimeMixer", "NBeats", "TimesNet"),
]
DEFAULT_ATTENTION_VARIANTS: list[str] = ["auto"]
DEFAULT_FFN_VARIANTS: list[str] = ["auto"]

RELAXATIONS = ("softmax", "gdas", "drnas", "pc", "fair")
PERTURBATIONS = ("none", "random", "adversarial")
COMPILE_MODES = ("none", "edge")
ALPHA_INITS = ("noise", "zero_cost")
SEARCH_BASELINES = ("random", "random_ws", "evolution")
IMPUTE_METHODS = ("linear", "ffill")
DECIMAL_MARKS = (".", ",")
TEMPERATURE_SCHEDULES = ("cosine", "exponential", "linear", "step", "constant")
PRUNING_STRATEGIES = ("performance", "probability", "gradient", "entropy")
RESCORE_MODES = ("pool", "fixed")
ROBUSTNESS_MODES = ("topk_freq", "avg_rank", "worst_rank", "spearman")


def chosen_relaxation(use_gdas: bool, relaxation: str | None) -> str | None:
    """Return the relaxation that two keywords ask for; None when neither does.

    Raises:
        InvalidArgument: an unknown name, or the keywords contradict each other.
    """
    if relaxation is not None:
        check_choice("relaxation", relaxation, RELAXATIONS)
    if use_gdas and relaxation not in (None, "gdas"):
        raise InvalidArgument(f"use_gdas=True means relaxation='gdas', but relaxation={relaxation!r} is given as well.")
    return "gdas" if use_gdas else relaxation


def _default_families() -> dict[str, list[str]]:
    return {family: list(ops) for family, ops in DEFAULT_OP_FAMILIES.items()}


@dataclass
class DARTSSearchSpaceConfig(PlainConfig):
    """What a candidate may be made of."""

    all_ops: list[str] = field(default_factory=DEFAULT_OPS.copy)  #: ops that may be drawn
    arch_modes: list[str] = field(default_factory=DEFAULT_ARCH_MODES.copy)  #: sequence parts that may be drawn
    #: family name to its ops; a candidate draws families first, then ops inside them
    op_families: dict[str, list[str]] = field(default_factory=_default_families)
    hidden_dims: list[int] = field(default_factory=lambda: [32, 64, 128])  #: choices of the width D
    cell_range: tuple[int, int] = (1, 2)  #: fewest and most stacked cells
    node_range: tuple[int, int] = (2, 4)  #: fewest and most nodes of a cell (at least 2)
    family_range: tuple[int, int] = (1, 3)  #: fewest and most families of a candidate
    min_ops: int = 2  #: fewest ops of a candidate, Identity included
    max_ops: int | None = None  #: most ops of a candidate; None means all
    require_identity: bool = True  #: Identity is always an op of the candidate, and the first
    edge_to_op_target: float = 1.0  #: wanted edges per op that is not Identity, when the number of nodes is drawn
    edge_to_op_max_ratio: float = 1.8  #: upper bound of that ratio
    #: attention kernels that may be drawn: ``sdp``, ``linear``, ``probsparse``, ``cosine``, ``local``; ``auto`` is all
    attention_variants: list[str] = field(default_factory=DEFAULT_ATTENTION_VARIANTS.copy)
    #: feed-forward blocks that may be drawn: ``swiglu``, ``moe``; ``auto`` is all
    ffn_variants: list[str] = field(default_factory=DEFAULT_FFN_VARIANTS.copy)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lists("all_ops", "arch_modes", "attention_variants", "ffn_variants", of=str)
        self._lists("hidden_dims", of=int)
        for mode in self.arch_modes:
            check_choice("arch_modes", mode, DEFAULT_ARCH_MODES)
        for width in self.hidden_dims:
            check_int("hidden_dims", width, low=1)
        self._ranges("cell_range", "family_range", low=1)
        self._ranges("node_range", low=2)
        self._ints("min_ops", low=1)
        self._ints("max_ops", low=self.min_ops, optional=True)
        self._reals("edge_to_op_target", "edge_to_op_max_ratio", low=0.0)


@dataclass
class DARTSTrainConfig(PlainConfig):
    """The bilevel training of one candidate; ``_core.keywords`` says which fields have no effect, and why."""

    epochs: int = 50  #: epochs of the search
    arch_learning_rate: float = 1e-2  #: Adam rate of the alphas
    model_learning_rate: float = 1e-3  #: peak rate of the weights
    arch_weight_decay: float = 1e-3  #: L2 penalty of the alphas
    model_weight_decay: float = 1e-4  #: decoupled weight decay (AdamW) of the weights
    patience: int = 10  #: epochs without a better validation loss before the search stops
    loss_type: str = "huber"  #: ``huber``, ``mse``, ``mae``, ``smooth_l1``, or a registered loss
    use_swa: bool = False  #: average the late half of the epochs, and keep the average if it validates better
    warmup_epochs: int = 2  #: epochs that train the weights only
    architecture_update_freq: int = 3  #: an alpha step follows every so many weight steps
    diversity_check_freq: int = 1  #: has no effect
    progressive_shrinking: bool = True  #: drop weak ops while searching
    hybrid_pruning_start_epoch: int = 20  #: ops are dropped after this epoch
    hybrid_pruning_interval: int = 10  #: epochs between two prunings
    #: share of an edge's best op below which an op is dropped at the end of the search, in [0, 1]
    hybrid_pruning_base_threshold: float = 0.15
    hybrid_pruning_strategy: str = "performance"  #: what "weak" means, out of ``PRUNING_STRATEGIES``
    hybrid_pruning_freeze_logit: float = -20.0  #: has no effect
    use_bilevel_optimization: bool = True  #: train weights and alphas on separate blocks of the training rows
    use_amp: bool = True  #: mixed precision, on CUDA only
    gradient_accumulation_steps: int = 1  #: batches per weight step
    verbose: bool = True  #: log progress at INFO
    #: penalties of the alphas beside those of the edges; None means the one that belongs to the relaxation, if any
    regularization_types: list[str] | None = None
    regularization_weights: list[float] | None = None  #: their weights, at least 0; None means 0.01 each
    temperature_schedule: str = "cosine"  #: how the softmax temperature falls, out of ``TEMPERATURE_SCHEDULES``
    edge_sharpening_max_weight: float = 0.03  #: weight of the entropy penalty at the end of the search
    edge_sharpening_start_frac: float = 0.35  #: share of the epochs after which that penalty ramps up, in [0, 1]
    #: weight of the second-order term of the alpha gradient: 1 is that of one unrolled step, 0 is first order
    hessian_penalty_weight: float = 0.0
    hessian_fd_eps: float = 1e-2  #: length of the step of its finite difference; 0 computes the term exactly
    hessian_update_freq: int = 1  #: epochs from one that uses the term to the next
    bilevel_split_seed: int = 42  #: seed of the split into weight rows and alpha rows
    state_mix_ortho_reg_weight: float = 1e-3  #: has no effect
    edge_diversity_weight: float = 0.03  #: penalty of edges that choose alike
    edge_usage_balance_weight: float = 0.04  #: penalty of an unbalanced use of the ops
    edge_identity_cap: float = 0.45  #: mean probability of Identity that is free of charge, in [0, 1]
    edge_identity_cap_weight: float = 0.02  #: penalty of what lies above that cap
    arch_grad_ema_beta: float = 0.0  #: decay of the running mean of the alpha gradients, in [0, 1); 0 is off
    beta_darts_weight: float = 0.0  #: penalty of large logits
    use_gdas: bool = False  #: run one sampled op per edge instead of the mixture: ``relaxation="gdas"``
    moe_balance_weight: float = 0.005  #: penalty of unbalanced experts
    transformer_exploration_weight: float = 0.01  #: has no effect
    relaxation: str | None = None  #: how logits become weights, out of ``RELAXATIONS``; None keeps that of the model
    perturbation: str = "none"  #: noise on the alphas in weight steps, out of ``PERTURBATIONS``
    perturbation_radius: float = 0.3  #: its largest size, reached at the end of the search
    perturbation_steps: int = 7  #: ascent steps of the adversarial one, each a forward and backward pass
    #: ``edge`` runs mixtures by ``torch.compile``: slower on the CPU that was measured, see ``docs/kernels.md``
    compile: str = "none"
    #: growth of the curvature of the alphas from which they go back and stop, if they turn to Identity; None: never
    collapse_growth: float | None = 1.3
    alpha_init: str = "noise"  #: where the alphas start, out of ``ALPHA_INITS``
    collapse_every: int | None = None  #: alpha steps between two looks at it; None means 16 looks or fewer, 0 none

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ints("epochs", "patience", "architecture_update_freq", "gradient_accumulation_steps", low=1)
        self._ints("hybrid_pruning_interval", "hessian_update_freq", "perturbation_steps", low=1)
        self._ints("warmup_epochs", "hybrid_pruning_start_epoch", low=0)
        self._reals("arch_learning_rate", "model_learning_rate", "arch_weight_decay", "model_weight_decay", low=0.0)
        self._reals("edge_diversity_weight", "edge_usage_balance_weight", "edge_identity_cap_weight", low=0.0)
        self._reals("hessian_penalty_weight", "hessian_fd_eps", "beta_darts_weight", "moe_balance_weight", low=0.0)
        self._reals("edge_sharpening_max_weight", low=0.0)
        if self.regularization_weights is not None:
            weights = enumerate(check_list("regularization_weights", self.regularization_weights))
            self.regularization_weights = [check_real(f"regularization_weights[{i}]", w, low=0.0) for i, w in weights]
        self._reals("edge_sharpening_start_frac", "edge_identity_cap", "arch_grad_ema_beta", low=0.0, high=1.0)
        self._reals("hybrid_pruning_base_threshold", low=0.0, high=1.0)
        self._reals("perturbation_radius", low=0.0)
        check_choice("perturbation", self.perturbation, PERTURBATIONS)
        check_choice("compile", self.compile, COMPILE_MODES)
        check_choice("alpha_init", self.alpha_init, ALPHA_INITS)
        chosen_relaxation(self.use_gdas, self.relaxation)
        self._ints("collapse_every", low=0, optional=True)
        if self.collapse_growth is not None:
            check_real("collapse_growth", self.collapse_growth, low=1.0)
        check_choice("temperature_schedule", self.temperature_schedule, TEMPERATURE_SCHEDULES)
        check_choice("hybrid_pruning_strategy", self.hybrid_pruning_strategy, PRUNING_STRATEGIES)

    @property
    def chosen_relaxation(self) -> str | None:
        """The relaxation that ``use_gdas`` and ``relaxation`` ask for; None keeps that of the model."""
        return chosen_relaxation(self.use_gdas, self.relaxation)


@dataclass
class FinalTrainConfig(PlainConfig):
    """The training of the derived network."""

    epochs: int = 100  #: most epochs
    learning_rate: float = 1e-3  #: peak rate
    weight_decay: float = 1e-5  #: decoupled weight decay (AdamW)
    patience: int = 50  #: epochs without a better validation loss before training stops
    loss_type: str = "huber"  #: ``huber``, ``mse``, ``mae``, ``smooth_l1``, or a registered loss
    use_onecycle: bool = True  #: OneCycle schedule; else cosine
    swa_start_ratio: float = 0.33  #: share of the epochs after which weights are averaged, in [0, 1]
    grad_clip_norm: float = 1.0  #: largest norm of the gradient, above 0
    use_amp: bool = True  #: mixed precision, on CUDA only

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ints("epochs", "patience", low=1)
        self._reals("learning_rate", "weight_decay", "grad_clip_norm", low=0.0)
        if self.grad_clip_norm == 0.0:
            raise InvalidArgument("grad_clip_norm=0 leaves nothing of a gradient; for no clipping take a large number.")
        self._reals("swa_start_ratio", low=0.0, high=1.0)


@dataclass
class MultiFidelitySearchConfig(PlainConfig):
    """The staged search."""

    num_candidates: int = 10  #: candidates that are drawn and screened
    search_epochs: int = 10  #: epochs of the last rung
    final_epochs: int = 100  #: epochs of the final training
    max_samples: int = 32  #: windows that the zero-cost metrics see
    top_k: int = 5  #: candidates that are promoted to training
    max_workers: int | None = None  #: worker processes; None works in this process
    collect_stats: bool = False  #: write timing tables
    #: numbers of workers for which wall times are estimated; None means 1, 2, 4, 8 and all
    parallelism_levels: list[int] | None = None
    est_overhead_per_task: float = 0.0  #: seconds added to every task in those estimates
    est_fixed_overhead_phase1: float = 0.0  #: seconds added once for the screening
    est_fixed_overhead_phase3: float = 0.0  #: seconds added once for the training
    benchmark_phase1_workers: list[int] | None = None  #: numbers of workers with which the screening is timed
    benchmark_phase1_candidates: int | None = None  #: candidates in that timing; None means at most 20
    stats_dir: str = "search_stats"  #: folder of the tables
    run_name: str | None = None  #: sub-folder; None makes one from the time
    retrain_final_from_scratch: bool = True  #: fresh weights for the final training
    discrete_arch_threshold: float = 0.3  #: weight from which a choice counts as clear in the report, in [0, 1]
    phase1_rescore_mode: str = "pool"  #: how scores are made comparable, out of ``RESCORE_MODES``
    phase3_reduction_factor: int = 2  #: one in so many candidates survives a rung (at least 2)
    phase3_min_epoch_budget: int = 2  #: epochs of the first rung
    phase3_rung_epochs: list[int] | None = None  #: the rungs, in place of a geometric series

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ints("num_candidates", "search_epochs", "final_epochs", "max_samples", "top_k", low=1)
        self._ints("max_workers", "benchmark_phase1_candidates", low=1, optional=True)
        self._ints("phase3_min_epoch_budget", low=1)
        self._ints("phase3_reduction_factor", low=2)
        self._lists("parallelism_levels", "benchmark_phase1_workers", "phase3_rung_epochs", of=int, optional=True)
        self._reals("est_overhead_per_task", "est_fixed_overhead_phase1", "est_fixed_overhead_phase3", low=0.0)
        self._reals("discrete_arch_threshold", low=0.0, high=1.0)
        check_choice("phase1_rescore_mode", self.phase1_rescore_mode, RESCORE_MODES)


#: What a search of minutes on a laptop is told, as keywords of ``multi_fidelity_search``: the defaults of the command
#: line and of ``DARTSForecaster``. The defaults of the method itself are the documented ones, of hours.
EVERYDAY_SEARCH: Mapping[str, Any] = MappingProxyType({
    "num_candidates": 8, "top_k": 3, "trial_steps": 100, "finalists": 3, "search_epochs": 3, "final_epochs": 6,
    "final_patience": 4, "max_train_batches": 40, "max_val_batches": 40, "final_max_train_batches": 300,
    "loss_type": "mse", "final_loss_type": "mse", "final_learning_rate": 1e-3,
})  # fmt: skip

# The documented name is misspelt; both names are the same class.
MultiFildelitySearchConfig = MultiFidelitySearchConfig


@dataclass
class AblationSearchConfig(PlainConfig):
    """The study of how much the ranking depends on the weights of the zero-cost metrics."""

    num_candidates: int = 20  #: candidates that are drawn
    max_samples: int = 32  #: windows that the metrics see
    num_batches: int = 1  #: batches that the metrics are averaged over
    top_k: int = 5  #: size of the compared tops
    max_workers: int | None = None  #: worker processes; None works in this process
    n_random: int = 50  #: random weight schemes
    random_sigma: float = 0.25  #: relative noise of their weights
    seed: int = 0  #: seed of candidates and schemes
    save_dir: str = "."  #: output folder
    save_prefix: str = "zc_weight_ablation"  #: start of the file names

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ints("num_candidates", "max_samples", "num_batches", "top_k", low=1)
        self._ints("max_workers", low=1, optional=True)
        self._ints("n_random", low=0)
        self._reals("random_sigma", low=0.0)


@dataclass
class RobustPoolSearchConfig(PlainConfig):
    """The search for candidates that stay good whatever subset of ops is allowed."""

    n_pools: int = 25  #: subsets of ops
    pool_size_range: tuple[int, int] = (4, 10)  #: fewest and most ops of a subset, Identity included
    pool_seed: int = 0  #: seed of the subsets
    num_candidates: int = 50  #: candidates per subset
    top_k: int = 10  #: candidates kept per subset and in the answer
    max_samples: int = 32  #: windows that the metrics see
    num_batches: int = 1  #: batches that the metrics are averaged over
    max_workers: int | None = None  #: worker processes; None works in this process
    seed: int = 0  #: seed of the candidates
    use_weight_schemes: bool = False  #: score under several weight schemes
    n_random: int = 0  #: random schemes among them
    random_sigma: float = 0.25  #: relative noise of their weights
    robustness_mode: str = "spearman"  #: how candidates are ordered, out of ``ROBUSTNESS_MODES``
    topk_ref: int | None = None  #: has no effect
    min_ops: int = 2  #: fewest ops of a candidate
    max_ops: int | None = None  #: most ops of a candidate; None means all
    cell_range: tuple[int, int] = (1, 2)  #: fewest and most stacked cells
    node_range: tuple[int, int] = (2, 4)  #: fewest and most nodes of a cell
    hidden_dim_choices: list[int] | None = None  #: choices of the width; None means those of the trainer
    require_identity: bool = True  #: Identity is always among the ops

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ints("n_pools", "num_candidates", "top_k", "max_samples", "num_batches", "min_ops", low=1)
        self._ints("max_workers", low=1, optional=True)
        self._ints("max_ops", low=self.min_ops, optional=True)
        self._ints("n_random", low=0)
        self._ranges("pool_size_range", "cell_range", low=1)
        self._ranges("node_range", low=2)
        self._reals("random_sigma", low=0.0)
        self._lists("hidden_dim_choices", of=int, optional=True)
        check_choice("robustness_mode", self.robustness_mode, ROBUSTNESS_MODES)


@dataclass
class DARTSConfig(PlainConfig):
    """Everything that a trainer needs to know; ``DARTSTrainer(config=DARTSConfig(...))``."""

    _nested: ClassVar[dict[str, type[PlainConfig]]] = {
        "space": DARTSSearchSpaceConfig,
        "train": DARTSTrainConfig,
        "final": FinalTrainConfig,
        "search": MultiFidelitySearchConfig,
        "ablation": AblationSearchConfig,
        "robust_pool": RobustPoolSearchConfig,
    }

    input_dim: int = 3  #: channels C
    forecast_horizon: int = 6  #: steps H that are forecast
    seq_length: int = 12  #: lookback L
    device: str = "auto"  #: a torch device, or ``auto`` for CUDA when there is one and the CPU otherwise
    space: DARTSSearchSpaceConfig = field(default_factory=DARTSSearchSpaceConfig)  #: what a candidate may be made of
    train: DARTSTrainConfig = field(default_factory=DARTSTrainConfig)  #: the bilevel training
    final: FinalTrainConfig = field(default_factory=FinalTrainConfig)  #: the final training
    search: MultiFildelitySearchConfig = field(default_factory=MultiFildelitySearchConfig)  #: the staged search
    ablation: AblationSearchConfig = field(default_factory=AblationSearchConfig)  #: the study of the weights
    robust_pool: RobustPoolSearchConfig = field(default_factory=RobustPoolSearchConfig)  #: the robust search

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ints("input_dim", "forecast_horizon", "seq_length", low=1)
        self.device = str(self.device)  # a torch.device is welcome, and to_dict stays plain
        for name, kind in self._nested.items():
            if not isinstance(getattr(self, name), kind):
                raise InvalidArgument(
                    f"{name}={getattr(self, name)!r} must be a {kind.__name__}; use from_dict for dictionaries."
                )

    def resolve_device(self) -> str:
        """Return the device as a string, with ``auto`` replaced by ``cuda`` or ``cpu``.

        Raises:
            InvalidArgument: the device is unknown or not there.
        """
        # Looked up by name: this module must not import torch, not even through another module.
        return str(importlib.import_module("._core.device", __package__).resolve_device(self.device))
