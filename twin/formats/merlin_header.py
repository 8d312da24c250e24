"""Headers of the Merlin (Medipix3) camera, as bytes: the MQ1 header of a frame and the text header of an acquisition.

Files and live streams have the same headers. Nothing here allocates memory by the values of a header.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from twin.errors import nearest, printable
from twin.formats.dataset import LARGEST_SIDE, FormatError

SINGLE_BYTES, QUAD_BYTES = 384, 768
SHORTEST_BYTES, LONGEST_BYTES = 64, 16384
"""Limits of the length of a header; single chips have 384 bytes, quads 768."""

PIXEL_BYTES = {"U08": 1, "U16": 2, "U32": 4}
"""Processed pixels, big-endian. R64 are the chip's raw data, 64-bit words of packed pixels."""
RAW = "R64"
DEPTHS = {1: "U08", 6: "U08", 12: "U16", 24: "U32"}
"""Counter depth of the chip, bits, and the pixel type that holds it."""

RAW_BITS = {1: 1, 6: 8, 12: 16, 24: 16}
"""Bits per pixel of raw data by counter depth; 24-bit data count every pixel twice in the header's width."""

CHIP_DACS = ",".join(["3RX", *["000"] * 27])
HDR_BYTES = 2048
_COLOUR = (
    "in colour mode pixels of several thresholds share an image, which is not taken apart here; record in single pixel"
    " or charge summing mode (SPM, CSM)"
)


