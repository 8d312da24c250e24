"""Reflections act on spectra and on coefficients alike."""

import numpy as np
import pytest
import torch

from controller import preprocess
from controller.symmetry import mirror_matrix, mirrored, transposition_matrix, whole_plane
from twin.aberrations import NAMES, Aberrations, aberration_phase
from twin.optics import Optics
from twin.types import Frame


def test_a_mirrored_spectrum_is_that_of_the_mirrored_frame():
    counts = np.random.default_rng(2).poisson(100.0 + 20 * np.random.default_rng(3).standard_normal((64, 64)))
    turned = counts[(-np.arange(64)) % 64]
    values = [preprocess.power_spectrum(Frame(c.astype(np.uint16), 1e6, 1.0, 0.0)).values for c in (counts, turned)]
    one, other = (torch.from_numpy(v)[None] for v in values)
    flipped = mirrored(one, torch.tensor([True]))
    # The first and last rows and the last columns are smoothed across the edge of the plane.
    np.testing.assert_allclose(flipped[:, 4:-3], other[:, 4:-3], atol=1e-4)
    assert torch.equal(mirrored(one, torch.tensor([False])), one)
    assert torch.equal(mirrored(flipped, torch.tensor([True])), one)


def test_only_the_flagged_spectra_are_mirrored():
    spectra = torch.randn((4, 64, 32), generator=torch.Generator().manual_seed(4))
    flip = torch.tensor([True, False, True, False])
    done = mirrored(spectra, flip)
    assert torch.equal(done[~flip], spectra[~flip])
    assert torch.equal(done[flip][:, 0], spectra[flip][:, 0])  # Nyquist's row is its own mirror image
    assert torch.equal(done[flip][:, 1:], spectra[flip][:, 1:].flip(1))


def chi(coefficients: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return aberration_phase(Aberrations.of(dict(zip(NAMES, coefficients, strict=True))), x, y, Optics().wavelength_nm)


@pytest.mark.parametrize(
    ("matrix", "move"),
    [(mirror_matrix, lambda x, y: (x, -y)), (transposition_matrix, lambda x, y: (y, x))],
)
def test_reflected_coefficients_make_the_reflected_phase(matrix, move):
    rng = np.random.default_rng(1)
    coefficients = rng.standard_normal(len(NAMES)) * 100.0
    x, y = rng.uniform(-28, 28, (2, 50))
    reflected = matrix(NAMES) @ coefficients
    np.testing.assert_allclose(chi(reflected, x, y), chi(coefficients, *move(x, y)), rtol=1e-9, atol=1e-9)


def test_the_whole_plane_is_that_of_the_frame():
    counts = np.random.default_rng(3).poisson(100.0, (64, 64)).astype(np.float64)
    power = preprocess.spectrum(counts)
    whole = whole_plane(torch.from_numpy(power[None, :, 32:]))[0].numpy()
    np.testing.assert_allclose(whole[:, 1:], power[:, 1:], rtol=1e-6)  # -Nyquist's column is its neighbour's copy
