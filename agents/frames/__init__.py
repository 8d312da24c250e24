"""Dense frames: sums over detectors, prefetching, regions of the camera."""
