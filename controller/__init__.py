"""Closed-loop calibration controllers: `load(name, optics, space)` builds one of `names()`."""

from controller.base import Controller, Estimate, load, names

__all__ = ["Controller", "Estimate", "load", "names"]