@dataclass(frozen=True)
class MerlinHeader:
    """The header of one frame.

    Attributes:
        sequence: number of the frame, from 1.
        length: bytes from the start of the header to the pixels.
        chips: number of chips.
        width, height: of the data; raw data of several chips, or of two counters, are side by side.
        pixel: "U08", "U16", "U32" or "R64".
        assembly: arrangement of the chips, "1x1" or "2x2".
        time: start of the exposure as text.
        shutter_s: exposure.
        thresholds_kev: energy thresholds; NaN where the header has no number.
        depth: of the counter, bits; None if the header has none.
        counter: of the chip, 0 or 1; with both on, frames of one exposure come in pairs.
    """

    sequence: int
    length: int
    chips: int
    width: int
    height: int
    pixel: str
    assembly: str = "1x1"
    time: str = ""
    shutter_s: float = 0.0
    thresholds_kev: tuple[float, ...] = ()
    depth: int | None = None
    counter: int = 0

    @property
    def kind(self) -> tuple[int, int, int, int, str, str, int | None]:
        """Values that are equal for all frames of a file."""
        return self.length, self.chips, self.width, self.height, self.pixel, self.assembly, self.depth

    @property
    def payload_bytes(self) -> int:
        """Bytes of the pixels that follow the header."""
        bits = 8 * PIXEL_BYTES[self.pixel] if self.pixel in PIXEL_BYTES else RAW_BITS.get(self.depth or 0, 0)
        return self.width * self.height * bits // 8

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the assembled, decoded image."""
        if self.pixel != RAW:
            return self.height, self.width
        if self.chips == 4:
            return 2 * self.height, self.width // 2
        return self.height, self.width // 2 if self.depth == 24 else self.width


def parse_header(raw: bytes) -> MerlinHeader:
    """Parse the MQ1 header at the start of `raw`; ignore further bytes.

    Raises:
        FormatError: not such a header; names the field, its value and the expected one.
    """
    if not raw.startswith(b"MQ1,"):
        raise FormatError(f"a frame begins with MQ1, and not with {raw[:8]!r}")
    start = raw[:SHORTEST_BYTES].split(b",", 3)
    length = _whole(_ascii(start[2]) if len(start) > 3 else "", "header length", SHORTEST_BYTES, LONGEST_BYTES)
    if len(raw) < length:
        raise FormatError(f"the header is cut off after {len(raw)} of {length} bytes")
    parts = raw[:length].split(b"\0", 1)[0].rstrip(b" \r\n").split(b",")
    if len(parts) < 9:
        raise FormatError(f"a header has 9 fields or more; this one has {len(parts)} in its {length} bytes")
    # Only fields that are used have to be plain text.
    fields = [_ascii(part) for part in parts[:9]] + [part.decode("ascii", "replace") for part in parts[9:]]
    pixel = fields[6].strip()
    known = (*PIXEL_BYTES, RAW)
    if pixel not in known:
        raise FormatError(f"pixels are {', '.join(known)}, not {pixel!r}{nearest(pixel, known, 0.4)}")
    return _checked(
        MerlinHeader(
            sequence=_whole(fields[1], "frame number", 0, 2**63),
            length=length,
            chips=_whole(fields[3], "number of chips", 1, 64),
            width=_whole(fields[4], "width", 1, LARGEST_SIDE),
            height=_whole(fields[5], "height", 1, LARGEST_SIDE),
            pixel=pixel,
            assembly=fields[7].strip(),
            time=fields[9].strip() if len(fields) > 9 else "",
            shutter_s=_real(fields[10], "shutter time") if len(fields) > 10 else 0.0,
            thresholds_kev=tuple(map(_number, fields[14:22])) if len(fields) >= 22 else (),
            depth=_depth(fields, pixel),
            counter=_counter(fields),
        )
    )


def build_header(header: MerlinHeader) -> bytes:
    """Return the MQ1 header, `header.length` bytes, padded with NUL; the inverse of `parse_header`.

    Raises:
        FormatError: contradictory fields, or too many bytes.
    """
    _checked(header)
    thresholds = ",".join(f"{value:E}".replace("E+0", "E+") for value in (*header.thresholds_kev, *[0.0] * 8)[:8])
    chip_select = f"{(1 << header.chips) - 1:02X}"
    text = (
        f"MQ1,{header.sequence:06d},{header.length:05d},{header.chips:02d},{header.width:04d},{header.height:04d},"
        f"{header.pixel},{header.assembly:>6},{chip_select},{header.time},{header.shutter_s:.6f},"
        f"{header.counter},0,0,{thresholds}," + ",".join([CHIP_DACS] * header.chips)
    )
    if header.depth is not None:
        text += f",MQ1A,{_iso(header.time)},{round(header.shutter_s * 1e9)}ns,{header.depth},"
    raw = text.encode("ascii")
    if len(raw) >= header.length:
        raise FormatError(f"a header of {header.chips} chips takes {len(raw) + 1} bytes; {header.length} are available")
    return raw.ljust(header.length, b"\0")


class UsualHeader:
    """Recognises headers that differ from the first one only in number and time, without parsing them.

    Args:
        header: of the first frame.
        raw: its bytes.
    """

    def __init__(self, header: MerlinHeader, raw: bytes) -> None:
        self.header = header
        self._same = b"," + b",".join(raw.split(b",", 8)[2:8]) + b","
        self._modes = _modes(raw)
        # Where they stand behind the number: fields have fixed widths.
        before = raw[:256].split(b",", 11)[2:11]
        self._modes_at = len(b",".join(before)) + 1
        self._modes_text = b"," + b",".join(self._modes) + b","

    def number(self, raw: bytes) -> int | None:
        """Return the frame number; None for a header that has to be parsed."""
        comma = raw.find(b",", 4, 24)
        digits = raw[4:comma]
        if raw[:4] != b"MQ1," or comma < 5 or not digits.isdigit():
            return None
        if raw[comma : comma + len(self._same)] != self._same or _counter_depth(raw) != self.header.depth:
            return None
        at = comma + self._modes_at
        same = raw[at : at + len(self._modes_text)] == self._modes_text or _modes(raw) == self._modes
        return int(digits) if same else None


def _modes(raw: bytes) -> list[bytes]:
    """Return the fields that say which counter it is, and whether in colour."""
    return raw[:256].split(b",", 13)[11:13]


def counter_of(raw: bytes) -> int | None:
    """Return which counter of the chip the frame with this header is of; None for a header that does not say."""
    modes = _modes(raw) if raw.startswith(b"MQ1,") else []
    return int(modes[0]) if modes and modes[0].strip().isdigit() and len(modes[0]) < 3 else None


def _counter_depth(raw: bytes) -> int | None:
    """Return the bits given in the MQ1A part; None without one, -1 if invalid."""
    at = raw.find(b",MQ1A,")
    if at < 0:
        return None
    fields = raw[at + 6 :].split(b",", 3)
    return int(fields[2]) if len(fields) > 3 and fields[2].isdigit() and len(fields[2]) <= 2 else -1


def difference(header: MerlinHeader, first: MerlinHeader) -> str:
    """Return a sentence with the fields in which a header differs from the first one."""
    names = ("header length", "number of chips", "width", "height", "pixel type", "assembly", "counter depth")
    pairs = zip(names, header.kind, first.kind, strict=True)
    return "; ".join(f"has {name} {now}, the frames before it {was}" for name, now, was in pairs if now != was)


def stamp(seconds: float) -> str:
    """Return camera time as in the header, to the microsecond; the virtual camera's clock starts on 2000-01-01."""
    return (datetime(2000, 1, 1) + timedelta(seconds=seconds)).isoformat(sep=" ", timespec="microseconds")


