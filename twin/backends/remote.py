"""A microscope over the network: a CEOS-style corrector, a Merlin camera, and the control channel of a served twin.

An instrument with the first two is enough (`control: false`): inputs go to the corrector as aberrations to take away,
frames come from the camera on a soft trigger. Nobody then tells where the corrector stands, what an exposure costs or
whether a frame arrived as it was sent. The control channel (docs/remote.md) tells all that, takes inputs exactly, and
begins sessions from a generator: the frames are those of the simulator in process, byte for byte.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import CEOS_FACTORS, Aberrations, to_ceos
from twin.errors import NoSession
from twin.instrument.base import CameraView, to_counts
from twin.instrument.faults import ActuatorBusy, BadFrame, CommandTimeout, MicroscopeFault, OutOfReach
from twin.instrument.line import split_address
from twin.instrument.merlin_frames import TriggeredCamera
from twin.instrument.rpc_client import RpcClient, knock
from twin.optics import CHARGE_C, Optics
from twin.options import OptionError, Port, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame, Microscope, Truth
from twin.wire import ceos, control, rpc
from twin.wire.merlin import DATA_PORT
from twin.wire.merlin_commands import CONTROL_PORT as CAMERA_PORT
from twin.wire.netstring import CORRECTOR_PORT, RpcError

Array = NDArray[np.floating]
Told = TypeVar("Told")

ADDRESS = "host"
TOKEN = "STEMTWIN_TOKEN"
"""Of the environment: what a server that is open to others wants to hear. An option would end up in recordings."""


@validated
class Options:
    """Of a remote microscope.

    Attributes:
        host: where the services are; "host:port" also sets `port`.
        port: of the control channel.
        control: use the control channel; false for an instrument that has only a corrector and a camera.
        truth: ask the control channel for the truth too; for scoring, where the server tells it.
        corrector_port, camera_port, data_port: None asks the control channel, and takes the usual ones if it does not
            say.
        timeout_s: for connecting and for each command.
        frame_timeout_s: from the trigger to the frame.
        value_is: how the corrector reads `correctAberration`'s value: "error", as measured, to be taken away, or
            "offset", to be added.
        beam_current_a: for the dose, where no control channel tells it.
        exposure_s: of a frame, where neither control channel nor camera tell it.
        view: a `CameraView`'s fields.
    """

    host: str = "127.0.0.1"
    port: Port = control.CONTROL_PORT
    control: bool = True
    truth: bool = False
    corrector_port: Port | None = None
    camera_port: Port | None = None
    data_port: Port | None = None
    timeout_s: Positive = 5.0
    frame_timeout_s: Positive = 30.0
    value_is: Literal["error", "offset"] = "error"
    beam_current_a: Positive = 50e-12
    exposure_s: Positive = 0.5
    view: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        host, port = split_address(self.host, self.port)
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "port", port)
        if self.truth and not self.control:
            raise ValueError("truth comes over the control channel; with control: false there is none")


def make(options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """A remote microscope, connected at `reset`.

    Raises:
        OptionError: as `checked_options`.
        ValueError: a camera of other angles.
    """
    chosen = checked_options(Options, options)
    if not chosen.control:
        return RemoteMicroscope(optics, space, chosen)
    kind = ScoredRemoteMicroscope if chosen.truth else ControlledMicroscope
    return kind(optics, space, chosen)


class RemoteMicroscope:
    """A corrector and a Merlin camera.

    Sessions begin where the corrector stands. It moves by differences and cannot say where it is: nothing is read back,
    and a session cannot be taken up by another program.

    Args:
        optics, space: as the controller takes them.
        options: see there.
        clock: seconds, never backwards.

    Raises:
        ValueError: the sensor's angles are not the scenario's.
    """

    def __init__(
        self, optics: Optics, space: StateSpace, options: Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            self._view = checked_options(CameraView, options.view)
        except OptionError as error:
            raise OptionError(f"view: {error}") from error
        self._view.check(optics)
        side = optics.camera_pixels
        self._capabilities = Capabilities("remote", optics, space, (side, side), self._view.max_count)
        self._space, self._options, self._clock = space, options, clock
        self._cumulative_nm: Array = space.zero
        self._begun, self._began_s = False, 0.0
        self._exposure_s = options.exposure_s
        self._corrector: RpcClient | None = None
        self._camera: TriggeredCamera | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """A new session from where the corrector stands; nothing moves, the generator is not used.

        Raises:
            MicroscopeFault: it cannot be reached.
        """
        self._begun = False
        self._connect({})
        self._begin()

    def apply(self, delta_nm: Array) -> None:
        """One command per aberration; if one fails, those before it are taken back.

        Raises:
            ValueError: as `Microscope`.
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout: something may have.
        """
        self._check_session("apply")
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        done: list[tuple[str, tuple[float, float]]] = []
        for name, change in self._changes(np.asarray(delta_nm, dtype=np.float64)):
            try:
                self._correct(name, change)
            except MicroscopeFault as fault:
                self._take_back(done, fault)
                raise
            done.append((name, change))
        self._cumulative_nm = cumulative

    def acquire(self) -> Frame:
        """One exposure.

        Raises:
            MicroscopeFault: no frame, or none as it should be.
        """
        self._check_session("acquire")
        taken = self._taken_by.expose()
        self._exposure_s = taken.exposure_s or self._options.exposure_s
        dose_e = self.next_dose_e()
        return Frame(self._counts(taken.counts), dose_e, self._exposure_s, self._clock() - self._began_s)

    def next_dose_e(self) -> float:
        """Beam current times the exposure of the latest frame; of the option, before the first."""
        return self._options.beam_current_a * self._exposure_s / CHARGE_C

    def close(self) -> None:
        """Hang up everywhere; the next session connects again."""
        self._begun = False
        self._hang_up()

    # --- connecting ------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        if self._corrector is not None:
            self._corrector.close()
        if self._camera is not None:
            self._camera.close()

    def _connect(self, told: Mapping[str, int]) -> None:
        """Reach corrector and camera; `told` has their ports, as far as somebody told them.

        Raises:
            MicroscopeFault: one of them cannot be reached.
        """
        chosen = self._options
        mode = "RONCHIGRAM" if chosen.control else None
        camera = chosen.camera_port or told.get("merlin_control", CAMERA_PORT)
        data = chosen.data_port or told.get("merlin_data", DATA_PORT)
        self._hang_up()
        self._camera = TriggeredCamera(chosen.host, camera, data, chosen.timeout_s, chosen.frame_timeout_s, mode)
        self._camera.connect()
        if chosen.control:
            return  # it takes the inputs: the corrector's line is left to others
        port = chosen.corrector_port or told.get("corrector", CORRECTOR_PORT)
        self._corrector = RpcClient("the corrector", chosen.host, port, chosen.timeout_s)
        _asked(self._corrector, "getInfo", {})

    def _begin(self) -> None:
        self._cumulative_nm, self._begun, self._began_s = self._space.zero, True, self._clock()

    @property
    def _taken_by(self) -> TriggeredCamera:
        assert self._camera is not None
        return self._camera

    def _counts(self, image: NDArray[np.unsignedinteger]) -> NDArray[np.uint16]:
        return to_counts(image.astype(np.float64), self._view, self._capabilities.camera_shape[0])

    def _check_session(self, verb: str) -> None:
        if not self._begun:
            raise NoSession(verb)

    # --- the corrector ---------------------------------------------------------------------------

    def _changes(self, delta_nm: Array) -> list[tuple[str, tuple[float, float]]]:
        """An input as changes of CEOS's aberrations, nm; those that do not change are left out."""
        pairs = to_ceos(Aberrations.of(dict(zip(self._space.names, delta_nm.tolist(), strict=True))))
        order = [name for name, _ in CEOS_FACTORS.values()]
        return [(name, pairs[name]) for name in order if pairs[name] != (0.0, 0.0)]

    def _correct(self, name: str, change_nm: tuple[float, float]) -> None:
        assert self._corrector is not None
        request = ceos.correction(name, change_nm, self._options.value_is)
        _asked(self._corrector, request.method, request.params)

    def _take_back(self, done: list[tuple[str, tuple[float, float]]], fault: MicroscopeFault) -> None:
        """Undo what was done before a fault, so that nothing has moved but perhaps what failed.

        Raises:
            CommandTimeout: that was refused as well.
        """
        for name, (x, y) in reversed(done):
            try:
                self._correct(name, (-x, -y))
            except MicroscopeFault as error:
                raise CommandTimeout(f"{fault}; {name} had moved and could not be taken back: {error}") from fault


