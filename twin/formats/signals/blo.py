"""ASTAR block files (.blo): a header, a virtual bright field, then frames of 8-bit counts with 6 bytes before each.

Field positions after RosettaSciIO's description of the format; its reader needs scikit-image, this one nothing.
"""

import math
from pathlib import Path

import numpy as np

from twin.formats import file_checks
from twin.formats.dataset import FormatError, FrameReader, Frames, Layout, Metadata, numbers, told

MAGIC = 0x0102
MARK = b"\xaa\x55"
"""First bytes of a frame; its number follows."""
HEADER = np.dtype(
    [
        ("id", "S6"),
        ("magic", "<u2"),
        ("image_offset", "<u4"),
        ("frames_offset", "<u4"),
        ("flags", "<u4"),
        ("side", "<u2"),
        ("frame_rotation", "<u2"),
        ("columns", "<u2"),
        ("rows", "<u2"),
        ("scan_rotation", "<u2"),
        ("step_x_nm", "<f8"),
        ("step_y_nm", "<f8"),
        ("beam_ev", "<u4"),
    ]
)


class BloReader(FrameReader):
    """Reads a .blo file in blocks.

    Args:
        path: of the file.
        tolerate: read the frames before the end of a file that is cut off, instead of raising.

    Raises:
        FormatError: no such header, or the file is shorter than it says (`complete` counts the whole frames).
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        self._path, self.tolerate = path, tolerate
        self._file = path.open("rb")
        try:
            with told(path):
                self._open(path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    def _open(self, size: int) -> None:
        raw = self._file.read(HEADER.itemsize)
        header = np.frombuffer(raw, HEADER)[0] if len(raw) == HEADER.itemsize else None
        if header is None or header["magic"] != MAGIC:
            raise FormatError(f"{self._path}: not a block file: its header does not begin with a name and 0x0102")
        side, rows, columns = (int(header[name]) for name in ("side", "rows", "columns"))
        self.layout = Layout((rows, columns), (side, side), "uint8")
        self._offset, self._stride = int(header["frames_offset"]), side * side + 6
        complete = min(max(size - self._offset, 0) // self._stride, self.layout.count)
        file_checks.check_positions(self.layout.count, complete, str(self._path), given=True)
        if complete < self.layout.count and (not self.tolerate or complete == 0):
            raise FormatError(
                f"{self._path}: ends after {complete} of {self.layout.count} frames"
                + (" (tolerate reads them)" if complete else ""),
                complete,
            )
        self.acquired = (np.arange(self.layout.count) < complete).reshape(rows, columns)
        self.metadata, self.notes = _metadata(header, self._path.name)

    def _read(self, first: int, count: int) -> Frames:
        self._file.seek(self._offset + first * self._stride)
        raw = np.fromfile(self._file, np.uint8, count * self._stride)
        if len(raw) < count * self._stride:
            whole = first + len(raw) // self._stride
            raise FormatError(f"{self._path}: {numbers('frame', whole, first + count - 1)} are missing", whole, count)
        raw = raw.reshape(count, self._stride)
        wrong = (raw[:, :2] != np.frombuffer(MARK, np.uint8)).any(axis=1)
        if wrong.any():
            broken = first + int(np.argmax(wrong))
            raise FormatError(f"{self._path}: frame {broken} does not begin with 0xaa55: the file is damaged", broken)
        return raw[:, 6:].reshape(count, *self.layout.camera)

    def close(self) -> None:
        self._file.close()


def _metadata(header: np.void, name: str) -> tuple[Metadata, tuple[str, ...]]:
    """Return step and energy; the camera's scale is in cm on a screen, which gives no angle."""
    steps = [float(header[key]) for key in ("step_x_nm", "step_y_nm")]
    energy = float(header["beam_ev"]) / 1e3
    known = {} if not 0 < energy < 1e5 else {"energy_kev": energy}
    if not all(np.isfinite(steps)) or min(steps) <= 0:
        return Metadata.of(known, name), ()
    if not math.isclose(steps[0], steps[1], rel_tol=1e-4):
        note = f"{name}: step_nm is unknown: its axes differ (x {steps[0]:g} nm, y {steps[1]:g} nm)"
        return Metadata.of(known, name), (note,)
    return Metadata.of({"step_nm": steps[0], **known}, name), ()
