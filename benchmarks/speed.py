"""Speed as ratios measured side by side in one run, and against the physical limit.

    STEMTWIN_REFERENCE_PYTHON=... STEMTWIN_REFERENCE_PYTHON_4D=... python -m benchmarks.speed [--only NAME] [--json]

`ours` and `reference` are rates in 1/s, medians over interleaved rounds on one thread; `ratio` is ours over reference,
`limit_fraction` is ours over what the unavoidable transforms, or reading the data, alone would allow. All time is
processor time, of every process that takes part: on an idle core that is what the clock on the wall says, on a busy
one whatever else runs takes hardly anything from it. Where the reference is no other program, it is the goal itself or
the limit. The variables name interpreters with LiberTEM and ptychography40, and with py4DSTEM; figures that need one
that is not there are left out, with a word.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.references import LIBERTEM, PTYCHOGRAPHY40, PY4DSTEM, Reference
from benchmarks.rounds import Figure, rates
from twin.arrays import Array

if TYPE_CHECKING:
    from abtem import PotentialArray

    from controller.vae_em.em import Observations
    from controller.vae_em.latent_map import LatentMap
    from twin.aberrations import Aberrations
    from twin.optics import Optics


def renderer() -> Figure:
    """A coherent single-slice Ronchigram, new aberrations each time, film prebuilt: ours against abTEM.

    The limit is two full transforms of the grid in the same library.
    """
    import abtem
    import torch

    from twin.aberrations import Aberrations
    from twin.day import Day, FilmProperties
    from twin.optics import Optics
    from twin.ronchigram.camera_geometry import to_camera
    from twin.ronchigram.phase_screens import FastRenderer

    abtem.config.set({"precision": "float32", "fftw.threads": 1})
    optics = Optics()
    day = Day(film=FilmProperties(thickness_nm=2.0), focal_spread_nm=0.0)
    fast = FastRenderer(optics, day)
    film = fast.transmission(0)
    phase = torch.angle(film[0]).numpy().T / (optics.interaction_rad_per_v_nm * 0.1)  # V angstrom, (x, y)
    potential = abtem.PotentialArray(
        phase[None].astype(np.float32), slice_thickness=20.0, sampling=optics.sampling_nm * 10
    )
    rng = np.random.default_rng(0)
    field = torch.zeros((1, optics.grid, optics.grid), dtype=torch.complex64) + film

    def state() -> Aberrations:
        c10, c12a, c12b = rng.uniform(-1, 1, 3) * (120, 60, 60)
        return Aberrations.of({"C10": c10, "C12a": c12a, "C12b": c12b, "C30": 500.0})

    def ours() -> object:
        with torch.no_grad():
            coefficients = torch.from_numpy(state().array()).float()[None]
            return to_camera(fast.intensity(coefficients, film[None]), optics, day.camera).numpy()

    def reference() -> object:
        return _by_abtem(potential, state(), optics)

    def limit() -> object:
        return torch.fft.fft2(torch.fft.ifft2(field))

    mine, theirs, bound = rates([ours, reference, limit])
    return Figure(mine / theirs, 4.0, mine, theirs, mine / bound)


def _by_abtem(potential: "PotentialArray", aberrations: "Aberrations", optics: "Optics") -> Array:
    """The Ronchigram by abTEM, binned to the camera."""
    import abtem

    from twin.aberrations import to_abtem

    probe = abtem.Probe(
        energy=optics.energy_kev * 1e3,
        semiangle_cutoff=optics.convergence_mrad,
        aberrations=to_abtem(aberrations),
        extent=optics.window_nm * 10,
        gpts=optics.grid,
        soft=False,
    )
    middle = optics.window_nm * 5.0
    wave = probe.build((middle, middle), lazy=False).multislice(potential)
    assert isinstance(wave, abtem.Waves)
    pattern = wave.diffraction_patterns(max_angle=None, fftshift=True).array
    size, side = pattern.shape[-1], optics.camera_pixels * optics.binning
    start = size // 2 - side // 2
    crop = pattern[..., start : start + side, start : start + side]
    binned: Array = crop.reshape(optics.camera_pixels, optics.binning, optics.camera_pixels, optics.binning).sum((1, 3))
    return binned


def em_step() -> Figure:
    """One EM step (E-step, refinement, estimate) with 1000 candidates at the 20th observation, six latents.

    The reference rate is the target of 30 ms.
    """
    from controller.candidates import Refinement, initial, summarise
    from controller.vae_em import em
    from controller.vae_em.artefact import load
    from controller.weights import SHIPPED
    from learning.weights_file import find
    from twin.state import FIRST_ORDER as SPACE

    prior = load(find("vae_random_days", SHIPPED)).prior
    rng = np.random.default_rng(0)
    x0 = SPACE.draw_start(rng)
    data = em.Observations.none(SPACE.dimension, len(prior.axes))
    ensemble = em.start(prior, initial(SPACE, 1000, rng))
    for _ in range(19):
        data = _observed(data, prior, x0, rng)
        ensemble = em.step(ensemble, data, SPACE, Refinement(), rng)
    full = _observed(data, prior, x0, rng)

    def ours() -> object:
        new = em.step(ensemble, full, SPACE, Refinement(), np.random.default_rng(1))
        return summarise(new.candidates, new.probability, SPACE)

    (mine,) = rates([ours])
    target = 1 / 0.030
    return Figure(mine / target, 1.0, mine, target, None)


def _observed(data: "Observations", prior: "LatentMap", x0: Array, rng: np.random.Generator) -> "Observations":
    """One more observation drawn from the prior mean and its noise, near the null."""
    total = np.clip(-x0 + rng.standard_normal(3) * 8.0, -60.0, 60.0) * np.array([1.0, 0.5, 0.5])
    floors = np.full(1, np.exp(prior.log_floor))
    mean, noise, _ = prior.moments((x0 + total)[None], floors)
    return data.append(total, mean[:, 0] + np.sqrt(noise[:, 0]) * rng.standard_normal(len(mean)), float(floors[0]))


SCAN_ROW = 64
"""Positions of a 64 x 64 scan that one round of the scan benchmarks takes."""


def _scan(slices: int, goal: float, batch: int) -> Figure:
    """Rows of a 64 x 64 scan of SrTiO3 on a 256 grid, transmission functions prebuilt: ours against abTEM's scan.

    abTEM gets the potential prebuilt, its own planned transforms and the batch that suits it best here. The limit is
    one pair of whole transforms per slice in the library we use.
    """
    import abtem
    import scipy.fft

    from twin import specimens
    from twin.aberrations import Aberrations
    from twin.optics import Optics
    from twin.scan.diffraction import ScanRenderer, to_camera
    from twin.scan.transmission import transmission_field

    abtem.config.set({"precision": "float32", "fftw.threads": 1, "dask.lazy": False, "diagnostics.progress_bar": False})
    side_nm = 13 * 0.3905
    optics = Optics(convergence_mrad=25.0, grid=256, sampling_nm=side_nm / 256, camera_pixels=64, binning=2)
    options = {"width_nm": side_nm, "height_nm": side_nm, "thickness_nm": 0.3905 * slices / 2, "thermal": False}
    field = transmission_field(specimens.build("sto_001", options), optics, slice_nm=0.3905 / 2 if slices > 1 else 1.0)
    phase = np.angle(field.functions[0]).swapaxes(1, 2) / (optics.interaction_rad_per_v_nm * 0.1)  # V angstrom, (x, y)
    potential = abtem.PotentialArray(
        np.ascontiguousarray(phase, np.float32), slice_thickness=field.step_nm * 10, sampling=optics.sampling_nm * 10
    )
    probe = abtem.Probe(energy=3e5, semiangle_cutoff=25.0, extent=optics.window_nm * 10, gpts=optics.grid, soft=False)
    detector = abtem.PixelatedDetector(max_angle="valid")
    renderer = ScanRenderer(optics, field)
    columns = (np.arange(SCAN_ROW) - SCAN_ROW / 2) * 0.02
    rows = iter(np.tile(columns, 10))

    def row() -> Array:
        return np.stack([columns, np.full(SCAN_ROW, next(rows))], axis=1) + side_nm / 2

    def ours() -> object:
        waves = renderer.waves(Aberrations())
        return [to_camera(renderer.pattern(waves, position), optics) for position in row()]

    def reference() -> object:
        return probe.scan(potential, scan=abtem.CustomScan(row() * 10), detectors=detector, max_batch=batch, lazy=False)

    wave = field.functions[0, 0].copy()

    def limit() -> object:
        for _ in range(SCAN_ROW * slices):
            scipy.fft.ifft2(scipy.fft.fft2(wave), overwrite_x=True)
        return wave

    mine, theirs, bound = rates([ours, reference, limit])
    return Figure(mine / theirs, goal, mine * SCAN_ROW, theirs * SCAN_ROW, mine / bound)


def single_slice_scan() -> Figure:
    """4D-STEM of one slice, frames per second; see `_scan`."""
    return _scan(1, 2.0, 16)


def multislice_scan() -> Figure:
    """4D-STEM of ten slices, frames per second; see `_scan`."""
    return _scan(10, 1.0, 4)


def epie() -> Figure:
    """Whole reconstructions per second: ePIE to the amplitude error that py4DSTEM reaches in its iterations.

    Raises:
        RuntimeError: there is no reference.
    """
    from benchmarks.streaming import epie as streaming_epie

    found = streaming_epie.measure()
    if found.ratio is None or found.reference is None:
        raise RuntimeError(PY4DSTEM.lacking() or "py4DSTEM gave no figures")
    frames = streaming_epie.SCAN**2
    theirs = found.reference / (streaming_epie.ITERATIONS * frames)
    return Figure(found.ratio, 2.0, found.ours / (found.passes * frames), theirs, found.limit_fraction)


STREAMING = {
    "com_128": ("streaming.com", "com_128"),
    "com_256": ("streaming.com", "com_256"),
    "virtual_128": ("streaming.com", "virtual_128"),
    "virtual_256": ("streaming.com", "virtual_256"),
    "ricom_128": ("streaming.ricom", "ricom_128"),
    "ricom_256": ("streaming.ricom", "ricom_256"),
    "com_events": ("streaming.events", "com_events"),
    "ricom_events": ("streaming.events", "ricom_events"),
    "ssb_rows": ("streaming.ssb", "row_by_row"),
    "ssb_batch": ("streaming.ssb", "batch"),
    "merlin_256": ("streaming.merlin", "merlin_256"),
}
"""Figures of modules that import this one: module and function."""


def _streaming(name: str) -> Figure:
    module, function = STREAMING[name]
    figure: Figure = getattr(importlib.import_module(f"benchmarks.{module}"), function)()
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "renderer": renderer,
    "em_step": em_step,
    "single_slice_scan": single_slice_scan,
    "multislice_scan": multislice_scan,
    "epie": epie,
    **{name: partial(_streaming, name) for name in STREAMING},
}

NEEDS: dict[str, Reference] = {
    **dict.fromkeys(("com_128", "com_256", "virtual_128", "virtual_256"), LIBERTEM),
    **dict.fromkeys(("ssb_rows", "ssb_batch"), PTYCHOGRAPHY40),
    "epie": PY4DSTEM,
}
"""What cannot be compared without another program."""


def measure_all(chosen: Sequence[str]) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures by name, and why others are left out."""
    from threadpoolctl import threadpool_limits

    found: dict[str, Figure] = {}
    left_out: dict[str, str] = {}
    for name in chosen:
        lacking = NEEDS[name].lacking() if name in NEEDS else None
        if lacking is not None:
            left_out[name] = lacking
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        with threadpool_limits(1):
            found[name] = FIGURES[name]()
    return found, left_out


