"""From a searched network to one architecture: rules that decide, equal tuning for all, and a race on validation.

Every contender starts from a copy of the searched network, which is made discrete step by step: the op of one edge
after another, then the inputs of one node after another, in the same random order for all; after each decision the
weights are tuned for some steps on the weight rows. Only the rule that decides differs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from .._core.errors import DivergedError, check_choice, check_int
from .._core.logging import get_logger
from .._core.seeding import generator, seeded
from .._core.types import WindowSource
from ..architecture.build import ForecastNetwork, build_network
from ..architecture.derive import (
    CellChoice,
    Choice,
    alpha_choice,
    derive_network,
    derived_path,
    searched_mixture,
    spec_of,
)
from ..architecture.network import TimeSeriesDARTS
from ..architecture.sequence import moe_balance_loss
from ..architecture.spec import ArchSpec
from ..config import DARTSTrainConfig
from ..data.batches import EVAL_BATCH
from ..data.sources import read_batch
from ..evaluation.losses import get_loss_function
from .adamw import ClippedAdamW
from .bilevel import check_searched
from .darts_loop import SearchData, block_loss
from .loop import LoopLimits, autocast, cpu_state, mean_loss
from .schedules import cosine, set_rate

logger = get_logger(__name__)

METHODS = ("argmax", "perturb")
TUNING_RATE = 0.5  # first rate of the tuning, over the peak rate of the search
CLIP = 5.0


@dataclass(frozen=True)
class DeriveSettings:
    """How a searched network becomes an architecture.

    Attributes:
        method: ``argmax`` reads the alphas; ``perturb`` asks how much worse the network gets without each op (Wang et
            al., Rethinking Architecture Selection in Differentiable NAS, ICLR 2021) and races against ``argmax``.
        tune_steps: weight steps after each decision.
        rivals: random paths of the same network that race as well.
        windows: alpha windows on which ``perturb`` measures.
        diversity: spread the ops of a cell over its edges (``architecture.diversity``); for ``argmax`` only.
    """

    method: str = "argmax"
    tune_steps: int = 5
    rivals: int = 0
    windows: int = 256
    diversity: bool = False

    def __post_init__(self) -> None:
        check_choice("derive", self.method, METHODS)
        check_int("derive_tune_steps", self.tune_steps, low=0)
        check_int("derive_rivals", self.rivals, low=0)
        check_int("derive_windows", self.windows, low=1)

    @property
    def is_plain(self) -> bool:
        """Whether the alphas alone decide: then there is nothing to measure, to tune or to race."""
        return self.method == "argmax" and not self.rivals


@dataclass(frozen=True)
class Contender:
    """An architecture of the race: its rule, its validation loss with inherited weights, and those weights."""

    name: str
    spec: ArchSpec
    loss: float
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Selection:
    """Result of a race: the contenders, best first, and the validation loss of the mixture they came from."""

    contenders: list[Contender]
    mixed_loss: float

    @property
    def chosen(self) -> Contender:
        """The contender with the lowest validation loss."""
        return self.contenders[0]

    @property
    def gap(self) -> float:
        """Discretisation gap: validation loss of the chosen network, weights inherited, less that of the mixture."""
        return self.chosen.loss - self.mixed_loss

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python, without the weights."""
        return {
            "chosen": self.chosen.name,
            "derived_loss": self.chosen.loss,
            "mixed_loss": self.mixed_loss,
            "discretisation_gap": self.gap,
            "contenders": [{"name": c.name, "loss": c.loss, "spec": c.spec.to_dict()} for c in self.contenders],
        }


class Rule(Protocol):
    """Decides one edge and one node at a time, on a network whose earlier decisions are in force."""

    def op(self, model: TimeSeriesDARTS, cell: int, edge: int) -> int:
        """Return the index of the op that the edge keeps."""
        ...

    def inputs(self, model: TimeSeriesDARTS, cell: int, edges: list[int], count: int) -> list[int]:
        """Return the ``count`` edges that a node keeps out of ``edges``, those that end in it."""
        ...


@final
class AlphaRule:
    """What the alphas of the searched network point to."""

    def __init__(self, model: TimeSeriesDARTS, *, diversity: bool = False) -> None:
        self._choice = alpha_choice(model, diversity=diversity)

    def op(self, model: TimeSeriesDARTS, cell: int, edge: int) -> int:
        """Return the most probable op."""
        return self._choice[cell].ops[edge]

    def inputs(self, model: TimeSeriesDARTS, cell: int, edges: list[int], count: int) -> list[int]:
        """Return the heaviest inputs."""
        return [edge for edge in edges if edge in self._choice[cell].kept]


