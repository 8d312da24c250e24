"""How even the power spectrum is in the aberrations: `||S(x) - S(-x)|| / ||S(x)||` on one and the same film.

`S(x) = S(-x)` (van Hulst et al. 2026, eq 5) is exact for a weak phase object when every aberration changes
sign. A real film, a fixed C30 and thickness break it; fixed odd residuals do not.

    python -m benchmarks.evenness [--out evenness.png] [--json]
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from controller.preprocess import spectrum
from twin.aberrations import Aberrations
from twin.arrays import Array
from twin.day import Day, FilmProperties
from twin.optics import Optics
from twin.ronchigram.camera_geometry import to_camera
from twin.ronchigram.phase_screens import FastRenderer

STATE = Aberrations.of({"C10": 40.0, "C12a": 15.0, "C12b": -10.0})


NONE = Aberrations()


@dataclass(frozen=True)
class Case:
    """One instrument on which evenness is measured.

    Attributes:
        label: for table and figure.
        phase_scale: multiplies the film's phase.
        residual: aberrations that stay when the state changes sign.
        film_nm: thickness.
        slices: phase screens.
        reference_nm: plane from which C10 counts, from the mid-plane; -t/2 is the entrance.
    """

    label: str
    phase_scale: float = 1.0
    residual: Aberrations = NONE
    film_nm: float = 4.0
    slices: int = 1
    reference_nm: float = 0.0


def cases() -> list[Case]:
    """The rows of the table, in its order."""
    odd = Aberrations.of({"C21a": 30.0, "C21b": -30.0, "C23a": 30.0, "C23b": 30.0})
    return [
        Case("weak phase, 1 % of the film", phase_scale=0.01),
        Case("weak phase, 10 % of the film", phase_scale=0.1),
        Case("4 nm film, one plane"),
        Case("phase tripled", phase_scale=3.0),
        Case("fixed C21, C23 of 30 nm", residual=odd),
        *(Case(f"fixed C30 of {c30 / 1000:g} um", residual=Aberrations.of({"C30": c30})) for c30 in (500, 1500, 5000)),
        Case("8 nm film, C10 from mid-plane", film_nm=8.0, slices=8),
        Case("8 nm film, C10 from entrance", film_nm=8.0, slices=8, reference_nm=-4.0),
    ]


def spectra(case: Case, optics: Optics, region_seed: int) -> tuple[Array, Array]:
    """Noiseless power spectra at x and -x of the same film's shadow, (H, W) each.

    The empty disc is taken off first: it is even by itself, and its interference with the shadow, of
    either sign and zero on average, is no property of the shadow.
    """
    day = replace(Day(), film=FilmProperties(thickness_nm=case.film_nm), focal_spread_nm=0.0)
    renderer = FastRenderer(optics, day, case.slices, torch.float64)
    film = renderer.transmission(region_seed)
    film = torch.polar(torch.ones_like(film.real), case.phase_scale * torch.angle(film))
    empty = torch.ones_like(film)

    def frame(coefficients: Array, film: torch.Tensor) -> Array:
        with torch.no_grad():
            fine = renderer.intensity(torch.from_numpy(coefficients)[None], film[None])
            image: Array = to_camera(fine, optics, day.camera)[0].numpy()
        return image

    found = []
    for state in (STATE, -STATE):
        full = (state + case.residual).array()
        full[0] -= case.reference_nm  # C10 at the mid-plane, when it counts from another plane
        found.append(spectrum(frame(full, film) - frame(full, empty)))
    return found[0], found[1]


def asymmetry(case: Case, optics: Optics, regions: int = 4) -> float:
    """Median over film regions of the relative L2 distance between S(x) and S(-x)."""
    values = []
    for seed in range(regions):
        there, back = spectra(case, optics, seed)
        values.append(float(np.linalg.norm(there - back) / np.linalg.norm(there)))
    return float(np.median(values))


def figure(optics: Optics, path: Path, results: dict[str, float]) -> None:
    """Bars of every case, and the two spectra of three of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [
        c for c in cases() if c.label in ("4 nm film, one plane", "fixed C30 of 5 um", "8 nm film, C10 from entrance")
    ]
    canvas = Figure(figsize=(12, 6.4), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplot_mosaic([["bars", "a0", "b0", "c0"], ["bars", "a1", "b1", "c1"]], width_ratios=[2.2, 1, 1, 1])
    bars = axes["bars"]
    bars.barh(list(results)[::-1], list(results.values())[::-1], color="0.35")
    bars.set(xscale="log", xlabel="||S(x) - S(-x)|| / ||S(x)||", title="Evenness of the power spectrum")
    for column, case in zip("abc", shown, strict=True):
        pair = spectra(case, optics, 0)
        top = np.log(max(p.max() for p in pair))
        for row, (power, name) in enumerate(zip(pair, ("S(x)", "S(-x)"), strict=True)):
            ax = axes[f"{column}{row}"]
            ax.imshow(np.log(power + np.exp(top - 9)), cmap="magma", vmin=top - 9, vmax=top)
            ax.set_title(f"{name}, {case.label}", fontsize=8)
            ax.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def main() -> None:
    """Print the table, write the figure."""
    parser = argparse.ArgumentParser(description="Evenness of the power spectrum in the aberrations.")
    parser.add_argument("--out", type=Path, default=Path("runs/evenness.png"), help="figure to write")
    parser.add_argument("--regions", type=int, default=4, help="film regions per case")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    optics = Optics()
    results = {case.label: asymmetry(case, optics, options.regions) for case in cases()}
    figure(optics, options.out, results)
    if options.json:
        print(json.dumps(results))
        return
    for label, value in results.items():
        print(f"{label:32s} {value:8.4f}")
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
