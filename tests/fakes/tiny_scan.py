"""The text of a scenario whose scan takes milliseconds."""

TINY_SCAN = """
day: {focal_spread_nm: 0, source_size_nm: 0}
scan:
  specimen: sto_001
  specimen_options: {width_nm: 1.5, height_nm: 1.5, thickness_nm: 0.39}
  optics: {grid: 64, sampling_nm: 0.02, camera_pixels: 16, binning: 2}
"""
