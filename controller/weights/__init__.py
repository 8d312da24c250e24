"""Trained weights that come with the controllers."""

from pathlib import Path

SHIPPED = Path(__file__).parent
