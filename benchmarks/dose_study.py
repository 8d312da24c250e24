"""One scan at several doses through the same agents: who still sees the specimen when electrons are few.

The shape of Friedrich 2023, Fig. 4.11. Each dose is a scan of its own with noise of its own on the same specimen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agents import stream
from agents.base import Image
from scenarios.scans import acquire
from scenarios.scans.scan import open_scan
from scenarios.scans.stream import choose_agents, compare
from scenarios.scans.truth import TRUE_THRESHOLD, information_limit_nm, ring_correlation, true_phase
from scenarios.schema import Scenario, ScenarioError
from twin.arrays import Floats
from twin.scan.acquisition import Acquisition

if TYPE_CHECKING:
    from matplotlib.axes import Axes


A2_PER_NM2 = 100.0


@dataclass(frozen=True, eq=False)
class Entry:
    """One agent at one dose.

    Attributes:
        agent: its label.
        dose_e_per_a2: electrons per square angstrom.
        image: the one that is compared, on the scan's grid; None where the agent had none.
        cross_correlation: of each seed with the true phase (eq 4.14); NaN where the agent failed.
        fits: whether the agent's own test of residuals passed, by seed; None without a test.
        error: what stopped the agent; empty when nothing did.
        resolution_nm: finest detail that the image of each seed shares with the true phase; NaN without any.
    """

    agent: str
    dose_e_per_a2: float
    image: Image | None
    cross_correlation: tuple[float, ...]
    fits: tuple[bool | None, ...]
    error: str = ""
    resolution_nm: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return float(np.mean(self.cross_correlation))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single one."""
        return float(np.std(self.cross_correlation, ddof=1)) if len(self.cross_correlation) > 1 else 0.0

    def plain(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return {
            "agent": self.agent,
            "dose_e_per_a2": self.dose_e_per_a2,
            "cross_correlation": list(self.cross_correlation),
            "mean": self.mean,
            "spread": self.spread,
            "fits": list(self.fits),
            "error": self.error,
            "resolution_nm": list(self.resolution_nm),
        }


@dataclass(frozen=True, eq=False)
class Series:
    """Every agent at every dose, in the order of agents, then doses.

    Attributes:
        scenario: its name.
        step_nm: of the scan.
        truth: true phase, rad, (rows, columns).
        entries: see there.
    """

    scenario: str
    step_nm: float
    truth: Floats
    entries: tuple[Entry, ...]

    @property
    def agents(self) -> list[str]:
        """Labels, in order."""
        return list(dict.fromkeys(entry.agent for entry in self.entries))

    @property
    def doses(self) -> list[float]:
        """e/A^2, in order."""
        return list(dict.fromkeys(entry.dose_e_per_a2 for entry in self.entries))

    def at(self, agent: str, dose: float) -> Entry:
        """One of the entries."""
        return next(e for e in self.entries if e.agent == agent and e.dose_e_per_a2 == dose)


def dose_e(dose_e_per_a2: float, step_nm: float) -> float:
    """Electrons per position."""
    return dose_e_per_a2 * A2_PER_NM2 * step_nm**2


def run(
    scenario: Scenario,
    agents: Sequence[str],
    doses_e_per_a2: Sequence[float],
    seeds: Sequence[int] = (0,),
    progress: Callable[[str, stream.Progress], None] | None = None,
    sharpness: float = 1.0,
) -> Series:
    """Scan at every dose and seed.

    Args:
        scenario: with a scan that has a camera.
        agents: lists of names, see `stream.choose_agents`.
        doses_e_per_a2: electrons per square angstrom of the scanned area.
        seeds: each a session of its own.
        progress: called with the name of the scan.
        sharpness: of the true phase, see `scans.truth.true_phase`.

    Raises:
        ScenarioError: as `acquire.scanning_microscope`, or a scan without a grid.
    """
    microscope = acquire.scanning_microscope(scenario)
    section = scenario.required_scan
    if section.camera is None or section.plan.pattern == "list":
        raise ScenarioError(f"{scenario.name}: a dose series needs a camera and a scan on a grid")
    truth = true_phase(Acquisition(section, scenario.day), section.plan, sharpness)
    entries: dict[tuple[str, float], Entry] = {}
    for dose in doses_e_per_a2:
        plan = replace(section.plan, dose_e=dose_e(dose, section.plan.step_nm))
        dosed = scenario.model_copy(update={"scan": replace(section, plan=plan)})
        for seed in seeds:
            chosen = choose_agents(agents)
            label = f"{dose:g} e/A2, seed {seed}"
            show = None if progress is None else lambda p, label=label: progress(label, p)
            with open_scan(acquire.begin(microscope, dosed, seed), dosed.required_scan, seed) as source:
                found = stream.run(source, chosen, show)
            for agent in chosen:
                entries[agent, dose] = _joined(
                    entries.get((agent, dose)), _entry(agent, dose, found, truth, section.plan.step_nm)
                )
    ordered = sorted(entries, key=lambda key: (list(choose_agents(agents)).index(key[0]), key[1]))
    return Series(scenario.name, section.plan.step_nm, truth, tuple(entries[key] for key in ordered))


def _entry(agent: str, dose: float, found: stream.Streamed, truth: Floats, step_nm: float) -> Entry:
    error, result = found.errors.get(agent, ""), found.results.get(agent)
    likeness = {} if result is None else compare(result, truth)
    if result is None or not likeness:
        return Entry(agent, dose, None, (np.nan,), (None,), error or "no image on the scan's grid", (np.nan,))
    name, value = next(iter(likeness.items()))
    fits = None if result.trust is None else result.trust.fits
    image = result.images[name]
    return Entry(agent, dose, image, (value,), (fits,), error, (shared_with_truth_nm(image.values, truth, step_nm),))


def shared_with_truth_nm(image: Floats, truth: Floats, step_nm: float) -> float:
    """Return the finest detail that an image shares with the true phase, nm; NaN for none, or an image with gaps.

    The last ring of frequencies whose correlation is above 1/2, which two halves of a dose have at 1/7 (Rosenthal and
    Henderson, J. Mol. Biol. 333, 721, 2003); never finer than the band limit of the truth.
    """
    if not (np.isfinite(image).all() and np.isfinite(truth).all()):
        return np.nan
    return information_limit_nm(*ring_correlation(image, truth, step_nm), threshold=TRUE_THRESHOLD)


def _joined(before: Entry | None, new: Entry) -> Entry:
    """The picture is the first seed's."""
    if before is None:
        return new
    values, fits = before.cross_correlation + new.cross_correlation, before.fits + new.fits
    finest = before.resolution_nm + new.resolution_nm
    return replace(before, cross_correlation=values, fits=fits, error=before.error or new.error, resolution_nm=finest)


def table(series: Series) -> str:
    """Cross-correlations, one row per agent; a star where the agent's own test says that it does not fit."""
    head = f"{'e/A^2':<12}" + "".join(f"{dose:>16g}" for dose in series.doses)
    lines = [head]
    for agent in series.agents:
        lines.append(f"{agent:<12}" + "".join(f"{_cell(series.at(agent, dose)):>16}" for dose in series.doses))
    return "\n".join(lines)


def resolution_table(series: Series) -> str:
    """Finest detail shared with the true phase, nm, median of the seeds, one row per agent; a dash for none."""
    lines = [f"{'nm':<12}" + "".join(f"{dose:>16g}" for dose in series.doses)]
    for agent in series.agents:
        finest = [np.median(series.at(agent, dose).resolution_nm) for dose in series.doses]
        lines.append(f"{agent:<12}" + "".join(f"{f'{nm:.3f}' if np.isfinite(nm) else '-':>16}" for nm in finest))
    return "\n".join(lines)


def _cell(entry: Entry) -> str:
    several = f" +- {entry.spread:.3f}" if len(entry.cross_correlation) > 1 else ""
    return f"{entry.mean:.3f}{several}" + ("*" if False in entry.fits else "")


# --- the figure ----------------------------------------------------------------------------------


def figure(series: Series) -> bytes:
    """Images by agent (rows) and dose (columns) with their cross-correlations, and a profile through each; PNG."""
    from matplotlib.figure import Figure

    from scenarios.calibration.plots import png
    from scenarios.scans.reconstruction_plots import scan_image

    agents, doses = series.agents, series.doses
    rows, columns = len(agents) + 1, len(doses) + 1
    page = Figure(figsize=(2.6 * columns, 2.35 * rows), layout="constrained", facecolor="white")
    axes = page.subplots(rows, columns, squeeze=False)
    row, first, last = profile_line(series)
    for i, agent in enumerate(agents):
        for j, dose in enumerate(doses):
            entry = series.at(agent, dose)
            shown = entry.image if entry.image is not None else Image(np.full(series.truth.shape, np.nan), "1")
            scan_image(axes[i, j], f"{agent}, {dose:g} e/Å²: xc = {entry.mean:.3f}", shown, series.step_nm)
            axes[i, j].plot([first, last], [row, row], color="#f59e0b", lw=0.8)
        _bars(axes[i, -1], series, agent)
    for j, dose in enumerate(doses):
        _profiles(axes[-1, j], series, dose)
        axes[-1, j].set(xlabel="nm", ylabel="rad" if j == 0 else "")
    handles, labels = axes[-1, 0].get_legend_handles_labels()
    scan_image(axes[-1, -1], "true phase", Image(series.truth, "rad"), series.step_nm)
    page.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return png(page)


def profile_line(series: Series) -> tuple[int, int, int]:
    """Row, first and last column of the profile: along the fast axis through the brightest atom of the middle."""
    rows, columns = series.truth.shape
    inner = series.truth[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    row, column = np.unravel_index(int(np.nanargmax(inner)), inner.shape)
    reach = max(2, round(0.45 / series.step_nm))
    middle = int(column) + columns // 4
    return int(row) + rows // 4, max(0, middle - reach), min(columns - 1, middle + reach)


def fitted(image: Floats, truth: Floats) -> Floats:
    """a + b * image, the nearest to the truth in least squares: images in any unit on one axis."""
    known = np.isfinite(image) & np.isfinite(truth)
    slope, offset = np.polyfit(image[known], truth[known], 1)
    return np.asarray(offset + slope * image)


PROFILE_NM = 0.16
"""Width over which a line profile is averaged, as in the figure."""


def _profile(image: Floats, series: Series) -> Floats:
    row, first, last = profile_line(series)
    half = max(0, round(PROFILE_NM / series.step_nm / 2 - 0.5))
    return np.asarray(image[max(0, row - half) : row + half + 1, first : last + 1].mean(axis=0))


def _profiles(axes: "Axes", series: Series, dose: float) -> None:
    x_nm = series.step_nm * np.arange(len(_profile(series.truth, series)))
    axes.plot(x_nm, _profile(series.truth, series), color="black", lw=1.6, label="truth")
    for k, agent in enumerate(series.agents):
        image = series.at(agent, dose).image
        if image is not None and np.isfinite(image.values).all() and np.ptp(image.values) > 0:
            axes.plot(x_nm, _profile(fitted(image.values, series.truth), series), color=f"C{k}", lw=1.0, label=agent)
    axes.set_title(f"profiles, {dose:g} e/Å²", fontsize=9)
    axes.tick_params(labelsize=7)


def _bars(axes: "Axes", series: Series, agent: str) -> None:
    """Cross-correlation against dose of one agent; the others in grey behind it."""
    for other in series.agents:
        values = [series.at(other, dose).mean for dose in series.doses]
        axes.semilogx(series.doses, values, ".-", color="#c4c9cf", lw=0.8, ms=3)
    entries = [series.at(agent, dose) for dose in series.doses]
    axes.errorbar(
        series.doses, [e.mean for e in entries], yerr=[e.spread for e in entries], color="#1d4ed8", marker="o", ms=4
    )
    axes.set(ylim=(min(0.0, axes.get_ylim()[0]), 1.02), title=f"{agent}: xc against dose")
    axes.title.set_fontsize(9)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("e/Å²", fontsize=8)
