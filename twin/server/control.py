"""The control channel of a served twin on a port: sessions from a seed, exact inputs, doses.

Methods and their parameters: twin/wire/control.py and docs/remote.md. The truth only if the bench exposes it.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from twin.errors import NoSession
from twin.scan.plan import duration_s
from twin.server import event_stream
from twin.server.bench import Bench, ScanSettings
from twin.server.rpc import RpcService
from twin.server.service import Service
from twin.wire import control, rpc, schema
from twin.wire.netstring import INVALID_PARAMS, Request, RpcError

PORT = control.CONTROL_PORT


def make(bench: Bench) -> Service:
    """Build the service."""
    return RpcService("control", Control(bench).handle)


class Control:
    """The methods, on a bench.

    Inputs may be numbered: one that is sent again after a broken connection is not applied again. A number that is
    neither the last nor the next one is refused: an input was lost.

    Args:
        bench: shared with other services.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._last_delta_nm: tuple[float, ...] = ()
        self._methods: dict[str, Callable[[Request], dict[str, Any]]] = {
            "getInfo": self._info,
            "capabilities": lambda _: control.capabilities_plain(bench.capabilities),
            "reset": self._reset,
            "apply": self._apply,
            "status": lambda _: self._now().plain(),
            "exposure": self._exposure,
            "stage": self._stage,
            "setStage": self._set_stage,
            "dose": self._dose,
            "clock": lambda _: {"clock_s": bench.microscope.clock_s},
            "scanPlan": self._scan_plan,
            "setScanPlan": self._set_scan_plan,
            "truth": lambda _: control.truth_plain(bench.truth()),
        }

    def handle(self, request: Request) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            RpcError: unknown method or parameter, or an invalid value.
            ValueError: an input beyond the limits, or an impossible scan; nothing has moved.
            PermissionError: the truth is hidden, or the scan was prepared.
            NoSession: before `reset`.
        """
        rpc.check_call(request, control.METHODS)
        with self._bench.lock:
            return self._methods[request.method](request)

    def _info(self, request: Request) -> dict[str, Any]:
        return {
            "service": "stemtwin control",
            "version": control.VERSION,
            "session": self._bench.session,
            "exposes_truth": self._bench.expose_truth,
            "ports": dict(self._bench.ports),
            "methods": list(control.METHODS),
        }

    def _reset(self, request: Request) -> dict[str, Any]:
        source = control.parse_reset(request.params)
        if isinstance(source, int):
            self._bench.reset_to(source)
        else:
            self._bench.reset(source)
        return self._now().plain()

    def _apply(self, request: Request) -> dict[str, Any]:
        bench = self._bench
        self._check_session(request)
        if request.params.get("session", self._bench.session) != self._bench.session:
            raise RpcError("that session has ended; another one has begun", rpc.NO_SESSION)
        delta, number = control.parse_delta(request.params, bench.capabilities.space.dimension)
        delta_nm = tuple(delta.tolist())
        if number is not None and number == bench.inputs and delta_nm == self._last_delta_nm:
            return self._now().plain()
        if number is not None and number != bench.inputs + 1:
            raise RpcError(
                f"{bench.inputs} inputs were applied in this session; the next is {bench.inputs + 1}, not {number}",
                INVALID_PARAMS,
            )
        bench.apply(delta)
        self._last_delta_nm = delta_nm
        return self._now().plain()

    def _now(self) -> control.Status:
        bench = self._bench
        cumulative = tuple(bench.cumulative_nm.tolist())
        if not bench.sessions:
            return control.Status("", 0, 0, cumulative, 0.0)
        region, next_e = bench.microscope.next_exposure
        clock_s = bench.microscope.clock_s
        return control.Status(self._bench.session, bench.inputs, bench.exposures, cumulative, clock_s, region, next_e)

    def _exposure(self, request: Request) -> dict[str, Any]:
        bench, frame = self._bench, self._bench.latest
        if frame is None:
            raise RpcError("nothing was exposed in this session", rpc.NO_SESSION)
        inputs, cumulative_nm = bench.exposed_after
        return control.ExposureNote(
            number=bench.exposures,
            dose_e=frame.dose_e,
            exposure_s=frame.exposure_s,
            clock_s=frame.clock_s,
            settings=dict(frame.settings),
            sha256=control.counts_digest(frame.counts),
            status=self._now(),
            session=bench.session,
            inputs=inputs,
            cumulative_nm=tuple(cumulative_nm.tolist()),
        ).plain()

    def _stage(self, request: Request) -> dict[str, Any]:
        self._check_session(request)
        bench = self._bench
        region, size_nm = bench.microscope.next_exposure[0], bench.microscope.specimen_nm
        if size_nm is None:
            return {"region": region}
        x_nm, y_nm = bench.stage_nm or (size_nm[0] / 2, size_nm[1] / 2)
        return {"region": region, "position_nm": [x_nm, y_nm], "specimen_nm": list(size_nm)}

    def _set_stage(self, request: Request) -> dict[str, Any]:
        self._check_session(request)
        move = control.parse_stage(request.params)
        # The part that may be refused comes first: then nothing has moved.
        if move.position_nm is not None:
            self._scan_settings()
            self._bench.move_stage(move.position_nm)
        if move.film is not None:
            self._bench.microscope.stay_on_film(None if move.film == control.AUTO else move.film)
        return self._stage(request)

    def _dose(self, request: Request) -> dict[str, Any]:
        self._check_session(request)
        return {"next_e": self._bench.microscope.next_exposure[1], "spent": self._bench.microscope.cost.plain()}

    def _scan_plan(self, request: Request) -> dict[str, Any]:
        return _plan_plain(self._scan_settings())

    def _set_scan_plan(self, request: Request) -> dict[str, Any]:
        self._check_session(request)
        settings = self._scan_settings()
        changed = replace(settings, plan=control.parse_plan(request.params, settings.plan))
        if settings.events:
            # Only the event port serves such a scan.
            event_stream.check(changed)
        self._bench.check_plan(changed.plan)
        # Before anything has changed: an answer that cannot be written is an error.
        told = _plan_plain(changed)
        self._bench.set_plan(changed.plan)
        return told

    def _scan_settings(self) -> ScanSettings:
        if self._bench.scan_settings is None:
            raise RpcError("this scenario has no scan", rpc.NOT_AVAILABLE)
        return self._bench.scan_settings

    def _check_session(self, request: Request) -> None:
        if self._bench.sessions == 0:
            raise RpcError(str(NoSession(request.method)), rpc.NO_SESSION)


def _plan_plain(settings: ScanSettings) -> dict[str, Any]:
    plan = settings.plan
    told = schema.PlanTold(
        plan=asdict(plan),
        positions=plan.count,
        duration_s=duration_s(plan),
        optics=schema.OpticsTold(**asdict(settings.optics)),
        events=settings.events,
        digest=control.plan_digest(plan),
    )
    return schema.plain(told)
