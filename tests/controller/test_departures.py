"""Training days that depart: by kinds that a network can learn from, and by the beams of other microscopes."""

from dataclasses import replace

import numpy as np
import pytest

from controller.canonical import units
from controller.canonical.preparation import prepare
from controller.dataset import PLAIN_FRAMES, DayJob, DayRanges, DaySource, Recipe, simulate_day
from controller.departures import LEARNED, PLAIN, WIDE, Departures
from controller.posterior import artefact
from controller.posterior.frames import FramePosteriors
from controller.preprocess import power_spectrum
from twin.day import Day
from twin.day.kinds import KINDS
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER

OPTICS = Optics()
OTHER = units.on_reference_camera(Optics(energy_kev=80.0, convergence_mrad=30.0))


def test_days_depart_by_kind_and_beam_in_the_stated_shares():
    jobs = [
        DayJob(OPTICS, FIRST_ORDER, DayRanges(), 1, 5, index, recipe=Recipe(departures=WIDE)) for index in range(300)
    ]
    drawn = [job.draw() for job in jobs]
    plain = [replace(job, recipe=PLAIN_FRAMES).draw()[0] for job in jobs]
    departs = np.mean([day != same for (day, _, _), same in zip(drawn, plain, strict=True)])
    elsewhere = [beam for _, beam, _ in drawn if beam != OPTICS]
    # 300 draws know a share of one half to 0.029; four of those.
    assert abs(departs - WIDE.share) < 0.12
    assert abs(len(elsewhere) / len(jobs) - WIDE.other_beams) < 0.12
    assert min(beam.energy_kev for beam in elsewhere) < 75 < 250 < max(beam.energy_kev for beam in elsewhere)
    assert all(units.same_camera(beam, OPTICS) for beam in elsewhere)


def test_kinds_that_tell_nothing_of_the_state_or_tell_it_wrongly_are_not_learnt():
    misleading = {"vacuum", "crystal", "late_frames", "repeated_frames", "reversed_corrector", "turned_camera"}
    assert set(LEARNED) <= set(KINDS)
    assert not misleading & set(LEARNED)


def test_a_plain_day_consumes_no_random_numbers():
    rng = np.random.default_rng(1)
    before = rng.bit_generator.state
    assert PLAIN.day(Day(), rng) == Day()
    assert PLAIN.beam(OPTICS, rng) == OPTICS
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("kind", ["dark_level", "high_dose", "flake"])
def test_training_frames_are_prepared_as_controllers_get_them(kind: str):
    day = Day.random(np.random.default_rng(3), 1.0, kinds=[kind])
    source = DaySource(day, OPTICS, FIRST_ORDER, np.random.default_rng(4))
    again = DaySource(day, OPTICS, FIRST_ORDER, np.random.default_rng(4))
    raw = again.frame(FIRST_ORDER.zero)
    assert source.prepared(FIRST_ORDER.zero) == prepare(raw, OPTICS, OPTICS).frame != raw


def test_the_same_edge_phases_show_the_same_spectrum_at_another_beam():
    """Up to the film: its phases scale with the wavelength, and its depth counts less."""
    state = np.array([30.0, -14.0, 9.0])
    day = replace(Day(dose_e=3e6), focal_spread_nm=0.0, source_size_nm=0.0)

    def spectrum(beam: Optics) -> np.ndarray:
        source = DaySource(day, OPTICS, FIRST_ORDER, np.random.default_rng(5), beam)
        return np.mean([power_spectrum(source.prepared(state)).values for _ in range(24)], 0)

    here, there = spectrum(OPTICS), spectrum(OTHER)
    turned = here[-np.arange(len(here)) % len(here)]  # another astigmatism
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.9
    assert np.corrcoef(turned.ravel(), there.ravel())[0, 1] < np.corrcoef(here.ravel(), there.ravel())[0, 1] - 0.05


def test_a_prepared_frame_tells_its_beam_and_the_network_hears_it():
    source = DaySource(Day(), OPTICS, SECOND_ORDER, np.random.default_rng(6), OTHER)
    frame = source.prepared(SECOND_ORDER.zero)
    beam = units.beam_of(frame, OPTICS)
    assert (beam.energy_kev, beam.convergence_mrad) == (80.0, 30.0)
    assert units.beam_of(prepare(source.frame(SECOND_ORDER.zero), OPTICS, OPTICS).frame, OPTICS) == OPTICS
    scales = units.beam_scales(beam, OPTICS)
    data = simulate_day(
        DayJob(OPTICS, SECOND_ORDER, DayRanges(), 1, 1, 2, recipe=Recipe(departures=Departures(other_beams=1.0)))
    )
    assert data.beams.shape == (1, 2)
    assert np.all(data.beams != 0.0)
    trained = artefact.load_for("posterior_wide", OPTICS, SECOND_ORDER)
    from controller import preprocess

    spectra = preprocess.whole_and_patches(frame)
    empty = FramePosteriors.none(trained, SECOND_ORDER)
    told, untold = (empty.append(*spectra, SECOND_ORDER.zero, of) for of in (beam, None))
    np.testing.assert_allclose(told.features[0, -3:-1], scales, rtol=1e-6)
    assert np.all(untold.features[0, -3:-1].numpy() == 0.0)
    assert np.any(told.mixtures != untold.mixtures)


@pytest.mark.parametrize(("energy_kev", "convergence_mrad"), [(300.0, 40.0), (60.0, 15.0)])
def test_the_widest_beams_are_told(energy_kev: float, convergence_mrad: float) -> None:
    """Also those whose disc would not fit the grid of the reference."""
    beam = units.beam_on_camera(energy_kev, convergence_mrad)
    source = DaySource(Day(), Optics(), FIRST_ORDER, np.random.default_rng(3), beam)
    assert units.beam_of(source.prepared(FIRST_ORDER.zero), Optics()) == beam
