"""A client of the control channel of a served twin (docs/remote.md)."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from twin.arrays import Array
from twin.backends._session_book import SessionBook
from twin.errors import NoSession, reason
from twin.instrument import operator
from twin.instrument.faults import ActuatorBusy, MicroscopeFault, OutOfReach
from twin.instrument.rpc_client import RpcClient, send_token
from twin.state import StateSpace
from twin.types import Capabilities, Truth
from twin.wire import control, schema
from twin.wire.netstring import RpcError

Parsed = TypeVar("Parsed")

TOKEN = "STEMTWIN_TOKEN"
"""Environment variable with the token of a server; an option would end up in recordings."""


class ControlChannel:
    """The control channel. Inputs are numbered, so that one whose answer was lost can be sent again.

    Everything told is compared with what this program did (`SessionBook`).

    Args:
        host, port: address.
        timeout_s: for connecting, and for each call.
        space: the calibrated coefficients.
    """

    def __init__(self, host: str, port: int, timeout_s: float, space: StateSpace) -> None:
        self._client = RpcClient("the control channel", host, port, timeout_s)
        self._space = space
        self._book: SessionBook | None = None

    @property
    def outcome_unknown(self) -> bool:
        """Whether the answer to the latest input was lost; `read_back_nm` finds out."""
        return self._book is not None and self._book.input_open

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def open(self) -> dict[str, int]:
        """Send the token, if there is one and the operator named this host; return the ports of the other services.

        Raises:
            MicroscopeFault: not reachable, or another service.
            OperatorError: the operator's configuration cannot be read.
        """
        token, (host, port) = os.environ.get(TOKEN), self._client.address
        withheld = bool(token) and not operator.may_have_token(host, port)
        if token and not withheld:
            try:
                refusal = send_token(host, port, token, self._client.timeout_s)
            except OSError as error:
                raise MicroscopeFault(f"no answer at {host}:{port}: {reason(error)}") from error
            if refusal:
                raise MicroscopeFault(f"the token in {TOKEN} was refused at {host}:{port}: {refusal}")
        try:
            return self._call(control.ports_of, "getInfo")
        except MicroscopeFault as fault:
            if not withheld:
                raise
            # A server that needs no token must not be refused for one that is not sent, so the advice comes only now.
            raise MicroscopeFault(f"{fault}; {_advice(host, port)}") from fault

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the served microscope."""
        return self._call(control.parse_capabilities, "capabilities")

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session from what the microscope's own `reset` would draw from the generator.

        Raises:
            MicroscopeFault: no answer, or no new session.
        """
        self._book = None
        begun = self._call(control.parse_status, "reset", {"entropy": control.draw_entropy(rng)})
        self._book = SessionBook(begun, self._space)

    def latest(self, verb: str) -> control.Status:
        """Return the state of the session at the latest answer.

        Raises:
            NoSession: for the method `verb`, before `reset`.
        """
        return self._session(verb).status

    def apply(self, delta_nm: Array) -> None:
        """Add an input, nm, exact to the bit.

        Raises:
            ActuatorBusy, OutOfReach: nothing has moved.
            AnotherClient: something else uses the instrument.
            CommandTimeout, MicroscopeFault: no answer, or the session has ended.
        """
        book = self._session("apply")
        numbered = {"input": book.inputs + 1, "session": book.status.session}
        book.input_sent()
        try:
            told = self._call(control.parse_status, "apply", {"delta_nm": delta_nm.tolist(), **numbered})
        except (ActuatorBusy, OutOfReach):
            book.input_refused()
            raise
        book.input_done(told)

    def read_back_nm(self) -> Array:
        """Return the cumulative input, nm, shape (n,); after a lost answer, also whether that input counts.

        Raises:
            AnotherClient: something else uses the instrument.
            MicroscopeFault: no answer, or the session has ended.
        """
        told = self._call(control.parse_status, "status")
        self._session("read_back_nm").read_back(told)
        return np.array(told.cumulative_nm)

    def trigger(self) -> None:
        """Note that the camera is triggered now.

        Raises:
            AnotherClient: the session is over.
        """
        self._session("acquire").triggered()

    def exposure(self) -> control.ExposureNote:
        """Return what belongs to the latest frame.

        Raises:
            AnotherClient: something else uses the instrument.
            BadFrame: the figures cannot be those of a frame of this session.
            MicroscopeFault: no answer, or the session has ended.
        """
        # Not `control.parse_exposure`: the book tells somebody else's frame from one that contradicts itself.
        note = self._call(lambda result: schema.parse(schema.ExposureNote, result, "exposure"), "exposure")
        self._session("acquire").exposed(note)
        return note

    def truth(self, dimension: int) -> Truth:
        """Return the hidden state.

        Raises:
            MicroscopeFault: the server does not expose it.
        """
        return self._call(lambda result: control.parse_truth(result, dimension), "truth")

    def _session(self, verb: str) -> SessionBook:
        if self._book is None:
            raise NoSession(verb)
        return self._book

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


def _advice(host: str, port: int) -> str:
    """Return how to name a host, so that it may have the token."""
    try:
        operator.check_token_host(host, port)
    except operator.OperatorError as error:
        return str(error)
    return ""
