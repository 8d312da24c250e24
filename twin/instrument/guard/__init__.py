"""Inside the guard: where the corrector may stand, the gate for commands, the way back, the camera, the session's log.

`twin.instrument.safety` is the guard; docs/hardware.md says what it promises.
"""
