"""Single-sideband ptychography: the phase of a thin specimen, row by row, with known aberrations taken out.

The scan is transformed as it comes and weighted with the overlaps of the diffracted discs (see `agents.ssb.weights`);
frames are not kept. Where the stream does not say how the camera lies against the scan, the first rows are held until
their sidebands tell (`agents.ssb.orientation`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from agents.base import Image, MetaError, Reconstruction, StreamMeta, Trust
from agents.block import Block
from agents.ssb import forward as ssb_forward
from agents.ssb import image as ssb_image
from agents.ssb import orientation as ssb_orientation
from agents.ssb.accumulate import SidebandSum, squares
from agents.ssb.image import Estimate
from agents.ssb.orientation import Orientation
from agents.ssb.weights import BrightField, Singles, bright_field, suggested_binning, trotters
from agents.trust import misfit_words
from twin.aberrations import Aberrations
from twin.optics import Optics, electron_wavelength_nm, probe_extent_nm
from twin.options import Fraction, OptionError, checked_options, validated
from twin.suggest import nearest

Floats = NDArray[np.float64]
Pixels = NDArray[np.integer]
Weighting = Literal["flat", "white", "overlap", "wiener"]

HOLD_ROWS = (16, 32, 64)
"""Rows after which an unknown orientation is looked for; after the last, the best guess has to do."""
HOLD_BYTES = 64 * 2**20
"""What the held rows may take; fewer rows of a large scan."""
CERTAIN_DEG = 2.0
"""Standard error of the rotation with which the rows that are held suffice."""
SAMPLE = 64
"""Positions whose counts are kept for the test of residuals."""

ADJUSTABLE = ("weighting", "cutoff", "aberrations")


@validated
class Options:
    """Settings.

    Attributes:
        aberrations: coefficients in nm by name, along the microscope's axes; what is not named is zero.
        rotation: "meta" (the stream's, found where it does not tell), "auto" (found in any case), or degrees from the
            camera's +x to the scan's fast axis, towards +y.
        transposed: the camera's rows and columns are swapped; None is the stream's, found where it does not tell.
        binning: camera pixels along a square that is summed; 0 is as many as accuracy allows.
        weighting: of spatial frequencies, see `ssb.image.WEIGHTINGS`.
        cutoff: smallest overlap that is used, as a share of the disc.
        centre_px: (row, column) of zero angle; None is (H // 2, W // 2).
        triple_overlap: use what both sidebands share; worth it with defocus.
    """

    aberrations: Mapping[str, float] = field(default_factory=dict)
    rotation: Literal["meta", "auto"] | float = "meta"
    transposed: bool | None = None
    binning: Annotated[int, Ge(0)] = 0
    weighting: Weighting = "wiener"
    cutoff: Fraction = 0.01
    centre_px: tuple[float, float] | None = None
    triple_overlap: bool = False

    def __post_init__(self) -> None:
        Aberrations.of(self.aberrations)


def make(options: Mapping[str, Any]) -> "Ssb":
    """Build the agent.

    Raises:
        OptionError: an unknown option or a bad value.
    """
    return Ssb(checked_options(Options, options))


@dataclass(frozen=True)
class Beam:
    """What the stream tells: wavelength, scan step, aperture, camera."""

    scan: tuple[int, int]
    wavelength_nm: float
    step_nm: float
    energy_kev: float
    convergence_mrad: float
    pixel_mrad: float
    centre_px: tuple[float, float]
    camera: tuple[int, int]

    @property
    def step_mrad(self) -> tuple[float, float]:
        """Angles of the lowest spatial frequency along the fast and the slow axis."""
        rows, columns = self.scan
        return self.whole_mrad / columns, self.whole_mrad / rows

    @property
    def width_nm(self) -> float:
        """Of the perfect probe, lambda / (2 alpha)."""
        return self.wavelength_nm / (2e-3 * self.convergence_mrad)

    @property
    def whole_mrad(self) -> float:
        """Angle of one period per step."""
        return 1e3 * self.wavelength_nm / self.step_nm


class Ssb:
    """Live single-sideband ptychography (Rodenburg et al. 1993, Pennycook et al. 2015, Strauch et al. 2021)."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        if not meta.has_frames:
            raise MetaError("ssb needs frames; this stream is one of events")
        self._beam = beam = _beam(meta, self.options)
        aberrations = Aberrations.of(self.options.aberrations)
        self._field = _field(beam, self.options, aberrations)
        margin = math.ceil(_reach_nm(beam, aberrations) / beam.step_nm)
        self._sample = ssb_forward.Sample(beam.scan, SAMPLE, len(self._field), margin)
        self._visited = np.zeros(beam.scan, bool)
        self._repeated = 0
        self._told = _told(meta, self.options)
        rotation, transposed = self._told
        known = None if rotation is None or transposed is None else Orientation(rotation, transposed)
        self._orientation = known
        self._held: list[tuple[Singles, Pixels]] = []
        self._sums = None if known is None else self._new_sums(known)
        self._earlier: Estimate | None = None
        self._guess: tuple[int, Orientation, SidebandSum] | None = None

    def update(self, block: Block) -> None:
        new = self._not_seen(block.pixel)
        counts, pixel = squares(block.frames, self._field.label, len(self._field)), block.pixel
        if not new.all():
            counts, pixel = counts[new], pixel[new]
        self._sample.add(counts, pixel)
        while self._sums is None and len(pixel):
            counts, pixel = self._hold(counts, pixel)
        if self._sums is not None and len(pixel):
            self._sums.add(counts, pixel)

    def result(self) -> Reconstruction:
        if not self._visited.any():
            return Reconstruction({"phase": Image(np.full(self._beam.scan, np.nan), "rad")})
        orientation, sums = self._state()
        found = self._estimate(sums)
        factor = ssb_image.transfer(found, sums.weights, self.options.weighting)
        density = ssb_image.density(self._visited, self._beam.width_nm / self._beam.step_nm)
        phase = np.where(self._visited, ssb_image.image(factor * found.phase, self._beam.scan) / density, np.nan)
        noise = ssb_image.spread(factor**2 * found.variance, self._beam.scan, int(self._visited.sum()))
        spread = np.where(self._visited, noise / np.sqrt(density), np.nan)
        trust = self._trust(orientation, found, sums, density)
        doubt = () if trust is None or trust.fits else (misfit_words(trust),)
        return Reconstruction(
            {"phase": Image(phase, "rad", spread)},
            self._figures(orientation, sums, noise),
            trust,
            (*doubt, *self._notes(orientation, sums)),
        )

    def configure(self, **changes: Any) -> None:
        """Change `weighting` and `cutoff`, which hold for all that has been seen, or `aberrations` from now on.

        Raises:
            OptionError: another option, or a bad value.
        """
        for name in changes:
            if name not in ADJUSTABLE:
                raise OptionError(f"{name!r} cannot be changed while ssb runs{nearest(name, ADJUSTABLE)}")
        self.options = checked_options(Options, {**vars(self.options), **changes})
        if "aberrations" in changes and self._sums is not None and self._orientation is not None:
            if self._sums.count:
                self._earlier = self._estimate(self._sums)
            self._sums = self._new_sums(self._orientation)
        self._guess = None

    def _not_seen(self, pixel: Pixels) -> NDArray[np.bool_]:
        """Which positions come for the first time, (N,); they are noted. Those that come again are left out."""
        flat = pixel[:, 0].astype(np.int64) * self._beam.scan[1] + pixel[:, 1]
        new = np.zeros(len(flat), bool)
        new[np.unique(flat, return_index=True)[1]] = True
        new &= ~self._visited.ravel()[flat]
        self._visited.ravel()[flat] = True
        self._repeated += len(flat) - int(new.sum())
        return new

    def _new_sums(self, orientation: Orientation) -> SidebandSum:
        beam, disc = self._beam, self._disc(orientation)
        weights = trotters(
            disc,
            beam.scan,
            beam.step_mrad,
            orientation.rotation_deg,
            Aberrations.of(self.options.aberrations),
            beam.wavelength_nm,
            self.options.triple_overlap,
        )
        return SidebandSum(beam.scan, weights, len(disc))

    def _disc(self, orientation: Orientation) -> BrightField:
        return self._field.swapped() if orientation.transposed else self._field

    def _hold(self, counts: Singles, pixel: Pixels) -> tuple[Singles, Pixels]:
        """Keep positions up to the next look for the orientation, and look; what is left over comes back."""
        held = sum(len(part) for _, part in self._held)
        looks = self._looks()
        room = next(look for look in looks if look > held) - held
        self._held.append((counts[:room], pixel[:room]))
        held += len(pixel[:room])
        if held in looks:
            orientation = self._look(last=held == looks[-1])
            if orientation is not None:
                self._orientation, self._sums = orientation, self._new_sums(orientation)
                for part in self._held:
                    self._sums.add(*part)
                self._held = []
        return counts[room:], pixel[room:]

    def _looks(self) -> list[int]:
        """Positions after which the orientation is looked for, rising."""
        rows, columns = self._beam.scan
        most = max(4, HOLD_BYTES // (4 * len(self._field) * columns))
        return sorted({min(look, most, rows) * columns for look in HOLD_ROWS})

    def _look(self, last: bool) -> Orientation | None:
        """What the held rows tell; None where more of them may tell more."""
        counts, pixel = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        aberrations, beam = Aberrations.of(self.options.aberrations), self._beam
        rotation, transposed = self._told
        data = ssb_orientation.spectrum(counts, pixel, beam.scan[1], beam.whole_mrad, beam.convergence_mrad)
        found = ssb_orientation.found(data, self._field, aberrations, beam.wavelength_nm, rotation, transposed)
        if not last and not (found.certain and not found.sigma_deg > CERTAIN_DEG):
            return None
        if rotation is not None:
            # As good as nothing known: a camera that is not transposed is the likelier one.
            return found if found.certain else replace(found, transposed=bool(transposed))
        scan_mrad = (beam.scan[1], beam.whole_mrad)
        return ssb_orientation.upright(
            found, counts, pixel, self._disc(found), scan_mrad, aberrations, beam.wavelength_nm
        )

    def _state(self) -> tuple[Orientation, SidebandSum]:
        """Orientation and sums of what has come; while rows are held, the best guess that they allow."""
        if self._sums is not None and self._orientation is not None:
            return self._orientation, self._sums
        held = sum(len(part) for _, part in self._held)
        if self._guess is None or self._guess[0] != held:
            orientation = self._look(last=True)
            assert orientation is not None
            sums = self._new_sums(orientation)
            for part in self._held:
                sums.add(*part)
            self._guess = (held, orientation, sums)
        return self._guess[1:]

    def _estimate(self, sums: SidebandSum) -> Estimate:
        if not sums.count and self._earlier is not None:
            return self._earlier
        found = ssb_image.estimate(sums, self._field.share, self.options.cutoff)
        return found if self._earlier is None else self._earlier + found

    def _trust(self, orientation: Orientation, found: Estimate, sums: SidebandSum, density: Floats) -> Trust | None:
        """The test of residuals at the sample's positions, as far as their surroundings have been seen."""
        beam, sample, aberrations = self._beam, self._sample, Aberrations.of(self.options.aberrations)
        around = minimum_filter(self._visited, 2 * math.ceil(_reach_nm(beam, aberrations) / beam.step_nm) + 1)
        use = sample.there & around[sample.pixel[:, 0], sample.pixel[:, 1]]
        if self._earlier is not None or not use.any():
            return None
        # Noise in the phase would be taken for phase by a model that is not linear: what is likely there, and no more.
        factor = ssb_image.wiener(found)
        phase = ssb_image.image(factor * found.phase, beam.scan) / density
        return ssb_forward.verdict(
            sample.counts[use],
            ssb_forward.expected(
                phase,
                sample.pixel[use],
                self._probe(orientation, aberrations, sums),
                beam.step_nm,
                orientation.rotation_deg,
                len(self._field),
            ),
            self._field,
            fitted_share=float(factor.mean()) / len(self._field),
        )

    def _probe(self, orientation: Orientation, aberrations: Aberrations, sums: SidebandSum) -> ssb_forward.Probe:
        """The beam, about the disc's middle as the mean pattern shows it: the test sees a part of a pixel."""
        beam = self._beam
        x, y = ssb_image.off_centre(sums.pattern, self._field)
        return ssb_forward.probe(
            self._field,
            (beam.centre_px[0] + y / beam.pixel_mrad, beam.centre_px[1] + x / beam.pixel_mrad),
            orientation.transposed,
            aberrations,
            beam.wavelength_nm,
            _extent_nm(beam, aberrations),
        )

    def _figures(self, orientation: Orientation, sums: SidebandSum, noise: float) -> dict[str, float]:
        beam = self._beam
        figures = {
            "positions": float(self._visited.sum()),
            "rotation_deg": orientation.rotation_deg,
            "rotation_sigma_deg": orientation.sigma_deg,
            "transposed": float(orientation.transposed),
            "phase_spread_rad": noise,
            "finest_period_nm": beam.wavelength_nm / (2e-3 * beam.convergence_mrad),
            "disc_counts": float(sums.pattern.sum()) / max(sums.count, 1),
            "squares": float(len(self._field)),
            "binning_px": float(self._field.binning),
            "weights_mib": sums.weights.bytes / 2**20,
        }
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _notes(self, orientation: Orientation, sums: SidebandSum) -> tuple[str, ...]:
        beam, notes = self._beam, []
        if not math.isnan(orientation.evidence):
            notes.append(ssb_orientation.described(orientation))
        if beam.whole_mrad < 4 * beam.convergence_mrad:
            notes.append(
                f"steps of {beam.step_nm:g} nm are too coarse: frequencies from {500 / beam.step_nm / 1e3:.3g} to"
                f" {2e-3 * beam.convergence_mrad / beam.wavelength_nm:.3g} /nm are folded into lower ones"
            )
        if sums.count:
            off = ssb_image.off_centre(sums.pattern, self._field)
            if math.hypot(*off) > 0.05 * beam.convergence_mrad:
                notes.append(
                    f"the disc lies {off[0] / beam.pixel_mrad:+.1f} columns and {off[1] / beam.pixel_mrad:+.1f} rows or"
                    " more beside its assumed middle; see centre_px"
                )
        if self._repeated:
            notes.append(f"{self._repeated} positions came again and were left out")
        if self._earlier is not None:
            notes.append("aberrations were changed while it ran: rows before are corrected for the former ones")
        return tuple(notes)


def _beam(meta: StreamMeta, options: Options) -> Beam:
    """Raises MetaError where the stream lacks something."""
    camera = meta.layout.camera
    energy_kev = meta.need("energy_kev", "ssb")
    return Beam(
        scan=meta.need_grid("ssb"),
        wavelength_nm=electron_wavelength_nm(energy_kev),
        energy_kev=energy_kev,
        step_nm=meta.need("step_nm", "ssb"),
        convergence_mrad=meta.need("convergence_mrad", "ssb"),
        pixel_mrad=meta.need("pixel_mrad", "ssb"),
        centre_px=(camera[0] // 2, camera[1] // 2) if options.centre_px is None else options.centre_px,
        camera=camera,
    )


def _field(beam: Beam, options: Options, aberrations: Aberrations) -> BrightField:
    """Raises MetaError where the disc does not fit the camera."""
    alpha = beam.convergence_mrad
    binning = options.binning or suggested_binning(alpha / beam.pixel_mrad, aberrations, alpha, beam.wavelength_nm)
    try:
        return bright_field(beam.camera, beam.centre_px, beam.pixel_mrad, alpha, binning)
    except ValueError as error:
        raise MetaError(f"ssb: {error}") from error


def _told(meta: StreamMeta, options: Options) -> tuple[float | None, bool | None]:
    """Rotation and transpose as far as nobody has to look for them."""
    if isinstance(options.rotation, str):
        rotation = meta.metadata.rotation_deg if options.rotation == "meta" else None
    else:
        rotation = float(options.rotation)
    if options.transposed is not None:
        return rotation, options.transposed
    return rotation, None if options.rotation == "auto" else meta.transposed


def _extent_nm(beam: Beam, aberrations: Aberrations) -> float:
    """Of the aberrated probe in geometric optics."""
    return probe_extent_nm(Optics(energy_kev=beam.energy_kev, convergence_mrad=beam.convergence_mrad), aberrations)


def _reach_nm(beam: Beam, aberrations: Aberrations) -> float:
    """From a position to where its probe ends, but for its faint rings."""
    return _extent_nm(beam, aberrations) / 2 + 4 * beam.width_nm
