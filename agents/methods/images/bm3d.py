"""Dark-field image under BM3D of stabilised counts; needs the package `bm3d`, whose licence is for non-profit use."""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from agents.base import Agent
from agents.methods.detectors._ring_image import Options
from agents.methods.images._restored import RestoredRing
from agents.restoration.anscombe import expected, stabilised
from twin.arrays import Floats
from twin.options import checked_options

NAME = "bm3d"
PACKAGE = "bm3d"
MISSING = "bm3d needs the package bm3d, which is not installed: pip install bm3d (its licence is for non-profit use)"


def block_matched(image: Floats) -> Floats:
    """Expected counts of an image by block matching and 3D filtering, (rows, columns).

    Dabov et al., IEEE Trans. Image Process. 16 (2007) 2080, of Anscombe's transform, with the unbiased inverse.

    Args:
        image: electrons, (rows, columns).
    """
    values: Floats = importlib.import_module(PACKAGE).bm3d(stabilised(image), sigma_psd=1.0)
    return expected(values)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`. Without the package it makes no image and says so.

    Example:
        >>> make({"inner_mrad": 20}).name
        'bm3d'
    """
    checked = checked_options(Options, options)
    if find_spec(PACKAGE) is None:
        return RestoredRing(NAME, checked, None, MISSING)
    return RestoredRing(NAME, checked, lambda image: (block_matched(image), None))
