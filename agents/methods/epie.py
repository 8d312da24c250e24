"""Iterative ptychography: object and probe from a window of recent frames live, from all that fit after the scan."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from agents.base import Agent, Image, MetaError, Reconstruction, StreamMeta
from agents.block import Block
from agents.epie.data import Data, misfit_of, one_pass, patch, resampled, trust
from agents.epie.engine import Estimate, Steps
from agents.epie.image import at, canonical, illumination, lit, low_pass, noise_level, sampled
from agents.epie.probe import Beam, Geometry, Window, intensity_centre, pattern_centre, rim_share, start_probe
from agents.epie.store import FrameStore
from agents.trust import misfit_words
from twin.aberrations import Aberrations
from twin.optics import Optics
from twin.options import Bytes, Count, NonNegative, OptionError, Positive, Seed, checked_options, validated

Floats = NDArray[np.float64]
Complex = NDArray[np.complexfloating]

JUDGED = 128
"""Frames, evenly chosen, by which the fit is judged."""

PROBE_COUNTS = 1000.0
"""Counts of a frame at which the probe's step is half of what was asked for: fainter frames tell little about it."""

PROBE_END = 0.1
"""The probe's step in the last pass over that in the first: all frames share the probe, and its noise has to average
out over all of them."""

FLAT_PASSES = 5
"""Passes over which the error has to stay within the tolerance: it is converged then."""

ENSEMBLE_FRAMES = 200_000
"""Frames that the whole ensemble may look at, counted every time: half a minute to a minute. Members see as many passes
as the reconstruction, for noise grows with them, so that of a large scan they see a patch."""

FIXED = ("memory_bytes", "window_bytes", "reach_mrad", "binning", "finer", "every", "precision", "sub_pixel")
"""Options that decide what is kept of a frame, or when: they hold for a whole stream."""

WELL_LIT = 0.5
"""Illumination, relative to the median over the scan, from which a pixel counts for the level of the noise."""

RIM = 0.05
"""Share of the start probe's intensity at the rim of its window above which an operator is told."""

OBJECT_COPIES = 2
"""Of the object that are kept: the reconstruction, and one member of the ensemble at a time."""


@validated
class Options:
    """How to reconstruct.

    Attributes:
        passes: over all retained frames after the scan, at most.
        anneal: of them, those through which caution grows and the probe's step falls; fewer if `passes` is less.
        tolerance: after those, the relative change of the amplitude error over 5 passes below which it has converged.
        every: positions from one live round to the next.
        sweeps: passes over the window in a live round.
        window_bytes: what the latest frames of a live round may take.
        memory_bytes: what all retained frames may take; a longer scan is thinned out evenly.
        modes: of the probe, incoherent.
        object_step: see `epie.engine.Steps`.
        probe_step: likewise, for bright frames; c counts in a frame make it c / (c + 1000) of that, and it falls to a
            tenth through the passes. 0 holds the probe.
        probe_after: passes before the probe may change.
        caution, final_caution: likewise, in live rounds and the first pass after the scan, and in the last one; 0 and 0
            are ePIE as published.
        aberrations: of the start probe, Krivanek coefficients in nm by name.
        sub_pixel: place the probe to parts of the object's pixel; False rounds.
        reach_mrad: angles that are used; None for the whole camera.
        binning: camera pixels along a side that are added up.
        finer: points of the model along a camera pixel's side, whose intensities it adds up as the camera does: the
            window in real space is as many times wider. More than 1 for bright frames whose disc has a sharp edge.
        members: runs of an ensemble for the spread after the scan, each with its own noise; less than 2 for none.
        seed: of the order of the frames and of the ensemble.
        precision: "float32" or "float64".
    """

    passes: Annotated[int, Ge(0)] = 100
    anneal: Count = 40
    tolerance: NonNegative = 1e-3
    every: Count = 256
    sweeps: Annotated[int, Ge(0)] = 1
    window_bytes: Bytes = 8 * 2**20
    memory_bytes: Bytes = 2**30
    modes: Annotated[int, Ge(1), Le(6)] = 1
    object_step: Annotated[float, Gt(0), Le(2)] = 1.0
    probe_step: Annotated[float, Ge(0), Le(2)] = 0.5
    probe_after: Annotated[int, Ge(0)] = 3
    caution: NonNegative = 1.0
    final_caution: NonNegative = 100.0
    aberrations: Mapping[str, float] = field(default_factory=dict)
    sub_pixel: bool = True
    reach_mrad: Positive | None = None
    binning: Count = 1
    finer: Count = 1
    members: Annotated[int, Ge(0)] = 3
    seed: Seed = 0
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if not 0 <= self.caution <= self.final_caution:
            raise ValueError(f"need 0 <= caution <= final_caution, got {self.caution} and {self.final_caution}")
        Aberrations.of(self.aberrations)

    def steps(self, progress: float, counts: float, hold_probe: bool = False) -> Steps:
        """At a `progress` of 0 to 1 of the annealing, with so many counts in a frame; caution grows geometrically."""
        caution = (1.0 + self.caution) ** (1.0 - progress) * (1.0 + self.final_caution) ** progress - 1.0
        probe = self.probe_step * PROBE_END**progress * counts / (counts + PROBE_COUNTS)
        return Steps(self.object_step, 0.0 if hold_probe else probe, caution)

    def progress(self, done: int) -> float:
        """Of the annealing, after so many passes."""
        return min(1.0, done / max(min(self.anneal, self.passes) - 1, 1))

    def flat(self, errors: Sequence[float]) -> bool:
        """Whether the errors of all passes so far, the annealing's among them, have settled."""
        if len(errors) < self.anneal + FLAT_PASSES:
            return False
        return abs(errors[-1] - errors[-1 - FLAT_PASSES]) < self.tolerance * errors[-1]


