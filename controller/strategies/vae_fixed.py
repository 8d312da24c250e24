"""Calibration with a known latent map, no model estimation (van Hulst et al. 2026, special case at the end of III).

`vae_em` with `model_estimation` off: the simulated prior mean is taken for the day's map. Assumes, beyond exact inputs
and an even map, that the day is the simulated one.
"""

from typing import Any

from controller.base import Controller
from controller.strategies import vae_em
from twin.optics import Optics
from twin.options import OptionError
from twin.state import StateSpace


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Controller:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option, a bad value, or `model_estimation` itself.
        WeightsError: weights for other optics, coefficients or ranges.
    """
    if "model_estimation" in options:
        raise OptionError("vae_fixed estimates no model; use vae_em to choose")
    return vae_em.make(optics, space, options | {"model_estimation": False})
