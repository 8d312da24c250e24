"""A window that shows every agent's image while the scan runs.

Refreshed by time, not by frame: drawing takes at most `SHARE` of the time, however slow it is.
"""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from agents.base import Agent, Reconstruction
from agents.stream import Progress
from scenarios.schema import ScenarioError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFRESH_S = 0.5
SHARE = 0.2
"""Of the time, for results and drawing."""
SIZE_INCH = (11.0, 6.5)


class LiveView:
    """Redraws a figure from the agents' results as a stream goes on; made for `agents.stream.run`'s `progress`.

    An agent without a result is left out of the picture. Closing the window stops the drawing, not the scan.

    Args:
        figure: drawn on.
        agents: by label.
        step_nm: pixel of the scan's grid.
        show: brings the drawn figure to the screen; returns False once there is none any more.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        figure: "Figure",
        agents: Mapping[str, Agent],
        step_nm: float | None,
        show: Callable[[], bool],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.figure, self.agents, self.step_nm, self.drawn = figure, agents, step_nm, 0
        self._show, self._clock, self._open = show, clock, True
        self._next_s = -float("inf")

    def __call__(self, progress: Progress) -> None:
        """Redraw if it is time for it."""
        begun = self._clock()
        if not self._open or (begun < self._next_s and progress.positions < progress.total):
            return
        self.draw(progress)
        self._open = self._show()
        now = self._clock()
        self._next_s = now + max(REFRESH_S, (now - begun) * (1 - SHARE) / SHARE)

    def draw(self, progress: Progress) -> None:
        """The picture of this moment."""
        from scenarios.reconstruction_plots import overview

        overview(self.figure, self._results(), self.step_nm, title(progress))
        self.drawn += 1

    def _results(self) -> dict[str, Reconstruction]:
        found = {}
        for name, agent in self.agents.items():
            try:
                found[name] = agent.result()
            except Exception:
                continue
        return found


def title(progress: Progress) -> str:
    """How the stream goes, in one line."""
    share = progress.positions / max(progress.total, 1)
    words = f"{progress.positions} of {progress.total} positions ({share:.0%}), {progress.rate_per_s:.0f} per second"
    if progress.lag_s >= 0.05:
        words += f", {progress.lag_s:.1f} s behind"
    if progress.health.fault_count:
        words += f", {progress.health.fault_count} faults"
    return words


def open_view(agents: Mapping[str, Agent], step_nm: float | None) -> LiveView:
    """A view in a window of its own.

    Raises:
        ScenarioError: matplotlib has no screen to draw on; says what to do instead.
    """
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.backends.registry import BackendFilter, backend_registry

    windows = {name.lower() for name in backend_registry.list_builtin(BackendFilter.INTERACTIVE)}
    backend = matplotlib.get_backend()
    if backend.lower() not in windows:
        raise ScenarioError(
            f"--view needs a screen; matplotlib draws with {backend} here. Leave --view out, for the pictures are"
            " written to files, or set MPLBACKEND to a backend with windows (QtAgg, TkAgg)"
        )
    figure: Any = pyplot.figure("stemtwin", figsize=SIZE_INCH, layout="constrained")
    pyplot.show(block=False)

    def show() -> bool:
        if not pyplot.fignum_exists(figure.number):
            return False
        figure.canvas.draw_idle()
        figure.canvas.flush_events()
        return True

    return LiveView(figure, agents, step_nm, show)
