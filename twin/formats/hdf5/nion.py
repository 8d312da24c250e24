"""Nion Swift's HDF5 files (.h5 of a library, .nhdf exported): a dataset `data`, its properties as JSON.

Calibrations are a list, one {offset, scale, units} per dimension; `collection_dimension_count` are the scan's axes,
`datum_dimension_count` the camera's (nionswift, HDF5Handler).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from twin.formats.dataset import FormatError, json_object, told
from twin.formats.hdf5.checked import check_data, open_hdf5
from twin.formats.signals.axes import Axis
from twin.formats.signals.reader import Signal, SignalReader, choose


class NionReader(SignalReader):
    """Reads frames of Nion Swift in blocks: the data item with the most scan axes.

    Raises:
        FormatError: not HDF5, damaged, not of Nion Swift, or values that are not counts.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        self.tolerate = tolerate
        file = open_hdf5(path)
        try:
            with told(path):
                held = file["data"]
                items = [held] if isinstance(held, h5py.Dataset) else list(held.values())
                signal = choose(path, [_signal(path, item) for item in items])
                check_data(path, signal.data)
                super().__init__(path, signal, file.close)
        except BaseException:
            file.close()
            raise


def _signal(path: Path, data: Any) -> Signal:
    properties = json_object(data.attrs.get("properties", ""), f"{path}: properties of {data.name}")
    held = _described(properties)
    calibrations, dimensions = held.get("dimensional_calibrations") or [], len(data.shape)
    scan = held.get("collection_dimension_count", 0) + bool(held.get("is_sequence", False))
    if not isinstance(calibrations, list) or not isinstance(scan, int) or len(calibrations) not in (0, dimensions):
        raise FormatError(f"{path}: {len(calibrations)} calibrations of {data.name} do not fit {dimensions} dimensions")
    axes = []
    for number, size in enumerate(data.shape):
        plain = calibrations[number] if calibrations and isinstance(calibrations[number], dict) else {}
        entries = {"scale": plain.get("scale", 1.0), "offset": plain.get("offset", 0.0), "units": plain.get("units")}
        axes.append(Axis.of({**entries, "navigate": number < scan}, number, size))
    return Signal(str(properties.get("title", data.name)), data, axes, _instrument(properties, held))


def _described(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the properties that describes the dimensions; its place depends on the version."""
    sources = properties.get("data_sources")
    for place in (
        properties,
        properties.get("data_source"),
        sources[0] if isinstance(sources, list) and sources else None,
    ):
        if isinstance(place, dict) and "collection_dimension_count" in place:
            return place
    return properties


def _instrument(*places: Mapping[str, Any]) -> dict[str, Any]:
    """Return the beam energy, `instrument.high_tension` in V, in HyperSpy's place and unit."""
    for place in places:
        about = place.get("metadata")
        for name in ("instrument", "hardware_source"):
            part = about.get(name) if isinstance(about, dict) else None
            volts = part.get("high_tension", part.get("extra_high_tension")) if isinstance(part, dict) else None
            if isinstance(volts, int | float):
                return {"TEM": {"beam_energy": volts / 1e3}}
    return {}
