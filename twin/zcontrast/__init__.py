"""Incoherent Z-contrast images of atomic columns in a fraction of a second, with labels; no diffraction patterns."""
