"""What every agent keeps: start, update, result, on a small stream of a phase object with Poisson noise.

Runs for whatever `agents.base.names()` finds. An agent with a `finish` method iterates, so that what it makes may
depend on the order in which positions come; all others have to give the same for any order.
"""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import Agent, MetaError, Reconstruction, StreamMeta, UnknownAgent, load, names
from agents.block import FrameBlock
from agents.events.block import EventBlock
from twin.detectors.layouts import AngleError
from twin.formats.dataset import Layout, Metadata
from twin.optics import electron_wavelength_nm
from twin.options import OptionError
from twin.scan.plan import ScanPlan, path

SCAN, CAMERA = (12, 11), (32, 36)
BEAM = Metadata(
    energy_kev=300.0,
    convergence_mrad=20.0,
    pixel_mrad=3.0,
    step_nm=0.03,
    rotation_deg=15.0,
    dwell_s=1e-4,
    dose_e=2000.0,
)
META = StreamMeta(Layout(SCAN, CAMERA, "uint16"), BEAM, transposed=False)

OPTIONS: dict[str, dict[str, Any]] = {
    # The usual one begins beyond this camera.
    "haadf": {"inner_mrad": 30.0, "outer_mrad": 45.0},
}
TOLERANCE = 1e-6
"""Of an image's largest value: sums are exact, but transforms may round differently."""

Pixels = NDArray[np.integer]


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint16]:
    """Counts at every position of the scan, (rows * columns, H, W), in raster order."""
    size = CAMERA[0]
    wavelength_nm = electron_wavelength_nm(300.0)
    k = np.fft.fftfreq(size, d=wavelength_nm / (size * 3e-3))  # 1 / nm; pixels are wavelength / (size * angle) wide
    kx, ky = np.meshgrid(k, k)
    aperture = (np.hypot(kx, ky) * wavelength_nm <= 20e-3) * np.exp(1j * np.pi * wavelength_nm * 4.0 * (kx**2 + ky**2))
    x = np.arange(size) * wavelength_nm / (size * 3e-3)
    phase = 0.4 * np.cos(2 * np.pi * x / x[-1] * 3)[None, :] * np.cos(2 * np.pi * x / x[-1] * 2)[:, None]
    counts = np.zeros((SCAN[0] * SCAN[1], *CAMERA), np.uint16)
    rng = np.random.default_rng(1)
    for i, (at_x, at_y) in enumerate(path(ScanPlan(**grid(), rotation_deg=15.0), 0, len(counts)).intended_nm):
        probe = np.fft.ifft2(aperture * np.exp(-2j * np.pi * (kx * (at_x + 0.3) + ky * (at_y + 0.3))))
        pattern = np.abs(np.fft.fftshift(np.fft.fft2(probe * np.exp(1j * phase)))) ** 2
        counts[i, :, 2:-2] = rng.poisson(2000.0 * pattern / pattern.sum())
    counts.flags.writeable = False
    return counts


def grid() -> dict[str, Any]:
    return {"rows": SCAN[0], "columns": SCAN[1], "step_nm": 0.03}


def visited(pattern: str = "raster", **more: Any) -> Pixels:
    """(row, column) in read-out order."""
    plan = ScanPlan(**grid(), pattern=pattern, **more)
    return path(plan, 0, plan.count).pixel


def stream(frames: NDArray[np.uint16], pixel: Pixels, lengths: list[int]) -> Iterator[FrameBlock]:
    """Blocks of these lengths, over and over, to the end."""
    ordered, first = frames[pixel[:, 0] * SCAN[1] + pixel[:, 1]], 0
    ordered.flags.writeable = False
    while first < len(pixel):
        for length in lengths:
            if first < len(pixel):
                yield FrameBlock(ordered[first : first + length], pixel[first : first + length])
            first += length


def run(agent: Agent, blocks: Iterator[FrameBlock], meta: StreamMeta = META) -> Reconstruction:
    agent.start(meta)
    for block in blocks:
        agent.update(block)
    return agent.result()


