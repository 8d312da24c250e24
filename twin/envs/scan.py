"""A scan for Gymnasium: correct the aberrations while the detectors' images come in row by row. No physics here."""

from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.day import Day
from twin.detectors.layouts import Region, labels
from twin.envs.episode import refuse_options
from twin.envs.task import input_of, one_thread, reward, truth_of
from twin.errors import check_known
from twin.optics import Optics
from twin.scan.plan import ScanPlan
from twin.scan.setup import ScanSetup
from twin.simulated import SimulatedMicroscope, check_reach
from twin.state import StateSpace
from twin.types import CanScan, Microscope, ScanBlock

Images = NDArray[np.float32]
Step = tuple[Images, float, bool, bool, dict[str, Any]]

PATTERNS = ("raster", "serpentine")
LOWEST, HIGHEST = -1.0, 2.0
"""Bounds of an observation, fractions of the beam: noise extends slightly below 0 and above 1; more is clipped."""

SCAN_SPACE = StateSpace(
    names=("C10", "C12a", "C12b"), start_nm=(15.0, 8.0, 8.0), input_nm=(15.0, 8.0, 8.0), tolerance_nm=(2.5, 2.5, 2.5)
)
"""First order after a rough calibration; 2.5 nm is half the depth of focus, lambda / (2 alpha^2), of 20 mrad."""

SMALL_SETUP = ScanSetup(
    specimen="sto_001",
    specimen_options={"width_nm": 1.5, "height_nm": 1.5, "thickness_nm": 0.39},
    optics=Optics(
        energy_kev=300.0, convergence_mrad=20.0, grid=128, sampling_nm=0.3905 / 20, camera_pixels=64, binning=1
    ),
    detectors={"bf": None, "abf": None, "adf": (Region(inner_mrad=21.0, outer_mrad=32.0),)},
    camera=None,
)
"""One cell of SrTiO3 in one slice: some milliseconds per row."""

SMALL_PLAN = ScanPlan(rows=32, columns=32, step_nm=0.3905 / 10, dwell_s=1e-4, flyback_s=1e-3, dose_e=1e4)

COHERENT_DAY = Day(focal_spread_nm=0.0, source_size_nm=0.0)
"""Coherent and without errors except for the initial state: one diffraction pattern per position."""


class ScanningMicroscope(Microscope, CanScan, Protocol):
    """A microscope that scans."""


