"""The gallery: what the microscope simulates, on one page; each section is a scene, a figure and its caption."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from scenarios import page
from scenarios.folders import locked, sentence, write_text
from scenarios.gallery import plots, scenes
from twin.errors import StemtwinError, check_known
from twin.optics import Optics

MARK, MARK_WITHIN = b'<meta name="generator" content="stemtwin">', 500
"""Mark of our pages, and how near to their beginning it is, bytes."""


class GalleryError(StemtwinError, ValueError):
    """An unknown section, or a page that cannot be written."""


class Section(NamedTuple):
    """One picture of the page.

    Attributes:
        name: for the command line.
        title, text: heading and caption.
        make: renders the figure, PNG bytes.
    """

    name: str
    title: str
    text: str
    make: Callable[[], bytes]


def sections(names: Iterable[str] | None = None) -> list[Section]:
    """Return all sections, or those named, in the order of the page.

    Raises:
        GalleryError: an unknown name; the message has the nearest.
    """
    chosen = list(names or ())
    try:
        for name in chosen:
            check_known(name, [each.name for each in SECTIONS], "a section")
    except ValueError as error:
        raise GalleryError(str(error)) from None
    return [each for each in SECTIONS if not chosen or each.name in chosen]


def write(out: Path, chosen: Sequence[Section], progress: Callable[[str], None] | None = None) -> None:
    """Render the sections and write the page.

    Args:
        out: the page.
        chosen: from `sections`.
        progress: called with each section's name when it is done.

    Raises:
        GalleryError: the page cannot be written; nothing has been rendered.
        InUse: another run writes it.
    """
    check_place(out)
    made = []
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
        except OSError as error:
            raise GalleryError(sentence(error, out)) from error
        for each in chosen:
            made.append(page.Section(each.title, each.text, [page.Picture(each.make(), each.title)]))
            if progress is not None:
                progress(each.name)
        lead = "Everything is simulated by the code that scenarios and environments run. Angles in mrad, lengths in nm."
        write_text(out, page.page("What the microscope shows", lead, made))


def check_place(out: Path) -> None:
    """Refuse a place where no page can be written.

    Raises:
        GalleryError: the folder does not exist, the page is a folder, or there is a file that is no page of stemtwin.
    """
    if not out.parent.is_dir() or out.is_dir():
        raise GalleryError(f"{out} cannot be written: {out.parent} has to be a directory, {out.name} a file in it")
    if os.path.lexists(out) and (out.is_symlink() or MARK not in out.read_bytes()[:MARK_WITHIN]):
        raise GalleryError(f"{out} is no page of stemtwin, which alone is replaced: choose another --out")


def _ronchigrams() -> bytes:
    defocus, astigmatism, optics = (-80.0, -30.0, 0.0, 30.0, 80.0), (-20.0, 0.0, 20.0), Optics()
    frames = scenes.ronchigrams(defocus, astigmatism, optics)
    return plots.ronchigrams(frames, defocus, astigmatism, optics)


def _probes() -> bytes:
    return plots.probes(scenes.probes(("C10", "C12a", "C21a", "C23a", "C30", "C32a", "C34a")))


def _cbeds() -> bytes:
    thicknesses = (0.136, 5.4, 10.9)
    grids, shown = {5.0: (10, 36), 25.0: (6, 72)}, {5.0: 40.0, 25.0: 105.0}
    patterns = {
        alpha: {t: scenes.silicon_cbed(alpha, t, 1 if t < 1 else 6, *grid) for t in thicknesses}
        for alpha, grid in grids.items()
    }
    optics = {alpha: scenes.silicon_optics(alpha, *grid) for alpha, grid in grids.items()}
    return plots.cbeds(patterns, optics, shown)


def _strontium_titanate() -> bytes:
    cells = {name: scenes.repeated(cell, 90, 2) for name, cell in scenes.strontium_titanate().items()}
    columns = {"Sr": [(1.0, 1.0)], "Ti": [(0.5, 0.5)], "O": [(1.0, 0.5), (0.5, 1.0)]}
    return plots.detector_images(cells, columns)


def _histogram() -> bytes:
    return plots.histogram(scenes.low_dose())


def _jitter() -> bytes:
    cell = scenes.strontium_titanate()["HAADF 90-135 mrad"]
    pixels = scenes.STO_STEPS
    fine = scenes.repeated(cell, pixels, 1)
    return plots.jitter(scenes.jitter(fine, scenes.SRTIO3_NM / pixels))


def _fast_scan() -> bytes:
    return plots.fast_scan(scenes.fast_scan())


SECTIONS = (
    Section(
        "ronchigrams",
        "Ronchigrams across defocus and two-fold astigmatism",
        "A 4 nm film of amorphous carbon at 300 kV and 28 mrad, without noise. Near focus the film's speckle is"
        " magnified without limit and only the aperture's disc remains; away from it the speckle shrinks, over-"
        " and underfocus look alike. Astigmatism stretches it, along one direction on one side of focus and across"
        " it on the other.",
        _ronchigrams,
    ),
    Section(
        "probes",
        "The probe under one aberration at a time",
        "Each aberration is six times what makes a phase of π/4 at the edge of a 20 mrad aperture at 300 kV. Strehl:"
        " peak over the perfect probe's. d50: diameter that holds half of the electrons. Odd aberrations show their own"
        " symmetry (C21 one-fold, C23 three-fold); even ones twice theirs, for at focus their sign makes no difference"
        " (C12 and C32 four-fold, C34 eight-fold). Coma also moves the probe.",
        _probes,
    ),
    Section(
        "cbed",
        "Convergent-beam diffraction over thickness",
        "Si [001] at 200 kV on an atom column, logarithmic, mean of six frozen phonons (compare Friedrich 2023, Fig."
        " 1.5). At 5 mrad the discs of the crystal stay apart, but for those of the first plane of atoms alone, whose"
        " lattice is finer in angle; at 25 mrad they overlap and interfere. With thickness come dynamical contrast in"
        " the discs, Kikuchi bands along the diagonals, diffuse scattering, and rings, the fringes of the crystal's"
        " thickness, which tighten as it grows. The first-order Laue zone, at 96 mrad, does not stand out here. Black"
        " corners are beyond the computed angles.",
        _cbeds,
    ),
    Section(
        "detectors",
        "SrTiO3 [001] by four detectors",
        "7.8 nm at 300 kV and 20 mrad, in focus at the mid-plane of the crystal, mean of frozen phonons (compare"
        " Friedrich 2023, Fig. 1.3; HAADF ends at 135 mrad here). Columns with heavy atoms are dark in bright field and"
        " bright in dark field; the whole bright disc does not show pure O at this focus. HAADF orders columns by their"
        " atomic number: Sr, Ti with O, and O hardly at all; ABF shows the pure O columns, too.",
        _strontium_titanate,
    ),
    Section(
        "histogram",
        "Dark-field detector at low dose",
        "Scintillator, photocathode, ten dynodes and digitiser, 1.5 electrons per pixel on average (compare"
        " Friedrich 2023, Fig. 2.3). One electron makes about 75 photoelectrons, so that whole numbers of"
        " electrons stand apart; the peaks widen with the square root of their number.",
        _histogram,
    ),
    Section(
        "jitter",
        "Jitter of the scan lines",
        "SrTiO3 in HAADF; each line is shifted along x (columns fray), along y (lines are stretched, squeezed or"
        " exchanged), or both, by an AR(1) series of one pixel's rms and φ = 0.5 (compare Friedrich 2023, Fig. 2.5, of"
        " Pt). Below: power spectra of the images. x-jitter smears spots along y, the more the higher their"
        " frequency along x: those on the y axis stay sharp. y-jitter does not spare them.",
        _jitter,
    ),
    Section(
        "fast_scan",
        "A detector slower than the scan",
        "A nearly empty dark field: 0.02 electrons per pixel, dwell 1 µs, light that decays as a half-Lorentzian"
        " of 1 µs (compare Friedrich 2023, Fig. 2.6). Every electron leaves a tail along the scan direction; in"
        " the spectrum, high frequencies along the fast axis are damped and those along the slow axis are not.",
        _fast_scan,
    ),
)
"""The page, in order."""
