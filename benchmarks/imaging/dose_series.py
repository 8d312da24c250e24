"""Cross-correlation with the true phase against dose, by agent (the shape of Friedrich 2023, Fig. 4.11).

    python -m benchmarks.imaging.dose_series [--thesis] [--seeds 3] [--figure dose_series.png] [--json]

Twisted bilayer MoS2 at 80 kV by default. Correlations follow the thesis' eq 4.14, with the projected phase band-limited
to what the aperture transfers (`scenarios.scans.truth.true_phase`). A second table has the finest detail that each
image shares with it. A star: the agent itself says that it does not fit.
With `--thesis`: 300 kV, 20 mrad, steps of 0.1 angstrom, and the whole transmission function as truth, as in the thesis.
"""

import argparse
import json
import sys
from pathlib import Path

from agents.stream import Progress
from benchmarks import dose_study as dose_series
from scenarios.scans.stream import without_nan
from scenarios.scans.truth import aperture_limit_per_nm
from scenarios.schema import ScenarioError, load

AGENTS = "adf:inner_mrad=30,icom,ricom:kernel_px=11,ssb,epie"
"""The dark field clear of the disc by two camera pixels; a kernel that spans the lattice, no more."""
DOSES_E_PER_A2 = (500.0, 5e3, 1e5)

THESIS = (
    "optics.energy_kev=300", "scan.optics.energy_kev=300", "scan.optics.convergence_mrad=20", "scan.plan.step_nm=0.01",
    "scan.detectors.adf={inner_mrad: 22, outer_mrad: 80}",
)  # fmt: skip
"""Beam and scan of Friedrich 2023, 4.3.4."""
WHOLE = 100.0
"""Sharpness of the truth beyond every frequency of the grid."""


def main(arguments: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="mos2_twisted")
    parser.add_argument("--agents", default=AGENTS)
    parser.add_argument("--doses", type=float, nargs="+", default=DOSES_E_PER_A2, metavar="E_PER_A2")
    parser.add_argument("--seeds", type=int, default=1, help="sessions per dose")
    parser.add_argument("--sharpness", type=float, default=1.0, help="band limit of the truth over 2 alpha / lambda")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.KEY=VALUE")
    parser.add_argument("--thesis", action="store_true", help="beam, step and truth of the thesis; --set goes on top")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", dest="as_json", action="store_true")
    chosen = parser.parse_args(arguments)
    try:
        scenario = load(chosen.scenario, [*(THESIS if chosen.thesis else ()), *chosen.overrides])
        sharpness = WHOLE if chosen.thesis else chosen.sharpness
        series = dose_series.run(scenario, [chosen.agents], chosen.doses, range(chosen.seeds), _show, sharpness)
    except ScenarioError as error:
        raise SystemExit(f"dose_series: {error}") from None
    if chosen.figure is not None:
        chosen.figure.write_bytes(dose_series.figure(series))
    if chosen.as_json:
        print(
            json.dumps(
                {
                    "scenario": series.scenario,
                    "truth_limit_per_nm": sharpness * aperture_limit_per_nm(scenario.required_scan.optics),
                    "entries": [without_nan(entry.plain()) for entry in series.entries],
                }
            )
        )
        return
    print(dose_series.table(series))
    print(f"\nfinest detail shared with the true phase\n{dose_series.resolution_table(series)}")
    for entry in series.entries:
        if entry.error:
            print(f"{entry.agent} at {entry.dose_e_per_a2:g}: {entry.error}")


def _show(label: str, progress: Progress) -> None:
    if sys.stderr.isatty():
        print(f"\r{label}: {progress.positions} of {progress.total} ", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
