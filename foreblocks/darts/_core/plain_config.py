"""What the configuration dataclasses share: plain dictionaries in and out, and checks that name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from .errors import InvalidArgument, check_flag, check_int, check_range, check_real, nearest


@dataclasses.dataclass
class PlainConfig:
    """Reading from and writing to plain dictionaries, and the checks that the dataclasses share."""

    _nested: ClassVar[dict[str, type[PlainConfig]]] = {}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build the configuration from a dictionary; fields that are missing keep their default.

        Raises:
            InvalidArgument: ``data`` is no mapping, has an unknown key (the nearest one is named), or a bad value.
        """
        if not isinstance(data, Mapping):
            raise InvalidArgument(f"{cls.__name__}.from_dict needs a mapping, got {type(data).__name__}.")
        names = [entry.name for entry in dataclasses.fields(cls)]
        for key in data:
            if key not in names:
                raise InvalidArgument(f"{cls.__name__} has no field {key!r}; fields: {names}.{nearest(key, names)}")
        return cls(**{key: cls._nested[key].from_dict(v) if key in cls._nested else v for key, v in data.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return dictionaries, lists, numbers, strings, bools and None only; the result shares nothing with self."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}

    def __post_init__(self) -> None:
        """Check what the type of a field alone decides, so that no text stands for a switch, a number or a seed."""
        check: dict[Any, Callable[..., Any]] = {"bool": check_flag, "int": check_int, "float": check_real}
        for entry in dataclasses.fields(self):
            if entry.type in check:
                setattr(self, entry.name, check[entry.type](entry.name, getattr(self, entry.name)))

    def _ints(self, *names: str, low: int, optional: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            if not (optional and value is None):
                setattr(self, name, check_int(name, value, low=low))

    def _reals(self, *names: str, low: float | None = None, high: float | None = None) -> None:
        for name in names:
            setattr(self, name, check_real(name, getattr(self, name), low=low, high=high))

    def _ranges(self, *names: str, low: int) -> None:
        for name in names:
            setattr(self, name, check_range(name, getattr(self, name), low=low))

    def _lists(self, *names: str, of: type, optional: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            if optional and value is None:
                continue
            if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, of) for item in value):
                raise InvalidArgument(f"{name}={value!r} must be a list of {of.__name__} with at least one entry.")
            setattr(self, name, list(value))


def _plain(value: Any) -> Any:
    if isinstance(value, PlainConfig):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
