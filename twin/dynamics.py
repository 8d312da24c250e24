"""How the corrector follows an input: `x[k+1] = x[k] + actual_input(u[k])`; exact unless the day says otherwise."""

import math

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import TERMS, index
from twin.day import ActuatorProperties
from twin.state import StateSpace

Array = NDArray[np.floating]


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
    """Matrix (n, n) from the input asked for to the input made: gain, a turn of each (a, b) plane, and coupling.

    Coupling is added to the turned and scaled input; what leaks from or into a coefficient that is not calibrated
    is left out.

    Raises:
        ValueError: the actuator turns pairs and the space holds half of one.
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
    return matrix


def actual_input(delta_nm: Array, space: StateSpace, actuator: ActuatorProperties) -> Array:
    """What the state moves by, nm, shape (n,), when asked for `delta_nm`; a perfect actuator changes no bit.

    Raises:
        ValueError: as `response`.
    """
    if actuator.gain == 1.0 and actuator.rotation_deg == 0.0 and not actuator.coupling:
        return delta_nm
    return response(space, actuator) @ delta_nm


def reach_nm(space: StateSpace, actuator: ActuatorProperties) -> Array:
    """Largest |x| of each coefficient, shape (n,): any start, then any input the limits allow."""
    return space.start + np.abs(response(space, actuator)) @ space.input
