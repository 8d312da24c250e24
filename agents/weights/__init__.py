"""Trained weights that come with the agents."""

from pathlib import Path

SHIPPED = Path(__file__).parent
