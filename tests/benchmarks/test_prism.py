"""PRISM without interpolation is multislice, whatever it is worth."""

import numpy as np
import pytest

from benchmarks.prism import CELL_NM, SMALLER_CELLS, Row, errors, multislice, product, strontium_titanate


def test_the_product_is_multislice_and_what_is_not_shows():
    case = strontium_titanate(slices=2, cells=SMALLER_CELLS)
    positions_nm = np.random.default_rng(0).uniform(0.0, SMALLER_CELLS * CELL_NM, (3, 2))
    row, found = product(case, positions_nm)
    _, truth = multislice(case, case.whole, positions_nm)
    assert max(errors(case, truth, found)) < 1e-5
    assert row.waves == pytest.approx(np.pi * (case.optics.convergence_mrad / case.whole.pixel_mrad) ** 2, rel=0.03)
    patterns, signals = errors(case, truth, found[:, :, ::-1])
    assert patterns > 0.1
    assert signals < 1e-4  # rings do not tell left from right, but for the pixel beyond the middle
    assert min(errors(case, truth, 1.1 * found)) == pytest.approx(0.1, abs=1e-3)


def test_plane_waves_are_shared_by_the_whole_scan():
    assert Row("", 1, build_s=4096.0, frame_s=3.0).rate == pytest.approx(0.25)
    assert Row("", 1, build_s=4096.0, frame_s=None).rate == pytest.approx(1.0)
