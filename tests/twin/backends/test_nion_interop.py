"""`NionMicroscope` on Nion's own simulator, in an interpreter that has nionswift-usim: controls, frames, rays.

Set STEMTWIN_REFERENCE_PYTHON to that interpreter.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin.optics import CHARGE_C

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("STEMTWIN_REFERENCE_PYTHON")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(PYTHON is None, reason="STEMTWIN_REFERENCE_PYTHON is not set"),
]

PROGRAM = r"""
import json, sys
sys.path += json.loads(sys.argv[1])
import numpy as np
from nion.usim_device import DeviceConfiguration, RonchigramCameraSimulator
from twin import backends
from twin.aberrations import NAMES, Aberrations, aberration_phase
from twin.optics import Optics
from twin.state import SECOND_ORDER

told = {}
context = DeviceConfiguration.AcquisitionContextConfiguration(set_configuration_location=False)
context.run()
control = context.instrument
try:
    # 2048 pixels of 0.0983 mrad: the camera bins by 8, we by 2.
    pixel = 0.09831929726090371 * 8
    optics = Optics(100.0, 40.0, 1024, 0.004, 128, 2)
    optics = Optics(100.0, 40.0, 1024, 0.004 * optics.camera_pixel_mrad / (2 * pixel), 128, 2)
    options = {
        "sensor_binning": 8,
        "exposure_s": 0.05,
        "view": {"binning": 2, "gain": 200.0, "sensor_pixel_mrad": pixel},
    }
    microscope = backends.load("nion", options, optics, SECOND_ORDER)
    microscope.reset(np.random.default_rng(0))
    told["origin_nm"] = microscope.session()["origin_nm"]
    first = microscope.acquire()
    delta = np.array([-50.0, 20.0, -10.0, 100.0, -100.0, 50.0, 25.0])
    microscope.apply(delta)
    told["read_back_nm"] = microscope.read_back_nm().tolist()
    names = ["C10", "C12.x", "C12.y", "C21.x", "C21.y", "C23.x", "C23.y"]
    told["controls_m"] = {name: control.TryGetVal(name)[1] for name in names}
    second = microscope.acquire()
    told["frames"] = [[f.counts.shape, str(f.counts.dtype), float(f.counts.mean()), f.dose_e] for f in (first, second)]
    told["changed"] = float(np.mean(first.counts != second.counts))
    microscope.apply(-delta)
    told["back_nm"] = microscope.read_back_nm().tolist()

    # Their rays against our phase: ramps for a specimen show where each ray meets it.
    n, theta = 65, 0.03
    rays = RonchigramCameraSimulator.AberrationsController(n, n, theta, 5e-6, 0.0)
    ramp_y, ramp_x = np.mgrid[:n, :n].astype(np.float64)
    angle = np.linspace(-theta, theta, n) * 1e3
    theta_x, theta_y = np.meshgrid(angle, angle)
    factors = {}
    for theirs in (k for k in rays.coefficient_names if k[1] in "123"):
        ours = theirs[0].upper() + theirs[1:]
        order = int(theirs[1])
        value = 1e-6 / theta ** (order - 1) / 4
        zero = dict.fromkeys(rays.coefficient_names, 0.0) | {"height": n, "width": n, "theta": theta}
        seen = [rays.apply(zero | {theirs: value}, ramp)[8:-8, 8:-8] - n / 2 for ramp in (ramp_y, ramp_x)]
        chi = aberration_phase(Aberrations.of({ours: value * 1e9}), theta_x, theta_y, optics.wavelength_nm)
        slopes = [part[8:-8, 8:-8] * optics.wavelength_nm / (2 * np.pi) for part in np.gradient(chi)]
        a, b = np.ravel(seen), np.ravel(slopes)
        factor = float(a @ b / (b @ b))
        factors[ours] = [factor, float(np.abs(a - factor * b).max() / np.abs(a).max())]
    told["factors"] = factors
finally:
    context.stop()
    for camera in (context._ronchigram_camera_device, context._eels_camera_device):
        camera.close()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def simulator() -> dict[str, Any]:
    assert PYTHON is not None
    probe = [PYTHON, "-c", "import nion.usim_device"]
    if subprocess.run(probe, timeout=120, capture_output=True, check=False).returncode:
        pytest.fail(f"{PYTHON} has no nionswift-usim: see constraints-reference.txt")
    ours = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM, json.dumps(ours)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_the_simulator_takes_inputs_and_reads_them_back(simulator: dict[str, Any]) -> None:
    delta = [-50.0, 20.0, -10.0, 100.0, -100.0, 50.0, 25.0]
    np.testing.assert_allclose(simulator["origin_nm"], [500.0, 0, 0, 0, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(simulator["read_back_nm"], delta, atol=1e-9)
    # In metres and with our sign, at the simulator itself.
    expected = np.array([450.0, *delta[1:]]) * 1e-9
    np.testing.assert_allclose(list(simulator["controls_m"].values()), expected, atol=1e-18)
    np.testing.assert_allclose(simulator["back_nm"], 0.0, atol=1e-9)


def test_the_simulator_gives_frames(simulator: dict[str, Any]) -> None:
    for shape, dtype, mean, dose in simulator["frames"]:
        assert (shape, dtype) == ([128, 128], "uint16")
        assert 100 < mean < 60000
        assert dose == pytest.approx(2e-10 * 0.05 / CHARGE_C)
    assert simulator["changed"] > 0.5


def test_the_simulators_rays_are_ours_in_sign_and_size(simulator: dict[str, Any]) -> None:
    factors = simulator["factors"]
    assert set(factors) >= {"C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30", "C32a", "C34b"}
    for name, (factor, residual) in factors.items():
        assert factor > 0, name
        assert factor == pytest.approx(factors["C10"][0], rel=1e-6), name
        assert residual < 1e-6, name