class Epie:
    """ePIE (Maiden and Rodenburg 2009) with incoherent probe modes (Thibault and Menzel 2013)."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._estimate: Estimate | None = None
        self._spread: Mapping[str, Floats] = {}
        self._passes, self._finished_at = 0, -1
        self._errors: tuple[float, ...] = ()

    def start(self, meta: StreamMeta) -> None:
        """A new stream.

        Raises:
            MetaError: beam, camera angle, step or rotation are not known, or the object does not fit in memory.
        """
        if not meta.has_frames:
            raise MetaError("epie needs frames; this stream has events only")
        self._beam, self._data = _setting(meta, self.options)
        self._counts = np.zeros(self._data.window.size**2)
        self._arrived = 0
        self._notes = () if meta.transposed is not None else ("nobody said if the camera is transposed: taken as not",)
        self._forget()

    def update(self, block: Block) -> None:
        """Keep the frames; every `every` positions a live round, wherever blocks end."""
        first, frames = 0, block.frames
        while first < len(block):
            last = min(len(block), first + self.options.every - self._arrived % self.options.every)
            self._keep(block.pixel[first:last], self._data.window.laid(frames[first:last]))
            first = last
            if self._arrived % self.options.every == 0:
                self._live_round()

    def finish(self) -> None:
        """Passes over all that was retained until they change nothing, then the ensemble.

        Nothing when no frame has come since the last time.
        """
        if self._arrived in (0, self._finished_at):
            return
        estimate, errors, options = self._begun(), list[float](), self.options
        while len(errors) < options.passes and not options.flat(errors):
            steps = options.steps(options.progress(len(errors)), self._mean_counts, self._holds_probe)
            rng = np.random.default_rng([options.seed, 0, len(errors)])
            errors.append(one_pass(estimate, self._data, self._data.everything(), steps, rng).error)
            self._passes += 1
        self._finished_at, self._errors = self._arrived, tuple(errors)
        self._spread = self._ensemble(estimate, len(errors))

    def result(self) -> Reconstruction:
        """Object, probe and the object's phase on the scan's grid, of what has arrived."""
        data, estimate = self._data, self._estimate
        figures = {
            "object_pixel_nm": data.geometry.pixel_nm,
            "frames_kept": float(len(data.store)),
            "frames_mib": data.store.nbytes / 2**20,
            "passes": float(self._passes),
        }
        if estimate is None:
            return Reconstruction(self._images(None), figures, None, self._notes)
        errors = self._last_errors
        figures["passes_after_scan"] = float(len(errors))
        figures["converged"] = float(self.options.flat(errors))
        judged = data.evenly(JUDGED)
        start = Estimate.start(data.geometry.shape, self._start_probe())
        figures["amplitude_error"] = misfit_of(estimate, data, judged).error
        figures["amplitude_error_start"] = misfit_of(start, data, judged).error
        for mode, power in enumerate(np.sum(np.abs(estimate.probe) ** 2, axis=(1, 2))):
            figures[f"mode_{mode}_share"] = float(power / np.sum(np.abs(estimate.probe) ** 2))
        parameters = 2.0 * float(lit(self._weight(estimate, data), data.geometry.scanned).sum()) / len(data.store)
        verdict = trust(estimate, data, judged, parameters)
        doubt = () if verdict is None or verdict.fits else (misfit_words(verdict),)
        return Reconstruction(self._images(estimate), figures, verdict, (*doubt, *self._notes, *self._doubts()))

    def configure(self, **changes: Any) -> None:
        """New options from now on; another start probe or number of modes begins anew with the frames that are kept.

        Raises:
            OptionError: an option that holds for a whole stream, an unknown one or a bad value.
        """
        for name in changes:
            if name in FIXED:
                raise OptionError(f"{name} holds for a whole stream; start a new one to change it")
        old = self.options
        known = {name: getattr(old, name) for name in old.__dataclass_fields__}
        self.options = checked_options(Options, {**known, **changes})
        self._finished_at = -1
        if (old.modes, dict(old.aberrations)) != (self.options.modes, dict(self.options.aberrations)):
            self._forget()

    def _keep(self, pixel: NDArray[np.integer], counts: NDArray[np.unsignedinteger]) -> None:
        self._data.store.add(pixel, counts)
        self._counts += counts.sum(axis=0)
        self._arrived += len(pixel)

    def _live_round(self) -> None:
        """Some passes over the latest frames."""
        estimate, kept = self._begun(), len(self._data.store)
        recent = max(1, self.options.window_bytes // (2 * self._data.window.size**2))
        for sweep in range(self.options.sweeps):
            rng = np.random.default_rng([self.options.seed, self._arrived, sweep])
            steps = self.options.steps(0.0, self._mean_counts, self._holds_probe)
            one_pass(estimate, self._data, np.arange(max(0, kept - recent), kept), steps, rng)
            self._passes += 1

    def _forget(self) -> None:
        """No estimate yet."""
        self._estimate, self._spread = None, {}
        self._passes, self._finished_at, self._errors = 0, -1, ()

    def _begun(self) -> Estimate:
        """The estimate; a transparent object under the start probe if there is none yet."""
        if self._estimate is None:
            self._first_probe = self._start_probe()
            self._estimate = Estimate.start(self._data.geometry.shape, self._first_probe)
        return self._estimate

    def _start_probe(self) -> Complex:
        """Aperture where the mean frame has its disc, with the options' aberrations, as bright as the mean frame."""
        size, finer = self._data.window.size, self.options.finer
        centre = pattern_centre((self._counts / self._arrived).reshape(size, size))
        # A pixel's points are finer * k, finer * k + 1, ...: their middle is what the camera calls k.
        kx, ky = (finer * k + (finer - 1) / 2 for k in centre)
        probe = start_probe(
            self._beam,
            size * finer,
            self._mean_counts,
            (kx, ky),
            self.options.aberrations,
            self.options.modes,
        )
        return probe.astype(np.complex64 if self.options.precision == "float32" else np.complex128)

    @property
    def _mean_counts(self) -> float:
        return float(self._counts.sum()) / self._arrived

    @property
    def _last_errors(self) -> tuple[float, ...]:
        """Of each pass after the scan; none when frames or options have come since."""
        return self._errors if self._finished_at == self._arrived else ()

    @property
    def _holds_probe(self) -> bool:
        return self._passes < self.options.probe_after

    def _ensemble(self, estimate: Estimate, passes: int) -> dict[str, Floats]:
        """Standard deviation of each picture from runs with noise of their own; none for less than two runs.

        Every run does what the reconstruction did, from the start on, with counts drawn anew. Of a large scan it looks
        at a patch, see `epie.image.noise_level`, which says little about the probe: it takes that as it was found.
        """
        count, options = self.options.members, self.options
        if count < 2 or not passes:
            return {}
        numbers = patch(self._data, max(1, ENSEMBLE_FRAMES // (count * passes)))
        part = len(numbers) < len(self._data.store)
        members: list[dict[str, Floats]] = []
        for member in range(count):
            data = resampled(self._data, numbers, [options.seed, 1, member])
            run = estimate.with_clear_object() if part else Estimate.start(data.geometry.shape, self._first_probe)
            for done in range(passes):
                hold = part or done < options.probe_after
                steps = options.steps(options.progress(done), self._mean_counts, hold)
                one_pass(run, data, data.everything(), steps, np.random.default_rng([options.seed, 2, member, done]))
            members.append(self._pictures(run, data))
        seen, whole = (self._weights(estimate, d) for d in (data, self._data))
        spread = {}
        for name, there in whole.items():
            variance = np.var([pictures[name] for pictures in members], axis=0, ddof=1)
            level = noise_level(variance, seen[name], seen[name] > WELL_LIT * np.median(there))
            spread[name] = level / np.sqrt(np.maximum(there, np.finfo(float).tiny))
        return spread

    def _weight(self, estimate: Estimate, data: Data) -> Floats:
        """Electrons on each pixel of the object."""
        place = np.rint(data.geometry.positions(data.store.pixel)).astype(np.int64)
        visits = np.zeros(data.geometry.shape, np.int64)
        np.add.at(visits, (place[:, 0], place[:, 1]), 1)
        return illumination(visits, estimate.probe)

    def _weights(self, estimate: Estimate, data: Data) -> dict[str, Floats]:
        """Electrons on each pixel of every picture."""
        weight, geometry = self._weight(estimate, data), data.geometry
        nearest = np.rint(self._places()).astype(np.int64)
        on_scan = weight[nearest[..., 0], nearest[..., 1]]
        native = weight[geometry.scanned]
        return {"phase": native, "phase_on_scan": on_scan, "amplitude": native}

    def _places(self) -> Floats:
        """Scan positions on the object, (rows, columns, 2)."""
        geometry = self._data.geometry
        pixel = np.moveaxis(np.indices(geometry.scan), 0, -1)
        return geometry.positions(pixel.reshape(-1, 2)).reshape(*geometry.scan, 2)

    def _pictures(self, estimate: Estimate, data: Data) -> dict[str, Floats]:
        """Phase and amplitude over the scanned rectangle, and the phase on the scan's grid; NaN where it is dark.

        What the scan's steps are too coarse for is taken out of the latter, or it would be folded into the rest.
        """
        geometry, weight = data.geometry, self._weight(estimate, data)
        there = lit(weight, geometry.scanned)
        objective = canonical(estimate.transmission, np.where(there, weight, 0.0))
        drift = intensity_centre(estimate.probe) - intensity_centre(self._first_probe)
        scanned = np.moveaxis(np.mgrid[geometry.scanned], 0, -1)
        native, dark = sampled(objective, scanned + drift), ~there[geometry.scanned]
        phase = low_pass(np.where(there, np.angle(objective), 0.0), min(0.5, 0.5 / geometry.step_px))
        places = self._places()
        nearest = np.rint(places).astype(np.int64)
        return {
            "phase": np.where(dark, np.nan, np.angle(native)),
            "phase_on_scan": np.where(there[nearest[..., 0], nearest[..., 1]], at(phase, places + drift), np.nan),
            "amplitude": np.where(dark, np.nan, np.abs(native)),
        }

    def _images(self, estimate: Estimate | None) -> dict[str, Image]:
        geometry = self._data.geometry
        if estimate is None:
            native = np.full(geometry.shape, np.nan)[geometry.scanned]
            pictures = {"phase": native, "phase_on_scan": np.full(geometry.scan, np.nan), "amplitude": native.copy()}
            probe = np.full((geometry.size,) * 2, np.nan)
        else:
            pictures = self._pictures(estimate, self._data)
            probe = np.sqrt(np.sum(np.abs(estimate.probe) ** 2, axis=0)).astype(np.float64)
        images = {
            name: Image(
                values,
                "1" if name == "amplitude" else "rad",
                np.where(np.isnan(values), np.nan, self._spread[name]) if name in self._spread else None,
                None if name == "phase_on_scan" else geometry.pixel_nm,
            )
            for name, values in pictures.items()
        }
        return images | {"probe": Image(probe, "sqrt(counts)", step_nm=geometry.pixel_nm)}

    def _doubts(self) -> tuple[str, ...]:
        """What an operator has to know of the data."""
        doubts = []
        if self._last_errors:
            doubts.append(_ending(self._last_errors, self.options))
        if self._data.store.halvings:
            doubts.append(
                f"{len(self._data.store)} of {self._arrived} frames fit memory_bytes; they lie evenly on the scan"
            )
        share = rim_share(self._first_probe)
        if share > RIM:
            side = self._data.geometry.size * self._data.geometry.pixel_nm
            doubts.append(
                f"{share:.0%} of the start probe lie at the rim of its window of {side:.3g} nm: finer camera pixels"
                " (binning 1, a longer camera length) or finer=2 would help"
            )
        return tuple(doubts)


def _ending(errors: Sequence[float], options: Options) -> str:
    """Why the passes after the scan ended."""
    if options.flat(errors):
        return (
            f"converged in {len(errors)} passes: the last {FLAT_PASSES} changed the error by less than"
            f" {options.tolerance:.2g} of it"
        )
    before = errors[max(0, len(errors) - 1 - FLAT_PASSES)]
    return (
        f"not converged: the {len(errors)} passes allowed are over (option passes);"
        f" the last {min(len(errors) - 1, FLAT_PASSES)} changed the error by {abs(errors[-1] / before - 1):.2g} of it"
    )


def _setting(meta: StreamMeta, options: Options) -> tuple[Beam, Data]:
    """What is known of the beam, and an empty store for what the stream brings.

    Raises:
        MetaError: something is not known or does not fit.
    """
    grid, pixel_mrad = meta.need_grid("epie"), meta.need("pixel_mrad", "epie")
    wavelength_nm = Optics(energy_kev=meta.need("energy_kev", "epie")).wavelength_nm
    step_nm, rotation = meta.need("step_nm", "epie"), meta.need("rotation_deg", "epie")
    reach_px = math.inf if options.reach_mrad is None else options.reach_mrad / pixel_mrad
    try:
        window = Window.of(meta.layout.camera, options.binning, reach_px, bool(meta.transposed))
    except ValueError as error:
        raise MetaError(f"epie: {error}") from None
    beam = Beam(wavelength_nm, meta.need("convergence_mrad", "epie"), pixel_mrad * options.binning / options.finer)
    size = window.size * options.finer
    if 2.0 * beam.disc_px >= size:
        raise MetaError(
            f"epie: the bright-field disc is {2 * beam.disc_px / options.finer:.0f} pixels wide, the window"
            f" {window.size}; check convergence_mrad and pixel_mrad, or raise reach_mrad"
        )
    pixel_nm = wavelength_nm / (size * beam.pixel_mrad * 1e-3)
    geometry = Geometry(pixel_nm, step_nm / pixel_nm, rotation, grid, size)
    object_bytes = OBJECT_COPIES * 8 * math.prod(geometry.shape)
    if object_bytes > options.memory_bytes:
        raise MetaError(
            f"epie: an object of {geometry.shape[0]} x {geometry.shape[1]} pixels takes {object_bytes / 2**20:.0f} MiB;"
            f" memory_bytes is {options.memory_bytes / 2**20:.0f} MiB: raise it or lower reach_mrad"
        )
    store = FrameStore(window.size**2, options.memory_bytes - object_bytes)
    return beam, Data(store, window, geometry, options.sub_pixel)


def make(options: Mapping[str, Any]) -> Agent:
    """See `Options`."""
    return Epie(checked_options(Options, options))
