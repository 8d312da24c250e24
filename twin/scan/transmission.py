"""Atoms to transmission functions with abTEM's scattering factors: the specimen's half of a scan's wave optics.

One slice is a thin specimen, several are multislice; thermal snapshots are frozen phonons. The probe's half is in
`scan/diffraction.py`.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import abtem
import ase
import numpy as np
import scipy.fft
from abtem.parametrizations import LobatoParametrization
from ase.data import chemical_symbols
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.errors import check_known
from twin.matter.structure import Structure, displaced, within
from twin.optics import Optics
from twin.scan.diffraction import TransmissionField, band_limit

Projection = Literal["exact", "abtem"]

MAX_FIELD_BYTES = 4 * 2**30
"""Largest size of the transmission functions."""

_ANGSTROM_PER_NM = 10.0
_ATOMS_AT_ONCE = 2048

ABTEM_SETTINGS = {
    "device": "cpu",
    "precision": "float32",
    "fft": "numpy",
    "dask.lazy": False,
    "diagnostics.progress_bar": False,
}
"""One thread, and no FFTW, whose plans depend on timing and on other callers: the same seed gives the same bytes in
every process."""


def slice_count(thickness_nm: float, slice_nm: float) -> int:
    """Number of equal slices of at most `slice_nm`.

    Raises:
        ValueError: slice_nm is not positive.
    """
    if not slice_nm > 0:
        raise ValueError(f"slice_nm must be positive, got {slice_nm!r}")
    return max(1, math.ceil(thickness_nm / slice_nm - 1e-9))


def layout(structure: Structure, optics: Optics) -> tuple[tuple[int, int], tuple[float, float], bool]:
    """Rows and columns of the field, (x, y) of its corner in the specimen in nm, and whether it is cyclic.

    A periodic specimen whose sides are whole pixels is cyclic. Any other gets a margin of at least half a window on
    all sides: its periodic continuation, or vacuum.
    """
    sides = np.array([structure.height_nm, structure.width_nm])
    pixels = sides / optics.sampling_nm
    whole = np.rint(pixels)
    if structure.periodic and bool(np.all(np.abs(pixels - whole) < 1e-6 * np.maximum(whole, 1.0))):
        return (int(whole[0]), int(whole[1])), (0.0, 0.0), True
    rows, columns = (scipy.fft.next_fast_len(math.ceil(p) + optics.grid + 4, real=True) for p in pixels)
    spare = (np.array([columns, rows]) * optics.sampling_nm - sides[::-1]) / 2
    return (rows, columns), (-float(spare[0]), -float(spare[1])), False


def snapshot_count(structure: Structure, snapshots: int) -> int:
    """Number of different thermal configurations: one if no atom of the structure vibrates."""
    return snapshots if any(structure.thermal_rms_nm.get(int(z), 0.0) > 0 for z in structure.composition) else 1


def transmission_field(
    structure: Structure,
    optics: Optics,
    *,
    slice_nm: float,
    snapshots: int = 1,
    seed: int = 0,
    projection: Projection = "exact",
) -> TransmissionField:
    """Band-limited transmission functions of a structure, sampled as the grid of `optics`.

    Each atom is projected whole into the slice of its centre, with Lobato and Van Dyck's potentials (2014).

    Args:
        structure: atoms; z runs along the beam.
        optics: energy and sampling; a field that is not cyclic has its window as a margin.
        slice_nm: thickest slice.
        snapshots: thermal configurations, see `snapshot_count`.
        seed: seed of the thermal motion.
        projection: "exact" sums the transform of every atom at its position. "abtem" is abTEM's infinite projection,
            which distributes an atom over four pixels and corrects for it in part (docs/decisions/0005).

    Raises:
        ValueError: an unknown projection, fewer than one snapshot, a slice that is not positive, or a field too large.
    """
    check_known(projection, get_args(Projection), "a projection")
    if snapshots < 1:
        raise ValueError(f"snapshots must be at least 1, got {snapshots!r}")
    snapshots = snapshot_count(structure, snapshots)
    slices = slice_count(structure.thickness_nm, slice_nm)
    shape, corner_nm, cyclic = layout(structure, optics)
    size = snapshots * slices * shape[0] * shape[1] * 8
    if size > MAX_FIELD_BYTES:
        raise ValueError(
            f"{snapshots} snapshots x {slices} slices of {shape[0]} x {shape[1]} pixels take {size / 2**30:.1f} GiB;"
            f" the limit is {MAX_FIELD_BYTES / 2**30:.0f} GiB. Fewer snapshots or thicker slices would do"
        )
    window = structure if cyclic else within(structure, *corner_nm, *(n * optics.sampling_nm for n in shape[::-1]))
    functions = np.empty((snapshots, slices, *shape), np.complex64)
    for i, generator in enumerate(np.random.default_rng(seed).spawn(snapshots)):
        positions = displaced(window, generator) if window.thermal_rms_nm else window.positions_nm
        project = _exact if projection == "exact" else _by_abtem
        for j, phase in enumerate(project(window, positions, slices, shape, optics)):
            functions[i, j] = _transmission(phase)
    return TransmissionField(functions, optics.sampling_nm, structure.thickness_nm / slices, corner_nm)


def projected_phase(
    structure: Structure, optics: Optics, *, snapshots: int = 1, seed: int = 0
) -> tuple[Floats, tuple[float, float]]:
    """Projected phase of the whole specimen, averaged over the same snapshots as `transmission_field`.

    The ground truth of a phase reconstruction: sigma times the projected potential, not wrapped.

    Args:
        structure: atoms; z runs along the beam.
        optics: energy, sampling and window, as for the field.
        snapshots, seed: thermal configurations, as for the field.

    Returns:
        Phase, rad, (rows, columns), periodic; (x, y) of pixel (0, 0), nm.
    """
    shape, corner_nm, cyclic = layout(structure, optics)
    window = structure if cyclic else within(structure, *corner_nm, *(n * optics.sampling_nm for n in shape[::-1]))
    snapshots = snapshot_count(structure, snapshots)
    total = np.zeros(shape)
    for generator in np.random.default_rng(seed).spawn(snapshots):
        positions = displaced(window, generator) if window.thermal_rms_nm else window.positions_nm
        total += next(_exact(window, positions, 1, shape, optics))
    return total / snapshots, corner_nm


def _transmission(phase_rad: Floats) -> NDArray[np.complex64]:
    """exp(i phase), band-limited, (rows, columns)."""
    rows, columns = phase_rad.shape
    spectrum = scipy.fft.fft2(np.exp(1j * phase_rad).astype(np.complex64), overwrite_x=True)
    spectrum *= band_limit(np.fft.fftfreq(rows), np.fft.fftfreq(columns))
    transmission: NDArray[np.complex64] = scipy.fft.ifft2(spectrum, overwrite_x=True)
    return transmission


def _exact(
    structure: Structure, positions_nm: Floats, slices: int, shape: tuple[int, int], optics: Optics
) -> Iterator[Floats]:
    """Phase of each slice, rad, (rows, columns): sigma times the sum over atoms of f(k) exp(-2 pi i k r)."""
    rows, columns = shape
    ky, kx = np.fft.fftfreq(rows), np.fft.rfftfreq(columns)
    k2 = (ky[:, None] ** 2 + kx[None, :] ** 2) / (optics.sampling_nm * _ANGSTROM_PER_NM) ** 2
    lobato: Any = LobatoParametrization()
    factors = {
        z: np.asarray(lobato.projected_scattering_factor(chemical_symbols[z])(k2), np.float32)
        for z in structure.composition
    }
    pixel_area = (optics.sampling_nm * _ANGSTROM_PER_NM) ** 2
    sigma = optics.interaction_rad_per_v_nm / _ANGSTROM_PER_NM
    where = _slice_of(structure, slices)
    for i in range(slices):
        total = np.zeros((rows, len(kx)), np.complex64)
        for z, factor in factors.items():
            atoms = positions_nm[(where == i) & (structure.numbers == z)] / optics.sampling_nm
            if len(atoms):
                total += factor * _transform_of_points(atoms, ky, kx)
        yield sigma / pixel_area * scipy.fft.irfft2(total, s=shape)


def _transform_of_points(pixels: Floats, ky: NDArray[np.floating], kx: NDArray[np.floating]) -> NDArray[np.complex64]:
    """Sum of exp(-2 pi i k r) over points (x, y), in pixels: separable, hence a matrix product, (rows, columns)."""
    total = np.zeros((len(ky), len(kx)), np.complex64)
    for first in range(0, len(pixels), _ATOMS_AT_ONCE):
        x, y = pixels[first : first + _ATOMS_AT_ONCE, :2].T
        along_y = np.exp(-2j * np.pi * (np.outer(ky, y) % 1.0)).astype(np.complex64)
        along_x = np.exp(-2j * np.pi * (np.outer(x, kx) % 1.0)).astype(np.complex64)
        total += along_y @ along_x
    return total


def _slice_of(structure: Structure, slices: int) -> NDArray[np.int64]:
    """Slice of each atom's centre, (N,)."""
    depth = structure.positions_nm[:, 2] / (structure.thickness_nm / slices)
    return np.clip(np.floor(depth), 0, slices - 1).astype(np.int64)


