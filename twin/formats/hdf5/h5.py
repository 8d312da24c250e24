"""Files .h5, .hdf5 and .nhdf: whose they are is seen from what is in them."""

from pathlib import Path

from twin.formats.dataset import FormatError, FrameReader, told
from twin.formats.hdf5.checked import open_hdf5


def H5Reader(path: Path, tolerate: bool = False) -> FrameReader:  # noqa: N802
    """Open a file of HyperSpy, Dectris (Arina), Nion Swift, or Berkeley's EMD (py4DSTEM).

    Raises:
        FormatError: none of them; see the reader of each.
    """
    with told(path), open_hdf5(path, links=True) as file:
        names = set(file)
        data = file.get("data") if "data" in names else None
        nion = data is not None and (
            "properties" in data.attrs or all("properties" in item.attrs for item in data.values())
        )
        dectris = "entry" in names and "data" in file["entry"]
    if "Experiments" in names:
        from twin.formats.hspy import HspyReader

        return HspyReader(path, tolerate)
    if dectris:
        from twin.formats.hdf5.dectris import DectrisReader

        return DectrisReader(path, tolerate)
    if nion:
        from twin.formats.hdf5.nion import NionReader

        return NionReader(path, tolerate)
    from twin.formats.signals.rosettasciio import RosettaReader

    try:
        return RosettaReader(path, tolerate, module="emd")
    except FormatError as error:
        if "not a supported EMD file" not in str(error):
            raise
        raise FormatError(f"{path}: neither of HyperSpy nor of Dectris, Nion Swift or EMD (py4DSTEM)") from None
