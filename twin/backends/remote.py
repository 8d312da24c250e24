"""A microscope over the network: a CEOS-style corrector, a Merlin camera, and the control channel of a served twin.

An instrument with the first two is enough (`control: false`): inputs go to the corrector as aberrations to subtract,
frames come from the camera on a soft trigger. There is then no read-back, no dose, and no check of a frame. The control
channel (docs/remote.md) adds all three, takes exact inputs, and begins sessions from a generator: the frames are those
of the simulator in process, byte for byte.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import CEOS_FACTORS, Aberrations, to_ceos
from twin.arrays import Array
from twin.backends._control_channel import ControlChannel
from twin.backends._session_book import check_taken
from twin.errors import NoSession
from twin.instrument.base import CameraView, to_counts
from twin.instrument.faults import CommandTimeout, MicroscopeFault, NotThere
from twin.instrument.line import split_address
from twin.instrument.merlin_frames import TriggeredCamera
from twin.instrument.rpc_client import RpcClient
from twin.optics import CHARGE_C, Optics
from twin.options import Bytes, Port, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame, Microscope, Truth
from twin.wire import ceos, control
from twin.wire.merlin import DATA_PORT
from twin.wire.merlin_commands import CONTROL_PORT as CAMERA_PORT
from twin.wire.netstring import CORRECTOR_PORT

Pair = tuple[float, float]

ADDRESS = "host"
READ_BACK_NM = 0.5
"""Largest difference between the position of the inputs and that of a frame; as `safety.read_back_nm` by default."""


@validated
class Options:
    """Options of a remote microscope.

    Attributes:
        host: address of the services; "host:port" also sets `port`.
        port: of the control channel.
        control: use the control channel; false for an instrument that has only a corrector and a camera.
        truth: also read the truth over the control channel, for scoring, if the server exposes it.
        corrector_port, camera_port, data_port: None takes those that the control channel reports, or the usual ones.
        timeout_s: for connecting and for each command.
        frame_timeout_s: from the trigger to the frame.
        value_is: how the corrector reads the value of `correctAberration`: "error", to be subtracted, or "offset", to
            be added.
        beam_current_a: for the dose, without a control channel.
        exposure_s: of a frame, if neither control channel nor camera report it.
        most_frame_bytes: largest frame that is accepted from the camera.
        view: fields of a `CameraView`.
    """

    host: str = "127.0.0.1"
    port: Port = control.CONTROL_PORT
    control: bool = True
    truth: bool = False
    corrector_port: Port | None = None
    camera_port: Port | None = None
    data_port: Port | None = None
    timeout_s: Positive = 5.0
    frame_timeout_s: Positive = 15.0
    value_is: Literal["error", "offset"] = "error"
    beam_current_a: Positive = 50e-12
    exposure_s: Positive = 0.5
    most_frame_bytes: Bytes = 2**25
    view: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        host, port = split_address(self.host, self.port)
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "port", port)
        if self.truth and not self.control:
            raise ValueError("truth needs the control channel: set control to true")


def make(options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """Build a remote microscope, connected at `reset`.

    Raises:
        OptionError: as `checked_options`.
        ValueError: the pixel angle is not that of the scenario.
    """
    chosen = checked_options(Options, options)
    if not chosen.control:
        return RemoteMicroscope(optics, space, chosen)
    kind = ScoredRemoteMicroscope if chosen.truth else ControlledMicroscope
    return kind(optics, space, chosen)


class _CameraMicroscope:
    """A Merlin camera, and the bookkeeping of a session: what both kinds of remote microscope share.

    Args:
        optics, space: as the controller assumes them.
        options: of the backend.
        clock: monotonic, s.

    Raises:
        ValueError: the pixel angle is not that of the scenario.
    """

    def __init__(
        self, optics: Optics, space: StateSpace, options: Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._view = CameraView.of(options.view, optics)
        side = optics.camera_pixels
        self._capabilities = Capabilities("remote", optics, space, (side, side), self._view.max_count)
        self._space, self._options, self._clock = space, options, clock
        self._cumulative_nm: Array = space.zero
        self._begun, self._began_s = False, 0.0
        self._camera: TriggeredCamera | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def close(self) -> None:
        """Disconnect everything; the next session connects again."""
        self._begun = False
        if self._camera is not None:
            self._camera.close()

    def _open_camera(self, ports: Mapping[str, int], mode: str | None) -> None:
        """Connect the camera; `ports` are those that the control channel reports.

        Raises:
            MicroscopeFault: it cannot be reached.
        """
        chosen = self._options
        control_port = chosen.camera_port or ports.get("merlin_control", CAMERA_PORT)
        data_port = chosen.data_port or ports.get("merlin_data", DATA_PORT)
        timeouts = chosen.timeout_s, chosen.frame_timeout_s
        most = chosen.most_frame_bytes
        if self._camera is not None:
            self._camera.close()
        self._camera = TriggeredCamera(chosen.host, control_port, data_port, *timeouts, mode, most)
        self._camera.connect()

    def _begin(self) -> None:
        self._cumulative_nm, self._begun, self._began_s = self._space.zero, True, self._clock()

    def _open_session(self, verb: str) -> TriggeredCamera:
        """Return the camera of the session.

        Raises:
            NoSession: before `reset`.
        """
        if not self._begun or self._camera is None:
            raise NoSession(verb)
        return self._camera

    def _counts(self, image: NDArray[np.unsignedinteger]) -> NDArray[np.uint16]:
        return to_counts(image.astype(np.float64), self._view, self._capabilities.camera_shape[0])


class RemoteMicroscope(_CameraMicroscope):
    """A CEOS-style corrector and a Merlin camera.

    A session begins at the present position of the corrector. The corrector moves by differences and has no read-back,
    so another program cannot resume the session.
    """

    _corrector: RpcClient | None = None
    _exposure_s: float | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session at the present position of the corrector; nothing moves, the generator is not used.

        Raises:
            MicroscopeFault: it cannot be reached.
        """
        chosen = self._options
        self.close()
        self._open_camera({}, None)
        port = chosen.corrector_port or CORRECTOR_PORT
        self._corrector = RpcClient("the corrector", chosen.host, port, chosen.timeout_s)
        self._corrector.command("getInfo")
        self._exposure_s = None
        self._begin()

    def apply(self, delta_nm: Array) -> None:
        """Send one command per aberration; if one fails, undo those before it.

        Raises:
            ValueError: as `Microscope`.
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout: something may have moved.
        """
        self._open_session("apply")
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        done: list[tuple[str, Pair]] = []
        for name, change in self._changes(np.asarray(delta_nm, dtype=np.float64)):
            try:
                self._correct(name, change)
            except MicroscopeFault as fault:
                self._undo(done, fault)
                raise
            done.append((name, change))
        self._cumulative_nm = cumulative

    def acquire(self) -> Frame:
        """Expose once.

        Raises:
            MicroscopeFault: no valid frame.
        """
        taken = self._open_session("acquire").expose()
        self._exposure_s = taken.exposure_s or self._exposure_s
        clock_s = self._clock() - self._began_s
        return Frame(self._counts(taken.counts), self.next_dose_e(), self._shutter_s, clock_s)

    def next_dose_e(self) -> float:
        """Return beam current times exposure."""
        return self._options.beam_current_a * self._shutter_s / CHARGE_C

    @property
    def _shutter_s(self) -> float:
        """Exposure of the latest frame; before the first, that which the camera is set to, or the option's."""
        set_s = None if self._camera is None else self._camera.planned_s
        return self._exposure_s or set_s or self._options.exposure_s

    def close(self) -> None:
        super().close()
        if self._corrector is not None:
            self._corrector.close()

    def _changes(self, delta_nm: Array) -> list[tuple[str, Pair]]:
        """Return an input as changes of CEOS aberrations, nm, without those that do not change."""
        pairs = to_ceos(Aberrations.of(dict(zip(self._space.names, delta_nm.tolist(), strict=True))))
        order = [name for name, _ in CEOS_FACTORS.values()]
        return [(name, pairs[name]) for name in order if pairs[name] != (0.0, 0.0)]

    def _correct(self, name: str, change_nm: Pair) -> None:
        assert self._corrector is not None
        request = ceos.correction(name, change_nm, self._options.value_is)
        self._corrector.command(request.method, request.params)

    def _undo(self, done: list[tuple[str, Pair]], fault: MicroscopeFault) -> None:
        """Undo the commands before a fault, so that at most the failed one has moved anything.

        Raises:
            CommandTimeout: that was refused as well.
        """
        for name, (x, y) in reversed(done):
            try:
                self._correct(name, (-x, -y))
            except MicroscopeFault as error:
                raise CommandTimeout(f"{fault}; {name} had moved and could not be undone: {error}") from fault


