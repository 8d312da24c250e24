"""What is measured is what the kernel's transform says, near what line integration predicts; the figure is drawn."""

import numpy as np
import pytest

from agents.com.ricom_kernel import kernel, line_transfer, transfer
from benchmarks.imaging.ricom_transfer import CUT, DESIGNS, MAP_PX, measured_transfer, transfer_figure


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.label)
def test_the_measured_transfer_is_that_of_the_kernel(design):
    limits = [None if cut is None else cut / MAP_PX for cut in (design.k_min, design.k_max)]
    vector_kernel = kernel(design.size, 1.0, *limits)
    k, measured = measured_transfer(vector_kernel, np.random.default_rng(1))
    np.testing.assert_allclose(measured, transfer(vector_kernel, k / MAP_PX, np.zeros_like(k)), atol=1e-12)
    if design.k_min is None and design.k_max is None:
        # Eq 3.7: the same waves in the weight of the gradient, which it has as transfer over k.
        line = line_transfer(design.size, k / MAP_PX)
        assert np.corrcoef(measured / k, line / k)[0, 1] > 0.97
    if design.k_min is not None:
        assert np.all(np.abs(measured[k < CUT / 4]) < 0.12)
    if design.k_max is not None:
        assert np.all(np.abs(measured[k > 1.25 * CUT]) < 0.3)


def test_the_figure_is_a_picture():
    assert transfer_figure().startswith(b"\x89PNG")
