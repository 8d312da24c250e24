"""A microscope in a notebook: the knobs and pictures of the live page, drawn by the twin in the notebook's kernel.

Needs `pip install 'stemtwin[notebook]'`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

try:
    import anywidget
    import traitlets
except ModuleNotFoundError as error:
    raise ImportError(f"the widget needs {error.name}: pip install 'stemtwin[notebook]'") from error

from scenarios.live import messages, pictures
from scenarios.live.belief import true_figures
from scenarios.live.hand import TwinHand
from scenarios.page import bundled, text_of
from scenarios.schema import load
from twin.errors import StemtwinError, printable
from twin.types import Frame


class Microscope(anywidget.AnyWidget):
    """The twin of a scenario by hand; shown by a notebook as the last value of a cell.

    Its state is the one in which a calibration with the same seed finds it.

    Args:
        scenario: name or path, as for `stemtwin live`.
        seed: of the hidden state.
        changes: overrides, "key=value".

    Attributes:
        frame: the latest frame.
        coefficients: names and limits of the knobs, for the page.

    Raises:
        ScenarioError: no such scenario, or a bad override.

    Example:
        >>> microscope = Microscope("nominal", seed=1)
        >>> microscope.turn({"C10": 20.0})
        >>> microscope.knobs_nm["C10"], microscope.frame.counts.shape
        (20.0, (128, 128))
    """

    _esm = bundled("live/static/view.js", "live/static/widget.js")
    _css = text_of("live/static/widget.css")
    coefficients: Any = traitlets.List().tag(sync=True)

    def __init__(self, scenario: str = "day_a", seed: int = 0, changes: Sequence[str] = ()) -> None:
        super().__init__()
        self._hand = TwinHand(load(scenario, changes), seed)
        space = self._hand.space
        limits = zip(space.names, space.input, strict=True)
        self.coefficients = [{"name": name, "limit": float(limit)} for name, limit in limits]
        self._truth, self._number, self._full = False, 0, -1
        self.frame: Frame = self._hand.expose(draft=False).frame
        self.on_msg(self._hear)

    @property
    def knobs_nm(self) -> dict[str, float]:
        """Values of the knobs, nm, by name."""
        return dict(zip(self._hand.space.names, map(float, self._hand.knobs_nm), strict=True))

    def turn(self, knobs_nm: Mapping[str, float]) -> None:
        """Bring some knobs to a value, nm, and take a full frame; every view of the widget shows it.

        Raises:
            ValueError: an unknown name, or a value beyond the limits; nothing has moved.
        """
        self._hand.turn(knobs_nm)
        self._show(draft=False)

    def show_truth(self, show: bool = True) -> None:
        """Show or hide probe, phase plate and Strehl ratio, which tell the hidden state."""
        self._truth = show
        self._show(draft=False)

    def _hear(self, widget: object, content: Any, buffers: object) -> None:
        """Do what the page says; a refusal shows the view as it is."""
        try:
            said = messages.parse(json.dumps(content))
            if isinstance(said, messages.Knobs):
                self._hand.turn(said.values)
                self._show(draft=True)
            elif isinstance(said, messages.ShowTruth):
                self.show_truth(said.show)
            elif isinstance(said, messages.Seen) and said.number != self._full:
                self._show(draft=False)  # a draft that rests, or a view that has just been opened
        except (StemtwinError, ValueError) as error:
            self.send({"kind": "refused", "text": printable(error)})
            self._show(draft=False)

    def _show(self, draft: bool) -> None:
        """Take a frame and send it to the page."""
        view = self._hand.expose(draft)
        self.frame, self._number = view.frame, self._number + 1
        self._full = self._full if draft else self._number
        shown = pictures.of_frame(view.frame)
        details: dict[str, Any] = {"draft": draft, "knobs": self.knobs_nm}
        if self._truth:
            truth, optics = self._hand.aberrations(), self._hand.scenario.optics
            shown += pictures.of_probe(truth, optics)
            details |= true_figures(truth, self._hand.space.names, optics)
        self.send({"kind": "view"}, [pictures.packed("view", self._number, shown, details)])
