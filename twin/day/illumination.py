"""What illuminates the specimen: the aperture's real shape, the profile within it, and vibration."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from twin.options import Fraction, NonNegative, Seed, validated


@validated
class IlluminationProperties:
    """Departures from a round, evenly lit aperture and a probe at rest; each off by default.

    Positions within the aperture are in units of its radius.

    Attributes:
        radius_scale: real radius of the aperture over the one that the optics state.
        fall_off: loss of intensity at one radius from the brightest point, quadratic in the distance.
        brightest: (x, y) of the brightest point.
        ragged_rms: rms deviation of the edge from a circle, relative to the radius, in lobes.
        ragged_seed: which ragged edge.
        flake_share: area of a round flake that blocks the beam, over that of the aperture.
        flake_at: (x, y) of its centre; what lies beyond the edge blocks nothing.
        vibration_nm: rms displacement of the probe along one axis.
        vibration_deg: direction of that axis, from +x towards +y.
    """

    radius_scale: Annotated[float, Gt(0.5), Lt(1.5)] = 1.0
    fall_off: Fraction = 0.0
    brightest: tuple[float, float] = (0.0, 0.0)
    ragged_rms: Annotated[float, Ge(0), Lt(0.2)] = 0.0
    ragged_seed: Seed = 0
    flake_share: Fraction = 0.0
    flake_at: tuple[float, float] = (0.7, 0.0)
    vibration_nm: NonNegative = 0.0
    vibration_deg: float = 0.0

    @property
    def shaped(self) -> bool:
        """Whether the aperture is not a round, evenly lit one of the stated radius."""
        return bool(self.radius_scale != 1.0 or self.fall_off or self.ragged_rms or self.flake_share)