def _iso(time: str) -> str:
    """Return the second time stamp, with T, nanoseconds and Z."""
    return time.replace(" ", "T") + "000Z" if time else ""


def _ascii(part: bytes) -> str:
    try:
        return part.decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(f"a header is plain text, not {part[:16]!r}") from None


def _whole(text: str, what: str, minimum: int, maximum: int) -> int:
    digits = text.strip()
    # isdigit alone accepts superscripts; the length limit bounds the work of int().
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise FormatError(f"{what}: {text[:24]!r} is not a number")
    value = int(digits)
    if not minimum <= value <= maximum:
        raise FormatError(f"{what} {value} is not in {minimum} to {maximum}")
    return value


def _real(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise FormatError(f"{what}: {text[:24]!r} is not a number") from None
    if not math.isfinite(value):
        raise FormatError(f"{what}: {text[:24]!r} is not finite")
    return value


def _number(text: str) -> float:
    """Return a number that nothing depends on; NaN for what is none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _counter(fields: list[str]) -> int:
    """Return which counter of the chip a frame is of.

    Raises:
        FormatError: a frame in colour.
    """
    modes = [field.strip() for field in fields[11:13]]
    if len(modes) == 2 and modes[1].isdigit() and int(modes[1]) != 0:
        raise FormatError(f"field 13 of the header says colour: {_COLOUR}")
    counter = modes[0] if modes else "0"
    return int(counter) if counter.isascii() and counter.isdigit() and len(counter) < 3 else 0


def _depth(fields: list[str], pixel: str) -> int | None:
    """Return the counter depth from the MQ1A part, if present."""
    if "MQ1A" not in fields:
        if pixel == RAW:
            raise FormatError("raw pixels need the MQ1A part of the header, which holds the counter depth")
        return None
    place = fields.index("MQ1A") + 3  # after a second time stamp and the exposure
    depth = _whole(fields[place] if len(fields) > place else "", "counter depth", 1, 24)
    if depth not in DEPTHS:
        raise FormatError(f"a counter has {', '.join(map(str, DEPTHS))} bits, not {depth}")
    return depth


def _checked(header: MerlinHeader) -> MerlinHeader:
    """Refuse a header whose fields contradict each other."""
    if header.pixel != RAW:
        return header
    if header.chips == 4 and header.assembly.lower().startswith("2x2"):
        if header.depth == 24:
            raise FormatError("raw 24-bit data of four chips: their order is not known; record processed data (U32)")
        if header.width < 4 * header.height:
            raise FormatError(
                f"raw data of four square chips lie side by side, with at most as many rows as a chip has columns;"
                f" {header.width} x {header.height} has more"
            )
    elif header.chips != 1:
        raise FormatError(f"raw data of {header.chips} chips as {header.assembly}: only 1x1 and 2x2 are known")
    per_word = {1: 64, 6: 8, 12: 4, 24: 8}[header.depth or 12]
    if header.width % (per_word * header.chips):
        raise FormatError(
            f"raw rows of {header.depth} bits are whole 64-bit words, multiples of {per_word} pixels;"
            f" {header.width} over {header.chips} chips is not"
        )
    return header


# --- the text header of an acquisition -----------------------------------------------------------


@dataclass(frozen=True)
class Acquisition:
    """The text header of an acquisition.

    Attributes:
        frames: in the acquisition; 0: until stopped.
        frames_per_trigger: usually the frames of one scan row.
        scan: (rows, columns), if present.
        depth: counter depth, bits; None if unknown.
        extra: further lines.
        both_counters: frames of one exposure come in pairs, one of each counter; None if the text does not say.
    """

    frames: int
    frames_per_trigger: int
    scan: tuple[int, int] | None = None
    depth: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    both_counters: bool | None = None


FRAMES = "Frames in Acquisition (Number)"
PER_TRIGGER = "Frames per Trigger (Number)"
DEPTH = "Counter Depth (number)"
COUNTERS = "Active Counters"
CHIP_MODE = "Chip Mode"
OPEN = ("", "-", "n/a", "na", "none")
"""Values of a number that the software left open."""


def build_hdr(acquisition: Acquisition, assembly: str = "1x1") -> bytes:
    """Return the text header, padded with spaces to `HDR_BYTES` as by the camera's software."""
    lines = {
        "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)": "Medipix 3RX",
        "Assembly Size (NX1, 2X2)": f"{assembly:>6}",
        "Chip Mode  (SPM, CSM, CM, CSCM)": "SPM",
        DEPTH: str(acquisition.depth or 12),
        "Acquisition Type (Normal, Th_scan, Config)": "Normal",
        FRAMES: str(acquisition.frames),
        PER_TRIGGER: str(acquisition.frames_per_trigger),
        "Trigger Start (Positive, Negative, Internal)": "Rising Edge",
        "Trigger Stop (Positive, Negative, Internal)": "Internal",
        "Readout System": "stemtwin",
    }
    if acquisition.scan is not None:
        lines |= {"ScanX": str(acquisition.scan[1]), "ScanY": str(acquisition.scan[0])}
    lines |= acquisition.extra
    text = "HDR,\t\r\n" + "".join(f"{key}:\t{value}\r\n" for key, value in lines.items()) + "End\t"
    return text.encode("utf-8").ljust(HDR_BYTES, b" ")


def parse_hdr(raw: bytes) -> Acquisition:
    """Parse the text header; skip lines that are not a key, a tab and a value, as other readers do.

    Raises:
        FormatError: not such a header, or an invalid number.
    """
    if not raw.startswith(b"HDR"):
        raise FormatError(f"a text header begins with HDR and not with {raw[:8]!r}")
    lines = {}
    for line in raw[: 2**20].decode("utf-8", errors="replace").splitlines()[1:]:
        key, tab, value = line.partition("\t")
        if key == "End":
            break
        if tab:
            lines[key.rstrip().removesuffix(":")] = value.strip()
    told = lines.pop(FRAMES, "0")
    frames = 0 if told.lower() in OPEN else _whole(told, FRAMES, 0, 2**31)
    per_trigger, columns, rows, depth = (_known(lines.pop(key, "")) for key in (PER_TRIGGER, "ScanX", "ScanY", DEPTH))
    mode = _value(lines, CHIP_MODE)
    if mode.upper() in ("CM", "CSCM") or "colo" in mode.lower():
        raise FormatError(f"chip mode {printable(mode, 40)}: {_COLOUR}")
    scan = (rows, columns) if rows and columns else None
    return Acquisition(frames, per_trigger, scan, depth or None, lines, _both(_value(lines, COUNTERS)))


def _value(lines: Mapping[str, str], key: str) -> str:
    """Return the value of the first key that begins like this, whatever stands behind it; "" without one."""
    return next((value for name, value in lines.items() if name.lower().startswith(key.lower())), "")


def _both(counters: str) -> bool | None:
    """Return whether both counters count each exposure; None where one or no counter is named.

    Alternating ones take turns: every frame is an exposure. One that is named alone is no proof: frames say their own.
    """
    words = counters.lower()
    if "altern" in words:
        return False
    return True if ("0" in words and "1" in words) or any(word in words for word in ("both", "all", "dual")) else None


def _known(text: str) -> int:
    """Return a number of the text header; 0 for one that the software left open (`N/A`, `-`, nothing)."""
    value = _number(text)
    return int(value) if 0 < value <= 2**31 and value.is_integer() else 0
