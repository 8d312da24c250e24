"""Data of other programs as HyperSpy describes them: an array, its axes with scale, offset and unit, and the beam."""