def made(name: str) -> Agent:
    return load(name, OPTIONS.get(name))


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check(found: Reconstruction) -> None:
    """Pictures of a shape that makes sense, and nothing that is not a number among the figures."""
    assert found.images
    for image in found.images.values():
        assert image.values.ndim == 2
        assert image.values.dtype == np.float64
        if image.step_nm is None:
            assert image.values.shape == SCAN
        if image.spread is not None:
            assert image.spread.shape == image.values.shape
            assert not np.any(image.spread < 0)
        assert isinstance(image.unit, str)
        assert not np.isinf(image.values).any()
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in found.figures.values())
    assert all(isinstance(note, str) for note in found.notes)


def assert_same(one: Reconstruction, other: Reconstruction, tolerance: float = TOLERANCE) -> None:
    assert list(one.images) == list(other.images)
    for key, image in one.images.items():
        values, twin = image.values, other.images[key].values
        scale = np.nanmax(np.abs(values), initial=0.0) if np.isfinite(values).any() else 0.0
        np.testing.assert_allclose(twin, values, rtol=0, atol=tolerance * scale, err_msg=key)
    assert one.figures.keys() == other.figures.keys()
    for key, value in one.figures.items():
        assert other.figures[key] == pytest.approx(value, rel=1e-4, abs=1e-9), key
    assert (one.trust is None) == (other.trust is None)
    assert one.notes == other.notes


def test_agents_are_found() -> None:
    assert {"virtual", "bf", "abf", "adf", "haadf", "segments", "com", "dpc", "ricom", "icom"} <= set(names())


def test_it_satisfies_the_protocol(name: str) -> None:
    assert isinstance(made(name), Agent)


def test_there_is_a_result_before_the_first_frame(name: str) -> None:
    agent = made(name)
    agent.start(META)
    found = agent.result()
    check(found)
    assert all(np.isnan(image.values).all() for image in found.images.values())
    assert found.trust is None


def test_however_the_stream_is_cut_the_result_is_the_same(name: str, frames: NDArray[np.uint16]) -> None:
    whole = run(made(name), stream(frames, visited(), [len(frames)]))
    check(whole)
    for lengths in ([1], [7, 1, 30], [11]):
        assert_same(whole, run(made(name), stream(frames, visited(), lengths)))


@pytest.mark.parametrize("pattern", ["serpentine", "shuffled"])
def test_any_order_gives_the_same(name: str, pattern: str, frames: NDArray[np.uint16]) -> None:
    agent = made(name)
    raster = run(agent, stream(frames, visited(), [20]))
    pixel = visited() if pattern == "shuffled" else visited(pattern)
    if pattern == "shuffled":
        pixel = np.random.default_rng(2).permutation(pixel)
    other = run(made(name), stream(frames, pixel, [20]))
    check(other)
    if not hasattr(agent, "finish"):
        assert_same(raster, other)


@pytest.mark.parametrize("subsample", ["pixels", "lines"])
def test_part_of_a_scan_gives_part_of_an_image(name: str, subsample: str, frames: NDArray[np.uint16]) -> None:
    pixel = visited("subsampled", fraction=0.5, subsample=subsample)
    found = run(made(name), stream(frames, pixel, [9]))
    check(found)
    if not hasattr(made(name), "finish"):
        assert_same(found, run(made(name), stream(frames, pixel[::-1], [13])))


def test_asking_changes_nothing(name: str, frames: NDArray[np.uint16]) -> None:
    silent, asked = made(name), made(name)
    asked.start(META)
    for block in stream(frames, visited(), [25]):
        asked.update(block)
        for image in asked.result().images.values():
            if image.values.flags.writeable:
                image.values[...] = 1e9  # whoever gets a picture may draw on it
    assert_same(run(silent, stream(frames, visited(), [25])), asked.result())
    assert_same(asked.result(), asked.result(), tolerance=0.0)


def test_a_new_start_forgets(name: str, frames: NDArray[np.uint16]) -> None:
    used = made(name)
    run(used, stream(frames[::-1], visited(), [16]))
    again = run(used, stream(frames, visited(), [16]))
    assert_same(run(made(name), stream(frames, visited(), [16])), again)


