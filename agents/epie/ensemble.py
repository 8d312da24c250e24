"""Standard deviation of the pictures from an ensemble: the reconstruction repeated with resampled counts."""

import numpy as np

from agents.epie.data import one_pass, patch, resampled
from agents.epie.image import noise_level
from agents.epie.iteration import Iteration
from agents.epie.pictures import Pictures, electrons_of_pictures, pictures
from agents.epie.schedule import Schedule
from twin.arrays import Floats

FRAMES = 200_000
"""Frames that all members together may sweep over, repetitions counted: half a minute to a minute. Members take as many
passes as the reconstruction, because noise grows with them; of a large scan they reconstruct a patch."""

WELL_LIT = 0.5
"""Illumination, relative to the median over the scan, above which a pixel is used for the noise level."""


def spread(iteration: Iteration, schedule: Schedule, members: int) -> Pictures:
    """Standard deviation of each picture by a parametric bootstrap; empty for fewer than two members.

    Every member repeats the reconstruction from its start with resampled counts. If it reconstructs a patch of the
    scan, which hardly determines the probe, it keeps the final probe fixed.

    Args:
        iteration: finished.
        schedule: of the reconstruction.
        members: number of repetitions.
    """
    data, passes, seed = iteration.data, len(iteration.errors), iteration.seed
    if members < 2 or not passes:
        return {}
    numbers = patch(data, max(1, FRAMES // (members * passes)))
    part, counts = len(numbers) < len(data.store), data.store.mean_counts
    results: list[Pictures] = []
    for member in range(members):
        drawn = resampled(data, numbers, [seed, 1, member])
        if part:
            estimate = iteration.estimate.with_clear_object()
        else:
            estimate = iteration.depth.clear(data, iteration.first_probe)
        for done in range(passes):
            steps = schedule.steps(schedule.progress(done), counts, part or done < schedule.probe_after)
            draw = np.random.default_rng([seed, 2, member, done])
            one_pass(estimate, drawn, drawn.everything(), steps, draw)
        results.append(pictures(estimate, drawn, iteration.first_probe))
    in_members, in_scan = (electrons_of_pictures(iteration.estimate, d) for d in (drawn, data))
    return {
        name: _scaled([picture[name] for picture in results], in_members[name], weight)
        for name, weight in in_scan.items()
    }


def _scaled(results: list[Floats], in_members: Floats, in_scan: Floats) -> Floats:
    """Standard deviation of a picture: the noise level of its members over the root of its own electrons."""
    variance = np.var(results, axis=0, ddof=1)
    level = noise_level(variance, in_members, in_members > WELL_LIT * np.median(in_scan))
    return level / np.sqrt(np.maximum(in_scan, np.finfo(float).tiny))
