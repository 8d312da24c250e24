"""Random sessions of the guard with drivers that fail: `python -m benchmarks.guard`."""
