"""Random search with successive halving: the rival that any search of architectures has to beat."""

from __future__ import annotations

import random

from ..candidates import make_candidates
from ..settings import candidate_seed
from .architectures import random_spec
from .budget import affordable_count, halving_plan
from .course import Course, Entrant, ranked


def random_entrants(course: Course, count: int) -> list[Entrant]:
    """Return the first ``count`` candidates of the search, presets among them, each with random ops on its edges."""
    seed = course.settings.limits.seed
    candidates = make_candidates(course.settings.space, seed, count)
    return [
        Entrant(
            number, candidate, candidate_seed(seed, number), random_spec(candidate, random.Random(f"{seed}:{number}"))
        )
        for number, candidate in enumerate(candidates)
    ]


def random_search(course: Course) -> list[Entrant]:
    """Train random architectures, the better half of them twice as long, and so on; return the last ones, best first.

    Successive halving (Jamieson and Talwalkar, AISTATS 2016) over networks that keep their weights from rung to rung.
    As many start as the budget can pay when the first rung is as long as a trial of the search.
    """
    keep = course.settings.finalists
    count = affordable_count(course.budget, course.first_rung, keep)
    alive = random_entrants(course, count)
    course.tried = len(alive)
    for rung, (size, steps) in enumerate(halving_plan(course.budget, count, keep)):
        alive = course.fit(ranked(alive)[:size], steps, rung)
    return ranked(alive)
