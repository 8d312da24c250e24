"""Goodness of fit and noise of reconstructions.

Test of the residuals `r = (y - Hx) / sqrt(Hx)`: for the right model H and reconstruction x they are white noise of mean
zero and variance one.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Trust
from twin.arrays import Floats

LEVEL = 0.01
"""Level of the test: probability of rejecting the right model."""

LEAST_EXPECTED = 0.1
"""Smallest expected counts of a residual: below them its distribution is too skewed."""

LEAST_RESIDUALS = 64
"""Smallest number of residuals for a test."""

LEAST_CONTRAST = 0.02
LEAST_CORRELATION = 0.05
"""Deviations from 1 and 0 above which `misfit_words` mentions them."""

FAR_CONTRAST = 0.1
"""Deviation of the contrast below 1 from which it tells the cause of a misfit."""

LOW_DOSE_E_PER_A2 = 100.0
"""Detected electrons per square angstrom below which a picture without noise is suspect (P. Pelz, lecture 12)."""

MEMBERS = 16
"""Noise realisations of an ensemble: the standard error of its spread is 1 / sqrt(2 * 16) = 18 %."""


@dataclass(frozen=True)
class Signal:
    """Signal that a model has to explain, in units of the variance of the noise.

    Attributes:
        power: sum of squares of the noise-free data minus their mean.
        contrast: contrast of the data over that of the model, see `frame_signal`; None if unknown.
    """

    power: float
    contrast: float | None = None

    def missed(self, excess: float, sigma: float) -> dict[str, Any]:
        """Fields of `Trust` that compare the excess of the squared residuals with the signal."""
        return {
            "unexplained": excess / self.power,
            "unexplained_sigma": sigma / self.power,
            "contrast": self.contrast,
        }


def frame_signal(counts: NDArray[np.number[Any]], expected: Floats, least: float = LEAST_EXPECTED) -> Signal | None:
    """Signal of frames: their differences from the mean frame, caused by the specimen.

    The power is sum((y - <y>)^2 - y) / <y> over all frames, to which Poisson noise does not contribute on average. The
    contrast is the slope of y - <y> against Hx - <Hx>, by least squares with the inverse variance of the noise.

    Args:
        counts: y, frames first, (N, ...); NaN where nothing was measured.
        expected: Hx, of the same shape.
        least: smallest mean expected counts of a pixel that is used.

    Returns:
        None for fewer than two frames, or if the signal is not significant.
    """
    n = len(counts)
    if n < 2:
        return None
    mean_model = expected.mean(axis=0)
    bright = mean_model >= least
    y, model, level = counts[:, bright], expected[:, bright], mean_model[bright]
    varied, predicted = y - y.mean(axis=0), model - level
    power = float(((varied**2).sum(axis=0) * n / (n - 1) - y.sum(axis=0)) @ (1.0 / level))
    if power <= 3.0 * math.sqrt(2.0 * max(y.size, 1)):
        return None
    square = float((predicted**2 / level).sum())
    # The contrast of a constant model would be rounding.
    return Signal(power, float((varied * predicted / level).sum()) / square if square > 1e-6 * power else None)


def poisson_residual(counts: NDArray[np.number[Any]], expected: Floats, least: float = LEAST_EXPECTED) -> Floats:
    """Residuals r = (y - Hx) / sqrt(Hx); NaN where y or Hx is NaN or fewer than `least` counts are expected.

    Args:
        counts: y, any shape; NaN where nothing was measured.
        expected: Hx, of the same shape.
        least: smallest expected counts.
    """
    expected = np.where(expected >= least, expected, np.nan)
    return np.asarray((counts - expected) / np.sqrt(expected), np.float64)


def whiteness(
    residual: Floats,
    model: str,
    *,
    expected: Floats | None = None,
    axes: tuple[int, ...] | None = None,
    fitted: float = 0.0,
    noise_uncertainty: float = 0.0,
    signal: Signal | None = None,
    level: float = LEVEL,
) -> Trust | None:
    """Test residuals against white noise of mean zero and variance one.

    With n residuals of the right model these statistics are standard normal, by the central limit theorem, and
    uncorrelated:

    - mean: sum(r) / sqrt(n);
    - variance: (sum(c) + p) / sqrt(2 (n - p)), where c = r^2 - 1 for normal residuals. For counts of expectation m,
      c = r^2 - 1 - r / sqrt(m) = ((y - m)^2 - y) / m, the second Charlier polynomial: its variance is 2 for every m and
      it is uncorrelated with r, also at low counts;
    - correlation along each axis: sum(r r') / sqrt(pairs) over neighbours. Its variance is 1 for every m. A fit
      correlates neighbours, by at most p in the sum: the sum is shrunk towards zero by p.

    The p-value is that of the largest statistic in absolute value, with Sidak's correction: 1 - (1 - p)^tests.

    Args:
        residual: (...,), NaN if unknown; neighbours in the array are neighbours on the camera or in the scan.
        model: description of H.
        expected: Hx of the same shape, for counts; None for normal residuals.
        axes: axes along which neighbours are compared; None for all. Leave out an axis without order.
        fitted: p, the number of parameters fitted to the same data: each takes one degree of freedom.
        noise_uncertainty: relative standard error of the variance that the residuals were normalised with.
        signal: signal of the data, to compare the excess of squared residuals with.
        level: level of the test.

    Returns:
        The outcome, or None for fewer than `LEAST_RESIDUALS` residuals.
    """
    known = np.isfinite(residual)
    n = int(known.sum())
    free = n - fitted  # degrees of freedom
    if free < LEAST_RESIDUALS:
        return None
    r = np.where(known, residual, 0.0)
    mean, square = float(r.sum()) / n, float((r**2).sum()) / free
    missed, uncertainty = _excess(r, known, expected) + fitted, math.sqrt(2.0 / free + noise_uncertainty**2)
    neighbours, correlation = _correlations(r, known, range(r.ndim) if axes is None else axes, fitted)
    scores = [mean * math.sqrt(n), missed / free / uncertainty, *neighbours]
    probability = _sidak(max(abs(score) for score in scores), len(scores))
    return Trust(
        mean=mean,
        variance=square - mean**2,
        correlation=correlation / square if square > 0 else 0.0,
        probability=probability,
        fits=probability >= level,
        model=model,
        **({} if signal is None else signal.missed(missed, free * uncertainty)),
    )


def misfit_words(trust: Trust) -> str:
    """Describe size and kind of the misfit of a model that was rejected."""
    words = []
    if trust.unexplained is not None and trust.unexplained_sigma is not None:
        sure = max(trust.unexplained_sigma, 1e-4)
        if trust.unexplained > 1:
            words.append("the frames deviate from the model by more than the specimen changes them")
        elif trust.unexplained > -2 * sure:
            words.append(f"{100 * trust.unexplained:.2g} +- {100 * sure:.1g} % of the frames' signal is not explained")
        else:
            words.append(
                f"residuals have a variance of {trust.variance:.2f}, less than that of counted electrons:"
                " a camera that spreads or scales them"
            )
    if trust.contrast is not None and abs(trust.contrast - 1.0) > LEAST_CONTRAST:
        more = trust.contrast > 1
        why = "the phase is too weak" if more else "the phase is too strong, or the beam less coherent than assumed"
        words.append(f"the data vary {abs(trust.contrast - 1):.0%} {'more' if more else 'less'} than the model: {why}")
    if abs(trust.correlation) > LEAST_CORRELATION:
        words.append(
            f"residuals of neighbouring pixels correlate by {trust.correlation:+.2f}:"
            " wrong in detail, or a camera that spreads electrons"
        )
    return "does not fit: " + "; ".join(words or [f"residuals of variance {trust.variance:.2f} instead of 1"])


def misfit_notes(trust: Trust | None, share_visited: float = 1.0) -> tuple[str, ...]:
    """Return notes on a verdict: size and kind of a misfit, its likely cause, and what to do; none where it fits.

    Args:
        trust: of a model of thin specimens: one projected phase, known optics.
        share_visited: fraction of the scan's positions that have been measured.

    Example:
        >>> from agents.base import Trust
        >>> bad = Trust(0.0, 3.0, 0.0, 0.0, False, "thin specimen", unexplained=130.0, unexplained_sigma=0.05)
        >>> [note.split(":")[0] for note in misfit_notes(bad, share_visited=0.4)]
        ['does not fit', 'likely cause', 'what to do']
    """
    if trust is None or trust.fits:
        return ()
    if share_visited < 1:
        cause = f"only {share_visited:.0%} of the scan was measured: detail near the end of the part is not resolved"
        remedy = "finish the scan; until then use the image away from the end of the part, without its verdict"
    elif trust.contrast is not None and trust.contrast < 1 - FAR_CONTRAST:
        cause = (
            "a specimen too thick for one projection, a finite source or focal spread, or a defocus that is not told"
        )
        remedy = "tell the aberrations, or use a thinner area; positions of atoms hold, values of the phase do not"
    elif trust.unexplained is not None and trust.unexplained > 1:
        cause = "the optics are not as told: convergence_mrad, pixel_mrad, centre_px, step_nm or rotation_deg"
        remedy = "compare the bright disc of the mean pattern with the told radius and centre (--meta corrects them)"
    else:
        cause = "a specimen too thick for one projection, small aberrations, or a distorted scan"
        remedy = "take the image as qualitative; epie fits the probe with the object, a thinner area helps both"
    return misfit_words(trust), f"likely cause: {cause}", f"what to do: {remedy}"


def low_dose_notes(electrons: float, step_nm: float) -> tuple[str, ...]:
    """Return a warning where a method with a prior has too few electrons to contradict it; none elsewhere.

    Args:
        electrons: detected, mean over the positions.
        step_nm: of the scan.

    Example:
        >>> low_dose_notes(160.0, 0.05)
        ()
        >>> low_dose_notes(16.0, 0.05)[0].partition(":")[0]
        'only 64 electrons per square angstrom'
    """
    dose = electrons / (10.0 * step_nm) ** 2
    if dose >= LOW_DOSE_E_PER_A2:
        return ()
    told = f"only {dose:.3g} electrons per square angstrom"
    return (f"{told}: what looks free of noise may come from the prior; compare with ssb or a higher dose",)


def linear_spread(
    reconstruct: Callable[[Floats], Floats], deviation: Floats, members: int = MEMBERS, seed: int = 0
) -> Floats:
    """Standard deviation of a linear reconstruction, by reconstructing noise alone.

    Args:
        reconstruct: linear map from data of the shape of `deviation` to an image.
        deviation: standard deviation of the data, zero or NaN where there are none.
        members: number of noise realisations.
        seed: seed of the noise.
    """
    rng = np.random.default_rng(seed)
    scale = np.nan_to_num(deviation)
    total: Floats | float = 0.0
    for _ in range(members):
        total = total + reconstruct(scale * rng.standard_normal(scale.shape)) ** 2
    return np.sqrt(np.asarray(total) / members)


def _excess(r: Floats, known: NDArray[np.bool_], expected: Floats | None) -> float:
    """Sum of the c of `whiteness` over the known residuals; the unknown ones are zero in `r`."""
    excess = r**2 - known
    if expected is not None:
        excess = excess - r / np.sqrt(np.where(known, expected, 1.0))
    return float(excess.sum())


def _correlations(r: Floats, known: NDArray[np.bool_], axes: Iterable[int], fitted: float) -> tuple[list[float], float]:
    """Statistic of neighbours along each axis, and their largest mean product."""
    scores, means = [], [0.0]
    for product, pairs in (_neighbours(r, known, axis) for axis in axes):
        if pairs:
            scores.append(max(0.0, abs(product) - fitted) / math.sqrt(pairs))
            means.append(product / pairs)
    return scores, max(means, key=abs)


def _neighbours(r: Floats, known: NDArray[np.bool_], axis: int) -> tuple[float, int]:
    """Sum of the products of neighbours along an axis, and their number; unknown residuals are zero."""
    r, known = np.moveaxis(r, axis, 0), np.moveaxis(known, axis, 0)
    return float((r[1:] * r[:-1]).sum()), int((known[1:] & known[:-1]).sum())


def _sidak(score: float, tests: int) -> float:
    """Probability that the largest of independent standard normal variables exceeds `score` in absolute value."""
    single = math.erfc(score / math.sqrt(2.0))
    return 1.0 if single >= 1.0 else -math.expm1(tests * math.log1p(-single))
