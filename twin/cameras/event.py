"""The event camera: every pixel that an electron fires sends its time of arrival and time over threshold.

Times are on the instrument clock. `events_to_frames` converts events back to counts.
"""

import math

import numpy as np
from numpy.typing import NDArray

from twin.cameras import sharing
from twin.cameras.arrivals import as_stack, check_followed, refuse
from twin.cameras.loops import draw_electrons, fire
from twin.cameras.properties import EventCamera
from twin.cameras.sensor import Sensor

EVENT = np.dtype([("pixel", "<u4"), ("toa", "<u8"), ("overflow", "u1"), ("ftoa", "u1"), ("tot", "<u2")])
"""One event, 16 bytes as in a .t3p file: pixel y W + x, arrival in 25 ns ticks, 1.5625 ns steps before it, charge.

The time in ns is 25 toa - 1.5625 ftoa: the fast clock counts from the hit to the next tick. `overflow` marks a full
read-out and stays zero.
"""

TICK_NS = 25.0
FINE_NS = TICK_NS / 16
Events = NDArray[np.void]


def event_times_ns(events: Events) -> NDArray[np.float64]:
    """Middle of the 1.5625 ns interval in which each event's pixel fired, (n,).

    Never on the boundary between two dwells of whole fine steps, so that events are assigned to the right one.
    """
    fine = events["toa"].astype(np.int64) * 16 - events["ftoa"].astype(np.int64)
    return np.asarray((fine - 0.5) * FINE_NS, np.float64)


def events_to_frames(
    events: Events, shape: tuple[int, int], start_s: NDArray[np.float64], end_s: NDArray[np.float64]
) -> NDArray[np.uint32]:
    """Events per pixel within each exposure, (N, H, W); those between exposures are dropped.

    Args:
        events: in any order.
        shape: (H, W) of the sensor.
        start_s, end_s: start and end of the exposures, (N,), ascending and without overlap.
    """
    time_s = event_times_ns(events) * 1e-9
    frame = np.searchsorted(start_s, time_s, side="right") - 1
    inside = (frame >= 0) & (time_s < np.asarray(end_s)[frame])
    pixels = shape[0] * shape[1]
    places = frame[inside] * pixels + events["pixel"][inside].astype(np.int64)
    counts = np.bincount(places, minlength=len(start_s) * pixels).astype(np.uint32)
    return counts.reshape(len(start_s), *shape)


