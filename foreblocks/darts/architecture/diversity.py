"""The diversity rule of the documented derivation: no op may hold too many edges of a cell. Off by default.

It overrides what the alphas say, so it is a choice of the user, for nets that should not lean on one kind of op.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

IDENTITY = "Identity"
DISTINCT_SHARE = 0.5  # wanted distinct ops over edges
LARGEST_SHARE = 0.4  # edges that one op may hold
REPEAT_COST = {True: 0.70, False: 0.30}  # what each earlier use of an op costs; True for Identity
QUIET_BONUS = 0.15  # for Identity on an edge of low importance
QUIET, LOUD = 0.35, 0.65  # bounds of low and high importance


def diverse_ops(p: Sequence[Sequence[float]], importance: Sequence[float], names: Sequence[str]) -> list[int]:
    """Return the index of an op for each of E edges.

    First half as many distinct ops as there are edges (at least two) get their best edge, Identity last; then the
    other edges take their best op, less 0.30 for every use that it has (0.70 for Identity); then ops that hold more
    than 40 % of the edges give the weakest ones to the next best op.

    Args:
        p: probabilities ``[E][K]``; an op with 0 is pruned and never chosen.
        importance: weight of each edge over that of the heaviest edge into its node, in [0, 1].
        names: the K ops.
    """
    chosen = _distinct(p, importance, names)
    for edge in sorted(range(len(p)), key=lambda e: (-max(p[e]), e)):
        if edge not in chosen:
            chosen[edge] = _best_left(p[edge], importance[edge], names, list(chosen.values()))
    _spread(chosen, p, importance, names)
    return [chosen[edge] for edge in range(len(p))]


def _distinct(p: Sequence[Sequence[float]], importance: Sequence[float], names: Sequence[str]) -> dict[int, int]:
    wanted = min(max(2, math.ceil(DISTINCT_SHARE * len(p))), len(names))
    pairs = [
        (names[op] == IDENTITY, -row[op] * (0.65 + 0.35 * importance[edge]), edge, op)
        for edge, row in enumerate(p)
        for op in _living(row)
    ]
    chosen: dict[int, int] = {}
    for _, _, edge, op in sorted(pairs):
        if len(chosen) == wanted:
            break
        if edge not in chosen and op not in chosen.values():
            chosen[edge] = op
    return chosen


def _best_left(row: Sequence[float], importance: float, names: Sequence[str], used: list[int]) -> int:
    def worth(op: int) -> float:
        identity = names[op] == IDENTITY
        bonus = QUIET_BONUS if identity and importance < QUIET else 0.0
        return row[op] - REPEAT_COST[identity] * used.count(op) + bonus

    return max(_living(row), key=lambda op: (worth(op), -op))


def _spread(
    chosen: dict[int, int], p: Sequence[Sequence[float]], importance: Sequence[float], names: Sequence[str]
) -> None:
    most = max(math.ceil(LARGEST_SHARE * len(p)), math.ceil(len(p) / len(names)))
    held = list(chosen.values())
    for op in sorted(set(held), key=lambda o: (-held.count(o), o)):
        for edge in sorted((e for e, o in chosen.items() if o == op), key=lambda e: (p[e][op], e)):
            counts = list(chosen.values())
            if counts.count(op) <= most:
                break
            free = [
                other
                for other in _living(p[edge])
                if counts.count(other) < most and not (names[other] == IDENTITY and importance[edge] > LOUD)
            ]
            if free:
                chosen[edge] = -max((p[edge][other], -other) for other in free)[1]


def _living(row: Sequence[float]) -> list[int]:
    return [op for op, value in enumerate(row) if value > 0.0]
