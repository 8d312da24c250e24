"""Detectors of the diffraction plane as plain data: discs, rings and segments, in mrad, and the usual layouts."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, Self

from annotated_types import Ge, Le
from pydantic import model_validator

from twin.errors import StemtwinError, check_known
from twin.options import NonNegative, Positive, validated


class AngleError(StemtwinError, ValueError):
    """A detector reaches beyond the angles that are sampled."""


@validated
class Region:
    """A disc or ring of the diffraction plane, cut into equal segments by straight lines through its centre.

    Segments are numbered from +x towards +y; the first begins at `rotation_deg`.

    Attributes:
        inner_mrad, outer_mrad: radii; inner 0 is a disc.
        segments: number of segments.
        rotation_deg: start of the first segment, from +x towards +y.
        centre_mrad: (x, y) of the centre.
    """

    inner_mrad: NonNegative = 0.0
    outer_mrad: Positive
    segments: Annotated[int, Ge(1), Le(360)] = 1
    rotation_deg: float = 0.0
    centre_mrad: tuple[float, float] = (0.0, 0.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.inner_mrad >= self.outer_mrad:
            raise ValueError(f"inner_mrad {self.inner_mrad} must lie below outer_mrad {self.outer_mrad}")
        return self


Detector = tuple[Region, ...]
"""Rings of one detector, from the innermost outwards."""


class Layout(NamedTuple):
    """A detector in multiples of the convergence angle.

    Attributes:
        radii: boundaries of its rings, from the innermost outwards.
        segments: segments of every ring.
        rotation_deg: see `Region`.
    """

    radii: tuple[float, ...]
    segments: int = 1
    rotation_deg: float = 0.0


LAYOUTS = {
    "bf": Layout((0.0, 1.0)),
    "abf": Layout((0.5, 1.0)),
    "abf_outer": Layout((0.75, 1.0)),
    "adf": Layout((1.0, 4.5)),
    "haadf": Layout((4.5, 9.5)),
    "quadrants": Layout((0.0, 1.0), 4, -45.0),
    "annular_quadrants": Layout((0.5, 1.0), 4, -45.0),
    "sixteen_segments": Layout((0.0, 0.25, 0.5, 0.75, 1.0), 4, -45.0),
}
"""The usual detectors. BF, ADF and HAADF as in Fig. 1.3 of the thesis (20, 90 and 190 mrad at 20 mrad convergence).

ABF is the outer half of the disc (Findlay et al., Ultramicroscopy 110, 903, 2010), `abf_outer` that from 15 to 20 mrad
of the thesis's figure; quadrants face the axes, the first one +x, so that the difference of opposite quadrants is the
beam's deflection along x and y; sixteen segments are four rings of four
(Shibata et al., J. Electron Microsc. 59, 473, 2010).
"""


def standard(name: str, convergence_mrad: float) -> Detector:
    """A detector of `LAYOUTS`, scaled to the convergence angle.

    Raises:
        ValueError: unknown name, or a convergence angle that is not positive.
    """
    check_known(name, LAYOUTS, "a detector")
    layout = LAYOUTS[name]
    return tuple(
        Region(
            inner_mrad=inner * convergence_mrad,
            outer_mrad=outer * convergence_mrad,
            segments=layout.segments,
            rotation_deg=layout.rotation_deg,
        )
        for inner, outer in zip(layout.radii[:-1], layout.radii[1:], strict=True)
    )


def labels(detectors: Mapping[str, Detector]) -> tuple[str, ...]:
    """One name per signal: the detector's own, with a running number (`quadrants_0`) where it has several segments."""
    named: list[str] = []
    for name, rings in detectors.items():
        count = sum(ring.segments for ring in rings)
        named += [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
    return tuple(named)
