"""From the diffraction plane to the camera's pixels: rotation, magnification, shift and distortions, then binning."""

import math

import torch
from torch import Tensor

from twin.day import CameraProperties
from twin.optics import Optics


def crop_pixels(optics: Optics, camera: CameraProperties) -> int:
    """Side of the un-binned square that covers the rotated, scaled and shifted camera."""
    side = optics.camera_pixels * optics.binning
    if camera.undistorted:
        return side
    turn = math.radians(camera.rotation_deg)
    stretch = (1 - abs(camera.ellipticity) / 2) / (1 + 2 * max(camera.barrel, 0.0))  # a corner has twice r^2
    reach = (abs(math.cos(turn)) + abs(math.sin(turn))) / (camera.scale * stretch)
    shift = max(abs(s) for s in camera.shift_px) * optics.binning * reach
    # A few common sizes: transforms like them, and days share one aperture basis.
    return min(optics.grid, 16 * math.ceil((side * reach + 2 * shift + 2) / 16))


def to_camera(intensity: Tensor, optics: Optics, camera: CameraProperties) -> Tensor:
    """Sum diffraction intensity on the reciprocal grid into camera pixels.

    In torch, with the camera's geometry; a scan's camera has none, see `scan.diffraction.to_camera`.

    Args:
        intensity: (N, M, M), zero angle at M // 2, pixel `optics.pixel_mrad`.
        optics: camera size and binning.
        camera: its rotation, scale and shift are applied here, before binning.

    Returns:
        (N, H, W), the fraction of the beam in each camera pixel.
    """
    side, bins = optics.camera_pixels * optics.binning, optics.binning
    size = intensity.shape[-1]
    if camera.undistorted:
        start = size // 2 - side // 2
        fine = intensity[:, start : start + side, start : start + side]
    else:
        fine = _sample(intensity, side, optics, camera)
    return fine.reshape(-1, optics.camera_pixels, bins, optics.camera_pixels, bins).sum((2, 4))


def _sample(intensity: Tensor, side: int, optics: Optics, camera: CameraProperties) -> Tensor:
    """Bilinear samples of the intensity at the camera's sub-pixels, (N, side, side), electrons conserved."""
    size = intensity.shape[-1]
    axis = torch.arange(side, dtype=intensity.dtype) - side // 2
    x = (axis[None, :] - camera.shift_px[0] * optics.binning) / camera.scale
    y = (axis[:, None] - camera.shift_px[1] * optics.binning) / camera.scale
    x, y, area = _undistorted(x, y, side / 2, camera)
    turn = math.radians(camera.rotation_deg)
    source_x = math.cos(turn) * x - math.sin(turn) * y
    source_y = math.sin(turn) * x + math.cos(turn) * y
    if camera.mirrored:
        source_x = -source_x
    # grid_sample counts from -1 to 1 between the outer pixels' outer edges (align_corners=False).
    grid = (torch.stack([source_x, source_y], -1) + size // 2 + 0.5) * (2 / size) - 1
    batch = intensity.shape[0]
    samples = torch.nn.functional.grid_sample(
        intensity[:, None],
        grid.expand(batch, -1, -1, -1).to(intensity.dtype),
        padding_mode="zeros",
        align_corners=False,
    )
    return samples[:, 0] * area / camera.scale**2


def _undistorted(x: Tensor, y: Tensor, half: float, camera: CameraProperties) -> tuple[Tensor, Tensor, Tensor | float]:
    """Place of an image point without ellipticity and barrel distortion, and the area that its pixel covers there."""
    if camera.ellipticity == 0.0 and camera.barrel == 0.0:
        return x, y, 1.0
    turn, half_difference = math.radians(camera.ellipticity_deg), camera.ellipticity / 2
    along = (math.cos(turn) * x + math.sin(turn) * y) / (1 + half_difference)
    across = (math.cos(turn) * y - math.sin(turn) * x) / (1 - half_difference)
    bend = camera.barrel * (along**2 + across**2) / half**2
    along, across = along * (1 + bend), across * (1 + bend)
    area = (1 + bend) * (1 + 3 * bend) / (1 - half_difference**2)
    return math.cos(turn) * along - math.sin(turn) * across, math.sin(turn) * along + math.cos(turn) * across, area
