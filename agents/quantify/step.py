"""One step of a fit: the image linearised round a state, and the state that follows."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agents.quantify import smear as tails
from agents.quantify.columns import PARAMETERS, Columns, expectation
from agents.quantify.line_shifts import Axes, learned, prior_precision
from agents.quantify.noise import taken_up
from agents.quantify.normal import Normal, normal_equations
from agents.quantify.smear import Smear
from twin.arrays import Floats
from twin.options import Count, validated

Weighting = Literal["poisson", "uniform"]
Width = Literal["column", "shared"]

FAINTEST = 0.02
"""Least expectation for the weight of a pixel, over the median height: darker pixels are not exactly empty."""
LONGEST_STEP_PX = 1.0
LARGEST_LOGARITHM = 0.3
LARGEST_HALO_STEP, HALOS = 0.1, (0.0, 0.5)
"""Of the halo's part, and its limits."""
LARGEST_TAIL_STEP = 0.15
"""Of the logarithm of the tail's constant."""
WIDTH_SPREAD = 0.35
"""Standard deviation of the logarithm of a column's width before the image is seen: it only stops faint columns from
spreading over their neighbours."""
BEYOND_EDGE = (0.15, 0.15, 0.5, 0.02)
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
        halo: fit the part of all columns that is broader than a Gaussian; it stays as given otherwise.
        tail: fit the constant of the detector's response; it is given otherwise.
        most_steps: largest number of steps.
    """

    weighting: Weighting = "poisson"
    width: Width = "column"
    shifts: bool = False
    halo: bool = False
    tail: bool = False
    most_steps: Count = 30


@dataclass(frozen=True, eq=False)
class State:
    """What a step changes.

    Attributes:
        columns: columns, those beyond the edges last.
        shift_px: shifts of the lines along x and y, (2, rows).
        axes: their series; None if they are not fitted.
        smear: response of the detector, or None.
        level: expected signal before each line, (rows,).
        parameters: effective number of parameters.
    """

    columns: Columns
    shift_px: Floats
    axes: Axes | None
    smear: Smear | None
    level: Floats
    parameters: float

    def with_halo(self, halo: float) -> "State":
        """The same with another halo of the columns."""
        return replace(self, columns=replace(self.columns, halo=halo))

    def nearer(self, before: "State", share: float) -> "State":
        """Go only a part of the way to these places and shifts from those before."""
        if share == 1.0:
            return self
        x, y = (before.columns.places + share * (self.columns.places - before.columns.places)).T
        shift_px = before.shift_px + share * (self.shift_px - before.shift_px)
        return replace(self, columns=replace(self.columns, x_px=x, y_px=y), shift_px=shift_px)


@dataclass(frozen=True, eq=False)
class Prior:
    """Precisions and means of columns before the image is seen, (N, 4) each."""

    precision: Floats
    mean: Floats


@dataclass(frozen=True, eq=False)
class Linearised:
    """An image linearised round a state.

    Attributes:
        equations: normal equations.
        shape: rows and columns of the image.
        dispersion: variance of the residuals over the expected one.
        parameters: effective number of parameters.
        border_covariance: of lines and shared parameters at this state, (b, b).
    """

    equations: Normal
    shape: tuple[int, int]
    dispersion: float
    parameters: float
    border_covariance: Floats


def effective(expected: Floats, height: Floats) -> Floats:
    """Expectation that weights are made of: not below `FAINTEST` of the median height."""
    return np.maximum(expected, FAINTEST * max(float(np.median(np.abs(height))), 1e-300))


def fitted_parameters(options: FitOptions) -> int:
    """Parameters of each column that are its own."""
    return PARAMETERS if options.width == "column" else PARAMETERS - 1


def column_prior(start: Columns, inside: int) -> Prior:
    """Wide for the columns of the image, narrow for those beyond its edges, which come from number `inside` on."""
    count, middle = len(start), float(np.median(np.abs(start.height)))
    sigma = np.full((count, PARAMETERS), np.inf)
    sigma[:, 3] = WIDTH_SPREAD
    beyond = start.width_px[inside:, None] * np.array(BEYOND_EDGE[:2])
    sigma[inside:, :2], sigma[inside:, 2], sigma[inside:, 3] = beyond, BEYOND_EDGE[2] * middle, BEYOND_EDGE[3]
    mean = np.stack([start.x_px, start.y_px, start.height, np.log(start.width_px)], axis=1)
    return Prior(1.0 / sigma**2, mean)


def before_tail(image: Floats, state: State) -> tuple[Floats, Floats]:
    """Image without the detector's tail, and its derivative by the logarithm of the tail's constant."""
    if state.smear is None:
        return image, np.zeros_like(image)
    here = tails.restored(image, state.smear.weights(image.shape[1]), state.level)
    return here, tails.slope(image, state.smear, state.level)


def linearised(image: Floats, state: State, prior: Prior, options: FitOptions) -> Linearised:
    """Normal equations of an image as recorded round a state."""
    measured, slope = before_tail(image, state)
    expected, columns = expectation(state.columns, state.shift_px, measured.shape), state.columns
    residual = measured - expected.values
    plain = effective(expected.values, columns.height)
    if options.weighting == "uniform":
        plain = np.full_like(plain, float(plain.mean()))
    # Pixels darker than their weight assumes vary less.
    noise = np.sqrt(np.clip(expected.values / plain, 0.0, 1.0))
    freedom = max(float(np.sum(noise**2)) - state.parameters, 1.0)
    dispersion = max(float(np.sum(residual**2 / plain)) / freedom, 1e-300)
    planes = [np.ones_like(residual)]
    if options.width == "shared":
        planes.append(expected.by_width)
    if options.halo:
        planes.append(expected.by_halo)
    if options.tail and state.smear is not None:
        planes.append(-slope)
    now = np.stack([columns.x_px, columns.y_px, columns.height, np.log(columns.width_px)], axis=1)
    fitted = fitted_parameters(options)
    own_prior = prior.precision[:, :fitted].ravel() + 1e-12, (prior.precision * (prior.mean - now))[:, :fitted].ravel()
    weight = 1.0 / (dispersion * plain)
    equations = normal_equations(
        expected, residual, weight, np.array(planes), own_prior, lines=options.shifts, fitted=fitted
    )
    covariance = np.asarray(np.linalg.inv(_with_prior(state, equations)[0]), np.float64)
    parameters, pull = state.parameters, 0.0
    if options.tail or not options.shifts:
        parameters, pull = taken_up(equations, covariance, (noise, weight), state.smear if options.tail else None)
    if options.tail and state.smear is not None:
        # The inverse amplifies noise: what counts is the pull beyond that of white noise.
        equations.reduced_pull[-1] += pull
    return Linearised(equations, (measured.shape[0], measured.shape[1]), dispersion, parameters, covariance)


def _with_prior(state: State, equations: Normal) -> tuple[Floats, Floats]:
    """Reduced equations with the prior of the lines: matrix and right-hand side."""
    whole, pull = equations.reduced + 1e-12 * np.eye(len(equations.reduced)), equations.reduced_pull.copy()
    if state.axes is not None:
        lines = state.shift_px.shape[1]
        precision = prior_precision(state.axes, lines)
        whole[: 2 * lines, : 2 * lines] += precision
        pull[: 2 * lines] -= precision @ state.shift_px.ravel()
    return whole, pull


def _limited(state: State, linear: Linearised, options: FitOptions) -> Floats:
    """Reduced equations, damped so far that the tail's constant moves by no more than `LARGEST_TAIL_STEP`."""
    reduced = linear.equations.reduced
    if not options.tail or state.smear is None:
        return reduced
    inverse, (_, pull) = linear.border_covariance, _with_prior(state, linear.equations)
    excess = abs(float(inverse[-1] @ pull)) / LARGEST_TAIL_STEP - 1.0
    if excess <= 0:
        return reduced
    damped = reduced.copy()
    damped[-1, -1] += excess / inverse[-1, -1]
    return damped


