"""Fit of Gaussian columns to an image, alone or jointly with the shifts of its lines and the detector's tail.

Maximum likelihood under shot noise by scoring (Gauss-Newton with weights 1 / expectation), or eq 2.19's least squares.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agents.quantify import smear as tails
from agents.quantify.columns import PARAMETERS, Columns, Expectation, expectation
from agents.quantify.line_shifts import Axes, Series, learned
from agents.quantify.normal import Normal, normal_equations
from agents.quantify.smear import Smear
from twin.arrays import Floats
from twin.options import validated

Weighting = Literal["poisson", "uniform"]
Width = Literal["column", "shared"]

FAINTEST = 0.02
"""Least expectation for the weight of a pixel, over the median height: darker pixels are not exactly empty."""
LONGEST_STEP_PX = 1.0
LARGEST_LOGARITHM = 0.3
CONVERGED_PX = 2e-4
SETTLED_PX = 0.02
"""Step from which on the correlation of the shifts and the detector's tail are fitted: far from the solution both
explain what columns in the wrong place leave over."""
SETTLING_STEPS = 5
"""Steps after which they are fitted in any case."""
LARGEST_TAIL_STEP = 0.15
"""Of the logarithm of the tail's constant."""
WIDTH_SPREAD = 0.35
"""Standard deviation of the logarithm of a column's width before the image is seen: it only stops faint columns from
spreading over their neighbours."""
BEYOND_EDGE = (1.0, 1.0, 0.5, 0.02)
"""Standard deviations of a column outside the image: x and y in widths, height over the median, logarithm of width."""
ROUNDS = 6
"""Rounds of expectation-maximisation for the series of shifts in each step of the fit."""


@validated
class FitOptions:
    """How to fit.

    Attributes:
        weighting: "poisson", weights by shot noise, or "uniform", the least squares of eq 2.19.
        width: a width of each "column", or one "shared" by all.
        shifts: fit shifts of the lines.
        tail: fit the constant of the detector's response; it is given otherwise.
        most_steps: largest number of steps.
    """

    weighting: Weighting = "poisson"
    width: Width = "column"
    shifts: bool = False
    tail: bool = False
    most_steps: int = 30


@dataclass(frozen=True, eq=False)
class Fit:
    """A fit of columns to an image.

    Attributes:
        columns: columns; those from number `inside` on lie beyond the edges and only explain what reaches in.
        inside: number of columns of the image.
        covariance: of each column's x, y, height and logarithm of width, px and image units, (N, 4, 4).
        background_sigma: standard error of the background.
        shift_px: shifts of the lines along x and y, (2, rows); zero if not fitted.
        shift_sigma_px: their standard errors, (2, rows).
        axes: series of the shifts; None if not fitted.
        smear: response of the detector that was removed, or None.
        measured: image without the detector's response, (rows, columns).
        expected: expected image, (rows, columns).
        dispersion: variance of the residuals over the expected one: of an image in electrons 1, else the gain.
        steps: steps of the fit.
        converged: whether the last step was short.
    """

    columns: Columns
    inside: int
    covariance: Floats
    background_sigma: float
    shift_px: Floats
    shift_sigma_px: Floats
    axes: Axes | None
    smear: Smear | None
    measured: Floats
    expected: Floats
    dispersion: float
    steps: int
    converged: bool

    @property
    def residual(self) -> Floats:
        """Measured minus expected image, over the standard deviation of each pixel, (rows, columns)."""
        variance = self.dispersion * effective(self.expected, self.columns.height)
        return (self.measured - self.expected) / np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class _State:
    """Everything that a step changes, and what it was computed from."""

    columns: Columns
    shift_px: Floats
    axes: Axes | None
    smear: Smear | None
    level: Floats


@dataclass(frozen=True, eq=False)
class _Prior:
    """Precisions and means of columns before the image is seen, (N, 4) each."""

    precision: Floats
    mean: Floats


def effective(expected: Floats, height: Floats) -> Floats:
    """Expectation that weights are made of: not below `FAINTEST` of the median height."""
    return np.maximum(expected, FAINTEST * max(float(np.median(np.abs(height))), 1e-300))


