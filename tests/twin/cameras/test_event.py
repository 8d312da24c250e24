"""The event camera: its clock, conservation of electrons, deposited energy, dead time and disorder."""

import math

import numpy as np
import pytest
from fakes import camera_theory
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest, moyal, norm

from twin.cameras.clusters import cluster
from twin.cameras.event import (
    EVENT,
    FINE_NS,
    EventReadout,
    encode,
    event_times_ns,
    events_to_frames,
)
from twin.cameras.loops import draw_electrons
from twin.cameras.properties import EventCamera
from twin.cameras.sensor import draw_sensor
from twin.formats.t3p import RECORD

SHAPE = (24, 32)
DWELL_S = 1e-6
FALSE_ALARM = 1e-4
"""Probability that a statistical test here fails with correct code (the seeds are fixed: it does not)."""

SIGMAS = float(norm.isf(FALSE_ALARM / 2))


def readout(camera: EventCamera, seed: int, shape: tuple[int, int] = SHAPE) -> EventReadout:
    return EventReadout(camera, draw_sensor(camera, shape, np.random.default_rng(0)), np.random.default_rng(seed))


def record(camera: EventCamera, expected_e: np.ndarray, seed: int, dwell_s: float = DWELL_S) -> np.ndarray:
    """All events of exposures that follow one another."""
    chip = readout(camera, seed, (expected_e.shape[1], expected_e.shape[2]))
    events = chip.read(expected_e, np.arange(len(expected_e)) * dwell_s, dwell_s)
    return np.concatenate([events, chip.flush()])


def sparse(mean_e: float, frames: int = 2000) -> np.ndarray:
    """Frames with so few electrons, well apart from the rim, that hardly two ever meet."""
    expected = np.zeros((frames, *SHAPE))
    expected[:, 4:20, 4:28] = mean_e / (16 * 24)
    return expected


def test_an_event_is_a_t3p_record() -> None:
    assert EVENT == RECORD
    assert EVENT.itemsize == 16


def test_fine_time_counts_back_from_the_next_tick() -> None:
    fired_ns = np.array([-3.0, 0.0, 1.5625, 23.4, 25.0, 26.0, 1e9 + 25.0])
    events = encode(fired_ns, np.arange(7), np.arange(7) * 10)
    assert events["toa"].tolist() == [0, 0, 1, 1, 1, 2, 40_000_001]
    assert events["ftoa"].tolist() == [0, 0, 15, 1, 0, 15, 0]
    assert events["pixel"].tolist() == list(range(7))
    assert events["tot"].tolist() == [0, 10, 20, 30, 40, 50, 60]


@given(st.lists(st.floats(0.0, 1e13), min_size=1))
def test_times_are_kept_to_half_a_fine_step(times: list[float]) -> None:
    fired_ns = np.array(times)
    none = np.zeros(len(times), np.int64)
    back_ns = event_times_ns(encode(fired_ns, none, none))
    assert np.all(np.abs(back_ns - fired_ns) <= FINE_NS / 2 + 0.01)
    assert encode(fired_ns, none, none)["ftoa"].max() <= 15


def test_every_electron_of_an_ideal_camera_is_one_event_in_its_own_frame() -> None:
    # Each frame lights its own pixel: an event in a neighbour's dwell would show.
    frames = 400
    expected = np.zeros((frames, *SHAPE))
    lit = np.arange(frames) % SHAPE[0], (7 * np.arange(frames)) % SHAPE[1]
    expected[np.arange(frames), *lit] = 50.0
    events = record(EventCamera(), expected, 1)
    starts = np.arange(frames) * DWELL_S
    counts = events_to_frames(events, SHAPE, starts, starts + DWELL_S)
    assert counts.sum() == len(events)
    there = counts[np.arange(frames), *lit]
    assert counts.sum() == there.sum()
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], frames)
    assert low < np.sum((there - 50.0) ** 2) / 50.0 < high
    assert np.all(np.diff(event_times_ns(events)) >= 0)
    # Arrivals are even within the dwell.
    assert kstest(np.mod(event_times_ns(events), 1000.0) / 1000.0, "uniform").pvalue > FALSE_ALARM


