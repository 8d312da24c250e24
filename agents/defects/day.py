"""Conditions of a day from a few unlabelled images: statistics of the images, and a regression on simulated ones.

Units of the images do not matter, since the statistics have none: a dose is recognised by its noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from agents.defects.conditions import RANDOM, Conditions, Interval, Ranges, drawn
from agents.defects.detection import DefectImageError, check_image
from agents.defects.sheet import labelled_image
from learning.training import Progress, silent
from twin.arrays import Floats
from twin.zcontrast.profile import ZContrast

TILE_NM = 3.7
"""Side of the tiles of which statistics are taken."""
BANDS = 6
"""Bands of frequencies along each axis."""
LAGS = ((0, 1), (0, 2), (0, 3), (0, 5), (1, 0), (2, 0), (1, 1), (1, -1))
"""Lags (rows, columns) of the autocorrelation."""
TREES = 200
WIDTH = 1.0
"""Half width of an interval in units of the regression's rms error."""
NOT_SEEN = ("step_nm", "shear")
"""Conditions that are not estimated: the step is told, a strain leaves the labels as they are."""


def statistics(image: Floats) -> Floats:
    """Statistics of an image without units: moments, autocorrelations, power in bands of frequencies.

    Args:
        image: (rows, columns), not constant.
    """
    centred = image - image.mean()
    scaled = centred / max(float(centred.std()), 1e-12)
    rows, columns = scaled.shape
    quantiles = np.quantile(scaled, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    moments = [float((scaled**3).mean()), float((scaled**4).mean()), float(image.mean() / max(centred.std(), 1e-12))]
    lagged = []
    for down, right in LAGS:
        first = scaled[: rows - down, max(0, -right) : columns - max(0, right)]
        second = scaled[down:, max(0, right) : columns + min(0, right)]
        lagged.append(float((first * second).mean()))
    window = np.hanning(rows)[:, None] * np.hanning(columns)
    power = np.abs(np.fft.rfft2(scaled * window)) ** 2
    down = np.minimum(np.abs(np.fft.fftfreq(rows)) * 2 * BANDS, BANDS - 1).astype(np.int64)
    right = np.minimum(np.fft.rfftfreq(columns) * 2 * BANDS, BANDS - 1).astype(np.int64)
    band = (down[:, None] * BANDS + right).ravel()
    mean = np.bincount(band, power.ravel(), BANDS**2) / np.maximum(np.bincount(band, minlength=BANDS**2), 1)
    slow = np.log(power[:3, :3].mean() + 1e-12)
    return np.concatenate([quantiles, moments, lagged, np.log(mean + 1e-12), [slow]])


def tiles(image: Floats, step_nm: float) -> Iterator[Floats]:
    """Squares of `TILE_NM` side by side; the whole image where it is smaller."""
    side = min(int(np.ceil(TILE_NM / step_nm)), *image.shape)
    for top in range(0, image.shape[0] - side + 1, side):
        for left in range(0, image.shape[1] - side + 1, side):
            yield image[top : top + side, left : left + side]


@dataclass(frozen=True)
class EstimatedDay:
    """Conditions of a day.

    Attributes:
        conditions: the best estimate.
        sigma: rms error of each on simulated images, of the logarithm where the interval is logarithmic.
        ranges: intervals about the estimate, within those of the training.
    """

    conditions: Conditions
    sigma: dict[str, float]
    ranges: Ranges


def estimated(
    images: Sequence[Floats],
    step_nm: float,
    beam: ZContrast,
    count: int = 300,
    seed: int = 0,
    progress: Progress = silent,
) -> EstimatedDay:
    """Estimate the conditions of images of one day.

    Args:
        images: unlabelled, all with the same step.
        step_nm: distance of pixels.
        beam: beam and detector.
        count: simulated images for the regression.
        seed: of the simulation and the regression.
        progress: called during the simulation.

    Raises:
        DefectImageError: no image, or one that is too small or constant.
    """
    if not images:
        raise DefectImageError("a day is estimated from at least one image; none was given")
    for image in images:
        check_image(image, step_nm)
    known, seen = _simulated(step_nm, beam, count, seed, progress)
    centre, spread = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-9)
    forest = ExtraTreesRegressor(TREES, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=seed)
    unit = np.maximum(known.std(axis=0), 1e-12)
    forest.fit((seen - centre) / spread, known / unit)
    ours = np.stack([statistics(tile) for image in images for tile in tiles(image, step_nm)])
    found = forest.predict((ours - centre) / spread).mean(axis=0) * unit
    sigma = np.sqrt(np.mean((forest.oob_prediction_ * unit - known) ** 2, axis=0))
    return _day(step_nm, found, sigma)


def _names() -> list[str]:
    return [field.name for field in fields(Conditions) if field.name not in NOT_SEEN]


def _simulated(step_nm: float, beam: ZContrast, count: int, seed: int, progress: Progress) -> tuple[Floats, Floats]:
    """Conditions (N, C), logarithms of those with logarithmic intervals, and statistics (N, S) of simulated images."""
    ranges = {**RANDOM, "step_nm": Interval(step_nm, step_nm)}
    side = int(np.ceil(TILE_NM / step_nm))
    known, seen = [], []
    progress("simulating conditions", 0, count, "")
    for sequence in np.random.SeedSequence(seed).spawn(count):
        rng = np.random.default_rng(sequence)
        conditions = drawn(ranges, rng)
        plain = asdict(conditions)
        known.append([np.log(plain[n]) if RANDOM[n].logarithmic else plain[n] for n in _names()])
        seen.append(statistics(labelled_image(beam, conditions, (side, side), rng).image))
        progress("simulating conditions", len(seen), count, "")
    return np.array(known), np.array(seen)


def _day(step_nm: float, found: Floats, sigma: Floats) -> EstimatedDay:
    values: dict[str, float] = {}
    ranges: dict[str, Interval] = {**RANDOM, "step_nm": Interval(step_nm, step_nm)}
    for name, value, error in zip(_names(), found.tolist(), sigma.tolist(), strict=True):
        ends = np.array([value - WIDTH * error, value, value + WIDTH * error])
        low, values[name], high = (np.exp(ends) if RANDOM[name].logarithmic else ends).tolist()
        ranges[name] = RANDOM[name].narrowed(low, high)
    errors = dict(zip(_names(), sigma.tolist(), strict=True))
    return EstimatedDay(replace(Conditions(step_nm=step_nm), **values), errors, ranges)
