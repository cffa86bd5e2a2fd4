"""Which parameters of a network count: alphas never, and matrices but not positions for the saliency scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import nn

# Raw parameters whose name holds one of these are no linear maps: additive tokens, or values kept in the log domain.
_NO_MAP = ("position", "embedding", "token", "query", "queries", "log")
_NO_MAP_MODULES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


@runtime_checkable
class SearchableModel(Protocol):
    """A network that tells its weights from its architecture parameters."""

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the architecture parameters (alphas)."""
        ...

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every other parameter."""
        ...


def arch_parameter_ids(model: nn.Module) -> set[int]:
    """Return the ``id`` of every alpha of ``model`` and of the searchable networks inside it."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, SearchableModel)
        for parameter in module.arch_parameters()
    }


def named_weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return ``(name, parameter)`` of every parameter that is no alpha, each once, frozen ones too."""
    alphas = arch_parameter_ids(model)
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in alphas]


def prunable_weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return ``(name, parameter)`` of the weights that saliency scores sum over.

    These are real-valued parameters of two or more dimensions that act as a linear map: the weights of linear,
    convolutional and recurrent layers, and raw matrices. Left out are alphas, biases, gains of norms, embeddings, and
    raw parameters without "weight" in their name that are called a position, embedding, token, query or log-something
    (such as the log-domain state matrix of a state-space block).
    """
    skipped = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NO_MAP_MODULES)
        for parameter in module.parameters(recurse=False)
    }
    return [
        (name, parameter)
        for name, parameter in named_weights(model)
        if parameter.dim() >= 2 and parameter.is_floating_point() and id(parameter) not in skipped and _is_map(name)
    ]


def _is_map(name: str) -> bool:
    # Entries of a ParameterList are called by their number; its own name says what they are.
    last = next(part for part in (*reversed(name.split(".")), name) if not part.isdigit()).lower()
    return "weight" in last or not any(word in last for word in _NO_MAP)
