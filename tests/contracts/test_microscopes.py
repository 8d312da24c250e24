"""What every backend keeps, simulated or not: the `Microscope` contract.

Finds the classes in `twin` and `twin.backends` that satisfy the protocol. One that cannot be built from (optics, space,
day) needs a line in `BUILDERS`; without it the suite fails rather than passing it by. The example of docs/hardware.md
is taken from the page and passes as well.
"""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import tempfile
import time
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, pairwise, product
from pathlib import Path

import fakes.autoscript
import fakes.nion
import numpy as np
import pytest
from fakes import physics, served

import twin
import twin.backends
import twin.instrument
from twin import backends as seam
from twin.backends import autoscript, nion, remote, replay
from twin.day import CameraProperties, Day, FilmProperties
from twin.instrument.dry_run import DryRun
from twin.instrument.limits import Limits
from twin.instrument.recorder import RecordingMicroscope, ResumedMicroscope
from twin.instrument.safety import SafeMicroscope
from twin.optics import Optics
from twin.simulated import RENDERERS, SimulatedMicroscope
from twin.state import StateSpace
from twin.types import Frame, HasTruth, Microscope

# A small window: every test below takes a few frames of every backend.
OPTICS = Optics(grid=256, sampling_nm=0.025, camera_pixels=64, binning=3)
SPACE = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(20.0, 10.0, 10.0))
DAY = Day(
    film=FilmProperties(thickness_nm=2.0),
    residual_nm={"C30": 400.0, "C21a": 20.0},
    camera=CameraProperties(dark_level=20.0, mtf_nyquist=0.7, hot_fraction=0.001),
)


ROOT = Path(__file__).parents[2]
KEPT = tempfile.TemporaryDirectory()
NUMBERS = count()


def found() -> Iterator[type]:
    """Every class in `twin` with the methods of a Microscope."""
    for package in (twin, twin.backends, twin.instrument):
        for module in pkgutil.iter_modules(package.__path__):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            for _, kind in inspect.getmembers(loaded, inspect.isclass):
                own = kind.__module__ == loaded.__name__ and not getattr(kind, "_is_protocol", False)
                methods = all(hasattr(kind, name) for name in ("capabilities", "reset", "apply", "acquire"))
                if own and methods and not inspect.isabstract(kind):
                    yield kind


def instruments() -> dict[str, Callable[[], Microscope]]:
    """A builder for every backend found, by a label for the test report."""
    built: dict[str, Callable[[], Microscope]] = {}
    for kind in found():
        if kind is SimulatedMicroscope:
            for name, (module, _) in RENDERERS.items():
                if importlib.util.find_spec(module):
                    built[f"{kind.__name__}-{name}"] = _simulated(name)
        elif kind is not ResumedMicroscope:  # takes up one session, once: tests/twin/instrument/test_recording.py
            built[kind.__name__] = BUILDERS.get(kind) or _like_simulated(kind)
    return {**built, "docs/hardware.md": _example}


def _simulated(name: str) -> Callable[[], Microscope]:
    return lambda: SimulatedMicroscope(OPTICS, SPACE, DAY, name)


def _like_simulated(kind: type) -> Callable[[], Microscope]:
    return lambda: kind(OPTICS, SPACE, DAY)


def _column(sensor_binning: int = 1) -> object:
    start = {"C10": 5.0, "C12a": -3.0, "C12b": 2.0, "C30": 400.0}
    return physics.Column(OPTICS, start, sensor_binning=sensor_binning)


def _recorder() -> Microscope:
    return RecordingMicroscope(_simulated("fast")(), Path(KEPT.name) / f"{next(NUMBERS)}.zarr")


def _record(recorder: Microscope, seed: int, *inputs: list[list[float]]) -> None:
    """A session: before each frame the inputs listed for it."""
    recorder.reset(np.random.default_rng(seed))
    for before in inputs:
        for delta in before:
            recorder.apply(np.array(delta))
        recorder.acquire()


