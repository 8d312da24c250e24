"""The pictures of README and docs, from what the commands beside them leave in `runs/`.

stemtwin compare day_a --controllers neural_posterior,vae_em,bo_scalar --runs 10 --observations 10
stemtwin scan calibrate_and_scan --calibrate vae_em --agents adf:inner_mrad=20,icom,ssb
python docs/hooks/pictures.py runs/compare runs/calibrate_and_scan/scan/0
"""

import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import zarr
from matplotlib.figure import Figure
from PIL import Image

from scenarios.comparison import plots
from scenarios.schema import load

IMAGES = Path(__file__).parents[1] / "images"
LARGEST = 150_000
"""Bytes of a picture: a README has to open at once."""


def comparison(folder: Path) -> None:
    """Error and share in spec, side by side."""
    summary = json.loads((folder / "summary.json").read_text())
    scenarios = {name: load(name) for name in summary["scenarios"]}
    drawn = [plots.error_curves(summary, scenarios), plots.in_spec_curves(summary)]
    panels = [Image.open(BytesIO(png)).convert("RGB") for png in drawn]
    height = min(panel.height for panel in panels)
    panels = [panel.resize((panel.width * height // panel.height, height)) for panel in panels]
    joined = Image.new("RGB", (sum(panel.width for panel in panels), height), "white")
    for place, panel in enumerate(panels):
        joined.paste(panel, (sum(each.width for each in panels[:place]), 0))
    joined.thumbnail((1500, 1500), Image.Resampling.LANCZOS)
    joined.quantize(128).save(IMAGES / "comparison.png", optimize=True)


def reconstruction(folder: Path) -> None:
    """The first image of three agents before and after a calibration, and the true phase."""
    groups = {when: zarr.open_group(folder / when / "reconstructions.zarr", mode="r") for when in ("before", "after")}
    summary = json.loads((folder / "summary.json").read_text())
    shown = {"adf": "adf", "icom": "icom", "ssb": "phase"}
    figure = Figure(figsize=(10.4, 5.4), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 4)
    for row, (when, group) in zip(axes, groups.items(), strict=True):
        for panel, (agent, image) in zip(row, shown.items(), strict=False):
            values = np.asarray(group[agent][image])
            correlation = summary[when]["agents"][agent]["cross_correlation"]
            panel.imshow(values, cmap="gray", interpolation="nearest")
            panel.set_title(f"{agent}, {when}: correlation {correlation:.2f}", fontsize=10)
        row[3].imshow(np.asarray(groups["after"]["true_phase"]), cmap="gray", interpolation="nearest")
        row[3].set_title("true phase", fontsize=10)
    for panel in axes.flat:
        panel.set_axis_off()
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("L").save(IMAGES / "reconstruction.png", optimize=True)


if __name__ == "__main__":
    comparison(Path(sys.argv[1]))
    reconstruction(Path(sys.argv[2]))
    for path in IMAGES.glob("*.png"):
        if path.stat().st_size > LARGEST:
            sys.exit(f"{path} has {path.stat().st_size} bytes; at most {LARGEST}")
