"""A list of modules that knows, to a type checker, what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

if TYPE_CHECKING:
    M = TypeVar("M", bound=nn.Module)

    class ModuleList(nn.ModuleList, Generic[M]):
        """``torch.nn.ModuleList`` of modules of one kind."""

        def __init__(self, modules: Iterable[M] | None = None) -> None: ...
        def __iter__(self) -> Iterator[M]: ...
        @overload
        def __getitem__(self, idx: slice) -> ModuleList[M]: ...
        @overload
        def __getitem__(self, idx: int) -> M: ...
        def __getitem__(self, idx: int | slice) -> M | ModuleList[M]: ...
else:
    ModuleList = nn.ModuleList