@functools.cache
def _sessions() -> Path:
    """Every session that the tests below ask of a microscope, for a replay that extrapolates nothing."""
    path = Path(KEPT.name) / "sessions.zarr"
    recorder, move = RecordingMicroscope(_simulated("fast")(), path), [[5.0, -3.0, 2.0]]
    _record(recorder, 1, [], [], [])
    _record(recorder, 1, [list(SPACE.input / 2)])
    _record(recorder, 1, [[0.1, -1 / 3, 1e-3], [-7.7, 5.0, 0.0]])
    _record(recorder, 1, move)
    for seed, inputs in ((2, [[]]), (3, []), (4, [[], move]), (5, [[], move]), (6, [[]])):
        _record(recorder, seed, *inputs)
    return path


@functools.cache
def _grid() -> Path:
    """Ronchigrams of known states, 5 to 8 nm apart."""
    path = Path(KEPT.name) / "grid.zarr"
    simulated = SimulatedMicroscope(OPTICS, SPACE, DAY)
    simulated.reset(np.random.default_rng(0))
    start = simulated.truth().state_nm
    recorder = RecordingMicroscope(simulated, path)
    recorder.reset(np.random.default_rng(0))
    here = start
    for state in product((-12.0, -4.0, 4.0, 12.0), (-5.0, 0.0, 5.0), (-5.0, 0.0, 5.0)):
        target = np.clip(np.array(state) - start, -SPACE.input, SPACE.input) + start
        recorder.apply(target - here)
        recorder.acquire()
        here = target
    return path


def _replayed(path: Callable[[], Path], **options: object) -> Callable[[], Microscope]:
    return lambda: replay.make({"path": str(path()), **options}, OPTICS, SPACE)


def _unscored() -> Microscope:
    return replay.ReplayMicroscope(replay.Recording(_sessions()))


def _nion() -> Microscope:
    column = _column(sensor_binning=2)
    pair = fakes.nion.Instrument(column), fakes.nion.Camera(column)
    options = nion.Options(view={"binning": 2, "gain": 4.0, "max_count": 4095})
    return nion.NionMicroscope(OPTICS, SPACE, options, lambda: pair, physics.ticking())


def _autoscript() -> Microscope:
    fakes.autoscript.install(_column())
    options = autoscript.Options(
        module=fakes.autoscript.NAME, stigmator_nm=fakes.autoscript.TemMicroscopeClient.matrix.tolist()
    )
    return autoscript.AutoScriptMicroscope(OPTICS, SPACE, options, physics.ticking())


def _remote(**options: object) -> Microscope:
    """A twin that is served for as long as its microscope is there."""
    # A corrector that is only ever told differences reaches further than one session does.
    reach = SPACE if options.get("control", True) else dataclasses.replace(SPACE, input_nm=(40.0, 20.0, 20.0))
    stack = ExitStack()
    bench = stack.enter_context(served.served(SimulatedMicroscope(OPTICS, reach, DAY)))
    ports = {"corrector_port": "corrector", "camera_port": "merlin_control", "data_port": "merlin_data"}
    given = {"port": bench.ports["control"], **{key: bench.ports[name] for key, name in ports.items()}, **options}
    kind = type(remote.make(given, OPTICS, SPACE))
    made = kind(OPTICS, SPACE, remote.Options(**given), physics.ticking())
    weakref.finalize(made, stack.close)
    return made


