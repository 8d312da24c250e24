"""Controllers on a simulated instrument that is not ours: Nion's, through `NionMicroscope`, guarded like an instrument.

    STEMTWIN_REFERENCE_PYTHON=/path/to/python python -m benchmarks.wire.nion_simulator [CONTROLLER ...]

The environment names an interpreter with nionswift-usim. Its Ronchigram is a geometric warp of a drawn specimen with no
interference in it: what is left after the correction is reported, nothing is required. Specimen and noise have no seed,
so that figures vary from run to run.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHON = "STEMTWIN_REFERENCE_PYTHON"
CONTROLLERS = ("spectrum_ml", "vae_em")
STARTS_NM = ((40.0, 12.0, -8.0), (-25.0, -10.0, 15.0))
OVERRIDES = (
    "task.observations=12",
    "microscope.kind=nion",
    "microscope.options.exposure_s=0.1",
    "microscope.options.view={binning: 5, gain: 2.0}",  # 0.49 mrad a pixel; the scenario's has 0.46
)

# Runs in the other interpreter: one controller, one start.
PROGRAM = """
import json, sys
given = json.loads(sys.argv[1])
sys.path += given["path"]
from pathlib import Path
from nion.usim_device import DeviceConfiguration
from scenarios import run
from scenarios.calibration.instruments import Wiring
from scenarios.schema import load

# Sample 1 is the amorphous one.
context = DeviceConfiguration.AcquisitionContextConfiguration(set_configuration_location=False, sample_index=1)
context.run()
try:
    controls = ("C10", "C12.x", "C12.y")
    for name, value in zip(controls, given["start_nm"]):
        context.instrument.SetVal(name, value * 1e-9)
    out = Path(given["out"])
    session = run.prepare(load("nominal", given["overrides"]), given["controller"], Wiring(audit=out / "audit.jsonl"))
    result = run.record(session, 1, out, report=False)
    left = [context.instrument.TryGetVal(name)[1] * 1e9 for name in controls]
finally:
    context.stop()
    for camera in (context._ronchigram_camera_device, context._eels_camera_device):
        camera.close()
print(json.dumps([result.status, result.reason, left]))
"""


def main() -> None:
    """Print what each controller leaves of each start."""
    python = os.environ.get(PYTHON)
    if python is None:
        raise SystemExit(f"{PYTHON} names no interpreter with nionswift-usim")
    print(f"{'controller':14}  {'start C10, C12a, C12b (nm)':>28}  left (nm)")
    for controller in sys.argv[1:] or CONTROLLERS:
        for start in STARTS_NM:
            status, reason, left = measure(python, controller, start)
            state = ", ".join(f"{value:+.1f}" for value in left) + ("" if status == "complete" else f"  {reason}")
            print(f"{controller:14}  {', '.join(f'{value:+.0f}' for value in start):>28}  {state}")


def measure(python: str, controller: str, start_nm: tuple[float, ...]) -> tuple[str, str, list[float]]:
    """Status, reason and what is left, nm, of one calibration.

    Raises:
        SystemExit: the program failed; says how.
    """
    here = Path(__file__).resolve().parents[2]
    # The other interpreter's own packages come first.
    path = [str(here), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    with tempfile.TemporaryDirectory() as out:
        given = {
            "path": path,
            "out": out,
            "overrides": list(OVERRIDES),
            "controller": controller,
            "start_nm": start_nm,
        }
        command = [python, "-c", PROGRAM, json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise SystemExit(f"{controller}: {done.stderr[-2000:]}")
    status, reason, left = json.loads(done.stdout.splitlines()[-1])
    return str(status), str(reason), [float(value) for value in left]


if __name__ == "__main__":
    main()
