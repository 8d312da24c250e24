"""Electron energy-loss spectra of named phases, with noise: beside the images and patterns of a scan."""
