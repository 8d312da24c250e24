"""What tests take for granted whoever runs them: one thread, no clock in hypothesis, signals that are heard."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Small batched matrices are many times slower with two. Torch reads this when it is imported, which is left to the
# tests that need it: the process that hands out tests to others starts at once.
os.environ["OMP_NUM_THREADS"] = "1"
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)

# pytest-timeout catches what hangs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A job in the background of a script is started deaf to Ctrl-C, one under nohup to SIGHUP, and so would everything be
# that tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are composed and saved as one white pixel: layout and drawing take twenty times as long as a small run.

    A test of pictures asks for `drawn` and gets them.
    """
    if "drawn" not in request.fixturenames:
        from matplotlib.figure import Figure
        from PIL import Image

        pixel = Image.new("L", (1, 1), "white")
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: pixel.save(file, "png"))


@pytest.fixture
def drawn() -> None:
    """Figures are drawn, whatever `undrawn` says."""


SLOW = (
    # whole calibrations and scans
    "tests/behaviour/test_drift",
    "tests/behaviour/test_hand_over",
    "tests/behaviour/test_second_order",
    "tests/scenarios/adaptation/",
    "tests/scenarios/calibration/",
    "tests/scenarios/commands/",
    "tests/scenarios/comparison/",
    "tests/scenarios/figures/",
    "tests/scenarios/gallery/",
    "tests/scenarios/live/",
    "tests/scenarios/quantification/",
    "tests/scenarios/scans/",
    "tests/scenarios/test_cli",
    "tests/scenarios/test_door",
    "tests/scenarios/test_hostile_scenarios",
    "tests/scenarios/test_library",
    "tests/scenarios/test_mistakes",
    "tests/scenarios/test_same_figures",
    "tests/scenarios/test_serve",
    "tests/scenarios/test_widget",
    "tests/scenarios/test_show.py::test_quiet_shows_no_bar",
    "tests/test_examples.py::test_docstring_examples",
    "tests/test_examples.py::test_python_blocks_run",
    # every controller, agent, environment, microscope, training, and whatever each of them imports
    "tests/contracts/",
    # the repository's own rules
    "tests/test_docs.py::test_the_drawing_shows_every_package_and_folder",
    "tests/test_papers",
    # every lie of a far side
    "tests/twin/backends/test_lies",
    # trainings, benchmarks
    "tests/benchmarks/",
    "tests/agents/defects/",
    "tests/agents/methods/images/",
    "tests/agents/methods/phase/test_segment_net",
    "tests/agents/restoration/",
    "tests/controller/training/",
    "tests/learning/",
    # loops that numba compiles first, on a fresh clone
    "tests/agents/com/test_centre_map",
    "tests/agents/com/test_ricom_scatter",
    "tests/agents/epie/test_fourier",
    "tests/agents/events/",
    "tests/agents/frames/test_sums",
    "tests/agents/methods/phase/test_dpc",
    "tests/twin/cameras/test_cameras",
    "tests/twin/cameras/test_event",
    # torch, which takes seconds to import
    "tests/agents/codes/",
    "tests/controller/test_symmetry",
    # abTEM, whose import compiles for seconds
    "tests/twin/test_aberrations.py::test_abtems_defocus",
    "tests/twin/test_aberrations.py::test_abtems_names_are_its",
    "tests/twin/test_aberrations.py::test_all_coefficients",
    "tests/twin/test_aberrations.py::test_each_coefficient",
    "tests/twin/test_optics.py::test_wavelength",
    "tests/twin/test_probe.py::test_probe_and_strehl",
    # many random draws, independent references, larger grids
    "tests/agents/epie/test_engine",
    "tests/agents/epie/test_slices",
    "tests/agents/inverse/test_guard",
    "tests/agents/methods/phase/test_epie",
    "tests/agents/methods/phase/test_icom",
    "tests/agents/methods/phase/test_ssb",
    "tests/agents/quantify/",
    "tests/agents/sources/",
    "tests/agents/segmented/",
    "tests/agents/ssb/",
    "tests/agents/test_trust",
    "tests/controller/checks/",
    "tests/controller/film/",
    "tests/controller/merit/",
    "tests/controller/posterior/",
    "tests/controller/regression/",
    "tests/controller/spectrum/",
    "tests/controller/strategies/",
    "tests/controller/test_calibration",
    "tests/controller/test_candidates",
    "tests/controller/test_dataset",
    "tests/controller/test_departures",
    "tests/controller/test_first_order",
    "tests/controller/test_frame_set",
    "tests/controller/vae_em/",
    "tests/twin/backends/",
    "tests/twin/day/test_kinds",
    "tests/twin/envs/",
    "tests/twin/formats/hdf5/",
    "tests/twin/formats/signals/",
    "tests/twin/formats/test_formats",
    "tests/twin/formats/test_zarr_chunks",
    "tests/twin/formats/test_mutations",
    "tests/twin/instrument/test_recording",
    "tests/twin/matter/",
    "tests/twin/ronchigram/",
    "tests/twin/scan/test_acquisition",
    "tests/twin/scan/test_diffraction",
    "tests/twin/scan/test_errors",
    "tests/twin/scan/test_prism",
    "tests/twin/scan/test_scan_response",
    "tests/twin/server/",
    "tests/twin/spectra/test_spectrum_files",
    "tests/twin/specimens/",
    "tests/twin/zcontrast/",
    "tests/twin/test_cost",
    "tests/twin/test_drift",
    "tests/twin/test_dynamics.py::test_hysteresis_is_what_springs_with_sliders_do",
    "tests/twin/wire/test_ceos",
    "tests/twin/wire/test_client_fuzz",
    "tests/twin/wire/test_merlin",
    "tests/twin/test_simulated",
    "tests/test_door",
    "tests/test_notebooks",
    "tests/test_packaging",
    "tests/test_templates",
)
"""Beginnings of the names of tests that `make quick` leaves out; `pytest --durations=80` shows the slowest."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import slow modules for `make quick`."""
    if config.option.markexpr != "not slow" or not collection_path.is_relative_to(config.rootpath):
        return None
    name = collection_path.relative_to(config.rootpath).as_posix()
    return True if f"{name}/".startswith(tuple(part for part in SLOW if "::" not in part)) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep the start of `make quick` quick."""
    heavy = sorted({"abtem", "torch"} & set(sys.modules))
    if session.config.option.markexpr == "not slow" and heavy:
        raise pytest.UsageError(
            f"collecting the quick tests imports {' and '.join(heavy)}: import it in the tests that need it,"
            " or list their module in SLOW of tests/conftest.py"
        )