@final
class PerturbRule:
    """Keeps what the network misses most: each op (or edge) is left out alone, and nothing is renormalised.

    Args:
        loss: loss of a network on alpha windows.
    """

    def __init__(self, loss: Callable[[TimeSeriesDARTS], float]) -> None:
        self._loss = loss

    def op(self, model: TimeSeriesDARTS, cell: int, edge: int) -> int:
        """Return the op whose absence costs most; ties go to the first."""
        mixed = model.cells[cell].edges[edge]
        living = [mixed.names.index(name) for name in mixed.running]
        if len(living) == 1:
            return living[0]
        return max(living, key=lambda op: self._without(model, mixed.drop, op))

    def inputs(self, model: TimeSeriesDARTS, cell: int, edges: list[int], count: int) -> list[int]:
        """Return the edges whose absence costs most."""
        costs = {edge: self._without(model, model.cells[cell].drop_edge, edge) for edge in edges}
        return sorted(sorted(edges, key=lambda edge: -costs[edge])[:count])

    def _without(self, model: TimeSeriesDARTS, drop: Callable[[int | None], None], index: int) -> float:
        drop(index)
        try:
            with searched_mixture(model):
                return self._loss(model)
        finally:
            drop(None)


@final
class RandomRule:
    """Any op and any inputs, each as likely as the others: a rival that knows nothing of the search."""

    def __init__(self, draw: torch.Generator) -> None:
        self._draw = draw

    def op(self, model: TimeSeriesDARTS, cell: int, edge: int) -> int:
        """Return an op that is not pruned."""
        mixed = model.cells[cell].edges[edge]
        return mixed.names.index(mixed.running[self._number(len(mixed.running))])

    def inputs(self, model: TimeSeriesDARTS, cell: int, edges: list[int], count: int) -> list[int]:
        """Return ``count`` of the edges."""
        order = torch.randperm(len(edges), generator=self._draw).tolist()
        return sorted(edges[place] for place in order[:count])

    def _number(self, count: int) -> int:
        return int(torch.randint(count, (1,), generator=self._draw))


def select_architecture(
    model: TimeSeriesDARTS, data: SearchData, config: DARTSTrainConfig, limits: LoopLimits, settings: DeriveSettings
) -> Selection:
    """Make ``model`` discrete by each rule and race the results on the validation windows; ``model`` stays as it is.

    ``perturb`` always meets ``argmax``; both, and the random rivals, get the same tuning on the same batches. One that
    diverges is out of the race, which is logged.

    Raises:
        DivergedError: the mixture diverges, or every contender does.
    """
    loss_fn = get_loss_function(config.loss_type)
    draw = generator("derive_windows", limits.seed)
    rows = data.arch_rows[torch.randperm(len(data.arch_rows), generator=draw)[: settings.windows]]

    def alpha_loss(network: TimeSeriesDARTS) -> float:
        return mean_loss(network, data.arch, rows.split(EVAL_BATCH), loss_fn, limits=limits, role=data.arch_role)

    rules: dict[str, Rule] = {"argmax": AlphaRule(model, diversity=settings.diversity)}
    if settings.method == "perturb":
        rules["perturb"] = PerturbRule(alpha_loss)
    for number in range(settings.rivals):
        rules[f"random_{number + 1}"] = RandomRule(generator("derive_rival", limits.seed, number))
    with searched_mixture(model):
        mixed_loss = block_loss(model, data.val, limits)
    contenders: list[Contender] = []
    failures: list[DivergedError] = []
    for name, rule in rules.items():
        twin = copy.deepcopy(model)
        steps = 0 if settings.is_plain else settings.tune_steps
        choice = _project(twin, rule, _Tuning(twin, data, config, limits, steps))
        try:
            with derived_path(twin, choice):
                loss = block_loss(twin, data.val, limits)
        except DivergedError as error:
            failures.append(error)
            logger.warning("derived by %s: out of the race, %s", name, error)
            continue
        spec = spec_of(twin, choice)
        contenders.append(Contender(name, spec, loss, cpu_state(derive_network(twin, spec))))
        logger.info("derived by %s: validation loss %.4f (mixture %.4f)", name, loss, mixed_loss)
    if not contenders:
        raise failures[0]
    # Python's sort is stable: of equal losses the rule that was asked for first wins.
    order = {settings.method: 0}
    contenders.sort(key=lambda c: (c.loss, order.get(c.name, 1)))
    return Selection(contenders, mixed_loss)


