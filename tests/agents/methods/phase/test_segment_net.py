"""The network agent on simulated scans: better than its start, steady under a shifted detector, honest about range."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.base import Agent, MetaError, StreamMeta, load
from agents.block import FrameBlock
from agents.segment_net.network import WEIGHTS, Inputs
from agents.segment_net.scan_set import simulated
from agents.segment_net.simulation import Conditions, random_scan, segment_sums, true_phase
from agents.segment_net.specimens import random_phase
from agents.segmented.linear import reconstruct
from twin.arrays import Floats
from twin.detectors.layouts import AngleError
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics

BEAM = Metadata(energy_kev=300.0, convergence_mrad=20.0, pixel_mrad=3.0, step_nm=0.0167, rotation_deg=0.0)
OPTICS = Optics(energy_kev=300.0, convergence_mrad=20.0)


def alike(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


def images(shift: float, electrons: float) -> tuple[Floats, Floats, Floats]:
    """Network, sideband and truth of a lattice at so many electrons per position."""
    conditions = Conditions(OPTICS, 0.34, shift=(shift, 0.0))
    phase = random_phase(conditions.field(48), np.random.default_rng(3), atomic=True)
    counts = np.random.default_rng(1).poisson(segment_sums(phase, conditions) * electrons)
    linear, trained = reconstruct(counts, 0.34), WEIGHTS.load(WEIGHTS.shipped / "segment_net.safetensors")
    found = trained.phase(Inputs.of(linear, 0.34, conditions.resolution_nm))
    return found, linear.sideband, true_phase(phase, conditions)


def test_it_is_better_than_the_linear_image_and_steady_under_a_shift() -> None:
    found, linear, truth = images(0.0, 100.0)
    assert alike(found, truth) > alike(linear, truth) + 0.02
    shifted, _, _ = images(0.15, 100.0)
    assert alike(shifted, truth) > alike(found, truth) - 0.05


def started() -> Agent:
    agent = load("segment_net")
    agent.start(StreamMeta(Layout((6, 7), (40, 40)), BEAM, transposed=False))
    return agent


def test_positions_that_have_not_come_are_unknown() -> None:
    agent = started()
    pixel = np.argwhere(np.ones((3, 7)))
    agent.update(FrameBlock(np.full((21, 40, 40), 3, np.uint16), pixel))
    image = agent.result().images["phase"].values
    assert np.isfinite(image[:3]).all()
    assert np.isnan(image[3:]).all()


def test_it_says_that_a_scan_is_outside_its_range() -> None:
    agent = load("segment_net")
    beam = replace(BEAM, step_nm=0.1)
    agent.start(StreamMeta(Layout((6, 7), (40, 40)), beam, transposed=False))
    agent.update(FrameBlock(np.full((42, 40, 40), 3, np.uint16), np.argwhere(np.ones((6, 7)))))
    assert any(note.startswith("outside the trained range") for note in agent.result().notes)


@pytest.mark.parametrize("name", ["segment_net", "inverse"])
@pytest.mark.parametrize(("electrons", "warned"), [(1.0, True), (50.0, False)])
def test_a_method_with_a_prior_warns_of_few_electrons(name: str, electrons: float, warned: bool) -> None:
    agent = load(name)
    agent.start(StreamMeta(Layout((12, 14), (40, 40)), BEAM, transposed=False))
    disc = np.hypot(*(np.indices((40, 40)) - 20)) * BEAM.pixel_mrad < BEAM.convergence_mrad
    frames = np.random.default_rng(9).poisson(electrons * disc / disc.sum(), (168, 40, 40))  # 36 and 1793 e/A^2
    agent.update(FrameBlock(frames.astype(np.uint16), np.argwhere(np.ones((12, 14)))))
    notes = [note for note in agent.result().notes if "electrons per square angstrom" in note]
    assert len(notes) == warned


def test_a_camera_inside_the_disc_is_refused() -> None:
    with pytest.raises(AngleError, match=r"ends at 13.5 mrad, inside the disc of 20 mrad"):
        load("segment_net").start(StreamMeta(Layout((6, 7), (10, 10)), BEAM, transposed=False))
    with pytest.raises(MetaError, match="segment_net needs a scan"):
        load("segment_net").start(StreamMeta(Layout((6,), (40, 40)), BEAM, transposed=False))


def test_scans_on_disc_are_read_again(tmp_path: Path) -> None:
    first, again = simulated(tmp_path, 2, 5), simulated(tmp_path, 2, 5)
    np.testing.assert_array_equal(first.sums, again.sums)
    np.testing.assert_allclose(first.expected(1, 10.0), 10 * random_scan((5, 1)).sums, rtol=2e-3, atol=1e-4)
    assert len(first.part(0, 1)) == 1
