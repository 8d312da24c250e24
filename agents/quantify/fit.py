"""Fit of Gaussian columns to an image, alone or jointly with the shifts of its lines and the detector's tail.

Maximum likelihood under shot noise by scoring (Gauss-Newton with weights 1 / expectation), or eq 2.19's least squares.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from agents.quantify import smear as tails
from agents.quantify.columns import PARAMETERS, Columns, expectation
from agents.quantify.line_shifts import Axes, Series
from agents.quantify.resample import ShiftMap
from agents.quantify.smear import Smear
from agents.quantify.step import (
    HALOS,
    FitOptions,
    Linearised,
    State,
    before_tail,
    column_prior,
    effective,
    fitted_parameters,
    length_px,
    linearised,
    step,
)
from twin.arrays import Floats

CONVERGED_PX = 1e-3
LEAST_EXPOSURE = 0.05
"""Exposure below which a place of the true grid is not scaled up."""
SETTLED_PX = 0.02
"""Step from which on the correlation of the shifts and the detector's tail are fitted: far from the solution both
explain what columns in the wrong place leave over."""
SHORTER = 0.5
"""Part of each step that is taken once two went against each other."""
SETTLING_STEPS = 5
"""Steps after which they are fitted in any case."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fit of columns to an image.

    Attributes:
        columns: columns; those from number `inside` on lie beyond the edges; their tails reach into the image.
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

    @property
    def restored(self) -> Floats:
        """The fitted columns on the true grid: without noise, shifts of the lines or tail, (rows, columns).

        What is no Gaussian column is not in it.
        """
        return expectation(self.columns, np.zeros_like(self.shift_px), self.measured.shape).values

    @property
    def straight(self) -> Floats:
        """The measured image without tail, its lines put where the beam was; the noise is still there."""
        shifts = ShiftMap.of(self.shift_px)
        return shifts.image(self.measured) / np.maximum(shifts.exposure(self.measured.shape[1]), LEAST_EXPOSURE)


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
    parameters = fitted_parameters(options) * len(start) + 1.0
    nowhere = np.zeros((2, image.shape[0]))
    state = State(start, nowhere, axes, smear, tails.first_level(image), parameters)
    prior, settled, number, length = column_prior(start, inside), not options.shifts, 0, math.inf
    last, share = np.zeros(2 * len(start)), 1.0
    while number < options.most_steps and not (settled and length < CONVERGED_PX):
        number += 1
        now = options if settled else replace(options, tail=False)
        linear = linearised(image, state, prior, now)
        following = step(state, linear, now, settled)
        if options.halo and following.columns.halo in HALOS:
            # The other changes assume that it goes on beyond its limit: leave it there, and begin the step again.
            options, state = replace(options, halo=False), state.with_halo(following.columns.halo)
            continue
        move = (following.columns.places - state.columns.places).ravel()
        # Rows of columns and the shifts of their lines hardly depend on each other: steps overshoot, to and fro.
        if settled and float(move @ last) < 0:
            share = SHORTER
        following, last = following.nearer(state, share), share * move
        length, settled = length_px(state, following, inside), settled or number >= SETTLING_STEPS
        settled = settled or length < SETTLED_PX
        state = following
    return _finished(image, state, inside, linearised(image, state, prior, options), number, length < CONVERGED_PX)


def _finished(image: Floats, state: State, inside: int, linear: Linearised, steps: int, converged: bool) -> Fit:
    border, lines = linear.border_covariance, image.shape[0] if state.axes is not None else 0
    count = linear.equations.pull.size // len(state.columns)
    covariance = linear.equations.columns_covariance(border, count)
    full = np.zeros((len(covariance), PARAMETERS, PARAMETERS))
    full[:, :count, :count] = covariance
    if count < PARAMETERS:
        full[:, 3, 3] = border[2 * lines + 1, 2 * lines + 1]
    sigma = np.zeros((2, image.shape[0]))
    if lines:
        sigma = np.sqrt(np.diagonal(border)[: 2 * lines]).reshape(2, -1)
    return Fit(
        columns=state.columns,
        inside=inside,
        covariance=full,
        background_sigma=math.sqrt(max(border[2 * lines, 2 * lines], 0.0)),
        shift_px=state.shift_px,
        shift_sigma_px=sigma,
        axes=state.axes,
        smear=state.smear,
        measured=before_tail(image, state)[0],
        expected=expectation(state.columns, state.shift_px, (image.shape[0], image.shape[1])).values,
        dispersion=linear.dispersion,
        steps=steps,
        converged=converged,
    )
