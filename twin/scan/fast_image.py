"""The fast path: distort the image of a perfect scan as a real scan would have recorded it.

Much faster than rendering at the actual positions, but for detector signals only: diffraction patterns cannot be
interpolated.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from twin.arrays import Floats
from twin.day import ScanProperties
from twin.scan.errors import ScanEngine
from twin.scan.plan import ScanPlan, paths, scan_axes
from twin.scan.response import DetectorResponse

BLOCK = 2**16


def grid_coordinates(plan: ScanPlan, positions_nm: Floats) -> Floats:
    """(row, column) of positions (N, 2) on the plan's grid, in fractional pixels, shape (2, N)."""
    offset = positions_nm - plan.origin_nm
    fast, slow = scan_axes(plan)
    row = (offset[:, 0] * slow[0] + offset[:, 1] * slow[1]) / plan.step_nm + (plan.rows - 1) / 2
    column = (offset[:, 0] * fast[0] + offset[:, 1] * fast[1]) / plan.step_nm + (plan.columns - 1) / 2
    return np.stack([row, column])


def distorted_image(
    image: NDArray[np.floating],
    plan: ScanPlan,
    properties: ScanProperties,
    rng: np.random.Generator,
    *,
    order: int = 3,
    margin: int = 0,
) -> Floats:
    """Distort the image of a perfect scan by position errors and detector response (Friedrich 2023, 2.2.2-2.2.3).

    The image is interpolated at the positions of `ScanEngine(properties, rng)`, which are those of the physical path
    with the same generator, and the values are smeared along the fast axis. Noise and digitisation, before or after
    the smear depending on the detector, are left to the caller.

    Agreement with the physical path before noise, as rms difference over the image's rms contrast, for images that
    are band-limited to 1 / (4 steps), and 3 steps away from the image's edges: within 1 % with cubic splines (order
    3), within 0.1 % with order 5. The thesis interpolates linearly (order 1), which is 13 % off on the same images.
    The image of a probe of semi-angle alpha has this band limit for steps up to lambda / (8 alpha); docs/scan.md has
    the figures for coarser steps.

    Args:
        image: signal at the grid's positions, shape (rows + 2 margin, columns + 2 margin).
        plan: any but a list.
        properties: errors of positions and response.
        rng: read once.
        order: order of the interpolating splines.
        margin: pixels of the image beyond the grid on each side. The image is mirrored at its edges.

    Returns:
        Shape (rows, columns); NaN at positions that a sub-sampled scan does not visit.

    Raises:
        ValueError: a list, or an image of another shape.
    """
    needed = (plan.rows + 2 * margin, plan.columns + 2 * margin)
    if plan.pattern == "list":
        raise ValueError("a list scan has no grid to interpolate on; render at its positions")
    if image.shape != needed:
        raise ValueError(
            f"the image has shape {image.shape}; {plan.rows} x {plan.columns} with margin {margin} needs {needed}"
        )
    coefficients = ndimage.spline_filter(np.asarray(image, np.float64), order, mode="mirror") if order > 1 else image
    engine, response = ScanEngine(properties, rng), DetectorResponse(properties)
    recorded = np.full(plan.shape, np.nan)
    for path in paths(plan, BLOCK):
        places = grid_coordinates(plan, engine.displace(path)) + margin
        values = ndimage.map_coordinates(
            coefficients, places, output=np.float64, order=order, mode="mirror", prefilter=False
        )
        recorded[path.pixel[:, 0], path.pixel[:, 1]] = response.respond(values, path)
    return recorded
