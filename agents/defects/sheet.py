"""Labelled dark-field images of a WSe2 sheet with defects, by incoherent Z-contrast, under given conditions.

The detector smears after the shot noise, so that neighbouring pixels have correlated noise.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from agents.defects.conditions import Conditions
from twin import specimens
from twin.arrays import Floats
from twin.day import ScanProperties
from twin.scan.fast_image import distorted_image
from twin.scan.plan import ScanPlan
from twin.scan.response import response_weights
from twin.zcontrast.columns import ColumnLabels, Elements
from twin.zcontrast.image import ColumnImages
from twin.zcontrast.profile import ZContrast, column_profile

KINDS = ("vacancy", "empty", "substitution")
"""Defects by name: a column that lacks one atom, all atoms, or has another element."""
TUNGSTEN, SELENIUM, MOLYBDENUM = 74, 34, 42
FULL: tuple[Elements, ...] = ((TUNGSTEN,), (SELENIUM, SELENIUM), (MOLYBDENUM,))
PAIR_NM = 0.335
"""Distance of the two selenium atoms of a column."""
RMS_NM = {TUNGSTEN: 0.006, SELENIUM: 0.006, MOLYBDENUM: 0.006}
MARGIN_PX = 16
"""Pixels that are simulated beyond each edge, for the errors of the scan."""
TAPS = 64
C10_STEP_NM = 1.0
"""C10 is rounded to multiples of this, so that few profiles serve many images."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image with its defects.

    Attributes:
        image: signal in electrons, (rows, columns).
        step_nm: distance of pixels.
        x_nm, y_nm: places of the defects from the first pixel on, (N,).
        kind: index in `KINDS`, (N,).
    """

    image: Floats
    step_nm: float
    x_nm: Floats
    y_nm: Floats
    kind: NDArray[np.int64]


@lru_cache(maxsize=64)
def profiles(beam: ZContrast) -> tuple[Floats, dict[Elements, int]]:
    """Profiles of all columns of a sheet, and the row of each kind's empty column among them."""
    blocks, row, height = [], {}, 0
    for elements in FULL:
        depth = [PAIR_NM / 2] if len(elements) == 1 else [0.0, PAIR_NM]
        blocks.append(column_profile(elements, depth, RMS_NM, beam))
        row[elements] = height
        height += len(blocks[-1])
    return np.concatenate(blocks), row


def labelled_image(
    beam: ZContrast, conditions: Conditions, shape: tuple[int, int], rng: np.random.Generator, density: float = 0.05
) -> Labelled:
    """Simulate one image of a sheet at a random angle with random defects.

    Args:
        beam: beam and detector; its C10 and source are replaced by those of the conditions.
        conditions: of the day.
        shape: rows and columns of the image.
        rng: draws everything.
        density: single vacancies per selenium column; an eighth as many lack both atoms, and a tenth as many tungsten
            atoms are replaced.

    Example:
        >>> beam = ZContrast(energy_kev=80.0, convergence_mrad=25.0, inner_mrad=63.0, outer_mrad=200.0)
        >>> found = labelled_image(beam, Conditions(), (64, 48), np.random.default_rng(1))
        >>> found.image.shape, bool((found.image >= 0).all())
        ((64, 48), True)
    """
    step = conditions.step_nm
    side_nm = (max(shape) + 2 * MARGIN_PX + 8) * step * (1 + 2 * conditions.shear) + 0.4
    sheet = _sheet(side_nm, conditions.shear, density, rng)
    values, row = profiles(replace(beam, c10_nm=round(conditions.c10_nm / C10_STEP_NM) * C10_STEP_NM, source_nm=0.0))
    start = np.array([row[elements] for elements in FULL])[sheet.site]
    labels = ColumnLabels(sheet.x_nm, sheet.y_nm, (), (), sheet.atoms, ())
    images = ColumnImages(labels, values, start + sheet.atoms.astype(np.int64), np.zeros(len(start)))
    height, width = shape[0] + 2 * MARGIN_PX, shape[1] + 2 * MARGIN_PX
    corner = side_nm / 2 - np.array([width, height]) * step / 2
    perfect = images.image((height, width), step, (float(corner[0]), float(corner[1])))
    image = _recorded(perfect, conditions, shape, rng)
    x, y = sheet.x_nm - corner[0] - MARGIN_PX * step, sheet.y_nm - corner[1] - MARGIN_PX * step
    inside = (x >= 0) & (y >= 0) & (x <= (shape[1] - 1) * step) & (y <= (shape[0] - 1) * step) & (sheet.kind >= 0)
    return Labelled(image, step, x[inside], y[inside], sheet.kind[inside])