def test_events_between_exposures_are_dropped() -> None:
    events = encode(np.array([5.0, 130.0, 250.0]), np.array([3, 4, 5]), np.ones(3, np.int64))
    counts = events_to_frames(events, (2, 3), np.array([0.0, 200e-9]), np.array([100e-9, 300e-9]))
    assert counts.tolist() == [[[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 1]]]


def test_clusters_are_the_electrons_that_arrived() -> None:
    # The same seed sends the same electrons to every camera: one event each without charge sharing.
    expected = sparse(0.2)
    ideal = record(EventCamera(), expected, 2)
    shared = record(EventCamera(charge_spread_px=0.35, timewalk_ns_kev=150.0, toa_rms_ns=1.5), expected, 2)
    assert len(shared) > 1.5 * len(ideal)
    electrons = cluster(shared, SHAPE[1])
    assert len(electrons) == len(ideal)
    assert electrons["pixels"].sum() == len(shared)
    assert np.all(np.abs(np.sort(electrons["time_ns"]) - np.sort(event_times_ns(ideal))) < 12)


def test_charge_is_conserved_but_for_what_stays_below_the_threshold() -> None:
    camera = EventCamera(charge_spread_px=0.3, threshold_kev=3.0, tot_per_kev=50.0, tot_bits=16)
    electrons = cluster(record(camera, sparse(0.2), 3), SHAPE[1])
    kev = electrons["tot"] / 50.0
    assert kev.max() <= 200.0 + 9 * 0.01
    assert kev.min() > 200.0 - 5 * 3.0  # at most five neighbours, each below the threshold
    assert np.mean(kev) > 0.97 * 200.0


def test_centroids_know_more_than_pixels() -> None:
    # Truth from the very stream that the camera uses. A pixel alone leaves 1 / sqrt(12) = 0.289 px per axis.
    camera = EventCamera(charge_spread_px=0.5, threshold_kev=3.0, tot_per_kev=50.0, tot_bits=16)
    expected = np.zeros((1500, *SHAPE))
    expected[:, 6:18, 8:24] = 0.3 / (12 * 16)
    stream = np.random.default_rng(4).spawn(3)[0]
    flat = expected.reshape(1500, -1)
    drawn = [draw_electrons(frame, SHAPE[1], (200.0, 0.0, 300.0), stream) for frame in flat]
    truth = np.concatenate([places for _, _, _, places in drawn])
    times = np.concatenate([(i + share) * 1000.0 for i, (_, share, _, _) in enumerate(drawn)])
    electrons = cluster(record(camera, expected, 4), SHAPE[1])
    alone = np.diff(times, prepend=-1e9, append=1e9)
    alone = (alone[1:] > 300) & (alone[:-1] > 300)
    match = np.abs(electrons["time_ns"][:, None] - times[alone]).argmin(0)
    error = np.stack([electrons["x_px"], electrons["y_px"]], -1)[match] + 0.5 - truth[alone]
    assert np.abs(error.mean(0)).max() < 0.02
    assert error.std(0).max() < 0.1


