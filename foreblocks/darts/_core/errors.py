"""The errors of the package, and the checks that raise them.

Every message names the argument, the value it got and what is allowed.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex


class DartsError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidArgument(DartsError, ValueError):
    """An argument, configuration value or keyword is not allowed."""


class DataError(DartsError, ValueError):
    """The data given cannot be used as they are: a gap, a wrong shape, a value that is not finite."""


class DivergedError(DartsError, RuntimeError):
    """A loss or a gradient stopped being finite while training."""


class SearchFailed(DartsError, RuntimeError):
    """No candidate of a search could be evaluated; the message lists each reason."""


class OptionalDependencyError(DartsError, ImportError):
    """A feature needs a package that is not installed; the message has the pip line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'X'?"`` for the closest choice, or an empty string."""
    match = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def check_choice(argument: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``, else raise ``InvalidArgument``."""
    allowed = list(choices)
    if value not in allowed:
        raise InvalidArgument(f"{argument}={value!r} is not allowed; choose one of {allowed}.{nearest(value, allowed)}")
    return value


def check_flag(argument: str, value: Any) -> bool:
    """Return ``value`` as bool if it is True or False (or 1 or 0), else raise ``InvalidArgument``."""
    if value not in (True, False):
        raise InvalidArgument(f"{argument}={value!r} must be True or False.")
    return bool(value)


def check_int(argument: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """Return ``value`` as int if it is a whole number in ``[low, high]``, else raise ``InvalidArgument``."""
    number = value
    if type(value) is not int:  # what nearly every call gets: a protocol takes microseconds to check
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise InvalidArgument(f"{argument}={value!r} must be a whole number.")
        number = operator.index(value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise InvalidArgument(f"{argument}={number} must be {_range_text(low, high)}.")
    return number


def check_real(argument: str, value: Any, *, low: float | None = None, high: float | None = None) -> float:
    """Return ``value`` as float if it is finite and in ``[low, high]``, else raise ``InvalidArgument``."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{argument}={value!r} must be a number.") from error
    if number != number or number in (float("inf"), float("-inf")):
        raise InvalidArgument(f"{argument}={value!r} must be finite.")
    if (low is not None and number < low) or (high is not None and number > high):
        raise InvalidArgument(f"{argument}={number} must be {_range_text(low, high)}.")
    return number


def check_range(argument: str, value: Any, *, low: int) -> tuple[int, int]:
    """Return ``value`` as ``(min, max)`` with ``low <= min <= max``, else raise ``InvalidArgument``."""
    try:
        first, last = value
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{argument}={value!r} must be a pair (min, max).") from error
    first = check_int(f"{argument}[0]", first, low=low)
    last = check_int(f"{argument}[1]", last, low=first)
    return first, last


def check_list(argument: str, value: Any, *, what: str = "a list") -> list[Any]:
    """Return ``value`` as a list, else raise ``InvalidArgument``; a text, whose letters would be its parts, is none."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidArgument(f"{argument}={value!r} must be {what}.")
    return list(value)


def check_channels(argument: str, value: Any, channels: int, *, empty: bool = True) -> tuple[int, ...]:
    """Return ``value`` as distinct channel numbers in ``[0, channels)``, else raise ``InvalidArgument``."""
    numbers = check_list(argument, value, what="a list of channel numbers")
    chosen = tuple(check_int(f"{argument}[{i}]", v, low=0, high=channels - 1) for i, v in enumerate(numbers))
    if len(set(chosen)) < len(chosen) or not (chosen or empty):
        raise InvalidArgument(f"{argument}={list(chosen)} must name each channel once, and at least one.")
    return chosen


def check_keywords(function: str, given: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise ``TypeError`` for the first keyword that ``function`` does not know, naming the nearest one."""
    names = list(allowed)
    for name in given:
        if name not in names:
            raise TypeError(f"{function}() got an unknown keyword {name!r}.{nearest(name, names)}")


def _range_text(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"at least {low}" if low is not None else f"at most {high}"
