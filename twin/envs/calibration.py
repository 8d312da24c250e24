"""The calibration task for Gymnasium: a thin adapter around any `Microscope`. No physics here."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.day import Day
from twin.envs.episode import Days, refuse_options
from twin.envs.task import input_of, one_thread, reward, truth_of
from twin.envs.view import Belief, Moment, Story, Window, rgb
from twin.errors import check_known
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, StateSpace
from twin.types import Frame, Microscope, Truth

Observation = NDArray[np.uint8] | dict[str, NDArray[Any]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def observe(frame: Frame) -> NDArray[np.uint8]:
    """Variance-stabilised picture of a frame, uint8, (H, W, 1): floor(2 sqrt(counts)), 255 at most.

    Poisson noise has standard deviation 1 after `2 sqrt` at any dose (Anscombe's transform without its offset), so
    that rounding adds at most 0.3 of the noise. Counts from 16256 on are clipped.
    """
    return np.minimum(2.0 * np.sqrt(frame.counts), 255.0).astype(np.uint8)[..., None]


class CalibrationEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Calibrate a STEM's aberrations from Ronchigrams.

    An episode: the microscope starts at a hidden state x[0] within `space.start_nm`; `reset` takes a first Ronchigram
    without any input; each step moves the state by an input, `x[k+1] = x[k] + u[k]`, and takes a Ronchigram on a fresh
    film region. The task is to bring x to zero.

    Registered as `stemtwin/Calibration-v0` (C10, C12a, C12b) and `stemtwin/Calibration7D-v0` (those and C21a/b,
    C23a/b), with 40 steps.

    ### Observation: Box(0, 255, (H, W, 1), uint8)

    | index    | quantity                                        | unit                    | range       |
    |----------|-------------------------------------------------|-------------------------|-------------|
    | [y, x, 0]| floor(2 sqrt(counts)) of the camera pixel       | standard deviations of Poisson noise | 0 to 255 |

    y before x; row 0 is the most negative angle y. The camera is 128 x 128 pixels of 0.461 mrad by default.
    The counts themselves are `info["frame"].counts` (uint16).

    With `observe_input`, the observation is a Dict of two: `picture`, as above, and `input`, Box(-1, 1, (n,), float32),
    the cumulative input of each coefficient, `space.names[i]`, in units of `space.input_nm[i]`. One picture does not
    show the sign of the state; with the inputs, two do.

    ### Options of reset, for one episode

    | option     | quantity                                                                          |
    |------------|-----------------------------------------------------------------------------------|
    | `day`      | a `Day`, or a mapping of its fields                                               |
    | `severity` | draw the day by `Day.random`: 0 is the nominal day, 1 about that of the trainings |

    Without them the episode has the environment's own `day`, or one drawn with its own `severity`. Any other option is
    refused, and so are these on a microscope that was given. `env.unwrapped.day` is the day of the episode, hidden from
    a controller.

    ### Action: Box(-1, 1, (n,), float32)

    | index | quantity                              | unit                   | range    |
    |-------|---------------------------------------|------------------------|----------|
    | i     | input to coefficient `space.names[i]` | 2 `space.input_nm[i]`  | -1 to 1  |

    One step can cross the whole input box. The cumulative input stays within +-`space.input_nm`: an action that would
    leave it is clipped, `info["clipped"]` is then true and `info["applied_nm"]` is the applied input. For inputs in
    nm, `step_nm` applies float64 values exactly; `action_from_nm` converts them to an action for `step`, to float32
    precision (`info["applied_nm"]` is exact in any case).

    ### Reward

    `-max_i |x_i| / tolerance_i` after the step: above -1 is in spec, 0 is perfect. It is computed from the truth, for
    the scorer; on a microscope without `HasTruth` it is 0.

    ### End of an episode

    Never terminated: an instrument cannot tell that it is calibrated. Truncated by the TimeLimit of the registration.

    ### Info (on reset and step; no truth in it)

    | key             | quantity                                         | unit |
    |-----------------|--------------------------------------------------|------|
    | `frame`         | the raw `Frame`                                  |      |
    | `dose_e`        | electrons since reset, this frame included       | e-   |
    | `simulated_s`   | the instrument's clock                           | s    |
    | `applied_nm`    | input of this step as applied, (n,)              | nm   |
    | `cumulative_nm` | sum of the inputs, (n,)                          | nm   |
    | `clipped`       | whether the action was clipped at the limits     |      |

    Args:
        microscope: any backend; it defines optics and space.
        day: hidden parameters of the simulated microscope that is made if none is given; default `Day()`.
        severity: draw the day of every episode, see the options of reset; instead of a day.
        observe_input: observe the cumulative input, too.
        space: calibrated coefficients; default C10, C12a, C12b.
        optics: beam and camera.
        renderer: "fast" or "multislice".
        render_mode: "rgb_array", "human" or None. Frames are kept for the picture only with a render mode.

    Raises:
        ValueError: a microscope together with parameters of another, a day and a severity, or an unknown render mode.

    Example:
        >>> env = CalibrationEnv(optics=Optics(camera_pixels=32, binning=12))
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step([0.1, 0.0, 0.0])
        >>> observation.shape, float(info["applied_nm"][0])
        ((32, 32, 1), 12.0)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 1}  # noqa: RUF012  (Gymnasium's)

    def __init__(
        self,
        microscope: Microscope | None = None,
        *,
        day: Day | None = None,
        space: StateSpace | None = None,
        optics: Optics | None = None,
        renderer: str = "fast",
        severity: float | None = None,
        observe_input: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            check_known(render_mode, self.metadata["render_modes"], "a render mode")
        if day is not None and severity is not None:
            raise ValueError("give a day, or a severity to draw one; not both")
        self._days: Days | None = None
        self._renderer, self.day = renderer, day or Day()
        if microscope is None:
            self._days = Days(self.day, severity)
            microscope = SimulatedMicroscope(optics or Optics(), space or FIRST_ORDER, self.day, renderer)
        elif (day, space, optics, renderer, severity) != (None, None, None, "fast", None):
            raise ValueError("give a microscope, or day, severity, space, optics and renderer to make one; not both")
        self.microscope, self._observe_input = microscope, observe_input
        self.space = microscope.capabilities.space
        self.render_mode = render_mode
        n = self.space.dimension
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32)
        pictures = gymnasium.spaces.Box(0, 255, (*microscope.capabilities.camera_shape, 1), np.uint8)
        inputs = gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32)
        self.observation_space: gymnasium.Space[Any] = (
            gymnasium.spaces.Dict({"picture": pictures, "input": inputs}) if observe_input else pictures
        )
        self._cumulative_nm: Array = self.space.zero
        self._dose_e = 0.0
        self._story = Story(microscope.capabilities.optics, self.space)
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new session and take its first Ronchigram; the same seed gives the same bytes.

        Raises:
            ResetError: an unknown option, or one that cannot be honoured; the episode goes on.
            AliasingError: a day whose aberrations need a wider window.
        """
        if self._days is None:
            refuse_options(options, "this environment was given its microscope, and cannot change its day")
        super().reset(seed=seed)
        if self._days is not None:
            self._begin_day(self._days.of_episode(options, self.np_random))
        self.microscope.reset(self.np_random)
        self._cumulative_nm = self.space.zero
        self._dose_e = 0.0
        self._story.moments.clear()
        frame, info = self._expose(self.space.zero, clipped=False)
        if self.render_mode is not None:
            self._keep(frame, truth_of(self.microscope))
        return self._observation(frame), info

    def _begin_day(self, day: Day) -> None:
        """Make the microscope of another day; that of the same day stays."""
        if day != self.day:
            capabilities = self.microscope.capabilities
            self.microscope = SimulatedMicroscope(capabilities.optics, capabilities.space, day, self._renderer)
            self.day = day

    def _observation(self, frame: Frame) -> Observation:
        picture = observe(frame)
        if not self._observe_input:
            return picture
        return {"picture": picture, "input": (self._cumulative_nm / self.space.input).astype(np.float32)}

    def step(self, action: NDArray[np.floating]) -> Step:
        """Apply an action in [-1, 1], shape (n,), and take a Ronchigram.

        Raises:
            ValueError: wrong shape, or not finite; nothing has moved.
        """
        return self._move(*input_of(action, self.space, self._cumulative_nm))

    def step_nm(self, delta_nm: Array) -> Step:
        """Apply an input in nm, float64, shape (n,), exactly, and take a Ronchigram.

        Raises:
            ValueError: wrong shape, not finite, or beyond the cumulative limits; nothing has moved.
        """
        return self._move(np.asarray(delta_nm, dtype=np.float64), clipped=False)

    def action_from_nm(self, delta_nm: Array) -> NDArray[np.float32]:
        """The action for `step` nearest to an input in nm, shape (n,)."""
        return np.clip(np.asarray(delta_nm) / (2.0 * self.space.input), -1.0, 1.0).astype(np.float32)

    def show(self, mean_nm: Array, std_nm: Array) -> None:
        """Add an estimate of x[0] to the picture, nm, each of shape (n,); without a render mode, only check it.

        Raises:
            ValueError: wrong shapes.
            RuntimeError: before reset.
        """
        belief = Belief(np.array(mean_nm, dtype=np.float64), np.array(std_nm, dtype=np.float64))
        for label, values in (("mean_nm", belief.mean_nm), ("std_nm", belief.std_nm)):
            if values.shape != (self.space.dimension,):
                raise ValueError(f"{label} has shape ({self.space.dimension},); got {values.shape}")
        if self.render_mode is None:
            return
        now = self._now()
        self._story.moments[-1] = Moment(now.frame, now.cumulative_nm, now.truth, belief)
        if self.render_mode == "human":
            self.render()

    def render(self) -> NDArray[np.uint8] | None:
        """Return the picture (H, W, 3), or update the window in human mode.

        Raises:
            RuntimeError: before reset.
        """
        if self.render_mode is None:
            return None
        self._now()
        if self.render_mode == "rgb_array":
            return rgb(self._story)
        if self._window is None:
            self._window = Window()
        self._window.show(self._story)
        return None

    def close(self) -> None:
        """Close the window, if any."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _now(self) -> Moment:
        if not self._story.moments:
            raise RuntimeError("there is nothing to show before reset()")
        return self._story.moments[-1]

    def _move(self, delta_nm: Array, clipped: bool) -> Step:
        cumulative = self.space.check_input(delta_nm, self._cumulative_nm)
        self.microscope.apply(delta_nm)
        self._cumulative_nm = cumulative
        frame, info = self._expose(delta_nm, clipped)
        truth = truth_of(self.microscope)
        if self.render_mode is not None:
            self._keep(frame, truth)
        return self._observation(frame), reward(truth, self.space), False, False, info

    def _keep(self, frame: Frame, truth: Truth | None) -> None:
        """Keep a frame for the picture."""
        self._story.moments.append(Moment(frame, self._cumulative_nm, truth))
        if self.render_mode == "human":
            self.render()

    def _expose(self, applied_nm: Array, clipped: bool) -> tuple[Frame, dict[str, Any]]:
        with one_thread():
            frame = self.microscope.acquire()
        self._dose_e += frame.dose_e
        return frame, {
            "frame": frame,
            "dose_e": self._dose_e,
            "simulated_s": frame.clock_s,
            "applied_nm": applied_nm.copy(),
            "cumulative_nm": self._cumulative_nm.copy(),
            "clipped": clipped,
        }