class ControlledMicroscope(RemoteMicroscope):
    """A served twin: its control channel and its Merlin camera.

    A session is drawn from the generator as in process. Inputs are numbered, so that one whose answer was lost can be
    sent again. Every frame is compared with its digest.
    """

    def __init__(
        self, optics: Optics, space: StateSpace, options: Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(optics, space, options, clock)
        self._channel = RpcClient("the control channel", options.host, options.port, options.timeout_s)
        self._status: control.Status | None = None
        self._inputs = 0
        self._unsure = False

    @property
    def repeats_sessions(self) -> bool:
        """The same generator gives the same session, also on a server that was started again: `RepeatsSessions`."""
        return True

    def reset(self, rng: np.random.Generator) -> None:
        """A new session of the twin, from what its own `reset` would draw from the generator.

        Raises:
            MicroscopeFault: it cannot be reached.
            ValueError: it is not the scenario's microscope.
        """
        self._begun = False
        self._say_token()
        told = _understood(control.ports_of, self._ask("getInfo"))
        there = _understood(control.parse_capabilities, self._ask("capabilities"))
        for label in ("optics", "space"):
            mine, theirs = getattr(self._capabilities, label), getattr(there, label)
            if mine != theirs:
                raise ValueError(f"the twin at {self._options.host} has another {label}: {theirs}; this run has {mine}")
        self._status = None
        self._note(_understood(control.parse_status, self._ask("reset", {"entropy": control.draw_entropy(rng)})))
        self._inputs, self._unsure = 0, False
        self._connect(told)
        self._begin()

    def apply(self, delta_nm: Array) -> None:
        """Exactly, in nm; sent again over a new line if no answer came.

        Raises:
            ValueError: as `Microscope`.
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout, MicroscopeFault: no answer also then, or another session is on.
        """
        self._check_session("apply")
        if self._unsure:
            self.read_back_nm()
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        delta = np.asarray(delta_nm, dtype=np.float64).tolist()
        told = {"delta_nm": delta, "input": self._inputs + 1, "session": self._latest.session}
        try:
            self._ask_status("apply", told)
        except (ActuatorBusy, OutOfReach):
            raise
        except MicroscopeFault:
            self._unsure = True
            raise
        self._cumulative_nm, self._inputs = cumulative, self._inputs + 1

    def acquire(self) -> Frame:
        """One exposure: counts from the camera, the rest from the control channel.

        Raises:
            BadFrame: the counts are not those that were sent.
            MicroscopeFault: no frame.
        """
        self._check_session("acquire")
        taken = self._taken_by.expose()
        note = _understood(control.parse_exposure, self._ask("exposure"))
        self._note(note.status)
        digest = hashlib.sha256(np.ascontiguousarray(taken.counts, dtype="<u2").tobytes()).hexdigest()
        if taken.counts.max(initial=0) > 65535 or digest != note.sha256:
            # Whatever else is under way on this line belongs to earlier exposures.
            self._taken_by.close()
            raise BadFrame(f"frame {taken.number} is not what the twin sent for exposure {note.number}")
        return Frame(self._counts(taken.counts), note.dose_e, note.exposure_s, note.clock_s, note.settings)

    def read_back_nm(self) -> Array:
        """The cumulative input as the twin reports it, shape (n,).

        Raises:
            MicroscopeFault: no answer, or another session is on.
        """
        self._check_session("read_back_nm")
        status = self._ask_status("status")
        there = np.array(status.cumulative_nm)
        if self._unsure:
            # Whether the input whose answer was lost counts, the twin knows.
            self._inputs, self._cumulative_nm, self._unsure = status.inputs, there.copy(), False
        return there

    def next_dose_e(self) -> float:
        """Electrons of the next exposure, as the twin said with its latest answer."""
        return self._latest.next_e

    def region(self) -> str:
        """The specimen under the beam at the next exposure, as the twin said with its latest answer."""
        return self._latest.region

    def close(self) -> None:
        super().close()
        self._channel.close()

    def _say_token(self) -> None:
        token, chosen = os.environ.get(TOKEN), self._options
        if not token:
            return
        try:
            knock(chosen.host, chosen.port, token, chosen.timeout_s)
        except OSError as error:
            raise MicroscopeFault(f"nobody at {chosen.host}:{chosen.port}: {error}") from error

    @property
    def _latest(self) -> control.Status:
        """Where the session stood at the twin's latest answer."""
        if self._status is None:
            raise NoSession("finish")
        return self._status

    def _ask_status(self, method: str, params: Mapping[str, Any] | None = None) -> control.Status:
        """Where the session stands after a call that may be repeated.

        Raises:
            MicroscopeFault: another session is on.
        """
        status = _understood(control.parse_status, self._ask(method, params))
        self._note(status)
        return status

    def _note(self, status: control.Status) -> None:
        if self._status is not None and status.session != self._status.session:
            raise MicroscopeFault("the server was started again or somebody else began a session: this one is over")
        self._status = status

    def _ask(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Of the control channel; when a line broke, once more over a new one.

        Raises:
            MicroscopeFault: as `_asked`, also the second time.
        """
        try:
            return _asked(self._channel, method, params or {})
        except MicroscopeFault:
            if self._channel.connected:
                raise  # a proper answer
        return _asked(self._channel, method, params or {})


class ScoredRemoteMicroscope(ControlledMicroscope):
    """The same, for a server that tells the truth."""

    def truth(self) -> Truth:
        """The hidden state now; only the scorer may ask.

        Raises:
            MicroscopeFault: the server keeps it to itself.
        """
        self._check_session("truth")
        return _understood(lambda told: control.parse_truth(told, self._space.dimension), self._ask("truth"))


def _asked(client: RpcClient, method: str, params: Mapping[str, Any]) -> Any:
    """A call, with faults by their kind.

    Raises:
        ActuatorBusy, OutOfReach: nothing has moved.
        CommandTimeout: no answer.
        MicroscopeFault: anything else.
    """
    try:
        return client.call(method, params)
    except RpcError as error:
        if error.code == rpc.BUSY:
            raise ActuatorBusy(f"{client.name}: {error}") from error
        if error.code in (rpc.OUT_OF_RANGE, rpc.NOT_AVAILABLE):
            raise OutOfReach(f"{client.name}: {error}") from error
        raise MicroscopeFault(f"{client.name}: {error}") from error
    except TimeoutError as error:
        raise CommandTimeout(str(error)) from error
    except OSError as error:
        raise MicroscopeFault(f"{client.name} at {client.address[0]}:{client.address[1]}: {error}") from error


def _understood(parse: Callable[[Any], Told], result: Any) -> Told:
    """A result, taken apart.

    Raises:
        MicroscopeFault: it is not what it should be.
    """
    try:
        return parse(result)
    except (RpcError, KeyError, TypeError) as error:
        raise MicroscopeFault(f"the control channel answers what cannot be: {error}") from error
