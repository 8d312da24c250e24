"""Iterative ptychography: object and probe from a window of recent frames live, from all that fit after the scan."""

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from agents.base import Agent, MetaError, Reconstruction, StreamMeta
from agents.block import Block
from agents.epie import ensemble
from agents.epie.data import misfit_of, trust
from agents.epie.depth import MOST_SLICES, Depth, candidates, fewest, held_out_deviance
from agents.epie.estimate import Complex
from agents.epie.image import lit
from agents.epie.iteration import Iteration
from agents.epie.pictures import electrons, empty, images, moves, pictures
from agents.epie.probe import rim_share
from agents.epie.schedule import Schedule
from agents.epie.setting import prepared
from agents.epie.verdict import counting_error, error_left, error_verdict
from agents.trust import misfit_notes
from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.options import Bytes, Count, OptionError, Positive, Seed, checked_options, validated

JUDGED = 128
"""Frames, evenly spaced, for the amplitude error and the test of residuals."""

FIXED = (
    "memory_bytes", "window_bytes", "reach_mrad", "binning", "finer", "every", "precision", "sub_pixel", "slices",
    "thickness_nm", "positions",
)  # fmt: skip
"""Options that decide what is kept of a frame, or when: they cannot change within a stream."""

RIM = 0.05
"""Fraction of the start probe's intensity at the rim of its window above which a note is made."""


@validated
class Options(Schedule):
    """Options of the reconstruction, besides those of the iteration (`epie.schedule.Schedule`).

    Attributes:
        every: positions from one live round to the next.
        sweeps: passes over the window of recent frames in a live round.
        window_bytes: memory of the recent frames of a live round.
        memory_bytes: memory of all retained frames; a longer scan is thinned out evenly.
        modes: number of incoherent probe modes.
        aberrations: Krivanek coefficients of the start probe in nm by name.
        sub_pixel: shift the probe by fractions of the object's pixel; False rounds.
        reach_mrad: largest angle that is used; None for the whole camera.
        binning: camera pixels along a side that are summed.
        finer: points of the model along the side of a camera pixel, which integrates their intensity; widens the
            window in real space by this factor. More than 1 for bright frames whose disc has a sharp edge.
        members: size of the ensemble for the standard deviation after the scan; less than 2 for none.
        slices: number of slices of a thick specimen, or "auto": after the scan, the smallest number that describes
            frames kept out of the updates as well as any does. More than one needs `thickness_nm`.
        thickness_nm: thickness of the specimen along the beam; aberrations then count from its entrance surface.
        seed: seed of the order of the frames and of the ensemble.
        precision: "float32" or "float64".
    """

    every: Count = 256
    sweeps: Annotated[int, Ge(0)] = 1
    window_bytes: Bytes = 8 * 2**20
    memory_bytes: Bytes = 2**30
    modes: Annotated[int, Ge(1), Le(6)] = 1
    aberrations: Mapping[str, float] = field(default_factory=dict)
    sub_pixel: bool = True
    reach_mrad: Positive | None = None
    binning: Count = 1
    finer: Count = 1
    members: Annotated[int, Ge(0)] = 3
    seed: Seed = 0
    precision: Literal["float32", "float64"] = "float32"
    slices: Annotated[int, Ge(1), Le(MOST_SLICES)] | Literal["auto"] = 1
    thickness_nm: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Aberrations.of(self.aberrations)
        if self.slices != 1 and self.thickness_nm is None:
            raise ValueError(f"slices={self.slices} needs thickness_nm, the specimen's thickness along the beam")
        if self.positions and not self.sub_pixel:
            raise ValueError("positions=true refines fractions of a pixel: it needs sub_pixel=true")

    @property
    def depth(self) -> Depth:
        """Slices of the object; one until their number is chosen."""
        return Depth(1 if self.slices == "auto" else self.slices, self.thickness_nm or 0.0)


