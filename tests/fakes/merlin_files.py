"""Files of a Merlin camera, byte by byte, with any field of their headers; written from the camera's public manual."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from twin.formats import merlin_header as mh

SIDE = 16


def picture(number: int) -> np.ndarray:
    """A frame of 16 x 16 that shows its number in pixel (0, 0)."""
    frame = np.zeros((SIDE, SIDE), np.uint16)
    frame[4:12, 4:12] = 10
    frame[0, 0] = number
    return frame


def stored(
    frame: np.ndarray, number: int, counter: int = 0, colour: int = 0, time: str = "", thresholds: str = ""
) -> bytes:
    """One processed frame with its header."""
    header = mh.MerlinHeader(
        sequence=number, length=384, chips=1, width=SIDE, height=SIDE, pixel="U16", depth=12, shutter_s=1e-3,
        counter=counter, time=time or mh.stamp(number * 1e-3), thresholds_kev=(12.0, 511.0),
    )  # fmt: skip
    raw = mh.build_header(header)
    fields = raw.rstrip(b"\0").split(b",")
    fields[12] = str(colour).encode()
    if thresholds:
        fields[14] = thresholds.encode()
    return b",".join(fields).ljust(384, b"\0") + frame.astype(">u2").tobytes()


def hdr(frames: int | str, per_trigger: int | str = 1, counters: str = "Counter 0", lines: Iterable[str] = ()) -> bytes:
    """A text header with these lines."""
    text = [
        "HDR,\t", "Chip Mode  (SPM, CSM, CM, CSCM):\tSPM", f"Active Counters:\t{counters}",
        f"Frames in Acquisition (Number):\t{frames}", f"Frames per Trigger (Number):\t{per_trigger}", *lines, "End\t",
    ]  # fmt: skip
    return "\r\n".join(text).encode().ljust(2048, b" ")


def scan_lines(rows: object, columns: object) -> tuple[str, str]:
    return f"ScanX:\t{columns}", f"ScanY:\t{rows}"


def write(path: Path, numbers: Sequence[int], header: bytes | None = None, shown: Sequence[int] | None = None) -> Path:
    """Write frames with these numbers, which show `shown` or the same; and the text header."""
    shown = numbers if shown is None else shown
    path.write_bytes(b"".join(stored(picture(s), n) for n, s in zip(numbers, shown, strict=True)))
    if header is not None:
        path.with_suffix(".hdr").write_bytes(header)
    return path
