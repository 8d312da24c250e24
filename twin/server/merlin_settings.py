"""Parameters of a served Merlin camera, by the camera's own names. No sockets, no threads.

Parameters of the stream take effect. The twin has no model of the sensor's electronics (bias, thresholds, ...): their
parameters are stored and read back without effect.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats.dataset import LARGEST_SCAN
from twin.server.frame_supply import FrameFormat, smallest_depth_of

Mode = Literal["RONCHIGRAM", "SCAN"]
MOST_FRAMES = LARGEST_SCAN
LONGEST_VALUE = 1024
"""Longest value of a stored parameter, characters."""
SOFT_TRIGGER = 5
"""TRIGGERSTART: 5 waits for SOFTTRIGGER; 0 to 4 start at once (the scan itself gives the triggers 1 to 4)."""


class OutOfRange(StemtwinError, ValueError):
    """An invalid value of a parameter."""


@dataclass(frozen=True)
class Settings:
    """Settings of the stream.

    Attributes:
        mode: selects the source of frames.
        frames: per acquisition; 0: until stopped; None: as the source.
        per_trigger: frames per trigger; None: as the source.
        trigger_start: see `SOFT_TRIGGER`.
        depth: of the counter, bits; None: the smallest that holds every count.
        kept: parameters without effect.
    """

    mode: Mode
    frames: int | None = None
    per_trigger: int | None = None
    trigger_start: int = 0
    depth: int | None = None
    kept: Mapping[str, str] = field(default_factory=dict)

    def frames_of(self, format: FrameFormat) -> int:
        """Return the frames per acquisition; 0: until stopped."""
        return format.frames if self.frames is None else self.frames

    def per_trigger_of(self, format: FrameFormat) -> int:
        """Return the frames per trigger."""
        return format.frames_per_trigger if self.per_trigger is None else self.per_trigger

    def depth_of(self, format: FrameFormat) -> int:
        """Return the depth of the counter, bits."""
        return smallest_depth_of(format.largest_count) if self.depth is None else self.depth


class Parameter(NamedTuple):
    """Functions that read a parameter and, unless None, set it; an invalid value raises `OutOfRange`."""

    read: Callable[[Settings, FrameFormat], object]
    write: Callable[[Settings, str], Settings] | None = None


KEPT = {
    "HVBIAS": "120",
    "OPERATINGENERGY": "0",
    **{f"THRESHOLD{k}": "0" for k in range(8)},
    "GAIN": "1",
    "CHARGESUMMING": "0",
    "COLOURMODE": "0",
    "CONTINUOUSRW": "0",
    "ENABLECOUNTER1": "0",
    "FILEENABLE": "0",
    "FILEDIRECTORY": "",
    "FILENAME": "",
    "TRIGGERSTOP": "0",
}
"""Parameters that are stored without effect, and their initial values."""


def read(name: str, settings: Settings, format: FrameFormat) -> str | None:
    """Return the value of a parameter; None for an unknown name."""
    if name in KEPT:
        return settings.kept.get(name, KEPT[name])
    return str(PARAMETERS[name].read(settings, format)) if name in PARAMETERS else None


def write(name: str, value: str, settings: Settings) -> Settings | None:
    """Return the settings with one changed; None for an unknown name.

    Raises:
        OutOfRange: an invalid value, or a read-only parameter.
    """
    if name in KEPT:
        if len(value) > LONGEST_VALUE:
            raise OutOfRange(f"{name} takes up to {LONGEST_VALUE} characters; got {len(value)}")
        return replace(settings, kept={**settings.kept, name: value})
    if name not in PARAMETERS:
        return None
    writer = PARAMETERS[name].write
    if writer is None:
        raise OutOfRange(f"{name} is read-only")
    return writer(settings, value)


def _whole(text: str, name: str, minimum: int, maximum: int) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12 and minimum <= int(digits) <= maximum):
        raise OutOfRange(f"{name} is a whole number, {minimum} to {maximum}; got {text[:24]!r}")
    return int(digits)


def _set_frames(settings: Settings, value: str) -> Settings:
    return replace(settings, frames=_whole(value, "NUMFRAMESTOACQUIRE", 0, MOST_FRAMES))


def _set_per_trigger(settings: Settings, value: str) -> Settings:
    return replace(settings, per_trigger=_whole(value, "NUMFRAMESPERTRIGGER", 1, MOST_FRAMES))


def _set_trigger_start(settings: Settings, value: str) -> Settings:
    return replace(settings, trigger_start=_whole(value, "TRIGGERSTART", 0, SOFT_TRIGGER))


def _set_depth(settings: Settings, value: str) -> Settings:
    depth = _whole(value, "COUNTERDEPTH", 1, 24)
    if depth not in mh.DEPTHS:
        raise OutOfRange(f"COUNTERDEPTH is {', '.join(map(str, mh.DEPTHS))}; got {depth}")
    return replace(settings, depth=depth)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.9g}" if math.isfinite(seconds) else "0"


PARAMETERS: Mapping[str, Parameter] = {
    "IMAGEX": Parameter(lambda _, format: format.shape[1]),
    "IMAGEY": Parameter(lambda _, format: format.shape[0]),
    "COUNTERDEPTH": Parameter(lambda settings, format: settings.depth_of(format), _set_depth),
    "NUMFRAMESTOACQUIRE": Parameter(lambda settings, format: settings.frames_of(format), _set_frames),
    "NUMFRAMESPERTRIGGER": Parameter(lambda settings, format: settings.per_trigger_of(format), _set_per_trigger),
    "TRIGGERSTART": Parameter(lambda settings, _: settings.trigger_start, _set_trigger_start),
    # Read-only: the dwell of a scan and the exposure of a Ronchigram belong to the scenario.
    "ACQUISITIONTIME": Parameter(lambda _, format: _milliseconds(format.exposure_s)),
    "ACQUISITIONPERIOD": Parameter(lambda _, format: _milliseconds(format.period_s)),
}