def table(found: Mapping[str, Figure], left_out: Mapping[str, str]) -> str:
    """Everything side by side."""
    lines = [f"{'':18s} {'ours /s':>9s} {'ref /s':>9s} {'ratio':>7s} {'goal':>6s} {'of limit':>9s}"]
    for name, f in found.items():
        limit = f"{f.limit_fraction:9.0%}" if f.limit_fraction is not None else f"{'':9s}"
        missed = "" if f.ratio >= f.goal else "  below its goal"
        row = f"{name:18s} {_short(f.ours):>9s} {_short(f.reference):>9s} {f.ratio:7.2f} {f.goal:6.2f} {limit}{missed}"
        lines.append(row)
    return "\n".join([*lines, *(f"{name:18s} left out: {why}" for name, why in left_out.items())])


def _short(rate: float) -> str:
    """Three or four digits and a prefix."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rate >= factor:
            return f"{rate / factor:.1f}{prefix}"
    return f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description="Speed ratios, interleaved, on one thread.")
    parser.add_argument("--only", choices=sorted(FIGURES), help="measure one of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, left_out = measure_all([options.only] if options.only else list(FIGURES))
    if options.json:
        figures = {name: asdict(figure) for name, figure in found.items()}
        print(json.dumps({**figures, **{name: {"left_out": why} for name, why in left_out.items()}}))
    else:
        print(table(found, left_out))


if __name__ == "__main__":
    main()
