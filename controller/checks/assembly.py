"""Put a strategy behind the checks: for which optics it is built, and whether it reads Ronchigrams at all."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from controller.base import Controller
from controller.canonical import units
from controller.checks.checked import CheckedController
from learning.weights_file import WeightsError
from twin.optics import Optics
from twin.state import StateSpace


def checked(
    module: ModuleType, optics: Optics, space: StateSpace, options: Mapping[str, Any], trained: Optics | None
) -> Controller:
    """Build the strategy of a module and wrap it.

    A strategy with weights is built for their optics; the others for their own beam on the reference camera. A strategy
    that reads no Ronchigrams, always or with some options, has a function `reads_ronchigrams(options)`.

    Args:
        module: of the strategy.
        optics, space, options: as for `controller.load`.
        trained: optics of the strategy's weights, see `controller.base.trained_optics`.

    Raises:
        OptionError, WeightsError: as the module's `make`.
    """
    reads = not hasattr(module, "reads_ronchigrams") or bool(module.reads_ronchigrams(options))
    if not reads:
        return CheckedController(module.make(optics, space, options), optics, optics, space, reads_ronchigrams=False)
    reference = trained or units.on_reference_camera(optics)
    factor = units.scale(space.names, optics, reference)
    inside = units.scaled(space, factor)
    try:
        inner = module.make(reference, inside, options)
    except WeightsError as error:
        if inside is space:
            raise
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in zip(space.names, factor, strict=True))
        raise WeightsError(f"{error} (lengths of the weights per nm at these optics: {rates})") from error
    return CheckedController(inner, optics, reference, space, reads_ronchigrams=True)
