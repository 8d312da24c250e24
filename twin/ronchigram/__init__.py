"""Ronchigram renderers: phase screens (torch) and multislice (abTEM)."""
