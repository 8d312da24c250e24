"""Actual probe positions: jitter, mains hum, specimen drift, coil errors and lag after a flyback.

Positions only: the renderers compute the image, the fast path in `scan/fast_image.py` distorts one; the delay of the
signal is in `scan/response.py`.
"""

import math
from enum import IntEnum, unique

import numpy as np

from twin.arrays import Floats
from twin.day import ScanProperties
from twin.scan.plan import ScanPath, along, scan_axes


@unique
class Stream(IntEnum):
    """Independent random streams: switching one error on does not change the others."""

    JITTER = 0
    WALK = 1
    HUM = 2


def ar1(innovations: Floats, correlation: float, before: float | None, stationary: bool = True) -> Floats:
    """First-order autoregressive series D[j] = phi D[j-1] + a[j] (Friedrich 2023, eqs 2.14-2.15), shape (n,).

    The series starts from its stationary distribution, D[1] = a[1] / sqrt(1 - phi^2), as in eq 2.15, or with
    D[1] = a[1], as in eq 2.14, where the first lines of an image jitter less.

    Args:
        innovations: a, (n,), independent.
        correlation: phi, between -1 and 1.
        before: the series' last value, or None to start it.
        stationary: start from the stationary distribution.
    """
    from scipy.signal import lfilter  # slow to import, and every simulated microscope imports this module

    if len(innovations) == 0:
        return innovations
    if before is None:
        first = innovations[0] / (math.sqrt(1.0 - correlation**2) if stationary else 1.0)
        return np.concatenate([[first], ar1(innovations[1:], correlation, first)])
    series: Floats = lfilter([1.0], [1.0, -correlation], innovations, zi=[correlation * before])[0]
    return series


def ar1_spectrum(cycles_per_line: Floats, sigma_nm: float, correlation: float) -> Floats:
    """Two-sided power density of `ar1`, nm^2 per (cycle per line): sigma^2 / |1 - phi exp(-2 pi i f)|^2.

    Its integral from -1/2 to 1/2 is the stationary variance, sigma^2 / (1 - phi^2) (Box & Jenkins 1976, section 3.2).
    """
    turn = np.cos(2 * math.pi * np.asarray(cycles_per_line, dtype=np.float64))
    density: Floats = sigma_nm**2 / (1.0 - 2.0 * correlation * turn + correlation**2)
    return density


def coil_axes(properties: ScanProperties) -> Floats:
    """Deflection of the x and of the y coil per intended unit, rows of (x, y), (2, 2); the identity if perfect."""
    x_angle = math.radians(properties.coil_rotation_deg)
    y_angle = math.radians(properties.coil_rotation_deg + properties.coil_skew_deg)
    x_gain, y_gain = properties.coil_gain
    return np.array(
        [
            (x_gain * math.cos(x_angle), x_gain * math.sin(x_angle)),
            (-y_gain * math.sin(y_angle), y_gain * math.cos(y_angle)),
        ]
    )


def hum_nm(middle_s: Floats, dwell_s: float, properties: ScanProperties, phase_rad: float) -> Floats:
    """Deflection by the mains, (N, 2): amplitude times sin(2 pi f t + phase), averaged over each dwell.

    Args:
        middle_s: middle of each dwell, (N,), on the clock that the phase belongs to.
        dwell_s: averaging over it gives the sinc factor.
        properties: amplitude and frequency.
        phase_rad: at time zero.
    """
    average = float(np.sinc(properties.hum_hz * dwell_s))
    wave = average * np.sin(2 * math.pi * properties.hum_hz * middle_s + phase_rad)
    return wave[:, None] * np.array(properties.hum_nm)


