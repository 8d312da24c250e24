"""What the options of specimens are made of: lengths with limits, and a strict dataclass."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

Side = Annotated[float, Gt(0), Le(200)]
"""Lateral extent, nm."""

Thickness = Annotated[float, Gt(0), Le(500)]
"""Extent along the beam, nm."""

Seed = Annotated[int, Ge(0)]
