"""Virtual detectors: counts in discs, rings and segments of the camera at each position, any number in one pass.

A pixel cut by the edge of a detector counts in proportion to the area inside (twin/detectors/geometry.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from typing import Any, Protocol

import numpy as np
from pydantic import field_validator

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from twin.arrays import Floats
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import LAYOUTS, Detector, Region, labels, standard
from twin.errors import nearest
from twin.options import checked_options, validated

NAME = "virtual"


class DetectorOptions(Protocol):
    """Options that define detectors. A dataclass."""

    @property
    def centre_px(self) -> tuple[float, float] | None:
        """(row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2)."""
        ...

    def detectors_of(self, meta: StreamMeta, agent: str) -> dict[str, Detector]:
        """Rings of the detectors in mrad, by name.

        Raises:
            MetaError: the stream lacks the convergence angle, and radii are multiples of it.
        """
        ...

    def remarks(self, meta: StreamMeta, agent: str) -> tuple[str, ...]:
        """Notes for the operator."""
        ...


@validated
class Options:
    """Settings of `virtual`; all can be changed while the stream runs and apply to the positions to come.

    Attributes:
        detectors: names of `twin.detectors.layouts.LAYOUTS`, scaled to the convergence angle, or a mapping of names to
            rings, each with inner_mrad, outer_mrad, segments, rotation_deg and centre_mrad; a ring of None is the
            layout of that name. Segments are counted from the camera's +x, not the scan's.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
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
        # A single ring needs no list.
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
        """The detectors in mrad; see `DetectorOptions`."""
        return {
            name: standard(name, meta.need("convergence_mrad", agent)) if rings is None else rings
            for name, rings in self.detectors.items()
        }

    def remarks(self, meta: StreamMeta, agent: str) -> tuple[str, ...]:
        """None."""
        return ()


class VirtualDetectors:
    """One image per detector, filled in as positions arrive; a repeated position replaces the earlier value.

    Args:
        name: name of the agent, for error messages.
        options: the detectors.

    Example:
        >>> import numpy as np
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from agents.block import FrameBlock
        >>> from twin.formats.dataset import Layout, Metadata
        >>> agent = load("virtual", {"detectors": "bf, adf"})
        >>> agent.start(StreamMeta(Layout((2, 3), (32, 32)), Metadata(convergence_mrad=5.0, pixel_mrad=2.0)))
        >>> frames = np.zeros((6, 32, 32), np.uint16)
        >>> frames[:, 16, 16] = [1, 2, 3, 4, 5, 6]  # electrons on the optic axis
        >>> agent.update(FrameBlock(frames, np.argwhere(np.ones((2, 3)))))
        >>> agent.result().images["bf"].values
        array([[1., 2., 3.],
               [4., 5., 6.]])
    """

    def __init__(self, name: str, options: DetectorOptions) -> None:
        self.name, self.options = name, options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: the stream lacks an angle.
            AngleError: a detector extends beyond the camera.
        """
        self.meta = meta
        scan = meta.layout.scan
        self.shape = (scan[0], scan[1]) if len(scan) == 2 else (1, scan[0])
        self.images: dict[str, Floats] = {}
        self._use(self.options)

    def update(self, block: Block) -> None:
        """Write the counts of the positions to the images."""
        row, column = block.pixel.T
        for image, counts in zip(self.images.values(), block.sums(self._weights).T, strict=True):
            image[row, column] = counts

    def configure(self, **changes: Any) -> None:
        """Change the detectors for the positions to come; images so far are kept, those of new detectors begin empty.

        Raises:
            OptionError, MetaError, AngleError: as in `make` and `start`; nothing has changed.
        """
        self._use(checked_options(type(self.options), {**asdict(self.options), **changes}))  # type: ignore[call-overload]

    def result(self) -> Reconstruction:
        """The images with their Poisson standard deviations."""
        figures = {f"{name}_mean": float(np.nanmean(i)) for name, i in self.images.items() if np.isfinite(i).any()}
        # For a pixel that counts in part this overestimates the standard deviation slightly.
        images = {name: Image(i.copy(), "counts", np.sqrt(np.maximum(i, 0.0))) for name, i in self.images.items()}
        return Reconstruction(images=images, figures=figures, notes=self._notes)

    def _use(self, options: DetectorOptions) -> None:
        detectors = options.detectors_of(self.meta, self.name)
        fraction = weights(detectors, camera_grid(self.meta, options.centre_px, self.name)).astype(np.float32)
        fraction.flags.writeable = False  # read-only weights are compiled once for all blocks
        self.options, self._weights = options, fraction
        self._notes = options.remarks(self.meta, self.name)
        self.images = {name: self.images.get(name, np.full(self.shape, np.nan)) for name in labels(detectors)}


def camera_grid(meta: StreamMeta, centre_px: tuple[float, float] | None, agent: str) -> DiffractionGrid:
    """Angles of the camera pixels.

    Raises:
        MetaError: the stream lacks the angle of a pixel.
    """
    return DiffractionGrid(
        shape=meta.layout.camera,
        pixel_mrad=meta.need("pixel_mrad", agent),
        centre_px=meta.metadata.centre_px if centre_px is None else centre_px,
    )


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return VirtualDetectors(NAME, checked_options(Options, options))
