"""One unit for all optics: a coefficient counts by the phase it makes at the edge of the aperture.

A coefficient C of radial order n changes the phase at the edge by `2 pi C alpha^(n+1) / ((n+1) lambda)`. Two
instruments whose edges have the same phases show the same Ronchigram, as a function of the angle over the aperture
angle, up to the film's and the source's own scales.
"""

from dataclasses import replace

import numpy as np

from twin.aberrations import TERMS, index
from twin.arrays import Array
from twin.optics import Optics, electron_wavelength_nm
from twin.state import StateSpace
from twin.types import Frame

REFERENCE = Optics()
"""Optics whose camera the disc of every frame is brought to."""
BEAM = ("energy_kev", "convergence_mrad")
"""Settings by which a prepared frame tells its beam."""


def disc_radius_px(optics: Optics) -> float:
    """Radius of the bright-field disc, camera pixels."""
    return optics.convergence_mrad / optics.camera_pixel_mrad


def on_reference_camera(optics: Optics) -> Optics:
    """The same beam on a camera where the disc has the radius, and the frame the pixels, of `REFERENCE`.

    Example:
        >>> small = on_reference_camera(Optics(energy_kev=200.0, convergence_mrad=25.0, camera_pixels=64, binning=6))
        >>> small.camera_pixels, round(disc_radius_px(small), 2), round(disc_radius_px(REFERENCE), 2)
        (128, 60.68, 60.68)
        >>> on_reference_camera(REFERENCE) == REFERENCE
        True
    """
    if same_camera(optics, REFERENCE):
        return optics
    return beam_on_camera(optics.energy_kev, optics.convergence_mrad)


def beam_on_camera(energy_kev: float, convergence_mrad: float, reference: Optics = REFERENCE) -> Optics:
    """A beam on the camera of `reference`, with a disc of the same radius.

    Example:
        >>> round(disc_radius_px(beam_on_camera(60.0, 40.0)), 2)
        60.68
    """
    # lambda / (grid sampling) is the angle of a grid pixel: the disc then has the reference's radius.
    angle_px = reference.binning * disc_radius_px(reference) / convergence_mrad * 1e3
    window_nm = electron_wavelength_nm(energy_kev) * angle_px
    return replace(
        reference, energy_kev=energy_kev, convergence_mrad=convergence_mrad, sampling_nm=window_nm / reference.grid
    )


def same_camera(first: Optics, second: Optics) -> bool:
    """Whether frames have the same number of pixels and the same disc radius, to a millionth."""
    radii = disc_radius_px(first), disc_radius_px(second)
    return first.camera_pixels == second.camera_pixels and abs(radii[0] / radii[1] - 1) < 1e-6


def edge_phases_rad(names: tuple[str, ...], optics: Optics) -> Array:
    """Phase at the edge of the aperture per nm of each coefficient, rad/nm, (n,)."""
    orders = np.array([TERMS[index(name)].n for name in names])
    return 2 * np.pi / optics.wavelength_nm * (optics.convergence_mrad * 1e-3) ** (orders + 1) / (orders + 1)


def scale(names: tuple[str, ...], optics: Optics, reference: Optics) -> Array:
    """Nanometres of each coefficient at `reference` with the same phase at the edge as one nanometre at `optics`, (n,).

    Exactly one where beam and aperture are the same.

    Example:
        >>> scale(("C10", "C30"), Optics(energy_kev=200.0, convergence_mrad=25.0), Optics()).round(3).tolist()
        [0.626, 0.499]
    """
    beam = (optics.energy_kev, optics.convergence_mrad)
    if beam == (reference.energy_kev, reference.convergence_mrad):
        return np.ones(len(names))
    factors: Array = edge_phases_rad(names, optics) / edge_phases_rad(names, reference)
    return factors


def beam_of(frame: Frame, optics: Optics) -> Optics:
    """Return the beam that a prepared frame was taken with on the camera of `optics`; `optics` if none is named."""
    if not set(BEAM) <= set(frame.settings):
        return optics
    energy_kev, convergence_mrad = (float(frame.settings[name]) for name in BEAM)
    return beam_on_camera(energy_kev, convergence_mrad, optics)


def with_beam(frame: Frame, optics: Optics, reference: Optics) -> Frame:
    """Return the frame; where the beam of `optics` is not the reference's, with its beam among the settings."""
    beam = {name: float(getattr(optics, name)) for name in BEAM}
    if beam == {name: float(getattr(reference, name)) for name in BEAM}:
        return frame
    return replace(frame, settings={**frame.settings, **beam})


def beam_scales(optics: Optics, reference: Optics) -> Array:
    """Logarithms of alpha / lambda and of alpha^2 / lambda over those of the reference, (2,).

    A film's spectrum, at an angle over the aperture angle, depends on the first; depths count by the second.

    Example:
        >>> beam_scales(Optics(energy_kev=200.0, convergence_mrad=25.0), Optics()).round(2).tolist()
        [-0.36, -0.47]
    """
    angle = np.log(optics.convergence_mrad / reference.convergence_mrad)
    wave = np.log(optics.wavelength_nm / reference.wavelength_nm)
    return np.array([angle - wave, 2 * angle - wave])


def scaled(space: StateSpace, factor: Array) -> StateSpace:
    """The space with every length multiplied by its coefficient's factor, (n,)."""
    if np.all(factor == 1.0):
        return space
    parts = (space.start, space.input, space.tolerance)
    return StateSpace(space.names, *(tuple(float(v) for v in part * factor) for part in parts))


def with_tolerance_at(space: StateSpace, optics: Optics) -> StateSpace:
    """The space with tolerances that allow, at these optics, the phases at the edge they allow at the reference.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> with_tolerance_at(FIRST_ORDER, Optics(energy_kev=200.0, convergence_mrad=25.0)).tolerance.round(1).tolist()
        [16.0, 16.0, 16.0]
    """
    factor = scale(space.names, optics, REFERENCE)
    if np.all(factor == 1.0):
        return space
    return replace(space, tolerance_nm=tuple(float(v) for v in space.tolerance / factor))
