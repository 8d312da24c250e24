"""Types of the options of specimens: lengths with limits."""

from typing import Annotated

from annotated_types import Gt, Le

Side = Annotated[float, Gt(0), Le(200)]
"""Lateral extent, nm."""

Thickness = Annotated[float, Gt(0), Le(500)]
"""Extent along the beam, nm."""