class ScanEngine:
    """Compute actual from intended positions, block by block in read-out order.

    Actual position = intended position + coil errors of the deflection from the scan's centre + jitter of the line +
    lag + hum - specimen drift since the first scan began. Positions are averages over the dwell (drift: the value in
    the middle of it). The result does not depend on how a scan is cut into blocks.

    Args:
        properties: the errors.
        rng: read once; generators in the same state give the same positions.
    """

    def __init__(self, properties: ScanProperties, rng: np.random.Generator) -> None:
        self._properties = properties
        entropy = rng.integers(2**32, size=4).tolist()
        streams = {s: np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(int(s),))) for s in Stream}
        self._jitter_rng, self._walk_rng = streams[Stream.JITTER], streams[Stream.WALK]
        self._hum_rad = float(streams[Stream.HUM].uniform(0.0, 2 * math.pi))
        self._walk_nm = np.zeros(2)
        self._walked_to_s = -math.inf
        self._expected: int | None = None

    def begin(self, clock_s: float) -> None:
        """Begin a scan at this time on the instrument's clock: jitter and lag restart, drift and hum continue.

        Optional for the first scan, which begins at zero.

        Raises:
            ValueError: the previous scan had not ended by then.
        """
        if self._walked_to_s == -math.inf:
            self._origin_s = self._walked_to_s = clock_s
        elif clock_s < self._walked_to_s:
            raise ValueError(f"a scan cannot begin at {clock_s:g} s: the last one was at {self._walked_to_s:g} s")
        self._clock_s = clock_s
        self._held_s = 0.0
        self._expected = 0
        self._line = -1
        self._jitter_nm = np.zeros(2)
        self._lag_nm = np.zeros(2)
        self._arrived_s = 0.0
        self._last_nm: Floats | None = None

    def hold(self, seconds: float) -> None:
        """Interrupt the scan for a time in which drift, hum and the relaxation of the coils continue.

        Raises:
            ValueError: a negative time.
        """
        if not seconds >= 0:
            raise ValueError(f"a scan cannot be held up for {seconds:g} s")
        if self._expected is None:
            self.begin(0.0)
        self._held_s += seconds

    def displace(self, path: ScanPath) -> Floats:
        """Actual positions of the next block, (x, y) in the specimen, nm, shape (N, 2).

        Raises:
            ValueError: the block does not follow the last one.
        """
        if self._expected is None:
            self.begin(0.0)
        if path.first != self._expected:
            raise ValueError(
                f"this block starts at position {path.first}, position {self._expected} is next;"
                " begin(clock_s) starts another scan"
            )
        properties, dwell_s = self._properties, path.plan.dwell_s
        middle_s = self._clock_s + self._held_s + 0.5 * (path.start_s + path.end_s)
        locked = properties.hum_phase_deg
        phase_rad = self._hum_rad if locked is None else math.radians(locked)
        hum = hum_nm(middle_s - (0.0 if locked is None else self._clock_s), dwell_s, properties, phase_rad)
        lag = self._lag(path)
        deflection = path.intended_nm - path.plan.origin_nm + lag
        coils = along(deflection, coil_axes(properties) - np.eye(2))
        displacement = lag + coils + along(self._jitter(path), scan_axes(path.plan)) + hum - self._drift(middle_s)
        self._expected = path.first + len(path)
        self._line = int(path.line[-1])
        self._last_nm = path.intended_nm[-1]
        return path.intended_nm + displacement

    def _jitter(self, path: ScanPath) -> Floats:
        """Jitter of each position's line along the fast and the slow axis, (N, 2); draws two normals per line."""
        properties = self._properties
        if properties.jitter_x_nm == properties.jitter_y_nm == 0.0:
            return np.zeros((len(path), 2))
        fresh = int(path.line[-1]) - self._line
        innovations = self._jitter_rng.standard_normal((fresh, 2)) * (properties.jitter_x_nm, properties.jitter_y_nm)
        correlations = (properties.jitter_x_correlation, properties.jitter_y_correlation)
        before = [None, None] if self._line < 0 else self._jitter_nm.tolist()
        stationary = (properties.jitter_x_start == "stationary", True)
        series = [ar1(innovations[:, i], correlations[i], before[i], stationary[i]) for i in (0, 1)]
        lines = np.concatenate([self._jitter_nm[None], np.stack(series, axis=1)])
        self._jitter_nm = lines[-1]
        return lines[path.line - self._line]

    def _drift(self, middle_s: Floats) -> Floats:
        """Displacement of the specimen, (N, 2): velocity and random walk; draws two normals per position."""
        properties = self._properties
        moved = (middle_s - self._origin_s)[:, None] * np.array(properties.drift_nm_per_s)
        elapsed_s = np.diff(middle_s, prepend=self._walked_to_s)
        self._walked_to_s = float(middle_s[-1])
        if properties.drift_walk_nm_per_sqrt_s == 0.0:
            return moved
        steps = properties.drift_walk_nm_per_sqrt_s * np.sqrt(elapsed_s)[:, None]
        steps = steps * self._walk_rng.standard_normal((len(middle_s), 2))
        walk = np.cumsum(np.concatenate([self._walk_nm[None], steps]), axis=0)[1:]
        self._walk_nm = walk[-1]
        return moved + walk

    def _lag(self, path: ScanPath) -> Floats:
        """Remaining error of the jumps to each line, averaged over the dwell, (N, 2).

        First-order linear system: on arrival at a line, a fraction of the jump from the end of the last line adds to
        the remainder of earlier jumps. The scan's first position has no lag, since the jump to it is unknown.
        """
        fraction, relaxation_s = self._properties.flyback_lag, self._properties.flyback_relaxation_s
        if fraction == 0.0:
            return np.zeros((len(path), 2))
        at_arrival_nm, arrived_s, start_s = [self._lag_nm], [self._arrived_s], path.start_s + self._held_s
        begun = np.flatnonzero(np.diff(path.line, prepend=self._line))
        for i in begun.tolist():
            arrival_s = float(start_s[i]) - path.plan.settle_s
            last = self._last_nm if i == 0 else path.intended_nm[i - 1]
            jump = np.zeros(2) if last is None else path.intended_nm[i] - last
            remainder = at_arrival_nm[-1] * math.exp((arrived_s[-1] - arrival_s) / relaxation_s)
            at_arrival_nm.append(remainder - fraction * jump)
            arrived_s.append(arrival_s)
        self._lag_nm, self._arrived_s = at_arrival_nm[-1], arrived_s[-1]
        which = np.searchsorted(begun, np.arange(len(path)), side="right")
        ratio = path.plan.dwell_s / relaxation_s
        average = -math.expm1(-ratio) / ratio
        decay = average * np.exp((np.array(arrived_s)[which] - start_s) / relaxation_s)
        return decay[:, None] * np.array(at_arrival_nm)[which]