def fit(
    image: Floats, start: Columns, options: FitOptions, smear: Smear | None = None, inside: int | None = None
) -> Fit:
    """Fit columns to an image.

    Args:
        image: (rows, columns) as recorded, lines along rows.
        start: columns to begin with.
        options: how.
        smear: response of the detector to begin with; None fits none.
        inside: number of columns of the image, which come first; the others lie beyond its edges.

    Returns:
        The fit; check `converged`.
    """
    inside = len(start) if inside is None else inside
    axes = (Series(), Series()) if options.shifts else None
    state = _State(start, np.zeros((2, image.shape[0])), axes, smear, tails.first_level(image))
    prior, settled = _prior(start, inside), not options.shifts
    for number in range(1, options.most_steps + 1):
        measured, slope = _before_tail(image, state)
        expected = expectation(state.columns, state.shift_px, image.shape)
        now = options if settled else replace(options, tail=False)
        equations, dispersion = _linearised(state, measured, slope, expected, prior, now)
        following, border = _step(state, equations, expected, now, settled)
        length = _length(state, following)
        state = following
        if settled and length < CONVERGED_PX:
            break
        settled = settled or length < SETTLED_PX or number == SETTLING_STEPS
    measured, _ = _before_tail(image, state)
    covariance = equations.columns_covariance(border, _fitted(options))
    return _finished(state, inside, measured, covariance, border, dispersion, number, length < 10 * CONVERGED_PX)


def _fitted(options: FitOptions) -> int:
    return PARAMETERS if options.width == "column" else PARAMETERS - 1


def _prior(start: Columns, inside: int) -> _Prior:
    count, middle = len(start), float(np.median(np.abs(start.height)))
    sigma = np.full((count, PARAMETERS), np.inf)
    sigma[:, 3] = WIDTH_SPREAD
    beyond = start.width_px[inside:, None] * np.array(BEYOND_EDGE[:2])
    sigma[inside:, :2], sigma[inside:, 2], sigma[inside:, 3] = beyond, BEYOND_EDGE[2] * middle, BEYOND_EDGE[3]
    mean = np.stack([start.x_px, start.y_px, start.height, np.log(start.width_px)], axis=1)
    return _Prior(1.0 / sigma**2, mean)


def _before_tail(image: Floats, state: _State) -> tuple[Floats, Floats]:
    """Image without the detector's tail, and its derivative by the logarithm of the tail's constant."""
    if state.smear is None:
        return image, np.zeros_like(image)
    small, across = 1e-4, image.shape[1]
    here = tails.restored(image, state.smear.weights(across), state.level)
    more = tails.restored(image, state.smear.scaled(small).weights(across), state.level)
    less = tails.restored(image, state.smear.scaled(-small).weights(across), state.level)
    return here, (more - less) / (2 * small)


def _linearised(
    state: _State, measured: Floats, slope: Floats, expected: Expectation, prior: _Prior, options: FitOptions
) -> tuple[Normal, float]:
    """Normal equations round a state, and the dispersion of its residuals."""
    residual, columns = measured - expected.values, state.columns
    plain = effective(expected.values, columns.height)
    if options.weighting == "uniform":
        plain = np.full_like(plain, float(plain.mean()))
    parameters = _fitted(options) * len(columns) + 1
    dispersion = float(np.sum(residual**2 / plain)) / max(residual.size - parameters, 1)
    planes = [np.ones_like(residual)]
    if options.width == "shared":
        planes.append(expected.by_width)
    if options.tail and state.smear is not None:
        planes.append(-slope)
    now = np.stack([columns.x_px, columns.y_px, columns.height, np.log(columns.width_px)], axis=1)
    fitted = _fitted(options)
    precision = prior.precision[:, :fitted].ravel() + 1e-12
    pull = (prior.precision * (prior.mean - now))[:, :fitted].ravel()
    weight = 1.0 / (max(dispersion, 1e-300) * plain)
    lines = options.shifts
    equations = normal_equations(
        expected, residual, weight, np.array(planes), (precision, pull), lines=lines, fitted=fitted
    )
    if options.tail and state.smear is not None:
        # The inverse amplifies noise: without the determinant of the transformation, the longest tail would win.
        equations.reduced_pull[-1] -= float(np.sum(weight * residual**2)) * _determinant_slope(state.smear)
    return equations, dispersion


def _determinant_slope(smear: Smear) -> float:
    """Derivative of log h(0) by the logarithm of the constant."""
    small = 1e-4
    more, less = (smear.scaled(sign * small).weights(1)[0] for sign in (1, -1))
    return math.log(more / less) / (2 * small)