def derive_by_race(
    model: nn.Module,
    train: WindowSource,
    val: WindowSource,
    config: DARTSTrainConfig,
    limits: LoopLimits,
    settings: DeriveSettings,
) -> ForecastNetwork:
    """Return the network that wins ``select_architecture``, with its weights, in eval mode.

    Raises:
        InvalidArgument: ``model`` is not a ``TimeSeriesDARTS``.
    """
    data = SearchData.split(train, val, config, batch_size=limits.batch_size)
    chosen = select_architecture(check_searched(model), data, config, limits, settings).chosen
    network = build_network(chosen.spec, seed=0)
    network.load_state_dict(chosen.state)
    return network.to(limits.device).eval()


def _project(model: TimeSeriesDARTS, rule: Rule, tuning: _Tuning) -> Choice:
    """Make ``model`` discrete in place, one decision and one bout of tuning after the other."""
    places = [(c, e) for c, cell in enumerate(model.cells) for e in range(len(cell.edges))]
    nodes = [(c, node) for c, cell in enumerate(model.cells) for node in range(1, cell.num_nodes)]
    limit = model.max_active_edges_per_node
    open_nodes = [(c, node) for c, node in nodes if node > limit]
    draw = generator("derive_order", tuning.seed)
    tuning.plan(len(places) + len(open_nodes))
    ops: dict[tuple[int, int], int] = {}
    for place in torch.randperm(len(places), generator=draw).tolist():
        c, e = places[place]
        ops[c, e] = rule.op(model, c, e)
        model.cells[c].edges[e].force(ops[c, e])
        tuning.run(model)
    kept = {(c, node): _edges_into(node) for c, node in nodes}
    for place in torch.randperm(len(open_nodes), generator=draw).tolist():
        c, node = open_nodes[place]
        kept[c, node] = rule.inputs(model, c, kept[c, node], limit)
        model.cells[c].keep_edges([edge for (owner, _), edges in kept.items() if owner == c for edge in edges])
        tuning.run(model)
    choice = []
    for c, cell in enumerate(model.cells):
        edges = sorted(edge for (owner, _), own in kept.items() if owner == c for edge in own)
        choice.append(CellChoice([ops[c, e] for e in range(len(cell.edges))], edges))
    return choice


def _edges_into(node: int) -> list[int]:
    first = node * (node - 1) // 2
    return list(range(first, first + node))


class _Tuning:
    """Weight steps between two decisions, with a rate that falls to zero over all of them."""

    def __init__(
        self, model: TimeSeriesDARTS, data: SearchData, config: DARTSTrainConfig, limits: LoopLimits, steps: int
    ) -> None:
        self.seed = limits.seed
        self._data, self._config, self._limits, self._steps = data, config, limits, steps
        self._loss_fn = get_loss_function(config.loss_type)
        for alpha in model.arch_parameters():
            alpha.requires_grad_(False)
        self._weights = list(model.weight_parameters())
        self._optimizer = ClippedAdamW(self._weights, weight_decay=config.model_weight_decay)
        self._done = 0
        self._total = 1

    def plan(self, decisions: int) -> None:
        """Set the number of decisions that will be followed by a bout of tuning."""
        self._total = max(1, decisions * self._steps)

    def run(self, model: TimeSeriesDARTS) -> None:
        """Make one bout of weight steps on seeded weight windows."""
        model.train()
        for _ in range(self._steps):
            step = self._done
            draw = generator("derive_batch", self.seed, step)
            rows = torch.randint(len(self._data.weight_rows), (self._limits.batch_size,), generator=draw)
            batch = read_batch(self._data.train, self._data.weight_rows[rows], role="train", batch=step)
            batch = batch.to(self._limits.device)
            set_rate(self._optimizer, cosine(step, self._total, TUNING_RATE * self._config.model_learning_rate))
            with seeded("derive_step", self.seed, step), autocast(self._limits):
                loss = self._loss_fn(model(*batch.inputs), batch.y)
                if self._config.moe_balance_weight and model.macro.ffn == "moe":
                    loss = loss + self._config.moe_balance_weight * moe_balance_loss(model)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step_clipped(CLIP)
            self._done += 1
        model.eval()