class ScanEnv(gymnasium.Env[Images, NDArray[np.float32]]):
    """Correct a STEM's aberrations during a scan, from its detectors' images.

    An episode is one scan of one specimen. The microscope starts at a hidden state x[0] within `space.start_nm`;
    `reset` scans the first `rows_per_step` rows without any input; each step moves the state by an input,
    `x[k+1] = x[k] + u[k]`, and scans the next rows. An action of zeros only scans. The scan ends the episode.

    Registered as `stemtwin/Scan4D-v0`: SrTiO3 [001], 32 x 32 positions, 4 rows per step, BF, ABF and ADF, C10, C12a
    and C12b.

    ### Observation: Box(-1, 2, (D * rows_per_step * columns,), float32)

    | index                                   | quantity                                        | unit  | range   |
    |-----------------------------------------|-------------------------------------------------|-------|---------|
    | `(d * rows_per_step + r) * columns + c` | signal of detector d, block row r, column c | fraction | -1 to 2 |

    `d` indexes `env.unwrapped.detectors`; r and c are places in the image, for either scan direction. The array is
    flat because stable-baselines3 requires that of anything but 8-bit pictures: `info["images"]` has the shape
    (D, rows, columns). The unit is the fraction of the beam: counts per incident electron, less the offset of the
    detector's chain; `info["counts"]` has the counts themselves.

    ### Action: Box(-1, 1, (n,), float32)

    | index | quantity                              | unit                   | range    |
    |-------|---------------------------------------|------------------------|----------|
    | i     | input to coefficient `space.names[i]` | 2 `space.input_nm[i]`  | -1 to 1  |

    The input is applied before the rows are scanned. As in `CalibrationEnv`, the cumulative input stays within
    +-`space.input_nm` and `info["clipped"]` is true for an action that was clipped.

    ### Reward

    `-max_i |x_i| / tolerance_i` at the end of the step's last row: above -1 is in spec, 0 is perfect. It is
    computed from the truth, for the scorer; on a microscope without `HasTruth` it is 0.

    ### End of an episode

    Terminated with the last rows of the scan. Truncated by the TimeLimit of the registration, 1024 steps.

    ### Info (on reset and step; no truth in it)

    | key             | quantity                                                     | unit |
    |-----------------|--------------------------------------------------------------|------|
    | `images`        | the observation as (D, rows_per_step, columns)               | fraction of the beam |
    | `counts`        | signal of each detector, by name, (rows_per_step, columns)   | counts |
    | `frames`        | with a camera: its counts, (rows_per_step, columns, H, W)    | counts |
    | `events`        | with an event camera: its events, see `cameras.event.EVENT`  |      |
    | `first_row`     | of the block                                                 |      |
    | `dose_e`        | electrons since reset                                        | e-   |
    | `simulated_s`   | the instrument's clock                                       | s    |
    | `applied_nm`    | input of this step as applied, (n,)                          | nm   |
    | `cumulative_nm` | sum of the inputs, (n,)                                      | nm   |
    | `clipped`       | whether the action was clipped at the limits                 |      |

    Args:
        microscope: any backend that scans; give its setup and plan, too.
        setup: specimen, beam and detectors; default one cell of SrTiO3.
        plan: raster or serpentine; default 32 x 32 positions.
        rows_per_step: divides the plan's rows.
        day: hidden parameters of the simulated microscope that is made if none is given.
        space: calibrated coefficients of that microscope.
        render_mode: "rgb_array" or None.

    Raises:
        AliasingError: some state within reach needs a wider window than the scan's optics have.
        ValueError: a microscope together with parameters of another or one that cannot scan, a plan that is no grid or
            does not divide into whole steps, no detectors, an unknown render mode.

    Example:
        >>> env = ScanEnv(plan=ScanPlan(rows=4, columns=6, step_nm=0.1), rows_per_step=2)
        >>> _, info = env.reset(seed=0)
        >>> _, _, terminated, _, info = env.step([0.0, 0.0, 0.0])
        >>> terminated, info["images"].shape
        (True, (3, 2, 6))
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  (Gymnasium's)

    def __init__(
        self,
        microscope: ScanningMicroscope | None = None,
        *,
        setup: ScanSetup | None = None,
        plan: ScanPlan | None = None,
        rows_per_step: int = 4,
        day: Day | None = None,
        space: StateSpace | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            check_known(render_mode, self.metadata["render_modes"], "a render mode")
        self.setup, self.plan, self.rows_per_step = setup or SMALL_SETUP, plan or SMALL_PLAN, rows_per_step
        self.detectors = labels(self.setup.regions)
        check_plan(self.plan, rows_per_step, self.detectors)
        self.microscope = _checked(microscope, self.setup, day, space)
        self.space = self.microscope.capabilities.space
        self.render_mode = render_mode
        self.shape = (len(self.detectors), rows_per_step, self.plan.columns)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.space.dimension,), np.float32)
        self.observation_space = gymnasium.spaces.Box(LOWEST, HIGHEST, (int(np.prod(self.shape)),), np.float32)
        self._cumulative_nm: Array = self.space.zero
        self._dose_e = 0.0
        self._blocks: Iterator[ScanBlock] | None = None
        self._images: Images | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Images, dict[str, Any]]:
        """Begin a new session and scan the first rows; the same seed gives the same bytes.

        Raises:
            ResetError: options: this environment has none; the episode goes on.
        """
        refuse_options(options, "the day of this environment is set when it is made: ScanEnv(day=...)")
        super().reset(seed=seed)
        self.microscope.reset(self.np_random)
        self._cumulative_nm = self.space.zero
        self._dose_e = 0.0
        self._images = np.full((len(self.detectors), *self.plan.shape), np.nan, np.float32)
        self._blocks = self.microscope.scan(self.plan, block=self.rows_per_step * self.plan.columns)
        observation, _, info = self._scan(self.space.zero, clipped=False)
        return observation, info

    def step(self, action: NDArray[np.floating]) -> Step:
        """Apply an action in [-1, 1], shape (n,), and scan the next rows.

        Raises:
            RuntimeError: before reset, or after the scan's end.
            ValueError: wrong shape, or not finite; nothing has moved.
        """
        if self._blocks is None:
            raise RuntimeError("no scan is under way: reset() begins one")
        allowed, clipped = input_of(action, self.space, self._cumulative_nm)
        cumulative = self.space.check_input(allowed, self._cumulative_nm)
        self.microscope.apply(allowed)
        self._cumulative_nm = cumulative
        observation, last, info = self._scan(allowed, clipped)
        return observation, reward(truth_of(self.microscope), self.space), last, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Every detector's image so far, (H, W, 3).

        Raises:
            RuntimeError: before reset.
        """
        if self.render_mode is None:
            return None
        if self._images is None:
            raise RuntimeError("there is nothing to show before reset()")
        return picture(self._images, self.detectors, self.plan)

    def _scan(self, applied_nm: Array, clipped: bool) -> tuple[Images, bool, dict[str, Any]]:
        """The next rows: observation, whether they are the last, info."""
        assert self._blocks is not None
        assert self._images is not None
        with one_thread():
            block = next(self._blocks)
        last = block.path.first + len(block) == self.plan.count
        if last:
            self._blocks = None
        first_row = block.path.first // self.plan.columns
        row, column = block.path.pixel[:, 0] - first_row, block.path.pixel[:, 1]
        # Index in the block of every position of the image.
        order = np.argsort(row * self.plan.columns + column)
        counts = {name: block.signals[name][order].reshape(self.shape[1:]) for name in self.detectors}
        images = np.stack([shares(counts[name], self.setup, self.plan) for name in self.detectors])
        self._images[:, first_row : first_row + self.rows_per_step] = images
        self._dose_e += len(block) * self.plan.dose_e
        info: dict[str, Any] = {
            "images": images,
            "counts": counts,
            "first_row": first_row,
            "dose_e": self._dose_e,
            "simulated_s": float(block.clock_s[-1]),
            "applied_nm": applied_nm.copy(),
            "cumulative_nm": self._cumulative_nm.copy(),
            "clipped": clipped,
        }
        if block.frames is not None:
            info["frames"] = block.frames[order].reshape(*self.shape[1:], *block.frames.shape[1:])
        if block.events is not None:
            info["events"] = block.events
        return images.ravel(), last, info