def _step(
    state: _State, equations: Normal, expected: Expectation, options: FitOptions, settled: bool
) -> tuple[_State, Floats]:
    """State after one step, and covariance of the border."""
    lines = expected.values.shape[0] if options.shifts else 0
    shared = slice(2 * lines, None)
    reduced, pull = equations.reduced, equations.reduced_pull
    own = np.linalg.inv(reduced[shared, shared] + 1e-12 * np.eye(len(pull) - 2 * lines))
    axes, shift_px = state.axes, state.shift_px
    if state.axes is None:
        border_step, covariance = own @ pull, own
    else:
        part = slice(0, 2 * lines)
        mix = reduced[part, shared] @ own
        information = reduced[part, part] - mix @ reduced[shared, part]
        wanted = pull[part] - mix @ pull[shared]
        flat = state.shift_px.ravel()
        axes, mean, spread = learned(information, wanted + information @ flat, state.axes, ROUNDS, settled)
        moved = np.clip(mean - flat, -LONGEST_STEP_PX, LONGEST_STEP_PX)
        shift_px = (flat + moved).reshape(2, -1)
        rest = own @ (pull[shared] - reduced[shared, part] @ moved)
        border_step = np.concatenate([moved, rest])
        across = -spread @ mix
        covariance = np.block([[spread, across], [across.T, own + mix.T @ spread @ mix]])
    columns, smear = _moved(state, equations, border_step, 2 * lines, options)
    level = expectation(columns, shift_px, (expected.values.shape[0], 1)).values[:, 0]
    return _State(columns, shift_px, axes, smear, level), covariance


def _moved(
    state: _State, equations: Normal, border_step: Floats, first: int, options: FitOptions
) -> tuple[Columns, Smear | None]:
    """Columns and response after a step of limited length."""
    columns = state.columns
    step = equations.columns_step(border_step).reshape(len(columns), -1)
    if options.width == "shared":
        step = np.column_stack([step, np.full(len(step), border_step[first + 1])])
    place = np.clip(step[:, :2], -LONGEST_STEP_PX, LONGEST_STEP_PX)
    width = np.exp(np.clip(step[:, 3], -LARGEST_LOGARITHM, LARGEST_LOGARITHM))
    middle = float(np.median(np.abs(columns.height)))
    height = columns.height + np.clip(step[:, 2], -middle, middle)
    moved = Columns(
        columns.x_px + place[:, 0],
        columns.y_px + place[:, 1],
        height,
        columns.width_px * width,
        columns.background + float(border_step[first]),
    )
    if state.smear is None or not options.tail:
        return moved, state.smear
    return moved, state.smear.scaled(float(np.clip(border_step[-1], -LARGEST_TAIL_STEP, LARGEST_TAIL_STEP)))


def _length(before: _State, after: _State) -> float:
    """Longest change of a place, of the relative width or of the tail, px."""
    one, other = before.columns, after.columns
    parts = [one.x_px - other.x_px, one.y_px - other.y_px, one.width_px - other.width_px]
    longest = max(float(np.sqrt(np.mean(part**2))) for part in parts)
    if before.axes is not None and after.axes is not None:
        longest = max(longest, *(abs(a.sigma_px - b.sigma_px) for a, b in zip(before.axes, after.axes, strict=True)))
    if before.smear is not None and after.smear is not None:
        longest = max(longest, 0.1 * abs(math.log(after.smear.constant_per_px / before.smear.constant_per_px)))
    return longest


def _finished(
    state: _State,
    inside: int,
    measured: Floats,
    covariance: Floats,
    border: Floats,
    dispersion: float,
    steps: int,
    converged: bool,
) -> Fit:
    shape, lines = measured.shape, measured.shape[0] if state.axes is not None else 0
    full = np.zeros((len(covariance), PARAMETERS, PARAMETERS))
    full[:, : covariance.shape[1], : covariance.shape[1]] = covariance
    if covariance.shape[1] < PARAMETERS:
        full[:, 3, 3] = border[2 * lines + 1, 2 * lines + 1]
    sigma = np.zeros((2, shape[0]))
    if lines:
        sigma = np.sqrt(np.diagonal(border)[: 2 * lines]).reshape(2, -1)
    expected = expectation(state.columns, state.shift_px, shape).values
    return Fit(
        columns=state.columns,
        inside=inside,
        covariance=full,
        background_sigma=math.sqrt(max(border[2 * lines, 2 * lines], 0.0)),
        shift_px=state.shift_px,
        shift_sigma_px=sigma,
        axes=state.axes,
        smear=state.smear,
        measured=measured,
        expected=expected,
        dispersion=dispersion,
        steps=steps,
        converged=converged,
    )