@pytest.mark.parametrize("count", [0, 65535], ids=["dark", "saturated"])
def test_frames_that_show_nothing_are_no_fault(name: str, count: int) -> None:
    """The beam is off, or every pixel at its limit."""
    agent = made(name)
    agent.start(META)
    for block in stream(np.full((SCAN[0] * SCAN[1], *CAMERA), count, np.uint16), visited(), [25]):
        agent.update(block)
    if hasattr(agent, "finish"):
        agent.finish()
    check(agent.result())


def test_frames_are_left_as_they_are(name: str, frames: NDArray[np.uint16]) -> None:
    block = FrameBlock(frames.copy(), visited())
    pixel = block.pixel.copy()
    run(made(name), iter([block]))
    np.testing.assert_array_equal(block.frames, frames)
    np.testing.assert_array_equal(block.pixel, pixel)


def test_memory_does_not_grow_with_the_stream(name: str, frames: NDArray[np.uint16]) -> None:
    """The same scan three times more: what was allocated and kept stays, to a tenth of the frames that came."""
    agent = made(name)
    run(agent, stream(frames, visited(), [33]))
    tracemalloc.start()
    for _ in range(3):
        for block in stream(frames, visited(), [33]):
            agent.update(block)
        del block
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if not hasattr(agent, "finish"):  # those keep frames up to a limit of their own
        assert kept < 0.1 * 3 * frames.nbytes


@pytest.mark.parametrize("missing", ["energy_kev", "convergence_mrad", "pixel_mrad", "step_nm", "rotation_deg"])
def test_what_a_stream_does_not_tell_is_asked_for(name: str, missing: str, frames: NDArray[np.uint16]) -> None:
    meta = StreamMeta(META.layout, Metadata.of({**BEAM.plain(), missing: None}, "test"), transposed=None)
    agent = made(name)
    try:
        agent.start(meta)
    except MetaError as error:
        assert name in str(error)  # noqa: PT017
        assert missing in str(error)  # noqa: PT017
        return
    check(run(agent, stream(frames, visited(), [40]), meta))


def test_a_list_of_positions_works_or_is_refused_at_once(name: str) -> None:
    agent = made(name)
    try:
        agent.start(StreamMeta(Layout((7,), CAMERA), BEAM, transposed=False))
    except MetaError as error:
        assert name in str(error)  # noqa: PT017
        return
    assert all(image.values.shape == (1, 7) for image in agent.result().images.values() if image.step_nm is None)


def test_events_give_what_their_frames_give(name: str, frames: NDArray[np.uint16]) -> None:
    agent = made(name)
    meta = StreamMeta(META.layout, BEAM, transposed=False, has_frames=False)
    try:
        agent.start(meta)
    except MetaError as error:
        assert name in str(error)  # noqa: PT017
        return
    flat = frames.reshape(len(frames), -1)
    position, index = np.nonzero(flat)
    indptr = np.searchsorted(position, np.arange(len(frames) + 1))
    agent.update(EventBlock(index.astype(np.uint32), flat[position, index], indptr, visited(), CAMERA))
    assert_same(run(made(name), stream(frames, visited(), [50])), agent.result())


def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match="no_such_option"):
        load(name, {"no_such_option": 1})


def test_what_can_be_configured_says_no_to_what_it_does_not_know(name: str) -> None:
    agent = made(name)
    agent.start(META)
    if hasattr(agent, "configure"):
        with pytest.raises(OptionError, match="no_such_option"):
            agent.configure(no_such_option=1)


def test_a_detector_beyond_the_camera_is_refused() -> None:
    for name, options in (("haadf", {}), ("adf", {"outer_mrad": 60.0}), ("virtual", {"detectors": "bf,adf"})):
        with pytest.raises(AngleError, match="adf"):
            load(name, options).start(META)


def test_an_unknown_agent_suggests_the_nearest() -> None:
    with pytest.raises(UnknownAgent, match=r"did you mean ricom\?"):
        load("rikom")
