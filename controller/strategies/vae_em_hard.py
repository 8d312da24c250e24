"""VAE-EM with a hard E-step: all weight on the likeliest candidate (van Hulst et al. 2026, section IV-B3).

`vae_em` with `hard` set; every other option is its own. Assumes what it assumes.
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
        OptionError: an unknown option, a bad value, or `hard` itself.
        WeightsError: weights for other optics, coefficients or ranges.
    """
    if "hard" in options:
        raise OptionError("hard is what vae_em_hard is; use vae_em to choose")
    return vae_em.make(optics, space, options | {"hard": True})
