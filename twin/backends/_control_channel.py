"""A client of the control channel of a served twin (docs/remote.md)."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from twin.arrays import Array
from twin.errors import NoSession
from twin.instrument.faults import ActuatorBusy, MicroscopeFault, OutOfReach
from twin.instrument.rpc_client import RpcClient, send_token
from twin.types import Capabilities, Truth
from twin.wire import control
from twin.wire.netstring import RpcError

Parsed = TypeVar("Parsed")

TOKEN = "STEMTWIN_TOKEN"
"""Environment variable with the token of a server; an option would end up in recordings."""


class ControlChannel:
    """The control channel. Inputs are numbered, so that one whose answer was lost can be sent again.

    Args:
        host, port: address.
        timeout_s: for connecting, and for each call.

    Attributes:
        outcome_unknown: the answer to the latest input was lost; `read_back_nm` finds out.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._client = RpcClient("the control channel", host, port, timeout_s)
        self._status: control.Status | None = None
        self._inputs = 0
        self.outcome_unknown = False

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def open(self) -> dict[str, int]:
        """Send the token, if the environment has one; return the ports of the other services by name.

        Raises:
            MicroscopeFault: not reachable, or another service.
        """
        token, (host, port) = os.environ.get(TOKEN), self._client.address
        if token:
            try:
                send_token(host, port, token, self._client.timeout_s)
            except OSError as error:
                raise MicroscopeFault(f"no answer at {host}:{port}: {error}") from error
        return self._call(control.ports_of, "getInfo")

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the served microscope."""
        return self._call(control.parse_capabilities, "capabilities")

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session from what the microscope's own `reset` would draw from the generator."""
        self._status = None
        self._update(self._call(control.parse_status, "reset", {"entropy": control.draw_entropy(rng)}))
        self._inputs, self.outcome_unknown = 0, False

    def latest(self, verb: str) -> control.Status:
        """Return the state of the session at the latest answer.

        Raises:
            NoSession: for the method `verb`, before `reset`.
        """
        if self._status is None:
            raise NoSession(verb)
        return self._status

    def apply(self, delta_nm: Array) -> None:
        """Add an input, nm, exact to the bit.

        Raises:
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout, MicroscopeFault: no answer, or the session has ended.
        """
        numbered = {"input": self._inputs + 1, "session": self.latest("apply").session}
        try:
            self._update(self._call(control.parse_status, "apply", {"delta_nm": delta_nm.tolist(), **numbered}))
        except (ActuatorBusy, OutOfReach):
            raise
        except MicroscopeFault:
            self.outcome_unknown = True
            raise
        self._inputs += 1

    def read_back_nm(self) -> Array:
        """Return the cumulative input, nm, shape (n,); after a lost answer, also whether that input counts.

        Raises:
            MicroscopeFault: no answer, or the session has ended.
        """
        status = self._call(control.parse_status, "status")
        self._update(status)
        if self.outcome_unknown:
            self._inputs, self.outcome_unknown = status.inputs, False
        return np.array(status.cumulative_nm)

    def exposure(self) -> control.ExposureNote:
        """Return what belongs to the latest frame.

        Raises:
            MicroscopeFault: no answer, or the session has ended.
        """
        note = self._call(control.parse_exposure, "exposure")
        self._update(note.status)
        return note

    def truth(self, dimension: int) -> Truth:
        """Return the hidden state.

        Raises:
            MicroscopeFault: the server does not expose it.
        """
        return self._call(lambda result: control.parse_truth(result, dimension), "truth")

    def _update(self, status: control.Status) -> None:
        if self._status is not None and status.session != self._status.session:
            raise MicroscopeFault("the server was restarted or another client began a session: this one has ended")
        self._status = status

    def _call(self, parse: Callable[[Any], Parsed], method: str, params: Mapping[str, Any] | None = None) -> Parsed:
        """Return the parsed result of a call; repeat the call once over a new connection if the old one broke.

        Raises:
            MicroscopeFault: as `RpcClient.command`; or a result that is not valid.
        """
        try:
            result = self._client.command(method, params)
        except MicroscopeFault:
            if self._client.connected:
                raise  # a valid answer
            result = self._client.command(method, params)
        try:
            return parse(result)
        except (RpcError, KeyError, TypeError) as error:
            raise MicroscopeFault(f"the control channel gave an invalid answer: {error}") from error
