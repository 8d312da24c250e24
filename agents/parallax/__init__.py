"""Aberrations and phase of one defocused scan, from the displaced images that the parts of the disc form."""