def _example() -> Microscope:
    """The backend on the page, with a driver as the page describes it."""
    page = (ROOT / "docs" / "hardware.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 40
    column = _column()

    class Driver:
        def get(self, name: str) -> float:
            return column.nm[name] * 1e-9

        def set(self, name: str, value: float, timeout_s: float) -> bool:
            column.nm[name] = value * 1e9
            return True

        def grab(self, exposure_s: float) -> np.ndarray:
            time.sleep(exposure_s)
            return column.sensor_image()

    sys.modules["lab_driver"] = types.SimpleNamespace(connect=lambda host: Driver())
    sys.modules["lab_example"] = module = types.ModuleType("lab_example")  # where its dataclass looks itself up
    exec(compile(blocks[0], "docs/hardware.md", "exec"), module.__dict__)
    return module.make({"exposure_s": 0.01}, OPTICS, SPACE)


BUILDERS: dict[type, Callable[[], Microscope]] = {
    RecordingMicroscope: _recorder,
    SafeMicroscope: lambda: SafeMicroscope(_simulated("fast")(), Limits(timeout_s=None)),
    DryRun: lambda: DryRun(_nion(), _simulated("fast")(), lambda text: None),
    replay.ReplayMicroscope: _unscored,
    replay.ScoredReplayMicroscope: _replayed(_sessions),
    replay.NearestMicroscope: _replayed(_grid, mode="nearest", reach=3.0),
    nion.NionMicroscope: _nion,
    autoscript.AutoScriptMicroscope: _autoscript,
    remote.RemoteMicroscope: lambda: _remote(control=False),
    remote.ControlledMicroscope: _remote,
    remote.ScoredRemoteMicroscope: lambda: _remote(truth=True),
}

INSTRUMENTS = instruments()
ONCE_ONLY = {"NionMicroscope", "AutoScriptMicroscope", "RemoteMicroscope", "docs/hardware.md"}
"""Instruments: no generator decides what they show."""


@pytest.fixture(params=sorted(INSTRUMENTS))
def build(request: pytest.FixtureRequest) -> Callable[[], Microscope]:
    return INSTRUMENTS[request.param]


@pytest.fixture
def repeatable(request: pytest.FixtureRequest) -> bool:
    return request.node.callspec.params["build"] not in ONCE_ONLY


@pytest.fixture
def microscope(build: Callable[[], Microscope]) -> Microscope:
    instrument = build()
    instrument.reset(np.random.default_rng(1))
    return instrument


def test_backends_are_found() -> None:
    assert {"SimulatedMicroscope-fast", "RecordingMicroscope", "ScoredReplayMicroscope"} <= set(INSTRUMENTS)
    assert set(INSTRUMENTS) >= ONCE_ONLY


@pytest.mark.parametrize("kind", sorted(set(seam.kinds()) - {seam.SIMULATED}))
def test_every_backend_file_can_be_made_or_says_what_it_lacks(kind: str) -> None:
    try:
        made = seam.load(kind, {}, OPTICS, SPACE)
    except ValueError as error:
        assert str(error)  # noqa: PT017  (either outcome is fine, silence is not)
    else:
        assert isinstance(made, Microscope)
    with pytest.raises(ValueError, match="no_such_option"):
        seam.load(kind, {"no_such_option": 1}, OPTICS, SPACE)


def test_it_satisfies_the_protocol_and_knows_itself(microscope: Microscope) -> None:
    assert isinstance(microscope, Microscope)
    told = microscope.capabilities
    assert told.name
    assert told.optics == OPTICS
    assert told.space == SPACE
    assert told.camera_shape == (64, 64)
    microscope.apply(SPACE.input / 2)
    microscope.acquire()
    assert microscope.capabilities == told


def test_it_refuses_to_work_before_a_session(build: Callable[[], Microscope]) -> None:
    instrument = build()
    with pytest.raises(RuntimeError, match="reset"):
        instrument.acquire()
    with pytest.raises(RuntimeError, match="reset"):
        instrument.apply(SPACE.zero)


def test_frames_are_raw_counts_and_immutable(microscope: Microscope) -> None:
    frame = microscope.acquire()
    assert frame.counts.shape == microscope.capabilities.camera_shape
    assert frame.counts.dtype == np.uint16
    assert frame.counts.max() <= microscope.capabilities.max_count
    assert frame.counts.std() > 0
    assert frame.dose_e > 0
    assert frame.exposure_s > 0
    with pytest.raises(ValueError, match="read-only"):
        frame.counts[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.dose_e = 0.0  # type: ignore[misc]


def test_a_frame_holds_what_an_operator_knows_and_no_truth(microscope: Microscope) -> None:
    frame = microscope.acquire()
    assert [f.name for f in dataclasses.fields(frame)] == ["counts", "dose_e", "exposure_s", "clock_s", "settings"]
    told = [frame.dose_e, frame.exposure_s, frame.clock_s, *frame.settings.values()]
    assert all(isinstance(value, float) for value in told)
    if isinstance(microscope, HasTruth):
        assert not set(told) & set(microscope.truth().state_nm.tolist())


def test_the_clock_starts_at_zero_and_only_goes_forward(microscope: Microscope, repeatable: bool) -> None:
    frames = [microscope.acquire() for _ in range(3)]
    assert frames[0].clock_s >= frames[0].exposure_s
    for earlier, later in pairwise(frames):
        assert later.clock_s >= earlier.clock_s + later.exposure_s
    microscope.reset(np.random.default_rng(2))
    again = microscope.acquire().clock_s
    assert again == frames[0].clock_s if repeatable else again < frames[-1].clock_s


def test_inputs_add_to_the_state_exactly(microscope: Microscope) -> None:
    if not isinstance(microscope, HasTruth):
        pytest.skip("only a simulator can show its state")
    state = microscope.truth().state_nm
    assert np.all(np.abs(state) <= SPACE.start)
    for delta in ([0.1, -1 / 3, 1e-3], [-7.7, 5.0, 0.0]):
        microscope.apply(np.array(delta))
        state = state + np.array(delta)
        assert microscope.truth().state_nm.tobytes() == state.tobytes()
    microscope.acquire()
    assert microscope.truth().state_nm.tobytes() == state.tobytes()


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ([0.0, 0.0], r"shape \(3,\)"),
        ([[0.0, 0.0, 0.0]], r"shape \(3,\)"),
        ([0.0, float("nan"), 0.0], "finite"),
        ([float("inf"), 0.0, 0.0], "finite"),
        ([0.0, 10.5, 0.0], r"C12a.*10"),
        ([-20.5, 0.0, 0.0], r"C10.*20"),
    ],
)
def test_a_refused_input_moves_nothing(microscope: Microscope, delta: list[float], message: str) -> None:
    before = microscope.truth() if isinstance(microscope, HasTruth) else None
    with pytest.raises(ValueError, match=message):
        microscope.apply(np.array(delta))
    if before is not None and isinstance(microscope, HasTruth):
        assert np.array_equal(microscope.truth().state_nm, before.state_nm)
    # The whole range is still there: a refused input spends none of it.
    microscope.apply(SPACE.input)
    microscope.apply(-2 * SPACE.input)
    with pytest.raises(ValueError, match="limit"):
        microscope.apply(np.array([-0.001, 0.0, 0.0]))