def step(state: State, linear: Linearised, options: FitOptions, free: bool) -> State:
    """State after one step.

    Args:
        state: where the image was linearised.
        linear: the result.
        options: how to fit.
        free: estimate the correlation of the shifts, too.
    """
    equations = linear.equations
    lines = linear.shape[0] if options.shifts else 0
    shared = slice(2 * lines, None)
    reduced, pull = _limited(state, linear, options), equations.reduced_pull
    own = np.linalg.inv(reduced[shared, shared] + 1e-12 * np.eye(len(pull) - 2 * lines))
    axes, shift_px = state.axes, state.shift_px
    if state.axes is None:
        border_step = own @ pull
    else:
        part = slice(0, 2 * lines)
        mix = reduced[part, shared] @ own
        information = reduced[part, part] - mix @ reduced[shared, part]
        wanted = pull[part] - mix @ pull[shared]
        flat = state.shift_px.ravel()
        axes, mean = learned(information, wanted + information @ flat, state.axes, ROUNDS, free)
        moved = np.clip(mean - flat, -LONGEST_STEP_PX, LONGEST_STEP_PX)
        shift_px = (flat + moved).reshape(2, -1)
        border_step = np.concatenate([moved, own @ (pull[shared] - reduced[shared, part] @ moved)])
    columns, smear = _moved(state, equations, border_step, 2 * lines, options)
    level = expectation(columns, shift_px, (linear.shape[0], 1)).values[:, 0]
    return State(columns, shift_px, axes, smear, level, linear.parameters)


def _moved(
    state: State, equations: Normal, border_step: Floats, first: int, options: FitOptions
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
    halo = columns.halo
    if options.halo:
        longest, change = LARGEST_HALO_STEP, border_step[first + 1 + (options.width == "shared")]
        halo = float(np.clip(halo + np.clip(change, -longest, longest), *HALOS))
    moved = Columns(
        columns.x_px + place[:, 0],
        columns.y_px + place[:, 1],
        height,
        columns.width_px * width,
        columns.background + float(border_step[first]),
        halo,
    )
    if state.smear is None or not options.tail:
        return moved, state.smear
    return moved, state.smear.scaled(float(np.clip(border_step[-1], -LARGEST_TAIL_STEP, LARGEST_TAIL_STEP)))


def length_px(before: State, after: State, inside: int) -> float:
    """Longest change of a place, of the relative width or of the tail, px."""
    one, other = before.columns.only(np.arange(inside)), after.columns.only(np.arange(inside))
    parts = [one.x_px - other.x_px, one.y_px - other.y_px, one.width_px - other.width_px]
    longest = max(float(np.sqrt(np.mean(part**2))) for part in parts)
    if before.axes is not None and after.axes is not None:
        longest = max(longest, *(abs(a.sigma_px - b.sigma_px) for a, b in zip(before.axes, after.axes, strict=True)))
    if before.smear is not None and after.smear is not None:
        longest = max(longest, 0.1 * abs(math.log(after.smear.constant_per_px / before.smear.constant_per_px)))
    return longest
