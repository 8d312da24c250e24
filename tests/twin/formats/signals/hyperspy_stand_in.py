"""What HyperSpy does to a signal it loaded, on RosettaSciIO's dictionaries: crop, rebin, transpose; and save and load.

HyperSpy needs a desktop's worth of packages; its files are written and read by RosettaSciIO.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rsciio.hspy import file_reader, file_writer

Signal = dict[str, Any]


def load(path: Path) -> Signal:
    (signal,) = file_reader(str(path))
    return signal


def save(path: Path, signal: Signal) -> None:
    defaults = {
        "metadata": {"General": {"title": ""}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "attributes": {"_lazy": False, "ragged": False},
        "tmp_parameters": {},
        "package_info": {"package": "hyperspy", "package_version": "2.5"},
        "learning_results": {},
        "models": {},
    }
    file_writer(
        str(path), defaults | {key: value for key, value in signal.items() if key not in ("package", "package_version")}
    )


def axis(
    name: str, size: int, scale: float = 1.0, offset: float = 0.0, units: str = "", navigate: bool = True
) -> Signal:
    about = {"name": name, "size": size, "scale": scale, "offset": offset, "units": units, "navigate": navigate}
    return {"_type": "UniformDataAxis", "is_binned": False} | about


def signal(
    data: np.ndarray,
    step: tuple[float, float] = (0.02, 0.02),
    pixel: tuple[float, float] = (0.8, 0.8),
    units: tuple[str, str] = ("nm", "mrad"),
    offset: tuple[float, float] = (0.0, 0.0),
    **more: Any,
) -> Signal:
    """As HyperSpy makes one of a 4D array."""
    scan = [axis(name, size, scale, 0.0, units[0]) for name, size, scale in zip("yx", data.shape, step, strict=False)]
    camera = [
        axis(name, size, scale, zero, units[1], navigate=False)
        for name, size, scale, zero in zip(("ky", "kx"), data.shape[-2:], pixel, offset, strict=True)
    ]
    return {"data": data, "axes": scan[: data.ndim - 2] + camera} | more


def crop(signal: Signal, number: int, start: int, stop: int) -> Signal:
    axes = [dict(entry) for entry in signal["axes"]]
    axes[number] |= {"size": stop - start, "offset": axes[number]["offset"] + start * axes[number]["scale"]}
    where = tuple(slice(start, stop) if k == number else slice(None) for k in range(len(axes)))
    return signal | {"data": signal["data"][where], "axes": axes}


def rebin(signal: Signal, number: int, factor: int) -> Signal:
    """Sums, in uint64; the coordinate of a sum is the mean of its parts."""
    axes, data = [dict(entry) for entry in signal["axes"]], signal["data"]
    entry, size = axes[number], data.shape[number] // factor
    axes[number] = entry | {
        "size": size,
        "scale": entry["scale"] * factor,
        "offset": entry["offset"] + (factor - 1) * entry["scale"] / 2,
    }
    cut = data.take(range(size * factor), axis=number)
    shape = (*cut.shape[:number], size, factor, *cut.shape[number + 1 :])
    return signal | {"data": cut.reshape(shape).sum(axis=number + 1, dtype=np.uint64), "axes": axes}


def transpose(signal: Signal, order: tuple[int, ...]) -> Signal:
    return signal | {"data": signal["data"].transpose(order), "axes": [dict(signal["axes"][k]) for k in order]}
