"""Virtual detectors: what discs, rings and segments of the camera count at each position, any number in one pass.

Every pixel counts with the share of its area that lies inside (twin/detectors/geometry.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import LAYOUTS, Detector, Region, labels, standard
from twin.options import NonNegative, OptionError, Positive, checked_options, validated
from twin.suggest import nearest

Floats = NDArray[np.float64]


NAME = "virtual"


class DetectorOptions(Protocol):
    """Settings that say which detectors there are. A dataclass."""

    @property
    def centre_px(self) -> tuple[float, float] | None:
        """(row, column) of zero angle; None is (H // 2, W // 2)."""
        ...

    def detectors_of(self, meta: StreamMeta, agent: str) -> dict[str, Detector]:
        """Their rings in mrad, by name.

        Raises:
            MetaError: the stream does not tell an angle that they are multiples of.
        """
        ...


@validated
class Options:
    """Settings of `virtual`; all can be changed while the stream runs and then count for what is still to come.

    Attributes:
        detectors: names of `twin.detectors.layouts.LAYOUTS`, scaled to the convergence angle, or a mapping of names to
            rings of one's own, each with inner_mrad, outer_mrad, segments, rotation_deg and centre_mrad; None as
            the ring of a name stands for its layout. Segments count from the camera's +x, not the scan's.
        centre_px: (row, column) of zero angle; None is (H // 2, W // 2).
    """

    detectors: dict[str, Detector | None] = field(default_factory=lambda: {"bf": None, "abf": None})
    centre_px: tuple[float, float] | None = None

    @field_validator("detectors", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = [name.strip() for name in given.split(",")]
        if not isinstance(given, Mapping):
            if not isinstance(given, Iterable):
                raise ValueError(f"names, or a mapping of names to rings, are expected, got {given!r}")
            given = dict.fromkeys(given)
        # One ring may stand without its list.
        return {name: [rings] if isinstance(rings, Mapping | Region) else rings for name, rings in given.items()}

    @field_validator("detectors")
    @classmethod
    def _known(cls, detectors: dict[str, Detector | None]) -> dict[str, Detector | None]:
        if not detectors or () in detectors.values():
            raise ValueError("at least one detector, each with at least one ring")
        for name, rings in detectors.items():
            if rings is None and name not in LAYOUTS:
                known = ", ".join(LAYOUTS)
                raise ValueError(
                    f"{name!r} is not a detector{nearest(name, LAYOUTS)}; known: {known}, or give its rings"
                )
        return detectors

    def detectors_of(self, meta: StreamMeta, agent: str) -> dict[str, Detector]:
        """See `DetectorOptions`."""
        return {
            name: standard(name, meta.need("convergence_mrad", agent)) if rings is None else rings
            for name, rings in self.detectors.items()
        }


@validated
class RingOptions:
    """Settings of an agent for one disc or ring; can be changed while the stream runs.

    Attributes:
        inner_mrad, outer_mrad: the ring; None takes the usual one, a multiple of the convergence angle, whose outer
            radius ends where the camera does.
        centre_px: (row, column) of zero angle; None is (H // 2, W // 2).
    """

    LAYOUT: ClassVar[str]

    inner_mrad: NonNegative | None = None
    outer_mrad: Positive | None = None
    centre_px: tuple[float, float] | None = None

    def detectors_of(self, meta: StreamMeta, agent: str) -> dict[str, Detector]:
        """See `DetectorOptions`."""
        inner, outer = self._radii_mrad(meta, agent)
        reach = min(_grid(self, meta, agent).reach_mrad)
        if self.outer_mrad is None and inner < reach:
            outer = min(outer, reach)
        try:
            return {self.LAYOUT: (Region(inner_mrad=inner, outer_mrad=outer),)}
        except ValueError as error:
            raise OptionError(f"{agent}: inner_mrad {inner:g} must lie below outer_mrad {outer:g}") from error

    def remarks(self, meta: StreamMeta, agent: str) -> tuple[str, ...]:
        """Whether the ring ends before it usually does."""
        usual, used = self._radii_mrad(meta, agent)[1], self.detectors_of(meta, agent)[self.LAYOUT][0].outer_mrad
        return (f"ends with the camera at {used:.1f} mrad, not at {usual:.1f} mrad",) if used < usual else ()

    def _radii_mrad(self, meta: StreamMeta, agent: str) -> tuple[float, float]:
        """As set, else the usual multiples of the convergence angle."""
        usual = LAYOUTS[self.LAYOUT].radii
        inner, outer = (
            usual[side] * meta.need("convergence_mrad", agent) if given is None else given
            for side, given in ((0, self.inner_mrad), (-1, self.outer_mrad))
        )
        return inner, outer


class VirtualDetectors:
    """An image of every detector, filled in as positions arrive; one that comes again replaces what was there.

    Args:
        name: of the agent; opens error messages.
        options: a dataclass with `detectors_of`.
    """

    def __init__(self, name: str, options: DetectorOptions) -> None:
        self.name, self.options = name, options

    def start(self, meta: StreamMeta) -> None:
        """Forget the old stream.

        Raises:
            MetaError: angles that the stream does not tell.
            AngleError: a detector reaches beyond the camera.
        """
        self.meta = meta
        scan = meta.layout.scan
        self.shape = (scan[0], scan[1]) if len(scan) == 2 else (1, scan[0])
        self.images: dict[str, Floats] = {}
        self._use(self.options)

    def update(self, block: Block) -> None:
        row, column = block.pixel.T
        for image, counts in zip(self.images.values(), block.sums(self._weights).T, strict=True):
            image[row, column] = counts

    def configure(self, **changes: Any) -> None:
        """Other radii from now on; the image so far stays as it is, and a new detector's begins empty.

        Raises:
            OptionError, MetaError, AngleError: as on making and starting; nothing has changed.
        """
        self._use(checked_options(type(self.options), {**asdict(self.options), **changes}))  # type: ignore[call-overload]

    def result(self) -> Reconstruction:
        figures = {f"{name}_mean": float(np.nanmean(i)) for name, i in self.images.items() if np.isfinite(i).any()}
        # Counts of electrons are Poisson; a pixel that counts in part makes the spread a little too wide.
        images = {name: Image(i.copy(), "counts", np.sqrt(np.maximum(i, 0.0))) for name, i in self.images.items()}
        return Reconstruction(images=images, figures=figures, notes=self._notes)

    def _use(self, options: DetectorOptions) -> None:
        detectors = options.detectors_of(self.meta, self.name)
        share = weights(detectors, _grid(options, self.meta, self.name)).astype(np.float32)
        share.flags.writeable = False  # compiled once for all blocks
        self.options, self._weights = options, share
        self._notes = options.remarks(self.meta, self.name) if isinstance(options, RingOptions) else ()
        self.images = {name: self.images.get(name, np.full(self.shape, np.nan)) for name in labels(detectors)}


def _grid(options: DetectorOptions, meta: StreamMeta, agent: str) -> DiffractionGrid:
    """The camera's pixels as angles."""
    pixel_mrad = meta.need("pixel_mrad", agent)
    return DiffractionGrid(shape=meta.layout.camera, pixel_mrad=pixel_mrad, centre_px=options.centre_px)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return VirtualDetectors(NAME, checked_options(Options, options))
