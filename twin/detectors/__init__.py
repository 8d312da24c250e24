"""Integrating detectors: geometry of segments and rings, scintillator and photomultiplier chain."""
