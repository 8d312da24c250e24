"""A window that shows every agent's image while the scan runs.

Refreshed by time, not by frame: drawing takes at most `SHARE` of the time.
"""

import sys
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
"""Largest share of the time for results and drawing."""
SIZE_INCH = (11.0, 6.5)


class LiveView:
    """Redraws a figure from the agents' results during a stream; made for `agents.stream.run`'s `progress`.

    An agent without a result is not shown. Closing the window stops the drawing, not the scan; so does a lost display.

    Args:
        figure: canvas.
        agents: by label.
        step_nm: pixel of the scan's grid.
        show: brings the drawn figure to the screen; returns False once the window is closed.
        clock: seconds, for tests.
        tell: prints a line for the operator.
    """

    def __init__(
        self,
        figure: "Figure",
        agents: Mapping[str, Agent],
        step_nm: float | None,
        show: Callable[[], bool],
        clock: Callable[[], float] = perf_counter,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.figure, self.agents, self.step_nm, self.drawn = figure, agents, step_nm, 0
        self._show, self._clock, self._tell, self._open = show, clock, tell, True
        self._next_s = -float("inf")

    def __call__(self, progress: Progress) -> None:
        """Redraw if it is due."""
        begun = self._clock()
        if not self._open or (begun < self._next_s and progress.positions < progress.total):
            return
        try:
            self.draw(progress)
            self._open = self._show()
        except Exception as error:  # every toolkit has errors of its own
            self._open = False
            self._tell(f"the window is gone, the scan goes on: {type(error).__name__}: {error}")
        now = self._clock()
        self._next_s = now + max(REFRESH_S, (now - begun) * (1 - SHARE) / SHARE)

    def draw(self, progress: Progress) -> None:
        """Draw the current images."""
        from scenarios.scans.reconstruction_plots import overview

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
    """Return the progress of the stream in one line."""
    share = progress.positions / max(progress.total, 1)
    words = f"{progress.positions} of {progress.total} positions ({share:.0%}), {progress.rate_per_s:.0f} per second"
    if progress.lag_s >= 0.05:
        words += f", {progress.lag_s:.1f} s behind"
    if progress.health.fault_count:
        words += f", {progress.health.fault_count} faults"
    return words


def open_view(agents: Mapping[str, Agent], step_nm: float | None) -> LiveView:
    """Open a view in a window of its own.

    Raises:
        ScenarioError: matplotlib has no screen to draw on.
    """
    try:
        figure, pyplot = _window()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ScenarioError(
            f"--view needs a screen: {error}. Leave --view out, for the pictures are written to files, or set"
            " MPLBACKEND to a backend with windows (QtAgg, TkAgg)"
        ) from error

    def show() -> bool:
        if not pyplot.fignum_exists(figure.number):
            return False
        figure.canvas.draw_idle()
        figure.canvas.flush_events()
        return True

    def tell(words: str) -> None:
        from tqdm import tqdm

        tqdm.write(f"view: {words}", file=sys.stderr)

    return LiveView(figure, agents, step_nm, show, tell=tell)


def _window() -> tuple[Any, Any]:
    """Return an empty figure on the screen, and pyplot.

    Raises:
        RuntimeError: matplotlib has no backend for a window here, or it finds no screen.
        ImportError, ValueError: there is no such backend.
    """
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.backends.registry import backend_registry

    backend, toolkit = backend_registry.resolve_backend(matplotlib.get_backend())
    if toolkit in (None, "webagg", "nbagg"):  # a page in a browser would hold the scan up
        raise RuntimeError(f"matplotlib draws with {backend} here")
    try:
        figure = pyplot.figure("stemtwin", figsize=SIZE_INCH, layout="constrained")
        pyplot.show(block=False)
    except ImportError:
        raise
    except Exception as error:  # every toolkit has errors of its own
        raise RuntimeError(f"{backend}: {error}") from error
    return figure, pyplot
