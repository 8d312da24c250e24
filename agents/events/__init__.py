"""Streams of detector events: blocks of them, their order and scan position, sums per position."""
