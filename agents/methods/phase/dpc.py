"""Differential phase contrast: gradient of the phase, its divergence and its curl, which shows the scan's rotation.

Rotation and transpose are found by minimising the curl (agents/com/rotation.py) if neither the options nor the stream
have them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.com.agent import ComAgent
from agents.com.centre_map import ComOptions
from agents.com.phase_scale import PhaseScale
from agents.com.rotation import RotationError, Turn, curl_and_divergence, find_turn, noise_of_curl
from agents.com.trust import gradient_trust, misfit_notes
from agents.geometry import along_scan
from twin.arrays import Floats
from twin.options import checked_options, validated

NAME = "dpc"

CLEAR_SCORE = 3.0
"""Standard deviations at which an orientation found from the data is significant."""

LARGEST_STD_DEG = 10.0
"""Standard error above which a rotation is a guess."""

SAME_DEG = 2.0
"""Tolerated difference between the found and the given rotation, however small its standard error."""


@validated
class Options(ComOptions):
    """Options of the centre of mass, see `ComOptions`; unknown `rotation_deg` and `transposed` are found."""


class Dpc(ComAgent[Options]):
    """Gradient, divergence and curl of the map of the centres of mass, along the scan's axes.

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout
        >>> agent = load("dpc", {"rotation_deg": 30, "transposed": False})
        >>> agent.start(StreamMeta(Layout((5, 7), (16, 16))))
        >>> list(agent.result().images)
        ['divergence', 'curl', 'gradient_x', 'gradient_y']
    """

    name = NAME

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or an option that this stream does not allow.
        """
        meta.need_grid(NAME)
        super().start(meta)
        self.scale = PhaseScale.of(meta)

    def result(self) -> Reconstruction:
        """Gradient of the phase along the scan, its divergence and curl, each with its noise; and the turn found."""
        shift_px, variance_px2 = self.map.camera_shift_px(), self.map.variance_px2()
        turn, found, notes = self._turn(shift_px)
        along = along_scan(shift_px, *turn)
        trust = gradient_trust(along, variance_px2)
        curl, divergence = curl_and_divergence(along)
        gradient, per_step = self.scale.gradient_per_px, self.scale.gradient_per_px / self.scale.step_nm
        unit, second = ("rad/nm", "rad/nm^2") if self.scale.unit == "rad" else ("px", "px")
        noise, second_noise = np.sqrt(variance_px2) * gradient, noise_of_curl(variance_px2) * per_step
        return Reconstruction(
            images={
                "divergence": Image(divergence * per_step, second, second_noise),
                "curl": Image(curl * per_step, second, second_noise),
                "gradient_x": Image(along[..., 0] * gradient, unit, noise),
                "gradient_y": Image(along[..., 1] * gradient, unit, noise),
            },
            figures={"rotation_deg": turn[0], "transposed": float(turn[1]), **_figures(found)},
            trust=trust,
            notes=(*misfit_notes(along, trust), *notes, *self.scale.notes),
        )

    def _turn(self, shift_px: Floats) -> tuple[tuple[float, bool], Turn | None, tuple[str, ...]]:
        """Rotation and transpose to use, both as found from the data, and notes."""
        given = self.map.known_rotation_deg
        known = (self.map.rotation_deg, self.map.transposed)
        try:
            found = find_turn(shift_px, self._scattering())
            if given is None and self.map.known_transposed is None:
                used = found
            else:
                used = find_turn(shift_px, self._scattering(), rotation_deg=given, transposed=self.map.known_transposed)
        except RotationError as error:
            return known, None, (f"rotation not found: {error}", *self.map.notes)
        return (used.rotation_deg, used.transposed), found, _remarks(used, found, given, self.map.known_transposed)

    def _scattering(self) -> Floats | None:
        """Variance of the patterns, (rows, columns), if the whole camera is used: it grows with the scattering."""
        return self.map.width_px2() if self.map.takes_whole_camera else None


def _figures(found: Turn | None) -> dict[str, float]:
    """Rotation and transpose as found from the data."""
    if found is None:
        return {}
    return {
        "found_rotation_deg": found.rotation_deg,
        "found_rotation_std_deg": found.std_deg,
        "found_transposed": float(found.transposed),
        "curl_share": found.curl_share,
    }


def _remarks(used: Turn, found: Turn, rotation_deg: float | None, transposed: bool | None) -> tuple[str, ...]:
    """Notes for the operator on the rotation that was used."""
    remarks = []
    if rotation_deg is None:
        remarks.append(
            f"rotation found from the data: {used.rotation_deg:.1f} +- {used.std_deg:.1f} deg;"
            " atoms are assumed to attract electrons"
        )
        if used.std_deg > LARGEST_STD_DEG:
            remarks.append("too little signal to find the rotation: it is a guess")
        if used.sign_score < CLEAR_SCORE or used.sign_doubt:
            remarks.append("the sign is not clear: the rotation may be 180 deg more and all signs reversed")
    elif found.std_deg <= LARGEST_STD_DEG and found.transposed == used.transposed:
        apart = abs((found.rotation_deg - rotation_deg + 90.0) % 180.0 - 90.0)
        if apart > max(SAME_DEG, CLEAR_SCORE * found.std_deg):
            remarks.append(
                f"the data suggest a rotation of {found.rotation_deg:.1f} +- {found.std_deg:.1f} deg or 180 deg more,"
                f" not the given {rotation_deg:.1f} deg"
            )
        elif used.sign_score < -CLEAR_SCORE:
            remarks.append("atoms appear to repel electrons: the given rotation may be off by 180 deg")
    if transposed is None:
        remarks.append(f"camera found to be {'transposed' if used.transposed else 'not transposed'}")
        if used.orientation_score < CLEAR_SCORE:
            remarks.append("too little signal to determine whether the camera is transposed")
    elif found.transposed != transposed and found.orientation_score >= CLEAR_SCORE:
        remarks.append(f"the data suggest that the camera is {'' if found.transposed else 'not '}transposed")
    return tuple(remarks)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Dpc(checked_options(Options, options))