def check_plan(plan: ScanPlan, rows_per_step: int, detectors: tuple[str, ...]) -> None:
    """Refuse a plan that does not divide into whole steps of rows.

    Raises:
        ValueError: naming the value and one that would do.
    """
    if plan.pattern not in PATTERNS:
        raise ValueError(f"pattern {plan.pattern!r} does not scan whole rows; use {' or '.join(PATTERNS)}")
    if rows_per_step < 1 or plan.rows % rows_per_step:
        fitting = [n for n in range(1, plan.rows + 1) if plan.rows % n == 0]
        best = min(fitting, key=lambda n: abs(n - rows_per_step))
        raise ValueError(
            f"rows_per_step {rows_per_step} does not divide {plan.rows} rows; the nearest that does is {best}"
        )
    if plan.rows == rows_per_step:
        raise ValueError(f"rows_per_step {rows_per_step} is the whole scan: no step would be left after reset")
    if not detectors:
        raise ValueError("an environment needs detectors: setup.detectors is empty")


def shares(counts: NDArray[np.generic], setup: ScanSetup, plan: ScanPlan) -> Images:
    """Counts of one detector as fraction of the beam, float32, clipped to `LOWEST` to `HIGHEST`; same shape."""
    electrons = np.asarray(counts, dtype=np.float64)
    if setup.chain is not None:
        electrons = (electrons - setup.chain.offset) / setup.chain.counts_per_electron
    return np.clip(electrons / plan.dose_e, LOWEST, HIGHEST).astype(np.float32)


def picture(images: Images, detectors: tuple[str, ...], plan: ScanPlan) -> NDArray[np.uint8]:
    """The images (D, rows, columns) side by side as pixels, (H, W, 3); NaN: not scanned yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(detectors), 3.6), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    extent = (0.0, plan.columns * plan.step_nm, plan.rows * plan.step_nm, 0.0)
    panels = figure.subplots(1, len(detectors), squeeze=False)[0]
    for axes, name, image in zip(panels, detectors, images, strict=True):
        axes.set_facecolor("#30414f")
        axes.imshow(image, cmap="gray", extent=extent, interpolation="nearest")
        axes.set(title=name, xlabel="fast axis (nm)", ylabel="slow axis (nm)")
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _checked(
    microscope: ScanningMicroscope | None, setup: ScanSetup, day: Day | None, space: StateSpace | None
) -> ScanningMicroscope:
    """Return the microscope, or a simulated one of this setup."""
    if microscope is None:
        day, space = day or COHERENT_DAY, space or SCAN_SPACE
        check_reach(setup.optics, space, day)
        return SimulatedMicroscope(Optics(), space, day, scan=setup)
    if (day, space) != (None, None):
        raise ValueError("give a microscope, or day and space to make one; not both")
    if not microscope.capabilities.can_scan:
        raise ValueError(f"the microscope {microscope.capabilities.name!r} is not set up for scans")
    return microscope
