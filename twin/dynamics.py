"""Response of the corrector to an input: `x[k+1] = x[k] + follow(u[k])`; exact by default.

Each actuator may have a memory, an `ActuatorState`; its building block is the play operator (Brokate and Sprekels,
Hysteresis and Phase Transitions, 1996, chapter 2). Gain, rotation and coupling of all actuators are linear: `response`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from twin.aberrations import TERMS, index
from twin.arrays import Array
from twin.day import ActuatorProperties
from twin.state import StateSpace


def component_pairs(space: StateSpace) -> list[tuple[int, int]]:
    """Positions (a, b) in the state of every coefficient with two components.

    Raises:
        ValueError: one component of a pair is calibrated and the other is not.
    """
    pairs = []
    for i, name in enumerate(space.names):
        component = TERMS[index(name)].component
        if not component:
            continue
        partner = name[:-1] + ("b" if component == "a" else "a")
        if partner not in space.names:
            raise ValueError(f"{name} is calibrated without {partner}: an actuator that turns the pair would move both")
        if component == "a":
            pairs.append((i, space.names.index(partner)))
    return pairs


def response(space: StateSpace, actuator: ActuatorProperties) -> Array:
    """Matrix (n, n) from requested to actual input: gain, rotation of each (a, b) plane, coupling and reversals.

    Coupling is added to the rotated and scaled input; coupling from or into coefficients that are not calibrated is
    ignored.

    Raises:
        ValueError: the actuator rotates pairs and the space holds half of one.
    """
    matrix = actuator.gain * np.eye(space.dimension)
    if actuator.rotation_deg != 0.0:
        turn = math.radians(actuator.rotation_deg)
        cos, sin = actuator.gain * math.cos(turn), actuator.gain * math.sin(turn)
        for a, b in component_pairs(space):
            matrix[a, a], matrix[a, b] = cos, -sin
            matrix[b, a], matrix[b, b] = sin, cos
    position = {name: i for i, name in enumerate(space.names)}
    for moved, sources in (actuator.coupling or {}).items():
        for asked, share in sources.items():
            if moved in position and asked in position:
                matrix[position[moved], position[asked]] += share
    reverse = [position[name] for name in actuator.reversed if name in position]
    matrix[reverse] *= -1.0
    return matrix


def actual_input(delta_nm: Array, space: StateSpace, actuator: ActuatorProperties) -> Array:
    """Actual input, nm, shape (n,), for a requested `delta_nm`; a perfect actuator returns it unchanged.

    Raises:
        ValueError: see `response`.
    """
    if actuator.gain == 1.0 and actuator.rotation_deg == 0.0 and not (actuator.coupling or actuator.reversed):
        return delta_nm
    return response(space, actuator) @ delta_nm


@dataclass(frozen=True, eq=False)
class ActuatorState:
    """Memory of the actuators of n coefficients, nm of input.

    Attributes:
        requested_nm: sum of the inputs, shape (n,).
        plays_nm: outputs of the hysteresis' plays, shape (PLAYS, n).
        output_nm: output of hysteresis and backlash, shape (n,).
    """

    requested_nm: Array
    plays_nm: Array
    output_nm: Array


PLAYS = 4
"""Number of plays in the hysteresis: steps in which the memory of a reversal fades."""


def at_rest(space: StateSpace) -> ActuatorState:
    """Actuators in the middle of their play, as at the start of a session."""
    return ActuatorState(space.zero, np.zeros((PLAYS, space.dimension)), space.zero)


def play(position_nm: Array, input_nm: Array, dead_band_nm: Array) -> Array:
    """Play operator: an output dragged along by an input within a dead band, (..., n); exact for monotonic input.

    Args:
        position_nm: previous output, (..., n).
        input_nm: new input, (n,).
        dead_band_nm: width, (..., n); zero follows exactly.
    """
    half = dead_band_nm / 2
    return np.clip(position_nm, input_nm - half, input_nm + half)


def follow(
    state: ActuatorState, delta_nm: Array, space: StateSpace, actuator: ActuatorProperties
) -> tuple[Array, ActuatorState]:
    """Return the actual change of the calibrated state for a requested `delta_nm`, nm, (n,), and the new memory.

    Hysteresis is a Prandtl-Ishlinskii operator: a fraction of the movement passes through `PLAYS` plays of equal
    weight, whose dead bands rise in equal steps to `hysteresis_nm`. Backlash is one play after it. Outputs never exceed
    the largest input, so that `reach_nm` holds with and without memory.

    Raises:
        ValueError: see `response`.
    """
    if not (actuator.backlash_nm or actuator.hysteresis_nm):
        return actual_input(delta_nm, space, actuator), state
    requested = state.requested_nm + delta_nm
    widths = _by_name(actuator.hysteresis_nm, space) * (np.arange(1, PLAYS + 1) / PLAYS)[:, None]
    plays = play(state.plays_nm, requested, widths)
    share = actuator.hysteresis_share
    lagging = (1.0 - share) * requested + share * plays.mean(axis=0)
    output = play(state.output_nm, lagging, _by_name(actuator.backlash_nm, space))
    return actual_input(output - state.output_nm, space, actuator), ActuatorState(requested, plays, output)


def _by_name(values_nm: Mapping[str, float] | None, space: StateSpace) -> Array:
    """One value per calibrated coefficient, shape (n,), by default zero."""
    return np.array([(values_nm or {}).get(name, 0.0) for name in space.names])


def reach_nm(space: StateSpace, actuator: ActuatorProperties) -> Array:
    """Largest |x| of each coefficient, shape (n,): any start, then any input the limits allow."""
    return space.start + np.abs(response(space, actuator)) @ space.input
