"""Distortions of the camera's image: electrons conserved, moments in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.day import CameraProperties
from twin.optics import Optics
from twin.ronchigram.camera_geometry import crop_pixels, to_camera

OPTICS = Optics(grid=256, camera_pixels=64, binning=3)


def seen(camera, centre=(0.0, 0.0), sigma=12.0):
    """A Gaussian of the diffraction plane as the camera sees it, (H, W)."""
    size = crop_pixels(OPTICS, camera)
    axis = np.arange(size) - size // 2
    spot = np.exp(-((axis[None, :] - centre[0]) ** 2 + (axis[:, None] - centre[1]) ** 2) / (2 * sigma**2))
    return to_camera(torch.from_numpy(spot)[None], OPTICS, camera)[0].numpy(), spot.sum()


def moments(image):
    axis = np.arange(64) - 31.5 - 1 / 6  # zero angle is a sub-pixel of an even number
    x, y = (image.sum(0) * axis).sum() / image.sum(), (image.sum(1) * axis).sum() / image.sum()
    return (
        x,
        y,
        (image.sum(0) * (axis - x) ** 2).sum() / image.sum(),
        (image.sum(1) * (axis - y) ** 2).sum() / image.sum(),
    )


@settings(max_examples=30)
@given(
    st.floats(-0.1, 0.1),
    st.floats(-180, 180),
    st.floats(-0.05, 0.05),
    st.floats(-20, 20),
    st.floats(0.9, 1.1),
    st.booleans(),
)
def test_distortions_conserve_the_electrons(ellipticity, direction, barrel, turn, scale, mirrored):
    camera = CameraProperties(
        ellipticity=ellipticity,
        ellipticity_deg=direction,
        barrel=barrel,
        rotation_deg=turn,
        scale=scale,
        mirrored=mirrored,
    )
    image, electrons = seen(camera)
    assert image.sum() == pytest.approx(electrons, rel=2e-3)


def test_ellipticity_stretches_along_its_direction():
    image, _ = seen(CameraProperties(ellipticity=0.1, ellipticity_deg=90.0))
    _, _, across, along = moments(image)
    binning = 3**2 / 12 / 9 + 1 / 12  # variance of bilinear samples and of a pixel
    assert (along - binning) / (across - binning) == pytest.approx((1.05 / 0.95) ** 2, rel=5e-3)


@pytest.mark.parametrize("barrel", [-0.05, 0.05])
def test_barrel_distortion_draws_the_image_in(barrel):
    image, _ = seen(CameraProperties(barrel=barrel), centre=(72.0, 0.0), sigma=3.0)
    x, y, _, _ = moments(image)
    reach = 72.0 / 3  # camera pixels; half the side is 32
    assert x * (1 + barrel * (x / 32) ** 2) == pytest.approx(reach, rel=4e-3)
    assert (x < reach) == (barrel > 0)
    assert abs(y) < 0.05


def test_a_mirrored_camera_sees_the_other_side():
    straight, _ = seen(CameraProperties(), centre=(30.0, 45.0))
    mirrored, _ = seen(CameraProperties(mirrored=True), centre=(-30.0, 45.0))
    x, y, _, _ = moments(straight)
    mirror_x, mirror_y, _, _ = moments(mirrored)
    assert (mirror_x, mirror_y) == pytest.approx((x, y), abs=0.05)
