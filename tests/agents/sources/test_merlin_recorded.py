"""What real Merlin cameras wrote, sent as they send it: our client gives the frames that the files have.

The recordings are RosettaSciIO's, in shared/data/real beside the repository; without them there is nothing to test.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from fakes.listening import listening

from agents.sources.merlin import MerlinSource, Options
from twin.formats import merlin_header as mh
from twin.formats.mib import MibReader
from twin.wire import merlin

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real"
ARCHIVES = sorted(REAL.glob("Merlin*.zip"))
FILES = [
    (archive, name) for archive in ARCHIVES for name in zipfile.ZipFile(archive).namelist() if name.endswith("mib")
]

pytestmark = pytest.mark.skipif(not FILES, reason="no recorded files here")


def as_sent(path: Path) -> bytes:
    """The text header, and every frame behind its own: bytes of the camera, framed as docs of the interface have it."""
    stored, about = path.read_bytes(), mh.parse_header(path.read_bytes()[: mh.LONGEST_BYTES])
    stride = about.length + about.payload_bytes
    frames = [stored[begin : begin + stride] for begin in range(0, len(stored), stride)]
    return b"".join(merlin.message(part) for part in (path.with_suffix(".hdr").read_bytes(), *frames))


@pytest.mark.parametrize(("archive", "name"), FILES, ids=[Path(name).stem for _, name in FILES])
def test_recorded_frames_arrive_as_the_file_has_them(archive: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for part in (path.name, path.with_suffix(".hdr").name):
        zipfile.ZipFile(archive).extract(part, tmp_path)
    with MibReader(path) as reader:
        stored = reader.read(0, reader.extent)
        shape = reader.layout.scan
    sent = as_sent(path)
    camera = listening([lambda line, over: line.sendall(sent)])
    with camera as port, MerlinSource("127.0.0.1", port, Options(scan=shape)) as source:
        seen = np.zeros((len(stored), *source.meta.layout.camera), source.meta.layout.dtype)
        for block in source.blocks():
            seen[block.pixel[:, 0] * shape[-1] + block.pixel[:, 1]] = block.frames
    assert (source.health.missing, source.health.fault_count) == (0, 0), source.health.faults
    assert source.meta.layout.camera == stored.shape[1:]
    np.testing.assert_array_equal(seen, stored)