def test_clusters_join_through_time_and_touching_pixels_only() -> None:
    def clusters(*hits: tuple[float, int, int, int]) -> np.ndarray:
        time, y, x, tot = np.array(hits).T
        return cluster(encode(time, (y * 32 + x).astype(int), tot.astype(int)), 32, window_ns=100.0)

    corner = clusters((500.0, 3, 4, 30), (550.0, 4, 5, 10))
    assert len(corner) == 1
    assert (corner["x_px"][0], corner["y_px"][0]) == (4.25, 3.25)
    assert (corner["tot"][0], corner["pixels"][0]) == (40, 2)
    assert abs(corner["time_ns"][0] - 500.0) < FINE_NS
    assert len(clusters((500.0, 3, 4, 30), (500.0, 3, 6, 10))) == 2  # a gap
    assert len(clusters((500.0, 3, 4, 30), (650.0, 3, 5, 10))) == 2  # too late
    assert len(clusters((500.0, 3, 31, 30), (500.0, 4, 0, 10))) == 2  # rows do not wrap round
    chain = clusters((690.0, 3, 6, 5), (500.0, 3, 4, 5), (595.0, 3, 5, 5), (690.0, 9, 9, 5))
    assert sorted(chain["pixels"].tolist()) == [1, 3]
    assert len(cluster(np.zeros(0, EVENT), 32)) == 0
    with pytest.raises(ValueError, match="window_ns"):
        cluster(np.zeros(0, EVENT), 32, window_ns=0.0)


def test_deposited_energy_follows_moyal() -> None:
    camera = EventCamera(deposit_kev=150.0, deposit_width_kev=6.0, tot_per_kev=200.0, tot_bits=16)
    expected = np.full((1, 64, 64), 2.0)
    kev = record(camera, expected, 5)["tot"] / 200.0
    # Cut at 300 keV: 25 widths, beyond which 3e-6 of the distribution lies.
    assert kstest(kev, moyal(loc=150.0, scale=6.0).cdf).pvalue > FALSE_ALARM
    broad = record(EventCamera(deposit_kev=250.0, deposit_width_kev=40.0, tot_per_kev=1.0), expected, 5)
    assert broad["tot"].max() == 300


def test_time_over_threshold_stops_at_its_last_bit() -> None:
    assert np.all(record(EventCamera(tot_per_kev=10.0), np.full((1, 9, 9), 3.0), 6)["tot"] == 1023)
    assert np.all(record(EventCamera(tot_per_kev=0.6), np.full((1, 9, 9), 3.0), 6)["tot"] == 120)


@pytest.mark.parametrize("frames", [1, 4])
def test_a_pixel_is_dead_while_it_measures_and_stays_so_into_the_next_frame(frames: int) -> None:
    # 100 ticks over threshold and 475 ns more: 2.975 us of 40 us, in one exposure or in four that follow.
    camera = EventCamera(dead_time_s=475e-9)
    mean, dead_share = 20.0, 2.975 / 40
    events = record(camera, np.full((frames, 60, 60), mean / frames), 7, dwell_s=40e-6 / frames)
    counts = np.bincount(events["pixel"], minlength=3600)
    exact = float(camera_theory.recorded_mean(mean, dead_share, False))
    assert exact < 0.5 * mean
    assert abs(counts.mean() - exact) < SIGMAS * counts.std() / 60
    order = np.lexsort([event_times_ns(events), events["pixel"]])
    same = np.diff(events["pixel"][order].astype(int)) == 0
    assert np.diff(event_times_ns(events)[order])[same].min() > 2975 - 2 * FINE_NS


def test_time_walk_delays_small_charges() -> None:
    expected = sparse(0.2)
    slow = record(EventCamera(timewalk_ns_kev=800.0), expected, 8)
    prompt = record(EventCamera(), expected, 8)
    assert np.mean(event_times_ns(slow) - event_times_ns(prompt)) == pytest.approx(800.0 / 200.0, abs=0.1)


def test_jitter_has_its_width() -> None:
    expected = sparse(5.0, 400)
    late = event_times_ns(record(EventCamera(toa_rms_ns=10.0), expected, 9))
    prompt = event_times_ns(record(EventCamera(), expected, 9))
    error = late - prompt
    rms = math.sqrt(10.0**2 + 2 * FINE_NS**2 / 12)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], len(error))
    assert low < np.sum(error**2) / rms**2 < high


