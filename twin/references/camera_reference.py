"""Bad pixels, dark level and gain of a camera, and frames corrected by them.

A frame is counts = gain x signal + dark; pixels that count wrongly, or that no chip has, get the value of
a plane through their neighbours. Agents and controllers see frames that have passed through `corrected`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import field_validator
from scipy import ndimage, spatial

from twin.arrays import Floats
from twin.options import OptionError, validated
from twin.references.image_files import read_image
from twin.types import Frame

NEIGHBOURS = 12
"""Good pixels, the nearest ones, to which a plane is fitted whose value replaces a bad one."""
SLOPE = 0.1
"""Weight that keeps the plane level where its neighbours do not tell its slope."""
LEAST_GAIN = 0.05
"""A pixel that counts less than this fraction of the others is bad."""

Pixel = tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]]


@validated
class ReferenceOptions:
    """References of a camera, from files (.npy, .tif, .png, .mrc, .dm3, .dm4, .hspy) or as values.

    Attributes:
        bad_pixels: image that is not zero where a pixel is bad, or a list of (row, column).
        bad_rows, bad_columns: rows and columns that are bad, such as the gaps between chips.
        dark: image of the dark level, counts, or one level for all pixels; a stack of images is averaged.
        gain: image of uniform illumination above the dark level; it is scaled to a median of one.
        centre_px: (row, column) of zero angle; frames for controllers are shifted by whole pixels to have it in the
            middle, agents are told.
    """

    bad_pixels: str | list[Pixel] | None = None
    bad_rows: list[Annotated[int, Ge(0)]] | None = None
    bad_columns: list[Annotated[int, Ge(0)]] | None = None
    dark: str | float | None = None
    gain: str | None = None
    centre_px: tuple[float, float] | None = None

    @field_validator("bad_rows", "bad_columns", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        return [given] if isinstance(given, int) else given


class Filling(NamedTuple):
    """Bad pixels, (b,), and the good ones, (b, k), with their weights, that replace each; indices y W + x."""

    bad: NDArray[np.intp]
    good: NDArray[np.intp]
    weights: Floats


@dataclass(frozen=True, eq=False)
class CameraReference:
    """References of a camera of one shape.

    Attributes:
        bad: True for bad pixels, (H, W).
        dark: counts without a beam, (H, W); None if they are not to be subtracted.
        gain: relative sensitivity of the pixels, (H, W); None if it is not to be divided out.
        centre_px: (row, column) of zero angle; None if unknown.

    Raises:
        OptionError: images of another shape than `bad`, or no good pixel.

    Example:
        >>> bad = np.zeros((3, 3), bool)
        >>> bad[1, 1] = True
        >>> frame = np.array([[[2, 2, 2], [2, 99, 2], [2, 2, 2]]], np.uint16)
        >>> corrected(frame, CameraReference(bad)).tolist()
        [[[2, 2, 2], [2, 2, 2], [2, 2, 2]]]
    """

    bad: NDArray[np.bool_]
    dark: Floats | None = None
    gain: Floats | None = None
    centre_px: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("dark", "gain"):
            image = getattr(self, name)
            if image is not None and image.shape != self.bad.shape:
                raise OptionError(f"{name} has the shape {image.shape}, the camera {self.bad.shape}")
        if self.bad.all():
            raise OptionError(f"all {self.bad.size} pixels of the camera are bad; bad_pixels is zero for good ones")

    @classmethod
    def of(cls, options: ReferenceOptions, camera: tuple[int, int]) -> "CameraReference":
        """Read the references of a camera.

        Raises:
            OptionError: a shape, a pixel or a value that the camera cannot have; names the option.
            FormatError: a file that cannot be read.
        """
        bad = _bad_pixels(options, camera)
        dark = gain = None
        if isinstance(options.dark, str):
            dark = _image(options.dark, "dark", camera)
            bad |= ~np.isfinite(dark)
        elif options.dark is not None:
            dark = np.full(camera, options.dark)
        if options.gain is not None:
            gain = _image(options.gain, "gain", camera)
            middle = float(np.median(gain[np.isfinite(gain) & ~bad])) if not bad.all() else 0.0
            if not middle > 0:
                raise OptionError(f"gain: {options.gain} has a median of {middle:g}; uniform light is above zero")
            gain = gain / middle
            bad |= ~(gain > LEAST_GAIN)
        centre = options.centre_px
        if centre is not None and not all(-0.5 <= c < side for c, side in zip(centre, camera, strict=True)):
            raise OptionError(f"centre_px: {centre} lies outside a camera of {camera}")
        return cls(bad, dark, gain, centre)

    @property
    def changes_levels(self) -> bool:
        """Whether corrected counts are no whole numbers."""
        return self.dark is not None or self.gain is not None

    @cached_property
    def filling(self) -> Filling:
        """What replaces the bad pixels."""
        bad, good = np.argwhere(self.bad), np.argwhere(~self.bad)
        k, width = min(NEIGHBOURS, len(good)), self.bad.shape[1]
        if not len(bad):
            return Filling(np.empty(0, np.intp), np.empty((0, k), np.intp), np.empty((0, k)))
        _, nearest = spatial.cKDTree(good).query(bad, k=range(1, k + 1))
        weights = _plane_weights(good[nearest] - bad[:, None])
        return Filling(bad @ (width, 1), good[nearest] @ (width, 1), weights)


def _plane_weights(offset: NDArray[np.integer]) -> Floats:
    """Return the weights that neighbours have in the value of a plane at a pixel, fitted to them, (b, k).

    Args:
        offset: (row, column) of the neighbours from the pixel, (b, k, 2); they count by the inverse square distance.
    """
    square = np.sum(offset.astype(np.float64) ** 2, axis=2)
    design = np.concatenate([np.ones((*square.shape, 1)), offset], axis=2)
    weighted = design / square[..., None]
    # A small slope where neighbours on one line leave it open.
    normal = np.einsum("bki,bkj->bij", weighted, design) + np.diag([0.0, SLOPE, SLOPE])
    solved = np.linalg.solve(normal, np.broadcast_to([[1.0], [0.0], [0.0]], (len(offset), 3, 1)))
    return np.asarray(np.einsum("bki,bi->bk", weighted, solved[..., 0]))


def corrected(counts: NDArray[Any], reference: CameraReference) -> NDArray[Any]:
    """Return frames without the camera's defects, (n, H, W).

    Args:
        counts: (n, H, W).
        reference: of the camera.

    Returns:
        float32 where a dark level or a gain is taken out, which may be negative; else the type of the counts.
    """
    frames = np.asarray(counts)
    if reference.changes_levels:
        frames = frames.astype(np.float32)
        if reference.dark is not None:
            frames -= reference.dark.astype(np.float32)
        if reference.gain is not None:
            frames /= np.where(reference.bad, 1.0, reference.gain).astype(np.float32)
    bad, good, weights = reference.filling
    if not len(bad):
        return frames
    flat = np.array(frames.reshape(len(frames), -1))
    values = np.einsum("nbk,bk->nb", flat[:, good].astype(np.float64), weights)
    flat[:, bad] = values if flat.dtype.kind == "f" else np.maximum(np.rint(values), 0)
    return flat.reshape(frames.shape)


def corrected_frame(frame: Frame, reference: CameraReference) -> Frame:
    """Return a frame as a controller sees it: without the camera's defects, the zero angle in the middle.

    The counts stay whole: a constant level, told in the settings as `dark_level`, keeps the noise of dark pixels above
    zero.

    Raises:
        OptionError: the frame has another shape than the reference.
    """
    if frame.counts.shape != reference.bad.shape:
        raise OptionError(f"a frame of {frame.counts.shape}, and references of a camera of {reference.bad.shape}")
    level = frame.settings.get("dark_level", 0.0)
    whole = reference if reference.dark is not None else replace(reference, dark=np.full(reference.bad.shape, level))
    signal = corrected(frame.counts[None], whole if reference.changes_levels else reference)[0].astype(np.float64)
    if reference.changes_levels:
        level = float(np.ceil(max(level, -signal.min())))
        signal += level
    if reference.centre_px is not None:
        signal = _centred(signal, reference.centre_px)
    counts = np.clip(np.rint(signal), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    return replace(frame, counts=counts, settings={**frame.settings, **({"dark_level": level} if level else {})})


def _centred(image: Floats, centre_px: tuple[float, float]) -> Floats:
    """Return an image shifted by whole pixels, its edge repeated where it ends."""
    shift = [side // 2 - round(c) for side, c in zip(image.shape, centre_px, strict=True)]
    return np.asarray(ndimage.shift(image, shift, order=0, mode="nearest"))


def _bad_pixels(options: ReferenceOptions, camera: tuple[int, int]) -> NDArray[np.bool_]:
    bad = np.zeros(camera, bool)
    if isinstance(options.bad_pixels, str):
        bad |= _image(options.bad_pixels, "bad_pixels", camera) != 0
    elif options.bad_pixels:
        pixels = np.array(options.bad_pixels)
        _check_inside(pixels, camera, "bad_pixels")
        bad[tuple(pixels.T)] = True
    for axis, name in enumerate(("bad_rows", "bad_columns")):
        lines: Sequence[int] | None = getattr(options, name)
        if lines:
            _check_inside(np.array(lines)[:, None], camera[axis : axis + 1], name)
            np.moveaxis(bad, axis, 0)[list(lines)] = True
    return bad


def _check_inside(places: NDArray[np.integer], sides: Sequence[int], name: str) -> None:
    beyond = np.any(places >= np.array(sides), axis=1)
    if beyond.any():
        raise OptionError(f"{name}: {places[np.argmax(beyond)].tolist()} lies outside a camera of {list(sides)}")


def _image(path: str, name: str, camera: tuple[int, int]) -> Floats:
    image = read_image(Path(path).expanduser())
    if image.shape != camera:
        raise OptionError(f"{name}: {path} has the shape {image.shape}, the camera {camera}")
    return image