@dataclass(frozen=True, eq=False)
class _Sheet:
    """Columns of a sheet: places, index in `FULL`, atoms that are there, index in `KINDS` or -1; (N,) each."""

    x_nm: Floats
    y_nm: Floats
    site: NDArray[np.int64]
    atoms: Floats
    kind: NDArray[np.int64]


def _sheet(side_nm: float, shear: float, density: float, rng: np.random.Generator) -> _Sheet:
    """A sheet at a random angle, strained about its middle, with random defects."""
    options = {"width_nm": side_nm, "height_nm": side_nm, "rotation_deg": float(rng.uniform(0, 60))}
    atoms = specimens.build("wse2", options)
    metal = atoms.numbers == TUNGSTEN
    pairs = (atoms.numbers == SELENIUM) & (atoms.positions_nm[:, 2] < atoms.thickness_nm / 2)
    strain = np.eye(2) + rng.uniform(-shear, shear, (2, 2))
    xy = np.concatenate([atoms.positions_nm[metal, :2], atoms.positions_nm[pairs, :2]]) - side_nm / 2
    xy = xy @ strain.T + side_nm / 2
    sites = (int(metal.sum()), int(pairs.sum()))
    tungsten = rng.random(sites[0])
    selenium = rng.random(sites[1])
    kind = np.concatenate([
        np.where(tungsten < density / 10, KINDS.index("substitution"), -1),
        np.where(selenium < density, KINDS.index("vacancy"), -1),
    ])  # fmt: skip
    kind[sites[0] :][selenium > 1 - density / 8] = KINDS.index("empty")
    site = np.repeat([0, 1], sites)
    site[kind == KINDS.index("substitution")] = 2
    lacking = np.where(kind == KINDS.index("vacancy"), 1, np.where(kind == KINDS.index("empty"), 2, 0))
    return _Sheet(xy[:, 0].copy(), xy[:, 1].copy(), site, np.where(site == 1, 2.0, 1.0) - lacking, kind)


def _recorded(perfect: Floats, conditions: Conditions, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """The image in electrons as a scan records it: blur, dirt, shifts of lines, shot noise, smear, read-out."""
    step = conditions.step_nm
    long_px, turned = conditions.source_nm / step, bool(rng.integers(2))
    blur = (long_px, long_px * conditions.roundness)
    expected = gaussian_filter(perfect, blur if turned else blur[::-1], mode="mirror")
    expected = expected + _dirt(expected.mean(), expected.shape, conditions, rng)
    rows, columns = shape
    scan = ScanProperties(
        jitter_x_nm=conditions.jitter_nm,
        jitter_y_nm=conditions.jitter_nm,
        jitter_x_correlation=conditions.jitter_correlation,
        jitter_y_correlation=conditions.jitter_correlation,
    )
    plan = ScanPlan(rows=rows, columns=columns, step_nm=step, centre_nm=(0.0, 0.0))
    shifted = distorted_image(expected, plan, scan, rng, margin=MARGIN_PX)
    electrons = np.maximum(shifted, 0.0) * conditions.dose_e_per_nm2 * step**2
    counts = rng.poisson(electrons).astype(np.float64)
    if conditions.smear_px > 0:
        weights = response_weights("half_lorentzian", conditions.smear_px, 1.0, TAPS)
        level = electrons[:, :1]  # the beam rests at the start of a line
        counts = lfilter(weights, [1.0], counts - level, axis=1) + level
    noise = conditions.readout * np.sqrt(electrons.mean())
    return np.asarray(np.maximum(counts + noise * rng.standard_normal(shape), 0.0))


def _dirt(mean: float, shape: tuple[int, int], conditions: Conditions, rng: np.random.Generator) -> Floats:
    """Scattering of a layer of varying thickness, nowhere negative."""
    if conditions.contamination == 0:
        return np.zeros(shape)
    width_px = conditions.contamination_nm / conditions.step_nm
    spectrum = scipy.fft.rfft2(rng.standard_normal(shape))
    fast, slow = np.fft.rfftfreq(shape[1]), np.fft.fftfreq(shape[0])[:, None]
    field = scipy.fft.irfft2(spectrum * np.exp(-2 * (np.pi * width_px) ** 2 * (fast**2 + slow**2)), s=shape)
    field = (field - field.mean()) / max(float(field.std()), 1e-12)
    return np.asarray(conditions.contamination * mean * np.maximum(field + 1.0, 0.0))