class ControlledMicroscope(_CameraMicroscope):
    """A served twin: its control channel and its Merlin camera.

    A session is drawn from the generator as in process. Every frame is compared with its digest.
    """

    def __init__(
        self, optics: Optics, space: StateSpace, options: Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(optics, space, options, clock)
        self._channel = ControlChannel(options.host, options.port, options.timeout_s, space)
        self._served = self._capabilities

    @property
    def repeats_sessions(self) -> bool:
        """True: the same generator gives the same session, also on a restarted server (`RepeatsSessions`)."""
        return True

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session of the twin, from what its own `reset` would draw from the generator.

        Raises:
            MicroscopeFault: it cannot be reached.
            ValueError: it is not the microscope of the scenario.
        """
        self._begun = False
        ports = self._channel.open()
        self._served = served = self._channel.capabilities()
        for label in ("optics", "space", "camera_shape"):
            mine, theirs = getattr(self._capabilities, label), getattr(served, label)
            if mine != theirs:
                raise ValueError(f"the twin at {self._options.host} has another {label}: {theirs}; this run has {mine}")
        self._channel.reset(rng)
        self._open_camera(ports, "RONCHIGRAM")
        self._begin()

    def apply(self, delta_nm: Array) -> None:
        """Add an input exactly, in nm; send it again over a new connection if no answer came.

        Raises:
            ValueError: as `Microscope`.
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout, MicroscopeFault: still no answer, or the session has ended.
        """
        self._open_session("apply")
        if self._channel.outcome_unknown:
            self.read_back_nm()
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        self._channel.apply(np.asarray(delta_nm, dtype=np.float64))
        self._cumulative_nm = cumulative

    def acquire(self) -> Frame:
        """Expose once: the counts come from the camera, the rest from the control channel.

        Raises:
            AnotherClient: the frame does not follow from what this program did.
            NotThere: the twin was elsewhere.
            BadFrame: the counts differ from those that were sent, or do not fit their figures.
            MicroscopeFault: no frame.
        """
        camera = self._open_session("acquire")
        self._channel.trigger()
        taken = camera.expose()
        try:
            note = self._channel.exposure()
            check_taken(taken, note, self._served)
            self._check_position(self._channel.latest("acquire").cumulative_nm)
        except MicroscopeFault:
            # Anything still under way on this connection belongs to earlier exposures.
            camera.close()
            raise
        return Frame(self._counts(taken.counts), note.dose_e, note.exposure_s, note.clock_s, note.settings)

    def _check_position(self, told_nm: tuple[float, ...]) -> None:
        """Refuse a frame at another position than the inputs give.

        Raises:
            NotThere: with both positions.
        """
        off = np.abs(np.array(told_nm) - self._cumulative_nm)
        worst = int(np.argmax(off))
        if off[worst] > READ_BACK_NM:
            raise NotThere(
                f"{self._space.names[worst]} was sent to {self._cumulative_nm[worst]:+.3f} nm and stands at"
                f" {told_nm[worst]:+.3f} nm"
            )

    def read_back_nm(self) -> Array:
        """Return the cumulative input as the twin reports it, shape (n,).

        Raises:
            MicroscopeFault: no answer, or the session has ended.
        """
        self._open_session("read_back_nm")
        answer_was_lost = self._channel.outcome_unknown
        position = self._channel.read_back_nm()
        if answer_was_lost:
            self._cumulative_nm = position.copy()
        return position

    def next_dose_e(self) -> float:
        """Return the electrons of the next exposure, from the latest answer of the twin."""
        return self._channel.latest("next_dose_e").next_e

    def region(self) -> str:
        """Return the specimen region of the next exposure, from the latest answer of the twin."""
        return self._channel.latest("region").region

    def close(self) -> None:
        super().close()
        self._channel.close()


class ScoredRemoteMicroscope(ControlledMicroscope):
    """A `ControlledMicroscope` of a server that exposes the truth."""

    def truth(self) -> Truth:
        """Return the hidden state; only for the scorer.

        Raises:
            MicroscopeFault: the server does not expose it.
        """
        self._open_session("truth")
        return self._channel.truth(self._space.dimension)
