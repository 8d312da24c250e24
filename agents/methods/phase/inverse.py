"""Regularised single sideband: a prior as strong as the noise allows, and a map of what it leaves unexplained.

Weak-phase model of the agent `ssb`; the strength is the one at which the residuals have variance one.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from agents.inverse.charge import charge_density
from agents.inverse.data import PhaseData
from agents.inverse.priors import STEPS, Prior
from agents.inverse.solve import Solved, solve
from agents.methods.phase import ssb
from agents.trust import low_dose_notes
from twin.arrays import Floats
from twin.options import OptionError, Positive, checked_options, validated

NAME = "inverse"


@validated
class Options(ssb.Options):
    """Options of the regularised reconstruction, besides those of `ssb`.

    Attributes:
        prior: "denoiser" (thresholds of overlapping patches), "tv" (total variation), "smooth" (small slopes) or
            "tikhonov" (small phases).
        strength: of the prior over the noise of a pixel; None is the one at which the residuals have variance one.
        thickness_nm: of the specimen; with it the charge density is an image, too.
    """

    prior: Prior = "denoiser"
    strength: Positive | None = None
    thickness_nm: Positive | None = None


class Inverse:
    """Collects the single sidebands of a scan and regularises the phase when asked.

    Args:
        options: see `Options`.
        step: a prior of your own in place of `options.prior`: image and standard deviation of its noise to an image.

    Example:
        >>> from agents import load
        >>> agent = load("inverse", {"prior": "tv", "strength": 2.0})
        >>> agent.options.prior
        'tv'
    """

    def __init__(self, options: Options, step: Callable[[Floats, float], Floats] | None = None) -> None:
        self.options, self._step = options, step
        own = {item.name for item in fields(ssb.Options)}
        self._sidebands = ssb.Ssb(ssb.Options(**{k: v for k, v in vars(options).items() if k in own}))

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: the metadata lack something, the disc does not fit on the camera, or there are no frames.
        """
        self._sidebands.start(meta, NAME)
        self._meta = meta
        self._solved: tuple[PhaseData, Solved] | None = None

    def update(self, block: Block) -> None:
        """Fold in positions."""
        self._sidebands.update(block)
        self._solved = None

    def configure(self, **changes: Any) -> None:
        """Change prior, strength or thickness.

        Raises:
            OptionError: another option, or a bad value.
        """
        allowed = ("prior", "strength", "thickness_nm")
        for name in changes:
            if name not in allowed:
                raise OptionError(f"{name!r} cannot be changed while {NAME} runs; {', '.join(allowed)} can")
        self.options, self._solved = checked_options(Options, {**vars(self.options), **changes}), None

    def finish(self) -> None:
        """Solve for the whole scan; until then, and again after a change, `result` does."""
        visited = self._sidebands.visited
        if self._solved is not None or not visited.any():
            return
        data = PhaseData.of(self._sidebands.spectrum(), (visited.shape[0], visited.shape[1]))
        if (data.precision > 0).any():
            self._solved = data, solve(data, self._step or STEPS[self.options.prior], self.options.strength)

    def result(self) -> Reconstruction:
        """The phase, the residual map, and the charge density if the thickness is known."""
        visited = self._sidebands.visited
        self.finish()
        if self._solved is None:
            return Reconstruction({"phase": Image(np.full(visited.shape, np.nan), "rad")})
        data, found = self._solved
        residual = data.residual_map(found.phase)
        images = {
            "phase": Image(np.where(visited, found.phase, np.nan), "rad"),
            "residual": Image(np.where(visited, residual, np.nan), "1"),
        }
        beam = self._meta.metadata
        if self.options.thickness_nm is not None and beam.step_nm is not None and beam.energy_kev is not None:
            density = charge_density(found.phase, beam.step_nm, beam.energy_kev, self.options.thickness_nm)
            images["charge"] = Image(np.where(visited, density, np.nan), "e/nm3")
        figures = {"strength": found.strength, "residual_variance": found.residual_variance}
        return Reconstruction(images, figures, notes=self._notes(found))

    def _notes(self, found: Solved) -> tuple[str, ...]:
        notes = [f"prior {self.options.prior if self._step is None else 'given'}, strength {found.strength:.3g}"]
        if abs(found.residual_variance - 1.0) > 0.05:
            notes.append(
                f"residuals have a variance of {found.residual_variance:.3g}, not 1: the phase is not weak,"
                " or the optics are not as told"
            )
        return (*notes, *low_dose_notes(self._sidebands.disc_counts, self._meta.need("step_nm", NAME)))


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Inverse(checked_options(Options, options))