def _by_abtem(
    structure: Structure, positions_nm: Floats, slices: int, shape: tuple[int, int], optics: Optics
) -> Iterator[Floats]:
    """See `_exact`; with abTEM's potential."""
    rows, columns = shape
    cell_nm = (columns * optics.sampling_nm, rows * optics.sampling_nm, structure.thickness_nm)
    with abtem.config.set(ABTEM_SETTINGS):
        potential = abtem_potential(structure.numbers, positions_nm, cell_nm, (columns, rows), slices)
        for layer in potential.generate_slices():
            yield optics.interaction_rad_per_v_nm / _ANGSTROM_PER_NM * layer.array[0].T.astype(np.float64)


def abtem_potential(
    numbers: NDArray[np.int64],
    positions_nm: Floats,
    cell_nm: tuple[float, float, float],
    pixels: tuple[int, int],
    slices: int,
) -> abtem.Potential:
    """Potential of independent atoms (Lobato and Van Dyck 2014), each projected into the slice of its centre.

    Args:
        numbers: atomic numbers, (N,).
        positions_nm: positions, (N, 3).
        cell_nm: sides of the periodic cell.
        pixels: along x and y.
        slices: number of equal slices.
    """
    atoms = ase.Atoms(
        numbers=numbers,
        positions=positions_nm * _ANGSTROM_PER_NM,
        cell=np.array(cell_nm) * _ANGSTROM_PER_NM,
        pbc=True,
    )
    step = cell_nm[2] / slices * _ANGSTROM_PER_NM
    return abtem.Potential(
        atoms, gpts=pixels, slice_thickness=(step,) * slices, parametrization="lobato", projection="infinite"
    )