class Epie:
    """ePIE (Maiden and Rodenburg 2009) with incoherent probe modes (Thibault and Menzel 2013).

    Attributes:
        iteration: object and probe so far; None before the first round.

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> beam = Metadata(energy_kev=80, convergence_mrad=30, pixel_mrad=6, step_nm=0.04, rotation_deg=0)
        >>> agent = load("epie", {"passes": 20, "aberrations": {"C10": -5.0}})
        >>> agent.start(StreamMeta(Layout((5, 7), (24, 24)), beam, transposed=False))
        >>> {name: image.unit for name, image in agent.result().images.items()}
        {'phase': 'rad', 'phase_on_scan': 'rad', 'amplitude': '1', 'probe': 'sqrt(counts)'}
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.iteration: Iteration | None = None

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: the metadata lack something, there are no frames, or the object does not fit in memory.
        """
        if not meta.has_frames:
            raise MetaError("epie needs frames; this stream has events only")
        o = self.options
        most = max(candidates(o.thickness_nm or 0.0)) if o.slices == "auto" else o.slices
        self._data = prepared(
            meta, o.memory_bytes, o.reach_mrad, o.binning, o.finer, o.sub_pixel, most, positions=o.positions
        )
        self._depth = o.depth
        self._deviance: Mapping[int, Floats] = {}
        self._chosen_at = -1
        self._notes = () if meta.transposed is not None else ("transpose of the camera not known: taken as none",)
        self.iteration = None
        self._lit = False

    def update(self, block: Block) -> None:
        """Keep the frames; run a live round after every `every` positions, whatever the length of blocks."""
        first, frames, store, options = 0, block.frames, self._data.store, self.options
        while first < len(block):
            last = min(len(block), first + options.every - store.arrived % options.every)
            self._lit = self._lit or bool(frames[first:last].any())
            store.add(block.pixel[first:last], self._data.window.laid(frames[first:last]))
            first = last
            if self._lit and store.arrived % options.every == 0:
                self._begun().live_round(options, options.sweeps, options.window_bytes)

    def finish(self) -> None:
        """Choose the slices if asked to, iterate over all retained frames to convergence, then run the ensemble.

        Nothing without new counts.
        """
        self._choose_slices()
        if self._lit and not self._begun().finished:
            iteration = self._begun()
            iteration.converge(self.options)
            iteration.spread = ensemble.spread(iteration, self.options, self.options.members)

    def result(self) -> Reconstruction:
        """Object, probe and the phase on the grid of the scan, from the frames so far."""
        data, iteration = self._data, self.iteration
        figures = {
            "object_pixel_nm": data.geometry.pixel_nm,
            "frames_kept": float(len(data.store)),
            "frames_mib": data.store.nbytes / 2**20,
            "passes": float(iteration.passes if iteration else 0),
        }
        if iteration is None:
            unlit = data.store.arrived and not self._lit
            dark = (f"no electron in {data.store.arrived} frames: nothing to reconstruct",) if unlit else ()
            unknown = empty(data.geometry, self._depth.slices) | moves(data)
            return Reconstruction(unknown, figures, None, (*dark, *self._notes))
        estimate, probe = iteration.estimate, iteration.estimate.probe
        values = pictures(estimate, data, iteration.first_probe)
        bright = lit(electrons(estimate, data), data.geometry.scanned)
        fitted = 2.0 * len(estimate.slices) * float(bright.sum()) / len(data.store)
        fitted += 2.0 if self.options.positions else 0.0
        verdict = trust(estimate, data, data.evenly(JUDGED), fitted)
        misfit, quality = misfit_notes(verdict), self._quality(iteration, probe)
        return Reconstruction(
            images(values, probe, data.geometry, iteration.spread) | moves(data),
            figures | quality,
            verdict,
            (*misfit, *self._notes, *self._remarks(iteration, quality["error_left"])),
        )

    def configure(self, **changes: Any) -> None:
        """Change options from now on; another start probe or number of modes restarts the iteration.

        Raises:
            OptionError: an option that is fixed within a stream, an unknown one or a bad value.
        """
        for name in changes:
            if name in FIXED:
                raise OptionError(f"{name} cannot change within a stream; start a new one to change it")
        old, self.options = self.options, checked_options(Options, {**asdict(self.options), **changes})
        if (old.modes, dict(old.aberrations)) != (self.options.modes, dict(self.options.aberrations)):
            self.iteration = None
            self._data.forget_moved()
        elif self.iteration is not None:
            self.iteration.reopen(self.options.seed)

    def _begun(self) -> Iteration:
        """The iteration, begun if necessary."""
        if self.iteration is None:
            self.iteration = Iteration(self._data, self._start_probe(), self.options.seed, self._depth)
        return self.iteration

    def _choose_slices(self) -> None:
        """Choose the number of slices by frames kept out of the updates; another number restarts the iteration."""
        o, arrived = self.options, self._data.store.arrived
        if o.slices != "auto" or o.thickness_nm is None or not self._lit or self._chosen_at == arrived:
            return
        self._deviance = held_out_deviance(self._data, o.thickness_nm, self._start_probe, o, o.seed)
        self._chosen_at, depth = arrived, Depth(fewest(self._deviance), o.thickness_nm)
        if depth != self._depth:
            self._depth, self.iteration = depth, None

    def _start_probe(self, depth: Depth | None = None) -> Complex:
        """Probe modes at the middle of the first slice."""
        to_middle = Aberrations.of({"C10": (depth or self._depth).spacing_nm / 2})
        aberrations = Aberrations.of(self.options.aberrations) + to_middle
        probe = self._data.start_probe(aberrations.nonzero(), self.options.modes)
        return probe.astype(np.complex64 if self.options.precision == "float32" else np.complex128)

    def _quality(self, iteration: Iteration, probe: Complex) -> dict[str, float]:
        """Figures of the fit: passes, amplitude errors and the fraction of each probe mode."""
        data, errors, judged = self._data, iteration.errors, self._data.evenly(JUDGED)
        start = self._depth.clear(data, self._start_probe())
        power = np.sum(np.abs(probe) ** 2, axis=(1, 2))
        error, before = (misfit_of(estimate, data, judged).error for estimate in (iteration.estimate, start))
        return {
            "passes_after_scan": float(len(errors)),
            "converged": float(self.options.flat(errors)),
            "amplitude_error": error,
            "amplitude_error_start": before,
            "error_left": error_left(error, before, counting_error(data.store.mean)),
            **self._thick_figures(),
        } | {f"mode_{mode}_share": float(p / np.sum(np.abs(probe) ** 2)) for mode, p in enumerate(power)}

    def _thick_figures(self) -> dict[str, float]:
        """Slices, deviances of kept-out frames, moves of positions: whichever of them were asked for."""
        found: dict[str, float] = {}
        if self._depth.slices > 1 or self._deviance:
            found = {"slices": float(self._depth.slices), "slice_nm": self._depth.spacing_nm}
        found |= {f"deviance_of_{count}_slices": float(frames.mean()) for count, frames in self._deviance.items()}
        if self._data.moved_px is not None:
            row, column = self._data.store.pixel.T
            squares = np.sum(self._data.moved_px[row, column] ** 2, axis=1)
            found["position_rms_nm"] = self._data.geometry.pixel_nm * float(np.sqrt(squares.mean()))
        return found

    def _remarks(self, iteration: Iteration, left: float) -> tuple[str, ...]:
        """Remarks for the operator on convergence, thinning and the window."""
        remarks, store, geometry = [], self._data.store, self._data.geometry
        if iteration.errors:
            remarks += [self.options.ending(iteration.errors), error_verdict(left)]
        if self._deviance:
            tried = ", ".join(f"{count}: {frames.mean():.4g}" for count, frames in self._deviance.items())
            remarks.append(
                f"number of slices: {self._depth.slices}, by the deviance of frames kept out of the updates ({tried})"
            )
        if store.halvings:
            remarks.append(f"{len(store)} of {store.arrived} frames fit memory_bytes; they are spread evenly")
        share = rim_share(iteration.first_probe)
        if share > RIM:
            remarks.append(
                f"{share:.0%} of the start probe lie at the rim of its window of"
                f" {geometry.size * geometry.pixel_nm:.3g} nm: use finer camera pixels (binning 1, a longer camera"
                " length) or finer=2"
            )
        return tuple(remarks)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Epie(checked_options(Options, options))