class EventReadout:
    """A running event camera: keeps dead pixels and delayed events from one block of exposures to the next.

    Events leave in the order of their delayed hits, so that an event precedes an earlier one by at most `reorder_s`
    (plus jitter and time walk). The events and their order do not depend on how the exposures are cut into blocks.

    Args:
        camera: its settings.
        sensor: its bad pixels.
        rng: source of randomness. Electrons have their own stream: every camera receives the same ones.
    """

    def __init__(self, camera: EventCamera, sensor: Sensor, rng: np.random.Generator) -> None:
        self.camera, self.sensor = camera, sensor
        self._electrons, self._hits, self._noise = rng.spawn(3)
        self._busy_ns = np.full(sensor.shape[0] * sensor.shape[1], -math.inf)
        self._hot = np.flatnonzero(sensor.defects.hot)
        self._dead = sensor.defects.dead.ravel().copy()
        self._waiting, self._leaves_ns = np.empty(0, EVENT), np.empty(0)
        self._now_ns = 0.0

    def read(self, expected_e: NDArray[np.floating], start_s: NDArray[np.float64], exposure_s: float) -> Events:
        """Events that leave the camera during a block of exposures.

        Args:
            expected_e: mean number of electrons per pixel, (N, H, W).
            start_s: start of each exposure, (N,), ascending; not before the end of the previous one.
            exposure_s: exposure time, in which electrons arrive uniformly.

        Returns:
            (n,) of `EVENT`.

        Raises:
            ValueError: shapes that do not match, a mean that is negative or not finite, exposures that overlap.
        """
        starts_ns = np.asarray(start_s, np.float64) * 1e9
        stack = as_stack(expected_e, self.sensor.shape)
        self._check(stack, starts_ns, exposure_s)
        check_followed(stack)
        hits = [
            self._expose(frame, start_ns, exposure_s * 1e9) for frame, start_ns in zip(stack, starts_ns, strict=True)
        ]
        if len(hits):
            self._now_ns = float(starts_ns[-1] + exposure_s * 1e9)
        self._waiting = np.concatenate([self._waiting, *(events for events, _ in hits)])
        self._leaves_ns = np.concatenate([self._leaves_ns, *(leaves for _, leaves in hits)])
        return self._release(self._now_ns)

    def flush(self) -> Events:
        """Return all delayed events, after the last exposure."""
        return self._release(math.inf)

    def _check(self, stack: NDArray[np.floating], starts_ns: NDArray[np.float64], exposure_s: float) -> None:
        if not (math.isfinite(exposure_s) and exposure_s > 0):
            raise ValueError(f"exposure_s must be positive, got {exposure_s!r}")
        if starts_ns.shape != (len(stack),):
            raise ValueError(f"start_s must have one entry per frame ({len(stack)}), got shape {starts_ns.shape}")
        ends_ns = np.r_[self._now_ns, starts_ns[:-1] + exposure_s * 1e9]
        early = np.flatnonzero(starts_ns < ends_ns - FINE_NS)
        if early.size:
            i = early[0]
            raise ValueError(
                f"exposure {i} begins at {starts_ns[i]:.1f} ns, before the previous one ends at {ends_ns[i]:.1f} ns"
            )

    def _expose(
        self, frame: NDArray[np.floating], start_ns: float, exposure_ns: float
    ) -> tuple[Events, NDArray[np.float64]]:
        """Events of one exposure and the times at which they leave the camera, in order of the hits."""
        camera, shape = self.camera, self.sensor.shape
        lowest = camera.threshold_kev / camera.energy_kev
        refused, times_ns, deposits_kev, places = draw_electrons(
            frame, shape[1], (camera.deposit_kev, camera.deposit_width_kev, camera.energy_kev), self._electrons
        )
        refuse(frame, refused)
        hit_ns, index, tot = fire(
            start_ns + times_ns * exposure_ns,
            deposits_kev,
            places,
            shape,
            (camera.charge_spread_px, sharing.reach_px(camera.charge_spread_px, lowest), camera.threshold_kev),
            (camera.tot_per_kev, 2**camera.tot_bits - 1, camera.dead_time_s * 1e9, camera.timewalk_ns_kev),
            self._dead,
            self._busy_ns,
        )
        fired_ns = hit_ns + camera.toa_rms_ns * self._hits.standard_normal(len(hit_ns))
        leaves_ns = hit_ns + camera.reorder_s * 1e9 * self._hits.random(len(hit_ns))
        if self._hot.size:
            times_ns, noise = self._noise_hits(start_ns, exposure_ns)
            fired_ns, leaves_ns = np.r_[fired_ns, times_ns], np.r_[leaves_ns, times_ns]
            index, tot = np.r_[index, noise], np.r_[tot, np.ones(len(noise), np.int64)]
        return encode(fired_ns, index, tot), leaves_ns

    def _noise_hits(self, start_ns: float, exposure_ns: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Times and indices of hot pixels that fired spontaneously."""
        expected = self.camera.hot_rate_per_s * exposure_ns * 1e-9
        fired = np.repeat(self._hot, self._noise.poisson(expected, self._hot.size))
        return start_ns + exposure_ns * self._noise.random(len(fired)), fired

    def _release(self, until_ns: float) -> Events:
        """Return the events whose delay ends before `until_ns`, in that order; keep the others."""
        order = np.argsort(self._leaves_ns, kind="stable")
        events, leaves_ns = self._waiting[order], self._leaves_ns[order]
        ready = int(np.searchsorted(leaves_ns, until_ns, side="left"))
        self._waiting, self._leaves_ns = events[ready:], leaves_ns[ready:]
        return events[:ready]


def encode(fired_ns: NDArray[np.float64], index: NDArray[np.int64], tot: NDArray[np.int64]) -> Events:
    """Encode the pixels that fired at these times as events, (n,) of `EVENT`; negative times become zero."""
    fine = np.maximum(np.ceil(fired_ns / FINE_NS), 0.0).astype(np.int64)
    toa = -(-fine // 16)
    events = np.zeros(len(fine), EVENT)
    events["pixel"], events["toa"], events["ftoa"], events["tot"] = index, toa, toa * 16 - fine, tot
    return events
