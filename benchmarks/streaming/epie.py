"""ePIE beside py4DSTEM on a 32 x 32 scan of 64 x 64 pixels: time to the same amplitude error, and frames per second.

    STEMTWIN_REFERENCE_PYTHON_4D=/path/to/python python -m benchmarks.streaming.epie [--json]

The variable names a Python that can import py4DSTEM; without it there are only our own figures. Both get the same
Poisson counts and positions and start from the same kind of probe; rounds alternate, one thread each, and processor
time counts. The error is sqrt(sum (a - |Psi|)^2 / sum a^2) as every frame finds it during the last iteration.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from agents.epie.engine import Steps, intensity, sweep
from agents.epie.estimate import ObjectAndProbe, Places
from agents.epie.probe import Beam, Geometry, start_probe
from benchmarks.references import PY4DSTEM
from benchmarks.rounds import Timed, medians
from twin.optics import Optics

Real = NDArray[np.floating]

SIDE, SCAN, STEP_NM = 64, 32, 0.04
PIXEL_MRAD, CONVERGENCE_MRAD, ENERGY_KEV = 2.6, 25.0, 80.0
ELECTRONS = 1e5
ITERATIONS = 10
ROUNDS = 5
PASSES = (5, 7, 10, 14, 20, 28, 40)


@dataclass(frozen=True)
class Figures:
    """Medians over interleaved rounds; None without the reference.

    Attributes:
        ratio: time of the reference's iterations over ours to the same error; goal 2.
        ours, reference: frames per second and iteration.
        error, reference_error: amplitude errors reached.
        passes: of ours that reach the reference's error.
        limit: transform pairs per second of scipy.fft, in one call for 64 frames.
        limit_fraction: ours over that.
    """

    ratio: float | None
    ours: float
    reference: float | None
    error: float
    reference_error: float | None
    passes: int
    limit: float
    limit_fraction: float


@dataclass(frozen=True, eq=False)
class Task:
    """Frames and what is known of them.

    Attributes:
        counts: (N, 64, 64), as a camera has them.
        amplitude: their roots, [kx, ky], zero first.
        places: on the object.
        shape: of the object.
        probe: to start from.
    """

    counts: Real
    amplitude: Real
    places: Places
    shape: tuple[int, int]
    probe: NDArray[np.complexfloating]


def task() -> Task:
    """Poisson counts of a smooth phase object under a slightly astigmatic probe; the start probe has no astigmatism."""
    wavelength_nm = Optics(energy_kev=ENERGY_KEV).wavelength_nm
    pixel_nm = wavelength_nm / (SIDE * PIXEL_MRAD * 1e-3)
    geometry, beam = (
        Geometry(pixel_nm, STEP_NM / pixel_nm, 0.0, (SCAN, SCAN), SIDE),
        Beam(wavelength_nm, CONVERGENCE_MRAD, PIXEL_MRAD),
    )
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(geometry.shape), 1.5)
    wave = np.exp(1j * noise / np.abs(noise).max())
    truth = ObjectAndProbe.start(geometry.shape, _probe(beam, {"C12a": 4.0}))
    truth.planes[0], truth.planes[1] = wave.real, wave.imag
    places = Places.of(geometry.positions(np.moveaxis(np.indices((SCAN, SCAN)), 0, -1).reshape(-1, 2)), SIDE)
    counts = np.random.default_rng(1).poisson(intensity(truth, places)).astype(np.float32)
    frames = np.fft.fftshift(counts.swapaxes(1, 2), axes=(1, 2))
    return Task(frames, np.sqrt(counts), places, geometry.shape, _probe(beam, {}))


def reconstruct(work: Task, passes: int) -> tuple[float, float]:
    """Seconds and the last pass's error; the agent's schedule, with less caution at the end for a short run."""
    estimate, rng = ObjectAndProbe.start(work.shape, work.probe), np.random.default_rng(0)
    begun, error = time.process_time(), float("nan")
    for done in range(passes):
        progress = done / max(passes - 1, 1)
        order = rng.permutation(len(work.places))
        steps = Steps(1.0, 0.1**progress, 11.0**progress - 1.0)
        error = sweep(estimate, work.amplitude[order], work.places.take(order), steps).error
    return time.process_time() - begun, error


def pairs() -> float:
    """Seconds for as many transform pairs as there are frames."""
    stack = np.ones((64, SIDE, SIDE), np.complex64)
    begun = time.process_time()
    for _ in range(SCAN * SCAN // 64):
        scipy.fft.ifft2(scipy.fft.fft2(stack))
    return time.process_time() - begun


def measure(rounds: int = ROUNDS) -> Figures:
    """See the module's docstring."""
    work = task()
    reconstruct(work, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frames.npy"
        np.save(file, work.counts.reshape(SCAN, SCAN, SIDE, SIDE))
        with PY4DSTEM.running("epie", file, ENERGY_KEV, CONVERGENCE_MRAD, STEP_NM, PIXEL_MRAD, ITERATIONS) as reference:
            found = reference.run() if reference is not None else None
            passes = next((n for n in PASSES if found and reconstruct(work, n)[1] <= found[1]), ITERATIONS)
            works: list[Timed] = [lambda: reconstruct(work, passes)[0], pairs]
            works += [reference.seconds] if reference is not None else []
            ours_s, pairs_s, *theirs_s = medians(works, rounds)
    frames = len(work.places)
    ours, limit = passes * frames / ours_s, frames / pairs_s
    return Figures(
        ratio=theirs_s[0] / ours_s if theirs_s else None,
        ours=ours,
        reference=ITERATIONS * frames / theirs_s[0] if theirs_s else None,
        error=reconstruct(work, passes)[1],
        reference_error=found[1] if found else None,
        passes=passes,
        limit=limit,
        limit_fraction=ours / limit,
    )


def _probe(beam: Beam, aberrations_nm: dict[str, float]) -> NDArray[np.complex64]:
    return start_probe(beam, SIDE, ELECTRONS, aberrations_nm=aberrations_nm).astype(np.complex64)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    figures = asdict(measure())
    if parser.parse_args().json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:16} {'-' if value is None else f'{value:.4g}'}")


if __name__ == "__main__":
    main()
