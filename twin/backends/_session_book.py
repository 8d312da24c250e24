"""What this program did in the session of a far twin, compared with what the twin tells. No network."""

import numpy as np

from twin.arrays import Array
from twin.instrument.faults import AnotherClient, BadFrame, MicroscopeFault
from twin.instrument.limits import check_dark_level
from twin.instrument.merlin_frames import MerlinFrame
from twin.state import StateSpace
from twin.types import Capabilities
from twin.wire.control import counts_digest
from twin.wire.netstring import RpcError
from twin.wire.schema import ExposureNote, Status, check_coherent

SAME_NM = 1e-6
"""Largest difference of two tellings of a position between which nothing was sent."""
SAME_EXPOSURE = 1e-3
"""Largest relative difference between the exposure times of camera and twin: a header has six decimals."""


class SessionBook:
    """The session of one program. Everything told is compared with it; a contradiction changes nothing in the book.

    After `AnotherClient` the session is over: every later check raises it again, whatever the twin tells then, and
    nothing more may be sent.

    A numbered input counts once, so the twin's number of inputs is known, or one of two after a lost answer. Exposures
    are triggered at the camera, which may lose a trigger: their number lies between those confirmed and those sent.

    Args:
        begun: status right after `reset`.
        space: the calibrated coefficients.

    Attributes:
        status: the latest that agreed.
        inputs: number of inputs that count.
        input_open: an input was sent and its outcome is not known.
        triggers: number of exposures asked for.

    Raises:
        MicroscopeFault: that is no new session.
    """

    def __init__(self, begun: Status, space: StateSpace) -> None:
        if not begun.session or begun.inputs or begun.exposures or any(begun.cumulative_nm):
            raise MicroscopeFault(
                f"the twin began session {begun.session!r} with {begun.inputs} inputs, {begun.exposures} exposures and"
                f" the position {list(begun.cumulative_nm)}; a new session has a name and nothing else"
            )
        self._space, self.status = space, begun
        self._check_dimension(begun.cumulative_nm)
        self.inputs, self.input_open, self.triggers = 0, False, 0
        self._exposures, self._exposed_s = 0, -np.inf
        self._settings: dict[str, float] | None = None
        self._over = ""

    def check(self, status: Status) -> None:
        """Enter a status that agrees with the book.

        Raises:
            AnotherClient: another session, or somebody else moved or exposed.
            MicroscopeFault: a status that cannot follow the latest one.
        """
        self.check_open()
        try:
            self._check(status)
        except AnotherClient as end:
            self._over = str(end)
            raise
        self.status = status

    def _check(self, status: Status) -> None:
        before = self.status
        if status.session != before.session:
            raise AnotherClient("the server was restarted or another client began a session: this one has ended")
        self._check_dimension(status.cumulative_nm)
        if not self.inputs <= status.inputs <= self.inputs + self.input_open:
            raise AnotherClient(
                f"the session has {status.inputs} inputs, and this program sent {self.inputs + self.input_open}:"
                " something else moves the corrector"
            )
        if not self._exposures <= status.exposures <= self.triggers:
            raise AnotherClient(
                f"the session has {status.exposures} exposures, and this program triggered {self.triggers}:"
                " something else exposes"
            )
        if status.clock_s < before.clock_s:
            raise MicroscopeFault(f"the twin's clock went back from {before.clock_s:g} s to {status.clock_s:g} s")
        if status.inputs == before.inputs:
            self._check_still(status.cumulative_nm, "without an input")

    def check_open(self) -> None:
        """Refuse to go on with a session that is over.

        Raises:
            AnotherClient: with the reason.
        """
        if self._over:
            raise AnotherClient(self._over)

    def input_sent(self) -> None:
        """Note that an input is sent now.

        Raises:
            AnotherClient: the session is over; it must not be sent.
        """
        self.check_open()
        self.input_open = True

    def triggered(self) -> None:
        """Note that the camera is triggered now.

        Raises:
            AnotherClient: the session is over; it must not be.
        """
        self.check_open()
        self.triggers += 1

    def input_refused(self) -> None:
        """Note that the twin refused the input; nothing has moved."""
        self.input_open = False

    def input_done(self, status: Status) -> None:
        """Enter the answer to an input.

        Raises:
            AnotherClient, MicroscopeFault: as `check`; or the answer does not count the input.
        """
        if status.inputs == self.inputs and status.session == self.status.session:
            raise MicroscopeFault(f"the twin answers to input {self.inputs + 1} that the session has {status.inputs}")
        self.read_back(status)

    def read_back(self, status: Status) -> None:
        """Enter a status that tells whether an input of unknown outcome counts.

        Raises:
            AnotherClient, MicroscopeFault: as `check`.
        """
        self.check(status)
        self.inputs, self.input_open = status.inputs, False

    def exposed(self, note: ExposureNote) -> None:
        """Enter the note of a frame that agrees with the book.

        Raises:
            AnotherClient, MicroscopeFault: as `check`; or the frame belongs elsewhere.
            BadFrame: its figures cannot be those of a frame of this session.
        """
        self.check(note.status)
        try:
            self._check_origin(note)
        except AnotherClient as end:
            self._over = str(end)
            raise
        try:
            check_coherent(note)
        except RpcError as error:
            raise MicroscopeFault(str(error)) from None
        ahead_s = note.clock_s - max(self._exposed_s, 0.0)
        if ahead_s < note.exposure_s - 1e-9 * (1.0 + note.clock_s):
            raise BadFrame(f"an exposure of {note.exposure_s:g} s ended {ahead_s:g} s after the previous one")
        if self._settings is not None and dict(note.settings) != self._settings:
            raise BadFrame(
                f"the settings of a frame changed within the session: {self._settings}, now {dict(note.settings)}"
            )
        self._exposures, self._exposed_s, self._settings = note.number, note.clock_s, dict(note.settings)

    def _check_origin(self, note: ExposureNote) -> None:
        """Refuse a frame of another session, scan, number or position of the corrector."""
        if note.session is not None and note.session != self.status.session:
            raise AnotherClient(f"the frame was exposed in session {note.session!r}, not {self.status.session!r}")
        if note.plan:
            raise AnotherClient(f"the frame belongs to a scan, plan {note.plan[:12]}..., not to a single exposure")
        if not self._exposures < note.number <= self.triggers:
            raise AnotherClient(
                f"the frame is exposure {note.number} of the session; this program triggered {self.triggers} and took"
                f" {self._exposures}"
            )
        if note.inputs is not None and note.inputs != self.status.inputs:
            raise AnotherClient(f"the frame was exposed after {note.inputs} inputs, and {self.status.inputs} were sent")
        if note.cumulative_nm is not None:
            self._check_dimension(note.cumulative_nm)
            self._check_still(note.cumulative_nm, "during the exposure")

    def _check_still(self, position_nm: tuple[float, ...], when: str) -> None:
        before: Array = np.array(self.status.cumulative_nm)
        off = np.abs(np.array(position_nm) - before)
        k = int(np.argmax(off))
        if off[k] > SAME_NM + 1e-12 * abs(before[k]):
            raise AnotherClient(
                f"{self._space.names[k]} stood at {before[k]:+.6g} nm and stands at {position_nm[k]:+.6g} nm {when}:"
                " something else moves the corrector"
            )

    def _check_dimension(self, position_nm: tuple[float, ...]) -> None:
        if len(position_nm) != self._space.dimension:
            names = ", ".join(self._space.names)
            raise MicroscopeFault(f"the twin tells a position of {len(position_nm)} coefficients; calibrated: {names}")


def check_taken(taken: MerlinFrame, note: ExposureNote, served: Capabilities) -> None:
    """Refuse a camera's frame that is not the one of the note.

    Raises:
        BadFrame: another shape, counts beyond the camera's range, another digest or exposure time, or a dark level
            above the frame.
    """
    counts, what = taken.counts, f"frame {taken.number}"
    if counts.shape != served.camera_shape:
        raise BadFrame(f"{what} has {counts.shape} pixels; the twin's camera has {served.camera_shape}")
    largest = int(counts.max(initial=0))
    if largest > served.max_count:
        raise BadFrame(f"a pixel of {what} counts {largest}; the twin's camera ends at {served.max_count}")
    if counts_digest(counts) != note.sha256:
        raise BadFrame(f"{what} is not what the twin sent for exposure {note.number}")
    told_s = taken.exposure_s
    if told_s > 0 and abs(told_s / note.exposure_s - 1.0) > SAME_EXPOSURE:
        raise BadFrame(f"{what} was exposed for {told_s:g} s by its header, {note.exposure_s:g} s by the twin")
    check_dark_level(counts, note.settings.get("dark_level", 0.0), what)