def test_reset_gives_the_input_range_back(microscope: Microscope) -> None:
    microscope.apply(SPACE.input)
    microscope.reset(np.random.default_rng(3))
    microscope.apply(SPACE.input)
    with pytest.raises(ValueError, match="limit"):
        microscope.apply(SPACE.input)


def test_equal_seeds_give_equal_frames_and_others_do_not(build: Callable[[], Microscope], repeatable: bool) -> None:
    if not repeatable:
        pytest.skip("no generator decides what an instrument shows")

    def session(seed: int) -> list[Frame]:
        instrument = build()
        instrument.reset(np.random.default_rng(seed))
        first = instrument.acquire()
        instrument.apply(np.array([5.0, -3.0, 2.0]))
        return [first, instrument.acquire()]

    one, again, other = session(4), session(4), session(5)
    assert one == again
    assert one[0] != other[0]
    assert one[0] != one[1]


def test_a_session_depends_on_its_generator_alone(
    microscope: Microscope, build: Callable[[], Microscope], repeatable: bool
) -> None:
    if not repeatable:
        pytest.skip("no generator decides what an instrument shows")
    microscope.apply(np.array([5.0, -3.0, 2.0]))
    microscope.acquire()
    microscope.reset(np.random.default_rng(6))
    fresh = build()
    fresh.reset(np.random.default_rng(6))
    assert microscope.acquire() == fresh.acquire()
