"""A fast microscope for the services of `twin/server`: the counts of a frame are its number."""

import threading

import numpy as np

from twin.optics import Optics
from twin.scan.plan import ScanPlan, paths
from twin.server.bench import Bench, RonchigramSettings, ScanSettings
from twin.state import FIRST_ORDER
from twin.types import Capabilities, Frame, ScanBlock

SIDE = 8
OPTICS = Optics(camera_pixels=SIDE)


class CountingMicroscope:
    """Exposure k has k in pixel (0, 1); position p of a scan has p there and p + 1 in (2, 0)."""

    def __init__(self, max_count=4095):
        self.capabilities = Capabilities("counting", OPTICS, FIRST_ORDER, (SIDE, SIDE), max_count, can_scan=True)
        self.exposures = self.scans = 0
        self.entropy = ()
        self.clock_s = 0.0
        self.fail_at = None
        self.computing = threading.Event()
        self.slow_s = 0.0

    def begin(self, entropy):
        self.entropy, self.exposures, self.clock_s = tuple(entropy), 0, 0.0

    def apply(self, delta_nm):
        pass

    def acquire(self):
        self.exposures += 1
        self.clock_s += 0.5
        counts = np.zeros((SIDE, SIDE), np.uint16)
        counts[0, 1] = self.exposures
        return Frame(counts, 1e5, 0.3, self.clock_s)

    def scan(self, plan, *, block=64):
        self.scans += 1
        return self._blocks(plan, block, self.clock_s)

    def _blocks(self, plan, block, begun_s):
        for path in paths(plan, block):
            self.computing.set()
            if self.slow_s:
                threading.Event().wait(self.slow_s)
            position = np.arange(path.first, path.first + len(path))
            if self.fail_at is not None and self.fail_at in position:
                raise RuntimeError("another scan or session has begun meanwhile: this one is over")
            counts = np.zeros((len(path), SIDE, SIDE), np.uint16)
            counts[:, 0, 1], counts[:, 2, 0] = position, position + 1
            self.clock_s = begun_s + float(path.end_s[-1])
            yield ScanBlock(path, counts, {}, begun_s + path.end_s)


def counting_bench(
    rows=4, columns=5, dwell_s=1e-4, pattern="raster", scan=True, flyback_s=0.0, largest=4095, **microscope
):
    """A bench, and its microscope as `bench.microscope`."""
    plan = ScanPlan(rows=rows, columns=columns, dwell_s=dwell_s, pattern=pattern, flyback_s=flyback_s)
    settings = ScanSettings(plan, OPTICS, largest_count=largest) if scan else None
    made = Bench(CountingMicroscope(**microscope), settings, RonchigramSettings(0.3, 0.2, 1e5))
    made.reset_to(0)
    return made