def test_disorder_is_bounded_and_there() -> None:
    camera = EventCamera(reorder_s=5e-6)
    events = record(camera, sparse(3.0, 1000), 10)
    times = event_times_ns(events)
    behind = np.maximum.accumulate(times) - times
    assert 2000 < behind.max() <= 5000 + FINE_NS
    ordered = record(EventCamera(), sparse(3.0, 1000), 10)
    assert np.sort(times).tolist() == event_times_ns(ordered).tolist()


@given(st.lists(st.integers(0, 60), max_size=6))
@settings(deadline=None, max_examples=25)
def test_blocks_do_not_show(cuts: list[int]) -> None:
    camera = EventCamera(
        **{
            name: getattr(camera_theory.TIMEPIX3, name)
            for name in camera_theory.TIMEPIX3.__dataclass_fields__
            if name != "hot_fraction"
        },
        hot_fraction=0.01,
    )
    expected = np.random.default_rng(11).gamma(0.3, 0.02, (60, *SHAPE))
    starts = np.arange(60) * 1.3e-6  # with a flyback of 0.3 us
    whole, cut = readout(camera, 12), readout(camera, 12)
    once = np.concatenate([whole.read(expected, starts, 1e-6), whole.flush()])
    parts = zip(np.split(expected, sorted(cuts)), np.split(starts, sorted(cuts)), strict=True)
    pieces = [cut.read(frames, begin, 1e-6) for frames, begin in parts]
    assert np.concatenate([*pieces, cut.flush()]).tobytes() == once.tobytes()
    assert len(once) > 100


def test_hot_pixels_fire_on_their_own_and_dead_ones_never() -> None:
    camera = EventCamera(hot_fraction=0.2, dead_fraction=0.2, hot_rate_per_s=1e6)
    chip = readout(camera, 13)
    hot, dead = chip.sensor.defects.hot.ravel(), chip.sensor.defects.dead.ravel()
    events = chip.read(np.zeros((50, *SHAPE)), np.arange(50) * 1e-6, 1e-6)
    counts = np.bincount(events["pixel"], minlength=hot.size)
    assert not counts[~hot].any()
    mean = 50.0 * hot.sum()
    assert abs(counts.sum() - mean) < SIGMAS * math.sqrt(mean)
    lit = readout(camera, 13).read(np.full((1, *SHAPE), 20.0), np.zeros(1), 1e-6)
    counts = np.bincount(lit["pixel"], minlength=hot.size)
    assert not counts[dead].any()
    assert counts[~dead].min() > 0


def test_bad_input_is_refused_with_its_value() -> None:
    chip = readout(EventCamera(), 14)
    with pytest.raises(ValueError, match=r"between 0 and 1e\+15, got -1"):
        chip.read(np.full((1, *SHAPE), -1.0), np.zeros(1), 1e-6)
    with pytest.raises(ValueError, match=r"as the sensor, got \(1, 3, 4\)"):
        chip.read(np.zeros((1, 3, 4)), np.zeros(1), 1e-6)
    with pytest.raises(ValueError, match=r"one entry per frame \(2\), got shape \(1,\)"):
        chip.read(np.zeros((2, *SHAPE)), np.zeros(1), 1e-6)
    chip.read(np.zeros((1, *SHAPE)), np.zeros(1), 1e-6)
    with pytest.raises(
        ValueError, match=r"exposure 1 begins at 1500\.0 ns, before the previous one ends at 2000\.0 ns"
    ):
        chip.read(np.zeros((2, *SHAPE)), np.array([1e-6, 1.5e-6]), 1e-6)
    with pytest.raises(ValueError, match=r"exposure 0 begins at 0\.0 ns, before the previous one ends at 1000\.0 ns"):
        chip.read(np.zeros((1, *SHAPE)), np.zeros(1), 1e-6)
    with pytest.raises(ValueError, match="exposure_s must be positive, got nan"):
        chip.read(np.zeros((1, *SHAPE)), np.ones(1), math.nan)
