"""Regularised evolution (Real et al., Regularized Evolution for Image Classifier Architecture Search, AAAI 2019)."""

from __future__ import annotations

import random
from collections import deque

from ..._core.errors import SearchFailed
from ...architecture.spec import ArchSpec
from ..settings import candidate_seed
from .architectures import candidate_of, mutate
from .course import Course, Entrant, ranked
from .random_search import random_entrants

POPULATION_SHARE = 1 / 3  # of all architectures; the paper has 100 of 20,000, which a small budget cannot follow
MAX_POPULATION = 100
SAMPLE_SHARE = 1 / 4  # of the population meet in a tournament, as in the paper
MAX_REDRAWS = 20


def evolve(course: Course) -> list[Entrant]:
    """Evolve architectures and return all that were trained, best first.

    The population begins with the first candidates of the search. In each round a few of it, drawn at random, meet; a
    mutation of the best of them is trained from scratch and joins, and the oldest leaves. Every architecture is trained
    for as many steps as a trial of the search, or a few more, so that all of the budget is used.
    """
    rng = random.Random(f"evolution:{course.settings.limits.seed}")
    total = max(1, course.budget // course.first_rung)
    steps = max(1, course.budget // total)
    size = min(MAX_POPULATION, max(2, round(POPULATION_SHARE * total)), total)
    history = course.fit(random_entrants(course, size), steps, 0)
    population = deque(history)
    seen = {entrant.architecture for entrant in history}
    for number in range(size, total):
        met = rng.sample(list(population), min(len(population), max(2, round(SAMPLE_SHARE * size))))
        child = _child(course, ranked(met)[0], number, seen, rng)
        try:
            course.fit([child], steps, 0)
        except SearchFailed:  # its reason is in course.failures; its place stays empty and nobody has to leave
            continue
        history.append(child)
        population.append(child)
        population.popleft()
    course.tried = total
    return ranked(history)


def _child(course: Course, parent: Entrant, number: int, seen: set[ArchSpec], rng: random.Random) -> Entrant:
    """Return a mutation of ``parent`` that was not tried before, if a few draws find one."""
    for _ in range(MAX_REDRAWS):
        spec = mutate(parent.architecture, course.settings.space, rng)
        if spec not in seen:
            break
    seen.add(spec)
    return Entrant(number, candidate_of(spec), candidate_seed(course.settings.limits.seed, number), spec)
