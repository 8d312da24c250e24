"""The beginning and the limits of a session in words, for the page."""

from scenarios.live.plain import dose_in_words
from scenarios.schema import Scenario


def in_force(scenario: Scenario, instrument: bool) -> list[list[str]]:
    """Return a name and a text for each limit; those of `microscope.safety` hold for an instrument only.

    Example:
        >>> from scenarios.schema import load
        >>> in_force(load("nominal"), instrument=False)[0]
        ['C10', '±60 nm; spec ±10 nm']
    """
    space, safety = scenario.space, scenario.microscope.safety
    rows = [
        [name, f"±{limit:g} nm; spec ±{tolerance:g} nm"]
        for name, limit, tolerance in zip(space.names, space.input_nm, space.tolerance_nm, strict=True)
    ]
    if not instrument:
        return rows
    rows += [[f"{name}, in all", f"±{value:g} nm"] for name, value in safety.total_nm.items()]
    rows += [[f"{name}, one command", f"±{value:g} nm"] for name, value in safety.step_nm.items()]
    dose = "no limit" if safety.dose_e is None else dose_in_words(safety.dose_e)
    way = "the last state with a good frame" if safety.rollback == "last_good" else "its start"
    return [*rows, ["dose of a session", dose], ["a session that fails goes back to", way]]


def beginning(scenario: Scenario, twin: bool) -> str:
    """Return from which state a calibration starts, and with which dose.

    Example:
        >>> from scenarios.schema import load
        >>> beginning(load("nominal"), twin=True).partition("; ")[2]
        '1.0e6 electrons a frame, 0.5 s exposure and 0.5 s read-out.'
    """
    if not twin:
        return "Starts where the instrument stands, with the exposure that is set there."
    day = scenario.day
    times = f"{day.exposure_s:g} s exposure and {day.overhead_s:g} s read-out"
    return f"Starts with the corrector at zero, whatever the knobs say; {dose_in_words(day.dose_e)} a frame, {times}."
